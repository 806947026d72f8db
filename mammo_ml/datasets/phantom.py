"""Phantom films: synthetic mammograms in mini-MIAS's own format, with lesions whose truth is known.

They stand in where the real films cannot be had, and are the tests' oracle: easy enough that both models come near
perfect by patient, with every odd kind of row that Info.txt has. Same parameters, same bytes.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from mammo_ml.imaging.readers import write_pgm
from mammo_ml.parameters import Parameters

SIDE_PX = 1024
FILM_WIDTH_PX = 600
"""The film is narrower than its picture and padded with black, as in mini-MIAS."""
TISSUE_LEVELS = {"F": 85.0, "G": 105.0, "D": 125.0}
LESION_LEVEL = 75.0
KINDS = {"benign": ("CIRC", "MISC", "CALC"), "malignant": ("SPIC", "ARCH", "ASYM")}
INTRODUCTION = """\
              PHANTOM FILMS in the format of the MIAS MiniMammographic Database

These films are synthetic: no woman, no disease. They are for trying and testing software.

NOTES
=====
1) The list is arranged in pairs of films of one (imaginary) woman.
2) The size of ALL the images is 1024 pixels x 1024 pixels.
3) Coordinate system origin is the bottom-left corner.
4) Where calcifications are widely distributed, centre and radius have been omitted.

=================================================================

