"""COCO JSON with images, in and out.

A category's name tells severity and kind: `malignant`, `benign MASS`. An image needs `patient_id` and `density`, and
`laterality`, `view`, `pixel_spacing_mm` where its file does not say them; `lesions_without_box` lists categories. These
fields are this project's, not COCO's; `to_coco` writes them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_ml.datasets.adapter import (
    ALL_KINDS,
    SIDES,
    VIEWS,
    Found,
    FoundFilm,
    FoundLesion,
    Read,
    Report,
    number,
    publish,
    severity_words,
    word,
)
from mammo_ml.datasets.catalog import rows
from mammo_ml.datasets.from_csv import DENSITIES

_PARTS = ("images", "annotations", "categories")
_FIELDS = ("patient_id", "laterality", "view", "density", "pixel_spacing_mm")


def _content(folder: Path) -> tuple[str, dict[str, Any]] | None:
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and all(isinstance(content.get(part), list) for part in _PARTS):
            return path.name, content
    return None


class Coco:
    """A JSON file with images, annotations and categories, beside the images."""

    name = "coco"
    collection = ""
    needs: tuple[str, ...] = ("*.json with images, annotations, categories",)

    def recognise(self, folder: Path) -> str | None:
        """Why the folder is of this form; None when it is not."""
        found = _content(folder)
        return f"COCO: {found[0]} has {', '.join(_PARTS)}" if found else None

    def read(self, folder: Path, out: Path, dataset: str, spacing_mm: float | None, report: Report) -> Read:
        """Write the films into `out`; problems are collected, not raised."""
        found = Found("field pixel_spacing_mm, else the DICOM headers", "said by the user: COCO", "film")
        name, content = _content(folder) or ("", {key: [] for key in _PARTS})
        try:
            _images(name, content, found)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            found.problems.append(f"{name}: not COCO: {type(error).__name__} {error}")
        return publish(found, folder, out, dataset, spacing_mm, report)


def _images(name: str, content: dict[str, Any], found: Found) -> None:
    categories = {category["id"]: str(category["name"]) for category in content["categories"]}
    films: dict[object, str] = {}
    for n, image in enumerate(content["images"]):
        where = f"{name} images[{n}]"
        said = {key: str(image.get(key) or "") for key in _FIELDS}
        file = Path(image["file_name"])
        film_id = films[image["id"]] = file.with_suffix("").as_posix().replace("/", "_")
        if not said["patient_id"]:
            found.problems.append(f"{where}: patient_id is missing")
        edge = said["pixel_spacing_mm"]
        spacing = number(where, "pixel_spacing_mm", edge, found.problems) if edge else None
        side, view = (
            word(where, key, said[key], words, found.problems) if said[key] else None
            for key, words in (("laterality", SIDES), ("view", VIEWS))
        )
        density = word(where, "density", said["density"], DENSITIES, found.problems)
        found.films.append(FoundFilm(where, film_id, file, said["patient_id"], side, view, density, _always(spacing)))
        for category in image.get("lesions_without_box", []):
            found.lesions.append(FoundLesion(where, film_id, *_meaning(where, category, found)))
    for n, annotation in enumerate(content["annotations"]):
        where = f"{name} annotations[{n}]"
        film, category = films.get(annotation["image_id"]), categories.get(annotation["category_id"])
        if film is None or category is None:
            found.problems.append(f"{where}: its image_id or category_id is not in the file")
            continue
        x, y, w, h = (number(where, "bbox", edge, found.problems) for edge in annotation["bbox"])
        found.lesions.append(FoundLesion(where, film, *_meaning(where, category, found), (x, y, x + w, y + h)))


def _always(spacing: float | None) -> Callable[[tuple[int, int]], float | None]:
    return lambda shape: spacing


def _meaning(where: str, category: str, found: Found) -> tuple[str, str]:
    first, _, kind = category.partition(" ")
    severities = severity_words() | {"UNKNOWN": "unknown"}
    severity = word(where, "pathology", first, severities, found.problems)
    return word(where, "kind", kind or "MISC", ALL_KINDS, found.problems), severity


def to_coco(films: pd.DataFrame, lesions: pd.DataFrame) -> dict[str, Any]:
    """COCO of both tables; `Coco` reads it again beside the films, with nothing lost but radii."""
    named = lesions.assign(category=lesions["severity"] + " " + lesions["kind"])
    categories = {category: n for n, category in enumerate(sorted(set(named["category"])), 1)}
    unlocated = named[~named["has_location"]].groupby("film_id")["category"].agg(list).to_dict()
    images = {film.film_id: n for n, film in enumerate(rows(films), 1)}
    boxes = named[named["has_location"]]
    return {
        "images": [
            {"id": images[film.film_id], "file_name": film.path, "width": film.width_px, "height": film.height_px}
            | {field: getattr(film, field) for field in _FIELDS}
            | {"lesions_without_box": unlocated.get(film.film_id, [])}
            for film in rows(films)
        ],
        "annotations": [
            {"id": n, "image_id": images[box.film_id], "category_id": categories[box.category], "iscrowd": 0}
            | {"bbox": [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1]}
            | {"area": (box.x2 - box.x1) * (box.y2 - box.y1)}
            for n, box in enumerate(rows(boxes), 1)
        ],
        "categories": [{"id": n, "name": category} for category, n in categories.items()],
    }
