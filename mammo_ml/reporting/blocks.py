"""What a report is made of: text, tables, figures and pictures, as the template shows them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Value:
    """A number with its 95 % interval beside it (`lo` and `hi` are NaN where there is none) and a word about it."""

    point: float
    lo: float = math.nan
    hi: float = math.nan
    remark: str = ""

    def __str__(self) -> str:
        return number(self.point)

    @property
    def interval(self) -> str:
        """Interval in brackets; empty where there is none."""
        return "" if math.isnan(self.lo) or math.isnan(self.hi) else f"[{number(self.lo)}, {number(self.hi)}]"


Cell = str | Value


@dataclass(frozen=True)
class Text:
    """A paragraph; `kind` is plain, note, warning or missing."""

    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Table:
    """Rows below a head; the first cell of a row is its heading. A folded one opens at a click."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing, as a data URI, with words for those who do not see it. A wide one stands alone in its line."""

    source: str
    alt: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Box:
    """A rectangle on a picture, px of the film file; `kind` is lesion, hit or false_positive."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str
    label: str = ""


@dataclass(frozen=True)
class Crop:
    """A part of a film: its window on the film, the pixels as a data URI, and the boxes in it."""

    source: str
    window: Box
    boxes: Sequence[Box]
    caption: str
    alt: str


@dataclass(frozen=True)
class Gallery:
    """Crops side by side."""

    crops: Sequence[Crop]
    caption: str


Block = Text | Table | Chart | Gallery


@dataclass(frozen=True)
class Section:
    """A part of the report with its heading; `name` is its anchor."""

    name: str
    title: str
    blocks: Sequence[Block] = field(default_factory=list)


def number(value: float | None, places: int = 3) -> str:
    """A number as text; "undefined" where it is NaN, "-" where there is none."""
    if value is None:
        return "-"
    return "undefined" if math.isnan(value) else f"{value:.{places}f}"
