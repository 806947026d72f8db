"""Info.txt of mini-MIAS, read by its grammar: one line per annotated abnormality or normal film.

    mdb001 G CIRC B 535 425 197       film, tissue, class, severity, x, y, radius
    mdb003 D NORM                     a normal film ends after NORM
    mdb059 F CIRC B                   an abnormality without location
    mdb216 D CALC M *NOTE 3*          calcifications too widespread for a circle; the note meant is note 4

A parser that splits on white space and counts columns puts `*NOTE` into x, and one that keeps a film's first row makes
film 144 benign.
"""

import re
from dataclasses import dataclass

from mammo_ml.datasets.catalog import KINDS
from mammo_ml.errors import raise_if_any

TISSUES = ("F", "G", "D")
SEVERITY = {"B": "benign", "M": "malignant"}
SIZE_PX = 1024
INFO_REMEDY = "Correct these rows, or take Info.txt from the official archive."
_FILM = re.compile(r"mdb\d{3}")
_NOTE = re.compile(r"\*NOTE\s*\d\*")
# also a row whose film name is mistyped or commented out: passed over as prose, a lesion would vanish without a word
_LOOKS_LIKE_A_ROW = re.compile(r"\s*(?i:mdb)|.*mdb\d|\s*\S+\s+[FGD]\s+[A-Z]{4}\b")


@dataclass(frozen=True)
class InfoRow:
    """One row: its line (from 1), film, tissue (F, G, D), class (NORM or one of KINDS), severity, and x, y, radius.

    x and y are pixel indices from the bottom-left corner (Info.txt, note 3); None where the row has no location.
    """

    line: int
    film_id: str
    tissue: str
    kind: str
    severity: str | None = None
    x: int | None = None
    y: int | None = None
    radius: int | None = None

    @property
    def is_normal(self) -> bool:
        """True for a film without abnormality."""
        return self.kind == "NORM"


def parse_info(text: str, name: str = "Info.txt") -> list[InfoRow]:
    """Read every row of an Info.txt; the prose round them is passed over, a byte-order mark and CRLF are read.

    Args:
        text: the whole file.
        name: the file, for messages.

    Raises:
        BadInputError: naming line and fault of every row that does not fit the grammar, and of every repeated row.
    """
    rows, problems = read_rows(text)
    raise_if_any(name, problems, INFO_REMEDY)
    return rows


def read_rows(text: str) -> tuple[list[InfoRow], list[str]]:
    """Rows that fit the grammar, and a line for each fault, for callers that have more faults to name; see above."""
    rows: list[InfoRow] = []
    problems: list[str] = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        if not _LOOKS_LIKE_A_ROW.match(line):
            continue
        row = _parse_row(number, line)
        if isinstance(row, str):
            problems.append(f"line {number}: {row}: '{line.strip()}'")
        else:
            rows.append(row)
    problems += _contradictions(rows)
    if not rows and not problems:
        problems.append("no row found; expected lines such as 'mdb001 G CIRC B 535 425 197'")
    return rows, problems


def _parse_row(number: int, line: str) -> InfoRow | str:
    """Parse one row, or tell in words what is wrong with it."""
    fields = _NOTE.sub("", line).split()
    if len(fields) < 3:
        return f"{len(fields)} fields, expected at least film, tissue and class"
    film_id, tissue, kind, *rest = fields
    if not _FILM.fullmatch(film_id):
        return f"film '{film_id}' is not mdb and three digits"
    if tissue not in TISSUES:
        return f"tissue '{tissue}' is not one of {' '.join(TISSUES)}"
    if kind == "NORM":
        return f"a normal film with {len(rest)} more fields" if rest else InfoRow(number, film_id, tissue, kind)
    if kind not in KINDS:
        return f"class '{kind}' is not one of NORM {' '.join(KINDS)}"
    if not rest or rest[0] not in SEVERITY:
        return f"severity '{rest[0] if rest else ''}' is not B or M"
    severity, location = SEVERITY[rest[0]], rest[1:]
    if location and _NOTE.search(line):
        return "a note that there is no location, and a location"
    if not location:
        return InfoRow(number, film_id, tissue, kind, severity)
    if len(location) != 3:
        return f"{len(fields)} fields; a location is x, y and radius"
    if not all(re.fullmatch(r"-?\d+", value) for value in location):
        return f"x, y and radius are whole numbers, found '{' '.join(location)}'"
    x, y, radius = map(int, location)
    if not (0 <= x < SIZE_PX and 0 <= y < SIZE_PX):
        return f"x {x}, y {y} lie outside the film of {SIZE_PX} x {SIZE_PX} px"
    if radius <= 0:
        return f"radius {radius} is not above 0"
    return InfoRow(number, film_id, tissue, kind, severity, x, y, radius)


def _contradictions(rows: list[InfoRow]) -> list[str]:
    """Rows that are sound one by one but not together: repeated ones, films both normal and not, two tissues."""
    problems = []
    seen: set[object] = set()
    first: dict[str, InfoRow] = {}
    for row in rows:
        content = (row.film_id, row.kind, row.severity, row.x, row.y, row.radius)
        if content in seen:
            problems.append(f"line {row.line}: repeats an earlier row of {row.film_id}")
        seen.add(content)
        other = first.setdefault(row.film_id, row)
        if other.is_normal != row.is_normal:
            problems.append(f"line {row.line}: {row.film_id} is normal and abnormal (see line {other.line})")
        if other.tissue != row.tissue:
            problems.append(f"line {row.line}: {row.film_id} has tissue {row.tissue}, line {other.line} {other.tissue}")
    return problems