"""
ENDING = "\n=================================================================\n"
Picture = NDArray[np.float32]


class PhantomParameters(Parameters):
    """Section `ingest`: how many women, two films each."""

    women: int = Field(40, ge=20, le=400, description="20 at least, so that every fold has every label")
    seed: int = Field(1, ge=0)


@dataclass(frozen=True)
class PhantomLesion:
    """A lesion on the film as displayed: centre and radius in pixel indices, origin top-left."""

    kind: str
    severity: str
    x: int
    y: int
    radius: int
    row: str = "located"
    """How Info.txt tells of it: `located`, `unlocated` (no numbers) or `note` (*NOTE 3*)."""


@dataclass(frozen=True)
class PhantomFilm:
    """What is drawn on one film: its number N of mdbNNN, tissue and lesions."""

    number: int
    tissue: str
    lesions: tuple[PhantomLesion, ...]

    @property
    def film_id(self) -> str:
        """Name of the film."""
        return f"mdb{self.number:03d}"


def write_phantoms(folder: Path, parameters: PhantomParameters) -> list[PhantomFilm]:
    """Replace a folder by one of mdbNNN.pgm and Info.txt, whole or not at all, and return the truth."""
    films = plan(parameters)
    draft = folder.with_name(folder.name + ".unpacking")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        for film in films:
            write_pgm(draft / f"{film.film_id}.pgm", draw(film, parameters.seed))
        (draft / "Info.txt").write_text(info_text(films), encoding="ascii", newline="\n")
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return films


def plan(parameters: PhantomParameters) -> list[PhantomFilm]:
    """Decide what is on every film: a quarter of the women are normal, the others have one abnormal film."""
    generator = np.random.default_rng([parameters.seed, parameters.women])
    n_normal, n_benign = round(0.25 * parameters.women), round(0.4 * parameters.women)
    labels = ["normal"] * n_normal + ["benign"] * n_benign
    labels += ["malignant"] * (parameters.women - len(labels))
    order = generator.permutation(parameters.women)
    odd_rows = _odd_women(labels, order)
    films = []
    for woman, label in enumerate(labels[position] for position in order):
        tissue = str(generator.choice(list(TISSUE_LEVELS)))
        abnormal_side = int(generator.integers(2))
        for side in range(2):
            number = 2 * woman + 1 + side
            lesions: tuple[PhantomLesion, ...] = ()
            if label != "normal" and side == abnormal_side:
                lesions = _lesions(label, number, odd_rows.get(woman, "one"), generator)
            films.append(PhantomFilm(number, tissue, lesions))
    return films


def _odd_women(labels: list[str], order: NDArray[np.int64]) -> dict[int, str]:
    """Which women carry which odd kind of row; the first ones of each label in the order of the films."""
    placed = [labels[position] for position in order]
    benign = [woman for woman, label in enumerate(placed) if label == "benign"]
    malignant = [woman for woman, label in enumerate(placed) if label == "malignant"]
    return {
        benign[0]: "two",
        benign[1]: "unlocated",
        benign[2]: "edge",
        malignant[0]: "both_severities",
        malignant[1]: "note",
    }


def _lesions(label: str, number: int, oddity: str, generator: np.random.Generator) -> tuple[PhantomLesion, ...]:
    def lesion(severity: str, where: tuple[float, float], row: str = "located") -> PhantomLesion:
        radius = int(generator.integers(28, 61))
        x, y = _place(number, *where)
        kind = "CALC" if row == "note" else str(generator.choice(KINDS[severity]))
        return PhantomLesion(kind, severity, x, y, radius, row)

    upper = (generator.uniform(110, 220), generator.uniform(330, 470))
    lower = (generator.uniform(110, 220), generator.uniform(560, 700))
    where = upper if generator.random() < 0.5 else lower
    match oddity:
        case "two":
            return lesion("benign", upper), lesion("benign", lower)
        case "both_severities":
            return lesion("benign", upper), lesion("malignant", lower)
        case "unlocated" | "note":
            return (lesion(label, where, oddity),)
        case "edge":
            return (lesion(label, (6.0, where[1])),)
        case _:
            return (lesion(label, where),)


def _place(number: int, from_chest_wall: float, from_top: float) -> tuple[int, int]:
    """Pixel index of a point given by its distance from the chest wall: on the right of odd films, left of even."""
    edge = (SIDE_PX - FILM_WIDTH_PX) // 2
    x = edge + from_chest_wall
    return round(SIDE_PX - 1 - x if number % 2 else x), round(from_top)


def info_text(films: list[PhantomFilm]) -> str:
    """Info.txt of these films."""
    rows = []
    for film in films:
        rows += [_row(film, lesion) for lesion in film.lesions] or [f"{film.film_id} {film.tissue} NORM "]
    return INTRODUCTION + "\n".join(rows) + "\n" + ENDING


def _row(film: PhantomFilm, lesion: PhantomLesion) -> str:
    start = f"{film.film_id} {film.tissue} {lesion.kind} {lesion.severity[0].upper()}"
    match lesion.row:
        case "note":
            return f"{start} *NOTE 3* "
        case "unlocated":
            return start
        case _:
            return f"{start} {lesion.x} {SIDE_PX - 1 - lesion.y} {lesion.radius}"


def draw(film: PhantomFilm, seed: int) -> NDArray[np.uint8]:
    """Pixels uint8 (1024, 1024) of a film. The two films of a woman look alike and differ in their noise."""
    own = np.random.default_rng([seed, film.number])
    woman = np.random.default_rng([seed, 0, (film.number + 1) // 2])
    breast = _breast(woman)
    texture = _noise(woman, 48, 14.0) + _noise(own, 12, 5.0) + _noise(own, 3, 2.5)
    tissue = breast * (TISSUE_LEVELS[film.tissue] + texture)
    tissue += np.clip(breast * 2 - 1, 0, 1) * _pectoral_muscle(woman) * 35
    picture = tissue + own.normal(10.0, 1.5, (SIDE_PX, SIDE_PX)).astype(np.float32) * (1 - breast)
    picture = picture[:, ::-1] if film.number % 2 else picture
    for lesion in film.lesions:
        _add_lesion(picture, lesion, own)
    _add_scanner_marks(picture, film.number, own)
    return _pad(np.clip(np.round(picture), 1, 255).astype(np.uint8))


def _grid() -> tuple[Picture, Picture]:
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX].astype(np.float32)
    return x - (SIDE_PX - FILM_WIDTH_PX) // 2, y


def _breast(generator: np.random.Generator) -> Picture:
    """Share of breast in each pixel, chest wall on the left: half an ellipse with a soft skin line."""
    x, y = _grid()
    depth, height = generator.uniform(330, 420), generator.uniform(400, 450)
    centre = generator.uniform(500, 530)
    radius = np.sqrt((x / depth) ** 2 + ((y - centre) / height) ** 2)
    soft = np.clip((1.0 - radius) * 12, 0, 1) * (x >= 0)
    return soft.astype(np.float32)


def _pectoral_muscle(generator: np.random.Generator) -> Picture:
    x, y = _grid()
    width, height = generator.uniform(120, 180), generator.uniform(280, 360)
    inside: Picture = np.clip((1 - x / width - y / height) * 10, 0, 1)
    return inside


def _noise(generator: np.random.Generator, scale_px: int, amplitude: float) -> Picture:
    """Smooth noise (1024, 1024) of unit `amplitude`, made coarse and enlarged."""
    cells = -(-SIDE_PX // scale_px) + 3
    coarse = generator.standard_normal((cells, cells)).astype(np.float32)
    smooth = ndimage.zoom(coarse, scale_px, order=1)[:SIDE_PX, :SIDE_PX]
    field: Picture = amplitude * smooth
    return field


def _add_lesion(picture: Picture, lesion: PhantomLesion, generator: np.random.Generator) -> None:
    """Draw a benign smooth disc with a bright rim, a malignant core with spicules, or a note's scattered specks."""
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX].astype(np.float32)
    away = np.hypot(x - lesion.x, y - lesion.y) / lesion.radius
    if lesion.row == "note":
        specks = generator.integers(-2 * lesion.radius, 2 * lesion.radius, (40, 2))
        for dx, dy in specks:
            row, column = np.clip([lesion.y + dy, lesion.x + dx], 2, SIDE_PX - 3)
            picture[row - 2 : row + 2, column - 2 : column + 2] += LESION_LEVEL
        return
    if lesion.severity == "benign":
        disc = np.clip((1.0 - away) * 10, 0, 1)
        rim = np.exp(-(((away - 0.85) / 0.1) ** 2))
        picture += (LESION_LEVEL * (0.45 * disc + 0.5 * rim)).astype(np.float32)
        return
    angle = np.arctan2(y - lesion.y, x - lesion.x)
    spicules = np.cos(angle * 9 + generator.uniform(0, 6)) > 0.3
    core = np.clip((0.55 - away) * 8, 0, 1)
    rays = np.clip((1.0 - away) * 3, 0, 1) * spicules
    picture += (LESION_LEVEL * np.maximum(1.3 * core, 0.9 * rays)).astype(np.float32)


def _add_scanner_marks(picture: Picture, number: int, generator: np.random.Generator) -> None:
    """A bright label outside the breast; on every seventh film a full-height strip at the edge."""
    edge = (SIDE_PX - FILM_WIDTH_PX) // 2
    width, height = generator.integers(60, 110), generator.integers(40, 80)
    top, inset = generator.integers(20, 60), 25
    left = edge + inset if number % 2 else SIDE_PX - edge - inset - width
    picture[top : top + height, left : left + width] = 200
    if number % 7 == 0:
        strip = slice(edge, edge + 14) if number % 2 else slice(SIDE_PX - edge - 14, SIDE_PX - edge)
        picture[:, strip] = 230


def _pad(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Black beside the film, but for one wrapped line on row 0, as on half of the mini-MIAS films."""
    edge = (SIDE_PX - FILM_WIDTH_PX) // 2
    padded = np.zeros_like(picture)
    padded[:, edge : edge + FILM_WIDTH_PX] = picture[:, edge : edge + FILM_WIDTH_PX]
    padded[0, :edge] = 12
    return padded
