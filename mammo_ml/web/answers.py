"""What the REST interface answers, as JSON."""

from typing import Any

from pydantic import BaseModel, Field

RESEARCH_USE_ONLY = "Research use only: not a medical device, not for diagnosis, screening or treatment."


class Failure(BaseModel):
    """What went wrong, and what to do."""

    error: str
    remedy: str
    problems: list[str] = Field(default=[], description="each fault found, where there are several")


class Which(BaseModel):
    """The version that answered."""

    name: str
    version: int
    bundle_sha256: str


class FilmFacts(BaseModel):
    """The film as it was read."""

    sha256: str
    width_px: int
    height_px: int
    max_value: int = Field(description="grey value of white")
    pixel_spacing_mm: float
    spacing_source: str = Field(description="told, file, or mini-MIAS: taken for it from its form")
    chest_wall: str = Field(description="side of the film file: left or right")
    laterality: str | None = Field(description="L or R, where the file says")
    view: str | None = Field(description="MLO, CC or another, where the file says")
    origin: str = Field(description="film scan, digital or unknown")
    notes: list[str] = Field(description="what was applied to the pixels, what is unusual about the file")


class Box(BaseModel):
    """A finding; px of the film file, origin top left, right and bottom edge excluded."""

    x1: float
    y1: float
    x2: float
    y2: float
    p_benign: float = Field(description="the detector's own")
    p_malignant: float = Field(description="the detector's own")
    score: float = Field(description="calibrated probability that the centre lies in a lesion")


class Tile(BaseModel):
    """A tile of the heat map; px of the film file."""

    x1: float
    y1: float
    x2: float
    y2: float
    p_normal: float
    p_benign: float
    p_malignant: float
    p_abnormal: float
    searched: bool = Field(description="whether the detector looked at it")


class Answered(BaseModel):
    """What every answer about a film says."""

    film: FilmFacts
    model: Which
    seen_in_training: bool = Field(description="the model learned from this very file: its answer proves nothing")
    warnings: list[str] = Field(description="how the film is unlike those the model learned from")
    seconds: float
    research_use_only: str = RESEARCH_USE_ONLY


class LocateAnswer(Answered):
    """Lesions found on a film."""

    p_abnormal: float = Field(description="calibrated probability that there is a lesion on the film")
    boxes: list[Box] = Field(description="most suspicious first")
    tiles: list[Tile] = Field(description="the classifier's heat map")


class ClassifyAnswer(Answered):
    """Class of a film."""

    p_normal: float
    p_benign: float
    p_malignant: float


class ModelAnswer(BaseModel):
    """The models that answer now, by what they do."""

    locate: dict[str, Any] | None
    classify: dict[str, Any] | None
    research_use_only: str = RESEARCH_USE_ONLY


class SlotHealth(BaseModel):
    """One model behind the server."""

    name: str
    version: int | None = Field(description="the one that answers; null: none")
    fault: str = Field(description="why the champion is not it, or cannot be trusted; empty where all is well")


class HealthAnswer(BaseModel):
    """Whether the server works: ok; degraded (it answers, but see the faults); down (it cannot locate)."""

    status: str
    models: list[SlotHealth] = Field(default=[], description="left out for who has no token, where one is asked for")
