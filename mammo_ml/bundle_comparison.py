"""A rebuilt bundle beside the registered one: byte for byte, or number by number and by what they answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mammo_ml.locator_bundle import LocatorConfig, networks_of, open_bundle
from mammo_ml.models.bundle import FILES, WEIGHTS, Bundle

LARGEST_PROBABILITY_DIFFERENCE = 0.02
"""Largest difference of any probability, over all tiles (and default boxes) of the phantom film, that still counts.

The same data, code, packages, number of threads and kind of processor give the same bytes. Elsewhere float32 numbers
are added in another order, and a training carries such a last bit through thousands of steps: the weights drift apart.
Set far below the widths of the intervals in metrics.json, so that no figure is read otherwise; not measured.
"""
LARGEST_TENSOR_DIFFERENCE = 0.25
"""Largest difference of any number of a tensor, relative to that tensor's largest number, that still counts.

It notices weights that went another way and happen to answer alike on this film; set, not measured.
"""
FILM_SEED = 1
"""Of the phantom film on which both models are asked: the first of a plan that has a lesion."""


@dataclass(frozen=True)
class Comparison:
    """A bundle beside the one it should be.

    Attributes:
        equal: whether each file is the same, byte for byte.
        unlike: tensors that are missing, new or of another shape.
        tensor: the one that differs most.
        tensor_difference: largest difference of its numbers, relative to its largest number; 0 for equal weights.
        probability_difference: largest difference of the probabilities on the phantom film; None with `unlike`.
        inputs: data that the last stage read in another form than the version's did.
    """

    equal: Mapping[str, bool]
    unlike: tuple[str, ...] = ()
    tensor: str = ""
    tensor_difference: float = 0.0
    probability_difference: float | None = 0.0
    inputs: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """One of: "byte for byte", "within tolerance", "not reproduced"."""
        if all(self.equal.values()):
            return "byte for byte"
        others = all(same for name, same in self.equal.items() if name != WEIGHTS)
        near = (
            self.probability_difference is not None
            and self.probability_difference <= LARGEST_PROBABILITY_DIFFERENCE
            and self.tensor_difference <= LARGEST_TENSOR_DIFFERENCE
        )
        return "within tolerance" if others and near and not self.unlike else "not reproduced"

    @property
    def reproduced(self) -> bool:
        """True unless the verdict is "not reproduced"."""
        return self.verdict != "not reproduced"

    def __str__(self) -> str:
        lines = [f"  {name:<20} {'byte for byte' if same else 'DIFFERS'}" for name, same in self.equal.items()]
        lines += [f"  tensor {problem}" for problem in self.unlike]
        if not self.equal[WEIGHTS] and not self.unlike:
            lines += [
                f"  weights differ most in {self.tensor}: {self.tensor_difference:.3g} of its largest number "
                f"(tolerance {LARGEST_TENSOR_DIFFERENCE:g})",
                f"  probabilities on a phantom film differ by {self.probability_difference:.3g} at most "
                f"(tolerance {LARGEST_PROBABILITY_DIFFERENCE:g})",
            ]
        lines += [f"  read other data: {path}" for path in self.inputs]
        explained = {
            "byte for byte": "REPRODUCED byte for byte",
            "within tolerance": "REPRODUCED within the tolerance for another kind of processor or number of threads",
            "not reproduced": "NOT REPRODUCED",
        }[self.verdict]
        return "\n".join([*lines, "", explained])


def compare(registered: Path, rebuilt: Path, inputs: tuple[str, ...] = ()) -> Comparison:
    """Compare two bundles file by file and, where their weights differ, number by number and by what they answer.

    Raises:
        BadInputError: when one of them is not what its manifest says.
    """
    # differing manifests follow from differing files
    equal = {name: (registered / name).read_bytes() == (rebuilt / name).read_bytes() for name in FILES}
    if equal[WEIGHTS]:
        return Comparison(equal, inputs=inputs)
    one, other = open_bundle(registered), open_bundle(rebuilt)
    unlike = tuple(_unlike(one.weights, other.weights))
    if unlike or one.config.network != other.config.network:
        return Comparison(equal, unlike, probability_difference=None, inputs=inputs)
    differs = {name: _relative_difference(one.weights[name], other.weights[name]) for name in one.weights}
    most = max(differs, key=lambda name: differs[name])
    probabilities = float(np.abs(phantom_probabilities(one) - phantom_probabilities(other)).max())
    return Comparison(equal, (), most, differs[most], probabilities, inputs)


def _unlike(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            yield f"{name} is {'new' if name in other else 'missing'}"
        elif one[name].shape != other[name].shape or one[name].dtype != other[name].dtype:
            yield f"{name} has {tuple(other[name].shape)} {other[name].dtype}, it should have {tuple(one[name].shape)}"


def _relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    if one.numel() == 0 or torch.equal(one, other):
        return 0.0
    largest = float(one.double().abs().max())
    found = float((one.double() - other.double()).abs().max())
    return found / largest if largest else float("inf")


def phantom_probabilities(bundle: Bundle) -> NDArray[np.float64]:
    """Probabilities (N, 3) a model gives on the tiles of a phantom film; for a detector, N counts default boxes too.

    They come straight from the network: calibration and suppression of boxes would hide or exaggerate differences.
    """
    from mammo_ml.classifier import predict_probabilities, to_tensor
    from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
    from mammo_ml.models.ssd import SsdParameters, build_detector

    if isinstance(bundle.config, LocatorConfig):
        return np.concatenate([phantom_probabilities(one) for one in networks_of(bundle)])
    pictures = _phantom_tiles(bundle)
    if bundle.config.kind == "classifier":
        return predict_probabilities(
            bundle.load_into(build_classifier(ClassifierParameters(**bundle.config.network))), pictures
        )
    model = bundle.load_into(build_detector(SsdParameters(**bundle.config.network)))
    with torch.inference_mode():
        logits = torch.cat([model.raw_outputs(to_tensor(tile[None]))[0]["cls_logits"] for tile in pictures])
    found: NDArray[np.float64] = logits.double().softmax(2).flatten(0, 1).numpy()
    return found


def _phantom_tiles(bundle: Bundle) -> NDArray[np.uint8]:
    from mammo_ml.datasets.phantom import PhantomParameters, draw
    from mammo_ml.datasets.phantom import plan as plan_phantoms
    from mammo_ml.imaging.breast import CANONICAL_SPACING_MM, breast_mask, chest_wall_side
    from mammo_ml.imaging.canonical import eight_bits, to_canonical
    from mammo_ml.imaging.patches import TileParameters, breast_tiles, crop
    from mammo_ml.imaging.readers import format_pgm, parse_film

    drawn = next(film for film in plan_phantoms(PhantomParameters(women=20, seed=FILM_SEED)) if film.lesions)
    film = parse_film(format_pgm(draw(drawn, FILM_SEED)), drawn.film_id)
    side = chest_wall_side(breast_mask(eight_bits(film)))
    canonical = to_canonical(drawn.film_id, film, side, CANONICAL_SPACING_MM)
    tiles = TileParameters(**bundle.config.preprocessing.model_dump(exclude={"pixel_spacing_mm"}))
    return crop(canonical.pixels, breast_tiles(canonical.mask, tiles), tiles.input_px)
