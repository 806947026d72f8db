"""mini-MIAS (Suckling et al. 1994) as two tables. Phantom films come in the same format and take the same way."""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_ml.datasets.catalog import FILMS, LESIONS, dtypes, label_of, names
from mammo_ml.datasets.mini_mias_info import INFO_REMEDY, InfoRow, read_rows
from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.imaging import boxes as bx

DATASET = "mini_mias"
PIXEL_SPACING_MM = 0.2
"""Info.txt: "reduced to 200 micron pixel edge"."""
WIDTH_PX = HEIGHT_PX = 1024
INFO = "Info.txt"

INVENTED_LOCATIONS = {"mdb212": (687, 882, 3), "mdb214": (582, 916, 11)}
"""Rows whose circle lies off the breast under either origin, and for which the 50 micron original (MIAS v1.21, doi
10.17863/CAM.105113) lists no location: the label is kept, the location ignored."""


def build_tables(
    folder: Path, dataset: str, breast_boxes: Mapping[str, tuple[float, float, float, float]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Turn a folder of films and its Info.txt into films and lesions tables (see `catalog`).

    Args:
        folder: films mdbNNN.pgm and Info.txt.
        dataset: name for the `dataset` column.
        breast_boxes: bounding box of the breast by film_id, px.

    Raises:
        BadInputError: naming every bad row, every film without a row and every row without a film.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.pgm"))}
    rows = _matching_rows(folder, files)
    lesions = _lesions(rows, dataset)
    severities = lesions.groupby("film_id")["severity"].agg(list)
    tissue = {row.film_id: row.tissue for row in rows}
    films = [
        _film_row(film_id, path, dataset, tissue[film_id], label_of(severities.get(film_id, [])), breast_boxes[film_id])
        for film_id, path in files.items()
    ]
    return pd.DataFrame(films)[names(FILMS)].astype(dtypes(FILMS)), lesions


def _matching_rows(folder: Path, files: Mapping[str, Path]) -> list[InfoRow]:
    """Rows of Info.txt, each with its film and each film with a row; all faults of both are told together."""
    info = folder / INFO
    if not info.is_file():
        raise BadInputError(str(info), ["no such file"], INFO_REMEDY)
    # Rows are ASCII: a byte that is no UTF-8 passes in the prose and is refused by the grammar in a row.
    rows, problems = read_rows(info.read_text(encoding="utf-8-sig", errors="replace"))
    # a film whose only row is bad is told of once, by that row
    listed = {row.film_id for row in rows} | set(re.findall(r"mdb\d{3}", " ".join(problems)))
    problems += [
        f"line {row.line}: {row.film_id} has a row but no film {row.film_id}.pgm"
        for row in rows
        if row.film_id not in files
    ]
    problems += [f"film {path.name} has no row in {INFO}" for film_id, path in files.items() if film_id not in listed]
    raise_if_any(str(info), problems, f"{INFO_REMEDY} Films and rows must name each other: restore what is missing.")
    return rows


def account(rows: list[InfoRow], dataset: str = DATASET) -> list[tuple[InfoRow, str, str]]:
    """What becomes of every row of Info.txt: the row, "kept" or "ignored", and what of it and why."""
    return [(row, *_fate(row, dataset)) for row in rows]


def _fate(row: InfoRow, dataset: str) -> tuple[str, str]:
    if row.is_normal:
        return "kept", "a normal film"
    if row.x is None:
        return "kept", "label; Info.txt gives no location: positive for the classifier, ignored by the detector"
    if _is_invented(row, dataset):
        return "ignored", "location off the breast and absent from MIAS v1.21; the label is kept"
    return "kept", "label and location"


def _is_invented(row: InfoRow, dataset: str) -> bool:
    return dataset == DATASET and INVENTED_LOCATIONS.get(row.film_id) == (row.x, row.y, row.radius)


def number_of(film_id: str) -> int:
    """Film number N of mdbNNN."""
    found = re.fullmatch(r"mdb(\d{3})", film_id)
    if found is None:
        raise ValueError(f"'{film_id}' is no film of mini-MIAS")
    return int(found[1])


def patient_of(film_id: str) -> str:
    """The woman: films 2k-1 and 2k are hers (Info.txt, note 1)."""
    return f"p{(number_of(film_id) + 1) // 2:03d}"


def laterality_of(film_id: str) -> str:
    """Odd films are left breasts, even ones right.

    Info.txt's note 1 has it the wrong way round: the film markers read L on odd films and R on even ones, and the
    original database names them mdb001l, mdb002r.
    """
    return "L" if number_of(film_id) % 2 else "R"


def chest_wall_of(film_id: str) -> str:
    """Side of the chest wall: all films are mirrored, so it is right for a left breast and left for a right one."""
    return {"L": "right", "R": "left"}[laterality_of(film_id)]


def centre_from_info(x: int, y: int, height_px: int = HEIGHT_PX) -> tuple[float, float]:
    """Continuous coordinates (x_px, y_px) from the top-left corner of a pixel index from the bottom-left one.

    The one place where Info.txt's origin (note 3) is turned round.
    """
    return x + 0.5, height_px - 0.5 - y


def _film_row(
    film_id: str, path: Path, dataset: str, tissue: str, label: str, breast: tuple[float, float, float, float]
) -> dict[str, object]:
    return {
        "film_id": film_id,
        "dataset": dataset,
        "path": path.name,
        "sha256": sha256(path.read_bytes()).hexdigest(),
        "patient_id": patient_of(film_id),
        "laterality": laterality_of(film_id),
        "chest_wall": chest_wall_of(film_id),
        "view": "MLO",
        "density": tissue,
        "label": label,
        "width_px": WIDTH_PX,
        "height_px": HEIGHT_PX,
        "pixel_spacing_mm": PIXEL_SPACING_MM,
        **dict(zip(("breast_x1", "breast_y1", "breast_x2", "breast_y2"), breast, strict=True)),
    }


def _lesions(rows: list[InfoRow], dataset: str) -> pd.DataFrame:
    found, count = [], dict[str, int]()
    for row in rows:
        if row.is_normal:
            continue
        count[row.film_id] = count.get(row.film_id, 0) + 1
        lesion = {
            "lesion_id": f"{row.film_id}_{count[row.film_id]}",
            "film_id": row.film_id,
            "kind": row.kind,
            "severity": row.severity,
            "source": f"{INFO}:{row.line}",
        }
        found.append(lesion | _location(row, dataset))
    return pd.DataFrame(found, columns=names(LESIONS)).astype(dtypes(LESIONS))


def _location(row: InfoRow, dataset: str) -> dict[str, object]:
    if row.x is None or row.y is None or row.radius is None or _is_invented(row, dataset):
        return {"has_location": False}
    x_px, y_px = centre_from_info(row.x, row.y)
    circle = bx.circles_to_boxes(np.array([[x_px, y_px]]), np.array([float(row.radius)]))
    x1, y1, x2, y2 = bx.clip(circle, WIDTH_PX, HEIGHT_PX)[0].tolist()
    located = {"x_px": x_px, "y_px": y_px, "radius_px": float(row.radius), "x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return {"has_location": True, **located}
