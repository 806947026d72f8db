"""Detections from COCO JSON: a list of results, or a dictionary with `annotations` and, if it likes, `images`.

`image_id` is the number N of mdbNNN or the film's name; where `images` are listed, it is their `id`, and their
`file_name` names the film. `category_id` is 1 benign, 2 malignant, or what `categories` say.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from mammo_ml.datasets.catalog import BOX_COLUMNS, SEVERITIES
from mammo_ml.errors import BadInputError

PLACE = "place"
"""Column that tells where in its file a row stands, for messages."""
CATEGORIES = {1: "benign", 2: "malignant"}
KEYS = ("category_id", "bbox", "score")
ONE_CATEGORY = "One category only: its detections are taken as lesions without a class."
REMEDY = "Expected COCO results: [{image_id, category_id, bbox: [x, y, width, height], score}, …]; docs/benchmark.md."


@dataclass(frozen=True)
class RawPredictions:
    """A file as read.

    Attributes:
        rows: a row per prediction, values unchecked, and `place`.
        problems: what is wrong with its form.
        films: films the file itself says were looked at.
        notes: what a reader of the figures should know.
    """

    rows: pd.DataFrame
    problems: list[str]
    films: set[str] = field(default_factory=set)
    notes: tuple[str, ...] = ()


def read_coco(path: Path) -> RawPredictions:
    """Read COCO results as detections: film_id, x1 … y2, and score, or p_benign and p_malignant where classes are told.

    Two entries with one box and different categories are one detection, with the scores of both classes.

    Raises:
        BadInputError: when it is not JSON, or not a list of results.
    """
    entries, images, categories = _parts(path)
    problems = [f"entry {number}: {fault}" for number, entry in enumerate(entries, 1) if (fault := _fault(entry))]
    sound = [(number, entry) for number, entry in enumerate(entries, 1) if not _fault(entry)]
    classes = len({entry["category_id"] for _, entry in sound}) > 1
    if classes:
        known = ", ".join(f"{number} {name}" for number, name in categories.items())
        strange = [(number, entry) for number, entry in sound if categories.get(entry["category_id"]) not in SEVERITIES]
        problems += [
            f"entry {number}: category_id {entry['category_id']} is neither benign nor malignant; known: {known}"
            for number, entry in strange
        ]
        sound = [pair for pair in sound if pair not in strange]
    names = [f"p_{severity}" for severity in SEVERITIES] if classes else ["score"]
    found: dict[tuple[object, ...], list[tuple[str, object, str]]] = defaultdict(list)
    for number, entry in sound:
        x, y, width, height = entry["bbox"]
        name = f"p_{categories[entry['category_id']]}" if classes else "score"
        found[_film(entry, images), x, y, x + width, y + height].append((name, entry["score"], f"entry {number}"))
    rows = [row for key, told in found.items() for row in _detections(key, told, names)]
    notes = (ONE_CATEGORY,) if sound and not classes else ()
    return RawPredictions(_table(rows, names), problems, set(images.values()), notes)


def _parts(path: Path) -> tuple[list[Any], dict[Any, str], dict[Any, str]]:
    """Results, films by image id and category names by category id."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise BadInputError(str(path), [f"not JSON: {error}"], REMEDY) from None
    whole = content if isinstance(content, dict) else {"annotations": content}
    try:
        images = {image["id"]: _name(image["file_name"]) for image in whole.get("images", [])}
        categories = {category["id"]: str(category["name"]).lower() for category in whole.get("categories", [])}
    except (TypeError, KeyError, AttributeError) as error:
        problem = f"images need id and file_name, categories id and name: {error!r}"
        raise BadInputError(str(path), [problem], REMEDY) from None
    if not isinstance(whole.get("annotations"), list):
        raise BadInputError(str(path), ["no list of results"], REMEDY)
    return whole["annotations"], images, categories or dict(CATEGORIES)


def _fault(entry: Any) -> str:
    """What is wrong with the form of an entry; nothing: an empty text."""
    if not isinstance(entry, dict):
        return "not a result"
    missing = [key for key in KEYS if key not in entry]
    if "image_id" not in entry and "file_name" not in entry:
        missing.append("image_id")
    if missing:
        return f"{', '.join(missing)} missing"
    box = entry["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
        return f"bbox {box!r} is not [x, y, width, height]"
    return "" if isinstance(entry["category_id"], int) else f"category_id {entry['category_id']!r} is no whole number"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _film(entry: dict[str, Any], images: dict[Any, str]) -> str:
    """Name of the film an entry is about."""
    if "file_name" in entry:
        return _name(entry["file_name"])
    image = entry["image_id"]
    if images:
        return images.get(image, f"image_id {image}")
    return f"mdb{image:03d}" if isinstance(image, int) else _name(image)


def _name(file_name: object) -> str:
    return PurePosixPath(str(file_name)).name.removesuffix(".pgm").removesuffix(".png")


def _detections(
    key: tuple[object, ...], told: list[tuple[str, object, str]], names: list[str]
) -> list[tuple[object, ...]]:
    """Rows of one box: one, or as many as a class is told of it, which is a fault that is named later."""
    by_name = {name: [(score, place) for own, score, place in told if own == name] for name in names}
    rows = []
    for number in range(max(map(len, by_name.values()))):
        own = [by_name[name][number : number + 1] for name in names]
        places = " and ".join(place for pairs in own for _, place in pairs)
        rows.append((*key, *(pairs[0][0] if pairs else 0.0 for pairs in own), places))
    return rows


def _table(rows: list[tuple[object, ...]], names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["film_id", *BOX_COLUMNS, *names, PLACE], dtype=object)
