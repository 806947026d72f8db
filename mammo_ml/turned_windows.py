"""Windows of films turned by any whole number of degrees and mirrored, with lesion boxes that stay exact.

A window is cut larger by the root of 2 than what is shown of it, so that no turn brings in anything but the film; past
the film's edge it is the film mirrored. Lesions are circles: a turned circle is a circle, so its box moves with its
centre and keeps its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mammo_ml.errors import raise_if_any
from mammo_ml.imaging import boxes as bx

FULL_TURN = 360


@dataclass(frozen=True)
class TurnedWindows:
    """Pictures of windows, made when they are asked for by number: the same number gives the same bytes.

    Attributes:
        sources: uint8 (K, E, E), windows with their margin, at the scale of the input.
        source: which of them (N,) each picture shows.
        angle: degrees (N,) it is turned by, counter-clockwise, after mirroring.
        mirrored: whether (N,) it is mirrored left to right.
        input_px: edge of a picture.
    """

    sources: NDArray[np.uint8]
    source: NDArray[np.int64]
    angle: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    input_px: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, which: "slice | NDArray[np.int64]") -> NDArray[np.uint8]:
        """Pictures uint8 (n, input_px, input_px)."""
        numbers = np.arange(len(self))[which]
        pictures = np.empty((len(numbers), self.input_px, self.input_px), dtype=np.uint8)
        for row, n in enumerate(numbers):
            pictures[row] = turn_picture(
                self.sources[self.source[n]], int(self.angle[n]), bool(self.mirrored[n]), self.input_px
            )
        return pictures


def margin_px(input_px: int) -> int:
    """Pixels a source has on each side beyond the picture, so that any turn stays inside it."""
    return int(np.ceil((np.sqrt(2) - 1) / 2 * input_px)) + 1


def cut_sources(pixels: NDArray[np.uint8], windows: bx.Boxes, input_px: int) -> NDArray[np.uint8]:
    """Windows (K, 4) of a canonical film (H, W) with their margin, uint8 (K, E, E), averaged to the input's scale.

    Raises:
        BadInputError: naming every window whose edge is no multiple of `input_px`.
    """
    edges = windows[:, 2] - windows[:, 0]
    raise_if_any(
        "windows to turn",
        [f"window {n}: {edge:g} px is no multiple of {input_px} px" for n, edge in enumerate(edges) if edge % input_px],
        "Choose window_px and input_px of section `cut` so that one is a multiple of the other.",
    )
    edge_px = input_px + 2 * margin_px(input_px)
    sources = np.empty((len(windows), edge_px, edge_px), dtype=np.uint8)
    for n, (x1, y1, x2, _) in enumerate(windows.astype(int)):
        ratio = (x2 - x1) // input_px
        margin = margin_px(input_px) * ratio
        padded = np.pad(pixels, margin, mode="reflect")
        window = Image.fromarray(padded[y1 : y1 + edge_px * ratio, x1 : x1 + edge_px * ratio])
        sources[n] = np.asarray(window.resize((edge_px, edge_px), Image.Resampling.BOX))
    return sources


def turn_picture(source: NDArray[np.uint8], angle: int, mirrored: bool, input_px: int) -> NDArray[np.uint8]:
    """Middle of a source (E, E), mirrored left to right if asked, then turned counter-clockwise by degrees."""
    cosine, sine = _direction(angle)
    sign = -1.0 if mirrored else 1.0
    centre, middle = source.shape[0] / 2, input_px / 2
    # From a place on the picture to the place on the source it is taken from.
    across = (sign * cosine, -sign * sine, centre - sign * (cosine - sine) * middle)
    down = (sine, cosine, centre - (sine + cosine) * middle)
    turned = Image.fromarray(source).transform(
        (input_px, input_px), Image.Transform.AFFINE, (*across, *down), Image.Resampling.BILINEAR
    )
    return np.asarray(turned)


def turn_points(points: NDArray[np.float64], angle: int, mirrored: bool) -> NDArray[np.float64]:
    """Points (G, 2), as x, y from the centre with y down, after the same mirroring and turn."""
    cosine, sine = _direction(angle)
    x, y = points[:, 0] * (-1.0 if mirrored else 1.0), points[:, 1]
    return np.stack([x * cosine + y * sine, y * cosine - x * sine], axis=1)


def boxes_on_picture(
    circles: NDArray[np.float64], angle: int, mirrored: bool, input_px: int, min_visible_share: float
) -> tuple[bx.Boxes, NDArray[np.int64]]:
    """Boxes (K, 4) in picture px of circles (G, 3), as x, y from the window's centre and radius; and which (K,).

    A lesion of whose box less than `min_visible_share` is on the picture has none.
    """
    whole = bx.circles_to_boxes(turn_points(circles[:, :2], angle, mirrored) + input_px / 2, circles[:, 2])
    seen = bx.clip(whole, input_px, input_px)
    visible = np.flatnonzero(bx.area(seen) >= min_visible_share * bx.area(whole))
    return seen[visible], visible


def circles_from_centre(circles: NDArray[np.float64], window: Sequence[float], input_px: int) -> NDArray[np.float64]:
    """Circles (G, 3) of a canonical film as x, y from the centre of a window and radius, at the scale of the input."""
    x1, y1, x2, y2 = window
    centre = np.array([(x1 + x2) / 2, (y1 + y2) / 2, 0.0])
    scaled: NDArray[np.float64] = (circles - centre) * input_px / (x2 - x1)
    return scaled


def _direction(angle: int) -> tuple[float, float]:
    """Cosine and sine of whole degrees, exact at quarter turns."""
    quarters = {0: (1.0, 0.0), 90: (0.0, 1.0), 180: (-1.0, 0.0), 270: (0.0, -1.0)}
    radians = np.deg2rad(angle)
    return quarters.get(angle % FULL_TURN, (float(np.cos(radians)), float(np.sin(radians))))
