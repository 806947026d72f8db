"""Answers of many films as one CSV and one COCO JSON."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from mammo_ml.answering.film_answers import NOTICE, FilmAnswer, Lesions

LESION = 1
"""COCO's number of the one category: a box is a lesion, and its class is told by p_benign and p_malignant."""
FILM_COLUMNS = ("file", "sha256", "width_px", "height_px", "pixel_spacing_mm", "laterality", "view")
BOX_FIELDS = ("x1", "y1", "x2", "y2", "score", "p_benign", "p_malignant")
CLASS_FIELDS = ("p_normal", "p_benign", "p_malignant")
MODEL_COLUMNS = ("model", "version", "fold", "seen_in_training", "notice")


def answers_csv(answers: Sequence[FilmAnswer]) -> bytes:
    """One table: of a classifier a row per film, else a row per box, a film without any having one of empty cells.

    x1 … y2 are px of the film file; `box` counts the boxes of a film from 1, 0 where there is none.
    """
    lesions = any(isinstance(answer.findings, Lesions) for answer in answers)
    fields = ("p_abnormal", "box", *BOX_FIELDS) if lesions else CLASS_FIELDS
    text = io.StringIO()
    table = csv.DictWriter(text, (*FILM_COLUMNS, *fields, *MODEL_COLUMNS), restval="", lineterminator="\n")
    table.writeheader()
    for answer in answers:
        film = answer.film.model_dump(include=set(FILM_COLUMNS))
        told = {
            "model": answer.model.name,
            "version": answer.model.version,
            "fold": answer.model.fold,
            "seen_in_training": answer.seen_in_training,
            "notice": answer.notice,
        }
        table.writerows({**film, **row, **told} for row in _rows(answer))
    return text.getvalue().encode()


def _rows(answer: FilmAnswer) -> list[dict[str, Any]]:
    found = answer.findings
    if not isinstance(found, Lesions):
        return [found.model_dump()]
    boxes = [{"box": number, **box.model_dump()} for number, box in enumerate(found.boxes, 1)]
    return [{"p_abnormal": found.p_abnormal, **row} for row in boxes or [{"box": 0}]]


def answers_coco(answers: Sequence[FilmAnswer]) -> bytes:
    """COCO: a film is an image, a box an annotation with its score; what COCO has no word for stands beside.

    Format: cocodataset.org, "Data format", object detection; bbox is x, y, width, height in px of the film file.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, answer in enumerate(answers, 1):
        film, found = answer.film, answer.findings
        assert isinstance(found, Lesions)
        images.append(
            {
                "id": number,
                "file_name": film.file,
                "width": film.width_px,
                "height": film.height_px,
                "sha256": film.sha256,
                "pixel_spacing_mm": film.pixel_spacing_mm,
                "p_abnormal": found.p_abnormal,
                "seen_in_training": answer.seen_in_training,
                "model": answer.model.label,
            }
        )
        for box in found.boxes:
            width, height = round(box.x2 - box.x1, 1), round(box.y2 - box.y1, 1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": LESION,
                    "bbox": [box.x1, box.y1, width, height],
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                    "score": box.score,
                    "p_benign": box.p_benign,
                    "p_malignant": box.p_malignant,
                }
            )
    scores = sorted({answer.scores for answer in answers})
    content = {
        "info": {"description": f"Lesions found by mammo-ml. {NOTICE}", "scores": scores},
        "licenses": [],
        "categories": [{"id": LESION, "name": "lesion"}],
        "images": images,
        "annotations": annotations,
    }
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
