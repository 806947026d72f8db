"""Corrections as the web page exports them, of made-up films."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_ml.datasets.catalog import FILMS, names, write_table
from mammo_ml.feedback.tables import empty_tables

ROOT = Path(__file__).resolve().parents[2]
SHA = {"f1": "a" * 64, "f2": "b" * 64, "f3": "c" * 64}
WHO = {"author": "Roe, Jane", "model": "mammo-locator/3", "prediction_shown": True}
# as exports.js writes them
LESION_COLUMNS = [
    *["lesion_id", "film_id", "kind", "severity", "has_location", "x_px", "y_px", "radius_px", "x1", "y1", "x2", "y2"],
    *["source", "action", "score", "author", "model", "prediction_shown"],
]
FILM_COLUMNS = [
    *["film_id", "sha256", "width_px", "height_px", "pixel_spacing_mm", "chest_wall", "label", "complete"],
    *["threshold", "author", "model", "prediction_shown", "seen_in_training", "read_at"],
]
REJECTED_COLUMNS = ["film_id", "x1", "y1", "x2", "y2", "score", "source", "author", "model", "prediction_shown"]
COLUMNS = {"films.csv": FILM_COLUMNS, "lesions.csv": LESION_COLUMNS, "rejected.csv": REJECTED_COLUMNS}


def film(name: str = "f1", **changes: object) -> dict[str, object]:
    row: dict[str, object] = {"film_id": name, "sha256": SHA.get(name, "9" * 64), "width_px": 800, "height_px": 1000}
    row |= {"pixel_spacing_mm": 0.2, "chest_wall": "left", "label": "benign", "complete": True, "threshold": 0.2}
    return row | WHO | {"seen_in_training": False, "read_at": "2026-05-04T14:30:15.123+02:00"} | changes


def lesion(name: str = "f1", n: int = 1, box: Sequence[float] = (100, 200, 140, 230), **changes: object) -> dict:
    x1, y1, x2, y2 = box
    row: dict[str, object] = {"lesion_id": f"{name}_feedback_{n}", "film_id": name, "kind": "CIRC"}
    row |= {"severity": "benign", "has_location": True, "x_px": (x1 + x2) / 2, "y_px": (y1 + y2) / 2}
    row |= {"radius_px": max(x2 - x1, y2 - y1) / 2, "x1": x1, "y1": y1, "x2": x2, "y2": y2, "source": "feedback"}
    return row | {"action": "moved", "score": 0.42} | WHO | changes


def rejected(name: str = "f1", box: Sequence[float] = (400, 500, 450, 560), **changes: object) -> dict[str, object]:
    row = dict(zip(["x1", "y1", "x2", "y2"], box, strict=True))
    return {"film_id": name, **row, "score": 0.09, "source": "feedback", **WHO, **changes}


def tables(films: Sequence[dict], lesions: Sequence[dict] = (), boxes: Sequence[dict] = ()) -> dict[str, str]:
    given = {"films.csv": films, "lesions.csv": lesions, "rejected.csv": boxes}
    return {
        name: pd.DataFrame(given[name], columns=columns).to_csv(index=False, lineterminator="\n")
        for name, columns in COLUMNS.items()
    }


def write_zip(path: Path, members: Mapping[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def coco() -> dict[str, Any]:
    """One film with an accepted and a drawn finding; the kind of the second was not told."""
    shown = {"model": "mammo-locator/3", "prediction_shown": True}
    image = {"id": 1, "file_name": "f2.pgm", "width": 800, "height": 1000, "sha256": SHA["f2"], "complete": False}
    one = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20.5, 30, 40], "area": 1200, "iscrowd": 0}
    two = one | {"id": 2, "category_id": 2, "bbox": [300, 300, 50.25, 20], "action": "drawn"}
    return {
        "info": {
            "description": "Corrections of the lesion locator. Research use only.",
            "date_created": "2026-05-04T12:30:15.123Z",
            "contributor": "Roe, Jane",
            "source": "feedback",
            "threshold": 0.2,
        },
        "licenses": [],
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(["malignant", "benign", "unknown"])],
        "images": [image | shown],
        "annotations": [
            one | {"kind": "SPIC", "action": "accepted", "model_score": 0.5, "prediction_shown": True},
            two | {"kind": "", "model_score": None, "prediction_shown": False},
        ],
    }


def write_coco(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def workspace(folder: Path, sha256: Mapping[str, str] = SHA, size: tuple[int, int] = (800, 1000)) -> Path:
    """A project whose catalog has these films, of one width and height, and no corrections yet."""
    row = {"dataset": "toy", "laterality": "L", "chest_wall": "left", "view": "MLO", "density": "F", "label": "normal"}
    row |= {"width_px": size[0], "height_px": size[1], "pixel_spacing_mm": 0.2}
    row |= {"breast_x1": 0.0, "breast_y1": 0.0, "breast_x2": 500.0, "breast_y2": 900.0}
    films = [row | {"film_id": name, "path": name, "sha256": sha, "patient_id": name} for name, sha in sha256.items()]
    write_table(pd.DataFrame(films)[names(FILMS)], folder / "data" / "catalog" / "films.csv")
    (folder / "expectations").symlink_to(ROOT / "expectations")
    for name, table in empty_tables().items():
        write_table(table, folder / "feedback" / f"{name}.csv")
    return folder
