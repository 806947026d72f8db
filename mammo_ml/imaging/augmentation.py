"""Views and random changes of a training image together with its boxes.

The fixed views are exact: every pixel of the image is kept. The random augmentation comes on top, in training only, and
draws from a given generator alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.imaging.boxes import Boxes, flip_horizontal, flip_vertical, rotate_90
from mammo_ml.parameters import Parameters

VIEWS = ("identity", "rotate_90", "rotate_180", "rotate_270", "flip_vertical", "flip_horizontal")
"""The fixed views; rotations are counter-clockwise, `flip_vertical` is top to bottom."""
CLASSIFIER_VIEWS = VIEWS[:5]
DETECTOR_VIEWS = VIEWS
INVERSE_VIEW = {view: view for view in VIEWS} | {"rotate_90": "rotate_270", "rotate_270": "rotate_90"}
"""The view that undoes a view."""

# At strength 1.
MAX_SCALE_CHANGE = 0.1
MAX_SHIFT = 0.1
"""Translation over the image's side."""
MAX_BRIGHTNESS_CHANGE = 0.2
MAX_CONTRAST_CHANGE = 0.2
MIN_SIDE_PX = 2.0
"""A box with a shorter side left inside the image is dropped."""


def view_of_image(image: NDArray[Any], view: str) -> NDArray[Any]:
    """One of the `VIEWS` of an image (H, W), as a new array of the same dtype; (W, H) after a quarter turn.

    Raises:
        BadInputError: when `view` is not one of `VIEWS`.
    """
    match view:
        case "identity":
            seen = image
        case "rotate_90" | "rotate_180" | "rotate_270":
            seen = np.rot90(image, _quarter_turns(view))
        case "flip_vertical":
            seen = np.flipud(image)
        case "flip_horizontal":
            seen = np.fliplr(image)
        case _:
            raise _unknown(view)
    return np.array(seen, order="C")


def view_of_boxes(boxes: Boxes, width: float, height: float, view: str) -> Boxes:
    """Boxes (N, 4) in the same view of an image that was `width` x `height` px before.

    Raises:
        BadInputError: when `view` is not one of `VIEWS`.
    """
    match view:
        case "identity":
            return boxes.copy()
        case "rotate_90" | "rotate_180" | "rotate_270":
            for turn in range(_quarter_turns(view)):
                # Each quarter turn swaps width and height.
                boxes = rotate_90(boxes, height if turn % 2 else width)
            return boxes
        case "flip_vertical":
            return flip_vertical(boxes, height)
        case "flip_horizontal":
            return flip_horizontal(boxes, width)
        case _:
            raise _unknown(view)


def in_all_symmetries(images: NDArray[Any]) -> NDArray[Any]:
    """Square images (N, H, H) in all eight ways to turn and mirror them, (N, 8, H, H)."""
    return np.stack([_in_way(images, way) for way in range(8)], axis=1)


def _in_way(images: NDArray[Any], way: int) -> NDArray[Any]:
    """Images (N, H, H) turned by quarters, and from way 4 on mirrored after it."""
    turned = np.rot90(images, way % 4, axes=(1, 2))
    return turned[:, :, ::-1] if way >= 4 else turned


