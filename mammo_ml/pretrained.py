"""The weights a training starts from: those shipped with the package, ImageNet's, a folder of one's own, or none.

A folder of starting weights holds weights.safetensors, films.csv (film_id, sha256, dataset, patient_id of every film
these weights learned from or were chosen on) and provenance.json (`mammo_ml.models.bundle.Ancestor`). Weights that do
not say what they learned from are refused: nobody could tell whether they know the films a model is tested on.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

import pandas as pd
from torch import Tensor, nn

from mammo_ml.datasets.catalog import write_table
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.leak_audit import Audit, audit_ancestry
from mammo_ml.manifest import file_sha256
from mammo_ml.models.bundle import Ancestor
from mammo_ml.models.ssd_bases import imagenet_state
from mammo_ml.models.weights import load_into, read_weights
from mammo_ml.parameters import parse_section
from mammo_ml.training import save_weights

STARTER_FOLDER = Path(__file__).parent / "starter"
STARTER, STARTER_IF_ANY, IMAGENET, NONE = "starter", "starter_if_any", "imagenet", "none"
STARTS_FROM_IMAGENET = "detector_vgg16"
"""Too large to be shipped with the package: its starter is ImageNet's weights."""
OWN_VGG16 = Path("data/studies/pretrain_detector/vgg16")
"""What it starts from where these cannot be had, once the studies have made it."""
WEIGHTS, FILMS, PROVENANCE = "weights.safetensors", "films.csv", "provenance.json"
LARGEST_BYTES = 7_000_000
"""What one starter may add to the repository."""
FILM_COLUMNS = ["film_id", "sha256", "dataset", "patient_id"]


@dataclass(frozen=True)
class Start:
    """Weights to start from, where they come from, and the films they know: columns of `FILM_COLUMNS`, step."""

    weights: dict[str, Tensor] | None
    ancestry: tuple[Ancestor, ...]
    films: pd.DataFrame

    @property
    def is_of_the_base_alone(self) -> bool:
        """Whether they are ImageNet's, which no detector's heads go with."""
        return bool(self.ancestry) and self.ancestry[0].dataset == IMAGENET

    def load_into(self, model: nn.Module) -> None:
        """Put the weights into a new network; ImageNet's are those of the base alone.

        Raises:
            BadInputError: naming the tensors that do not fit.
        """
        if self.weights is None:
            return
        if self.is_of_the_base_alone:
            model.load_state_dict(self.weights, strict=False)
        else:
            load_into(model, self.weights, self.ancestry[0].name)

    def audit(self, tested: pd.DataFrame) -> Audit:
        """Compare the films these weights know with films of a data set: film_id, sha256, dataset, patient_id."""
        if self.films.empty:
            return Audit((), {"women_shared": 0.0, "films_shared": 0.0, "sha256_shared": 0.0})
        return audit_ancestry(self.films, tested, "pre-training")


def resolve(pretrained: str, model: str, base: str) -> Start:
    """Find what a training starts from.

    Args:
        pretrained: `starter` (vgg16's is `imagenet`, and where it cannot be had `OWN_VGG16`, with a warning),
            `starter_if_any` (`none` for a network that none is shipped for, so that tuning may choose among networks),
            `imagenet` (a detector's), `none`, or a folder of weights.
        model: the kind of network, `detector` or `classifier`; with the base it names the starter.
        base: the detector's base, or the classifier's variant.

    Raises:
        BadInputError: when there are no such weights, or they do not say what they learned from.
        MammoError: when ImageNet's weights cannot be had.
    """
    nothing = pd.DataFrame(columns=[*FILM_COLUMNS, "step"], dtype="str")
    shipped = STARTER_FOLDER / f"{model}_{base}"
    if pretrained == NONE or (pretrained == STARTER_IF_ANY and not shipped.is_dir()):
        return Start(None, (), nothing)
    of_imagenet = pretrained == STARTER and shipped.name == STARTS_FROM_IMAGENET
    if pretrained == IMAGENET or of_imagenet:
        told = {"name": f"imagenet {base}", "weights_sha256": "0" * 64, "dataset": IMAGENET, "command": "torchvision"}
        try:
            weights = imagenet_state(base)
        except MammoError as error:
            if not (of_imagenet and OWN_VGG16.is_dir()):
                raise
            print(f"WARNING: {error}\n         {OWN_VGG16} is there and is started from.", file=sys.stderr)
            return _read(OWN_VGG16, pretrained)
        return Start(weights, (parse_section(told, Ancestor, "ImageNet's weights"),), nothing)
    return _read(shipped if pretrained in (STARTER, STARTER_IF_ANY) else Path(pretrained), pretrained)


