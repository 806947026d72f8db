"""CBIS-DDSM's mass films (Sawyer-Lee et al. 2016, doi 10.7937/K9/TCIA.2016.7O02S9CY) as films and two tables.

The films come as JPEG stretched to squares. `ingest` gives each its shape back and writes it as PGM; the tables hold
coordinates of those files.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from mammo_ml.datasets.catalog import FILMS, LESIONS, MASS, UNKNOWN_SEVERITY, dtypes, label_of, names, write_table
from mammo_ml.datasets.cbis_ddsm_source import (
    BOXES,
    CALCIFICATIONS,
    JPEG_PX,
    TABLES,
    BoxRow,
    CaseRow,
    FilmRow,
    Source,
    raise_if_faulty,
    read_source,
)
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.imaging.readers import parse_film, parse_pgm, write_pgm

DATASET = "cbis_ddsm"
FOLDER = "cbis-ddsm-mass"
"""Name of the set's folder in the one that MAMMO_EXTERNAL names."""
JPEGS = "train"
ORIGINS = "origins.csv"
"""Columns film_id, file, sha256: the JPEG each PGM was made from."""

MIN_ASPECT, MAX_ASPECT, MEDIAN_ASPECT = 0.45, 0.75, 0.59
"""Width over height of a film. Estimates beyond these are taken as the nearest; the median where there is none."""
FINE_PITCH_MM, COARSE_PITCH_MM = 0.0435, 0.05
"""Pixels of DDSM's Howtek and Lumisys scanners (Heath et al. 2001; its DBA scanner, of 0.042 mm, is within 4 % of the
first)."""
COARSE_BELOW_PX = 4900
"""No file says which scanner a film comes from, but heights have two modes with a gap here: 4,600 px of 0.05 mm and
5,500 px of 0.0435 mm are both the 24 cm of an 18 x 24 cm film."""
MEDIAN_HEIGHT_MM = 232.5
"""Of the films whose height is estimated; taken for the others."""

Report = Callable[[int, int], None]


def ingest(source: Path, out: Path, report: Report = lambda done, total: None) -> None:
    """Write every film as PGM of its own shape, the CSV files and `ORIGINS` into the folder `out`, or nothing.

    Args:
        source: the folder of the published files.
        out: replaced when everything is right, untouched otherwise.
        report: called with films done, and films in all.

    Raises:
        BadInputError: naming, in one run, every bad row and every film that is broken, missing, unlisted or there
            twice.
    """
    rows = read_source(source)
    jpegs = {path.name: path for path in sorted((source / JPEGS).glob("*.jp*g"))}
    problems = [*rows.problems, *_unmatched(rows, jpegs)]
    draft = out.with_name(out.name + ".unpacking")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        origins = []
        for done, film in enumerate(film for film in rows.films if film.file in jpegs):
            data = jpegs[film.file].read_bytes()
            origins.append((film.film_id, film.file, sha256(data).hexdigest()))
            problems += _write_film(film, data, draft)
            report(done + 1, len(rows.films))
        problems += _twins(origins)
        raise_if_faulty(source, problems)
        write_table(pd.DataFrame(origins, columns=["film_id", "file", "sha256"]), draft / ORIGINS)
        for name in TABLES:
            shutil.copyfile(source / name, draft / name)
        shutil.rmtree(out, ignore_errors=True)
        draft.rename(out)
    except OSError as error:
        raise MammoError(f"{error.filename or draft} could not be written: {error}. Nothing was published.") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _unmatched(rows: Source, files: Mapping[str, Path]) -> list[str]:
    listed = {film.file for film in rows.films}
    # a film whose only row is bad is told of once, by that row
    bad = " ".join(rows.problems)
    missing = [f"images.csv line {film.line}: no film {film.file}" for film in rows.films if film.file not in files]
    return missing + [
        f"film {name} has no row in images.csv" for name in files if name not in listed and name not in bad
    ]


def _write_film(film: FilmRow, data: bytes, folder: Path) -> list[str]:
    try:
        pixels = parse_film(data, film.file).pixels
    except BadInputError as error:
        return error.problems
    if pixels.shape != (JPEG_PX, JPEG_PX) or pixels.dtype != np.uint8:
        height, width = pixels.shape
        return [f"{film.file}: {width} x {height} px, {pixels.dtype}; expected {JPEG_PX} x {JPEG_PX} px, 8 bits"]
    write_pgm(folder / f"{film.film_id}.pgm", restore_aspect(pixels.astype(np.uint8), height_px(film)))
    return []


def _twins(origins: list[tuple[str, str, str]]) -> list[str]:
    first: dict[str, str] = {}
    return [
        f"{first[value]} and {file} hold the same bytes"
        for _, file, value in origins
        if first.setdefault(value, file) != file
    ]


# --- shape and size -------------------------------------------------------------------------------------------------


def height_px(film: FilmRow) -> int:
    """Rows of the film as written: the stretched film keeps its 800 columns, of which no detail is to be lost."""
    return round(JPEG_PX / _aspect(film))


def _aspect(film: FilmRow) -> float:
    if film.original_size is None:
        return MEDIAN_ASPECT
    width, height = film.original_size
    return min(max(width / height, MIN_ASPECT), MAX_ASPECT)