def same_way_up(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each square image (N, H, H) in that of its eight ways whose quarters are brightest in order, top left first.

    However an image was turned and mirrored before, it comes out the same; but for images with two equal quarters.
    """
    half = images.shape[1] // 2
    ends = (slice(None, half), slice(-half, None))
    quarters = np.array([[images[:, rows, columns].sum((1, 2), dtype=np.int64) for columns in ends] for rows in ends])
    ways = in_all_symmetries(quarters.transpose(2, 0, 1))
    # The last key decides first.
    best = np.lexsort((ways[..., 1, 0], ways[..., 0, 1], ways[..., 0, 0]), axis=1)[:, -1]
    upright = np.empty_like(images)
    for way in range(8):
        upright[best == way] = _in_way(images[best == way], way)
    return upright


def _quarter_turns(view: str) -> int:
    return int(view.removeprefix("rotate_")) // 90


def _unknown(view: str) -> BadInputError:
    return BadInputError("view of an image", [f"'{view}' is not a view"], f"Known views: {', '.join(VIEWS)}.")


class AugmentationParameters(Parameters):
    """How much random change training images get."""

    strength: float = Field(
        0.5,
        ge=0,
        le=1,
        description="0 changes nothing; 1 moves by 10 %, scales by 0.9 to 1.1, brightness and contrast by 20 %",
    )
    symmetries: bool = Field(
        False, description="show each image in one of the eight ways to turn and mirror it, a new one every time"
    )


class Augmented(NamedTuple):
    """Images (N, 1, H, W), the boxes left on each (K, 4), and which of those given they are (G,), bool."""

    images: Tensor
    boxes: list[Tensor] | None
    kept: list[Tensor] | None


# A training in bfloat16 narrows its network, not the places of pixels and boxes.
@torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
def augment(
    images: Tensor, boxes: Sequence[Tensor] | None, generator: torch.Generator, parameters: AugmentationParameters
) -> Augmented:
    """Turn, mirror, scale, move, and change brightness and contrast of each image by itself; its boxes move along.

    What comes in at the edges is the image mirrored, as black would be a sign that the image was changed. A box is
    clipped to the image, and dropped when less than 2 px of it stay inside, so an image's boxes can become (0, 4):
    take its labels as `labels[kept]`.

    Args:
        images: (N, 1, H, W) float in 0..1; square where they are to be turned.
        boxes: for each image its boxes (G, 4) in px, or None when there are none to move along.
        generator: a CPU generator; the draws do not depend on the boxes.
        parameters: how strong the changes are.

    Raises:
        BadInputError: when the images or boxes are not as described.
    """
    _check(images, boxes, parameters)
    draws = (2 * torch.rand(len(images), 5, generator=generator) - 1) * parameters.strength
    if parameters.symmetries:
        images, boxes = _turned(images, boxes, torch.randint(8, (len(images),), generator=generator).tolist())
    changed = images.clone() if parameters.strength == 0 else _change_images(images, draws)
    if boxes is None:
        return Augmented(changed, None, None)
    canvas = (images.shape[2], images.shape[3])
    moved = [_move_boxes(b, canvas, draw) for b, draw in zip(boxes, draws.tolist(), strict=True)]
    return Augmented(changed, [b for b, _ in moved], [k for _, k in moved])


def _turned(images: Tensor, boxes: Sequence[Tensor] | None, ways: list[int]) -> tuple[Tensor, Sequence[Tensor] | None]:
    """Images and boxes, each in one of eight ways: quarter turns, and from 4 on mirrored after them."""
    side = images.shape[-1]
    turned = [torch.rot90(image, way % 4, (1, 2)) for image, way in zip(images, ways, strict=True)]
    shown = [image.flip(2) if way >= 4 else image for image, way in zip(turned, ways, strict=True)]
    if boxes is None:
        return torch.stack(shown), None
    moved = []
    for own, way in zip(boxes, ways, strict=True):
        found = own.double().numpy()
        for _ in range(way % 4):
            found = rotate_90(found, side)
        moved.append(torch.from_numpy(flip_horizontal(found, side) if way >= 4 else found).to(own))
    return torch.stack(shown), moved


def _change_images(images: Tensor, draws: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    # Room for what scaling by 0.9 and moving by 10 % can bring in: (1 / 0.9 - 1) / 2 + 0.1 / 0.9 = 0.17 of the side.
    margin_x, margin_y = round(0.17 * width) + 2, round(0.17 * height) + 2
    padded = v2.pad(images, [margin_x, margin_y], padding_mode="reflect")
    changed = []
    for image, draw in zip(padded, draws.tolist(), strict=True):
        moved = _affine(tv_tensors.Image(image), (height, width), draw)
        moved = v2.crop(moved, margin_y, margin_x, height, width)
        moved = v2.adjust_brightness(moved, 1 + MAX_BRIGHTNESS_CHANGE * draw[3])
        changed.append(v2.adjust_contrast(moved, 1 + MAX_CONTRAST_CHANGE * draw[4]).as_subclass(Tensor))
    return torch.stack(changed) if changed else images.clone()


def _move_boxes(boxes: Tensor, canvas: tuple[int, int], draw: list[float]) -> tuple[Tensor, Tensor]:
    typed = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=canvas, clamping_mode=None)
    if any(draw):
        typed = _affine(typed, canvas, draw)
    typed = v2.clamp_bounding_boxes(typed, clamping_mode="hard")
    sane, kept = v2.sanitize_bounding_boxes(typed, min_size=MIN_SIDE_PX)
    return sane.as_subclass(Tensor).reshape(-1, 4), kept


def _affine(subject: Any, canvas: tuple[int, int], draw: list[float]) -> Any:
    """Scale about the centre and move; the same call for an image, padded or not, and for boxes on its canvas."""
    height, width = canvas
    return v2.affine(
        subject,
        angle=0.0,
        translate=[MAX_SHIFT * width * draw[0], MAX_SHIFT * height * draw[1]],
        scale=1 + MAX_SCALE_CHANGE * draw[2],
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )


def _check(images: Tensor, boxes: Sequence[Tensor] | None, parameters: AugmentationParameters) -> None:
    what = "images to augment"
    if images.ndim != 4 or images.shape[1] != 1 or not images.is_floating_point():
        raise BadInputError(
            what, [f"found {images.dtype} of shape {tuple(images.shape)}"], "Give float (N, 1, H, W) in 0..1."
        )
    if parameters.symmetries and images.shape[2] != images.shape[3]:
        raise BadInputError(what, [f"{images.shape[3]} x {images.shape[2]} px cannot be turned: they are not square"])
    if boxes is None:
        return
    if len(boxes) != len(images):
        raise BadInputError(what, [f"{len(images)} images with {len(boxes)} lists of boxes"])
    raise_if_any(
        what,
        [f"image {i}: boxes of shape {tuple(b.shape)}" for i, b in enumerate(boxes) if b.shape[1:] != (4,)],
        "Give (G, 4) for each image, (0, 4) for none.",
    )