def own_files(pretrained: str) -> list[Path]:
    """Files of a folder of one's own; none for weights that are named, the package's or torchvision's."""
    named = pretrained in (STARTER, STARTER_IF_ANY, IMAGENET, NONE)
    return [] if named else [path for name in (WEIGHTS, FILMS) if (path := Path(pretrained) / name).is_file()]


def _read(folder: Path, asked_for: str) -> Start:
    missing = [name for name in (WEIGHTS, FILMS, PROVENANCE) if not (folder / name).is_file()]
    if missing:
        shipped = ", ".join(sorted(path.name for path in STARTER_FOLDER.glob("*_*"))) or "none"
        raise BadInputError(
            f"pretrained: {asked_for}",
            [f"{folder} has no {name}" for name in missing],
            f"Starters shipped with the package: {shipped}. All can start from `none`. "
            "A folder of your own needs all three files: what weights learned from must be known before anything is "
            "measured with them.",
        )
    try:
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        films = pd.read_csv(folder / FILMS, dtype="str", keep_default_na=False)
    except ValueError as error:
        raise BadInputError(str(folder), [f"cannot be read: {error}"]) from None
    ancestor = parse_section(provenance, Ancestor, str(folder / PROVENANCE))
    found = file_sha256(folder / WEIGHTS)
    if found != ancestor.weights_sha256:
        told = f"{WEIGHTS}: sha256 {found[:12]}…, {PROVENANCE} says {ancestor.weights_sha256[:12]}…"
        raise BadInputError(str(folder), [told], "Restore the folder: these are other weights than those described.")
    return Start(read_weights(folder / WEIGHTS), (ancestor,), films[FILM_COLUMNS].assign(step="pretraining"))


def write_start(folder: Path, model: nn.Module, films: pd.DataFrame, ancestor: dict[str, str]) -> None:
    """Write a folder of starting weights, as `pretrained` takes it.

    Args:
        folder: where to; files of an earlier one are replaced.
        model: the network that was taught.
        films: `FILM_COLUMNS` of every film these weights learned from or were chosen on.
        ancestor: fields of `Ancestor` but the hash.
    """
    save_weights(model, folder / WEIGHTS)
    write_table(films[FILM_COLUMNS], folder / FILMS)
    provenance = parse_section(ancestor | {"weights_sha256": file_sha256(folder / WEIGHTS)}, Ancestor, "starter")
    text = json.dumps(provenance.model_dump(), indent=1, sort_keys=True) + "\n"
    (folder / PROVENANCE).write_text(text, encoding="utf-8")


def ship(made: Path, folder: Path) -> Start:
    """Copy a folder of starting weights to where the package has its own.

    Raises:
        BadInputError: when it is not one.
        MammoError: when the weights are too large to be shipped.
    """
    start = _read(made, str(made))
    size = (made / WEIGHTS).stat().st_size
    if size > LARGEST_BYTES:
        raise MammoError(f"{made / WEIGHTS} has {size:,} bytes; starters are small, {LARGEST_BYTES:,} at most")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, FILMS, PROVENANCE):
        copyfile(made / name, folder / name)
    return start