def restore_aspect(pixels: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """Stretch a film (H, W) to `height` rows; bicubic, in whole numbers, so that every machine gets the same bytes."""
    size = (pixels.shape[1], height)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), dtype=np.uint8)


def pixel_spacing_mm(film: FilmRow) -> float:
    """Estimate the edge of a pixel of the film as written, mm, right within about 15 %.

    No file of the set states it. Pixels of the scanner, told by the estimated height of the original, times that
    height, spread over the rows written; the median height where there is no estimate.
    """
    if film.original_size is None:
        return MEDIAN_HEIGHT_MM / height_px(film)
    height = film.original_size[1]
    pitch = COARSE_PITCH_MM if height < COARSE_BELOW_PX else FINE_PITCH_MM
    return height * pitch / height_px(film)


# --- tables ---------------------------------------------------------------------------------------------------------


def build_tables(
    folder: Path,
    dataset: str,
    breast_boxes: Mapping[str, tuple[float, float, float, float]],
    chest_walls: Mapping[str, str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Turn a folder that `ingest` wrote into films and lesions tables (see `catalog`).

    Args:
        folder: films <film_id>.pgm and the CSV files.
        dataset: name for the `dataset` column.
        breast_boxes: bounding box of the breast by film_id, px.
        chest_walls: side of the chest wall by film_id, "left" or "right", as `chest_wall_side` finds it: 324 films
            are mirrored, and no file tells which.

    Raises:
        BadInputError: naming every bad row, and every film that is missing, unlisted or of another size.
    """
    rows = read_source(folder)
    problems = list(rows.problems)
    contents: dict[str, bytes] = {}
    for film in rows.films:
        name = f"{film.film_id}.pgm"
        try:
            contents[film.film_id] = (folder / name).read_bytes()
            parse_pgm(contents[film.film_id], name, (height_px(film), JPEG_PX), 255)
        except FileNotFoundError:
            problems.append(f"images.csv line {film.line}: no film {name}")
        except BadInputError as error:
            problems += error.problems
    known = {film.film_id for film in rows.films}
    problems += [f"film {path.name} has no row" for path in sorted(folder.glob("*.pgm")) if path.stem not in known]
    raise_if_faulty(folder, problems)
    lesions = _lesions(rows)
    severities = {film_id: list(group) for film_id, group in lesions.groupby("film_id")["severity"]}
    films = [
        _film_row(film, contents[film.film_id], dataset, severities[film.film_id], breast_boxes[film.film_id])
        | {"chest_wall": chest_walls[film.film_id]}
        for film in rows.films
    ]
    return pd.DataFrame(films)[names(FILMS)].astype(dtypes(FILMS)), lesions


def _film_row(
    film: FilmRow, content: bytes, dataset: str, severities: list[str], breast: tuple[float, float, float, float]
) -> dict[str, object]:
    # the label of the masses is known where that of each box is not; calcifications may be more severe
    label = label_of([film.label, *(severity for severity in severities if severity != UNKNOWN_SEVERITY)])
    return {
        "film_id": film.film_id,
        "dataset": dataset,
        "path": f"{film.film_id}.pgm",
        "sha256": sha256(content).hexdigest(),
        "patient_id": film.patient_id,
        "laterality": film.laterality,
        "view": film.view,
        "density": film.density,
        "label": label,
        "width_px": JPEG_PX,
        "height_px": height_px(film),
        "pixel_spacing_mm": pixel_spacing_mm(film),
        **dict(zip(("breast_x1", "breast_y1", "breast_x2", "breast_y2"), breast, strict=True)),
    }


def _lesions(rows: Source) -> pd.DataFrame:
    """Lesions film by film: the masses, then the calcifications, which have a label and no box."""
    boxes: dict[str, list[BoxRow]] = defaultdict(list)
    for box in rows.boxes:
        boxes[box.file].append(box)
    calcifications: dict[str, list[CaseRow]] = defaultdict(list)
    for case in rows.calcifications:
        calcifications[case.film_id].append(case)
    found: list[dict[str, object]] = []
    for film in rows.films:
        found += [_mass(film, number, box) for number, box in enumerate(boxes[film.file], start=1)]
        found += [
            {
                "lesion_id": f"{film.film_id}_calc_{case.number}",
                "film_id": film.film_id,
                "kind": "CALC",
                "severity": case.severity,
                "has_location": False,
                "source": f"{CALCIFICATIONS}:{case.line}",
            }
            for case in calcifications[film.film_id]
        ]
    return pd.DataFrame(found, columns=names(LESIONS)).astype(dtypes(LESIONS))


def _mass(film: FilmRow, number: int, box: BoxRow) -> dict[str, object]:
    height = height_px(film)
    # multiplied first, so that a box at the film's edge ends exactly there
    x1, y1, x2, y2 = box.x, box.y * height / JPEG_PX, box.x + box.w, (box.y + box.h) * height / JPEG_PX
    return {
        "lesion_id": f"{film.film_id}_{number}",
        "film_id": film.film_id,
        "kind": MASS,
        "severity": box.severity,
        "has_location": True,
        "x_px": (x1 + x2) / 2,
        "y_px": (y1 + y2) / 2,
        "radius_px": max(x2 - x1, y2 - y1) / 2,
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "source": f"{BOXES}:{box.line}",
    }
