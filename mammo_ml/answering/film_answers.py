"""What is kept of one answered film, and its JSON: written whole or not at all, same answer same bytes."""

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mammo_ml import __version__

NOTICE = "Research use only: not a medical device, not for diagnosis."
SCHEMA: Literal["mammo-ml/film-answer/1"] = "mammo-ml/film-answer/1"
Laterality = Literal["L", "R"]
ModelKind = Literal["locator", "detector", "classifier"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FilmFacts(_Record):
    """The film that was looked at. Nothing that names a patient is kept, but for what the file's own name says."""

    file: str = Field(description="name of the file, below the folder that was given")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="hash of the file's bytes")
    width_px: int
    height_px: int
    pixel_spacing_mm: float = Field(description="edge of a pixel")
    pixel_spacing_from: str = Field(description="where that is known from")
    laterality: Laterality | None
    view: str | None = Field(description="as in CC or MLO, where the file says it")


class Told(_Record):
    """What the user said about films whose files do not say it."""

    spacing_mm: float | None = None
    laterality: Laterality | None = None


class ModelFacts(_Record):
    """The model that looked."""

    name: str = Field(description="of the registered model")
    version: int | None = Field(description="its version; none where a model of the benchmark's folds answered")
    fold: int | None = Field(description="test fold whose women this model never saw; none for a registered version")
    kind: ModelKind
    content_sha256: str = Field(description="hash of the model's files")
    dataset: str = Field(description="data set it was trained on")
    phantom: bool = Field(description="trained on synthetic films")
    package: str = Field(default=__version__, description="version of mammo_ml that ran it")

    @property
    def label(self) -> str:
        """The model in a few words, as in `mammo-locator version 3`."""
        return f"{self.name} version {self.version}" if self.fold is None else f"{self.name} of fold {self.fold}"


class FoundBox(_Record):
    """A box in px of the film file: origin top left, x to the right, (x2, y2) just outside."""

    x1: float
    y1: float
    x2: float
    y2: float
    score: float = Field(description="how suspicious, 0 to 1; `scores` says what it is calibrated on")
    p_benign: float = Field(description="the detector's own, not calibrated")
    p_malignant: float = Field(description="the detector's own, not calibrated")


class Lesions(_Record):
    """What a locator or a detector found."""

    p_abnormal: float | None = Field(description="that the film shows a lesion; none from a detector alone")
    boxes: list[FoundBox] = Field(description="most suspicious first")
    n_tiles: int | None = Field(description="tiles the classifier looked at; none from a detector alone")
    n_searched: int | None = Field(description="tiles the detector then searched")


class Classes(_Record):
    """What a classifier says of a film: the probabilities of its most severe finding."""

    p_normal: float
    p_benign: float
    p_malignant: float


class FilmAnswer(_Record):
    """One answered film: the JSON beside each film's other outputs."""

    # "schema" itself is a name of pydantic's
    schema_: Literal["mammo-ml/film-answer/1"] = Field(default=SCHEMA, alias="schema")
    notice: str = NOTICE
    film: FilmFacts
    told: Told
    model: ModelFacts
    seen_in_training: bool = Field(description="the model, or weights it started from, learned from this very file")
    scores: str = Field(description="what the numbers mean, and what they are calibrated on")
    warnings: list[str] = Field(description="why to trust the findings less")
    notes: list[str] = Field(description="what the file says or leaves out, and what was done to its pixels")
    findings: Lesions | Classes


def answer_json(answer: FilmAnswer) -> bytes:
    """The answer as JSON."""
    content = answer.model_dump(mode="json", by_alias=True)
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_answer(path: Path) -> FilmAnswer | None:
    """The answer in a file, or None where there is no sound one, so that the film is looked at again."""
    try:
        return FilmAnswer.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def write_whole(path: Path, content: bytes) -> None:
    """Put a file in its place whole: what a kill or a full disk cuts off is never taken for an answer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
