"""Where the detector failed, on the films themselves: lesions it did not see, and what it took for one."""

import base64
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from mammo_ml.datasets.catalog import rows
from mammo_ml.imaging.canonical import check_films, eight_bits
from mammo_ml.imaging.readers import read_film
from mammo_ml.metrics.subgroups import lesion_hit
from mammo_ml.reporting.blocks import Block, Box, Crop, Gallery, Text
from mammo_ml.reporting.outputs import Outputs

PROTOCOL = "films_by_patient"
N_EACH = 6
N_BOXES = 5
SIDE_PX = 320
"""Least side of a crop on the film, px."""
SHOWN_PX = 320
QUALITY = 82
MISSES = (
    "Lesions the detector was least sure of: those that no box hits come first, the largest of them first, then those "
    "whose box has the lowest score."
)
FALSE = "Boxes without a lesion that have the highest scores, one a film."
KEY = (
    "Green, unbroken: a lesion. Yellow, long dashes: a box that hits it, for its centre lies in the lesion's circle. "
    "Orange, dots: a box that hits none. Numbers are scores, P(benign) + P(malignant); of each crop at most the five "
    "surest boxes are shown. Every woman was judged by a model that had seen no film of hers."
)
SOURCE = (
    "Films: mini-MIAS, for research only, not to be passed on (J Suckling et al., 1994, Exerpta Medica 1069, "
    "375-378). So this file is not to be published as it is."
)


@dataclass(frozen=True)
class Judged:
    """What the detector was judged on, and what it found there.

    Attributes:
        folder: of the film files.
        films: films.csv, by film_id.
        lesions: with `score`, the highest of a box that hits it; -1 where none does.
        found: boxes with `score` and `lesion`, the row of the lesion each hits, or -1.
    """

    folder: Path
    films: pd.DataFrame
    lesions: pd.DataFrame
    found: pd.DataFrame


def failures(outputs: Outputs) -> list[Block]:
    """Gallery of the worst misses and of the surest false positives, from predictions, truth and films.

    Raises:
        NotHereError: naming what is missing.
        BadInputError: when a film is not the one that was judged.
    """
    judged = _read(outputs)
    if judged.lesions.empty:
        return [Text("No lesion was judged.", "note")]
    order = ["score", "diameter_mm", "lesion_id"]
    missed = judged.lesions.sort_values(order, ascending=[True, False, True]).head(N_EACH)
    surest = judged.found[judged.found["lesion"] < 0].sort_values(["score", "item"], ascending=[False, True])
    false = surest.drop_duplicates("item").head(N_EACH)
    check_films(judged.folder, judged.films.loc[sorted({*missed["item"], *false["item"]})])
    misses = [_crop(row, _of_lesion(row, judged), max(row.score, 0.0), judged) for row in rows(missed)]
    surplus = [_crop(row, _of_box(row, judged), row.score, judged) for row in rows(false)]
    shown: list[Block] = [Text(KEY), Gallery(misses, MISSES), Gallery(surplus, FALSE)]
    return [*shown, *([] if outputs.dataset == "phantom" else [Text(SOURCE, "note")])]


def _read(outputs: Outputs) -> Judged:
    names = ("reports/evaluate_detector/predictions", "data/evaluate_detector/lesions", "data/evaluate_detector/items")
    found, lesions, items = (
        table[table["protocol"] == PROTOCOL].reset_index(drop=True)
        for table in (outputs.table(f"{name}.csv") for name in names)
    )
    films = outputs.table("data/catalog/films.csv").set_index("film_id")
    # films with a lesion that nobody located are predicted, but judged by nobody
    found = found[found["item"].isin(items["item"])].reset_index(drop=True)
    found["score"] = found["p_benign"] + found["p_malignant"]
    found["lesion"] = lesion_hit(found, lesions, items)
    scores = found[found["lesion"] >= 0].set_index("lesion")["score"]
    return Judged(outputs.path("data/ingest"), films, lesions.join(scores).fillna({"score": -1.0}), found)


def _of_lesion(row: Any, judged: Judged) -> str:
    told = "no box hits it" if row.score < 0 else f"best score {row.score:.2f}"
    density = judged.films.loc[row.item, "density"]
    return f"{row.item}, {row.kind} {row.severity}, {row.diameter_mm:.0f} mm, density {density}: {told}"


def _of_box(row: Any, judged: Judged) -> str:
    return f"{row.item}, {judged.films.loc[row.item, 'label']} film: score {row.score:.2f}"


def _crop(row: Any, caption: str, least: float, judged: Judged) -> Crop:
    """Square of the film round a box, with the lesions in it and the boxes of at least this score."""
    pixels = eight_bits(read_film(judged.folder / str(judged.films.loc[row.item, "path"])))
    height, width = pixels.shape
    side = min(max(SIDE_PX, int(1.6 * max(row.x2 - row.x1, row.y2 - row.y1))), height, width)
    x = int(np.clip((row.x1 + row.x2) / 2 - side / 2, 0, width - side))
    y = int(np.clip((row.y1 + row.y2) / 2 - side / 2, 0, height - side))
    window = Box(x, y, x + side, y + side, "window")
    lesions, found = (table[table["item"] == row.item] for table in (judged.lesions, judged.found))
    found = found[found["score"] >= least].sort_values("score", ascending=False)
    boxes = [Box(one.x1, one.y1, one.x2, one.y2, "lesion") for one in rows(_inside(lesions, window))]
    for one in rows(_inside(found, window).head(N_BOXES)):
        kind = "hit" if one.lesion >= 0 else "false_positive"
        boxes.append(Box(one.x1, one.y1, one.x2, one.y2, kind, f"{one.score:.2f}"))
    counts = Counter(box.kind for box in boxes)
    alt = (
        f"Part of film {caption}. In it: lesions {counts['lesion']}, boxes that hit one {counts['hit']}, "
        f"boxes that hit none {counts['false_positive']}."
    )
    return Crop(_jpeg(pixels[y : y + side, x : x + side]), window, boxes, caption, alt)


def _inside(table: pd.DataFrame, window: Box) -> pd.DataFrame:
    x, y = (table["x1"] + table["x2"]) / 2, (table["y1"] + table["y2"]) / 2
    return table[x.between(window.x1, window.x2) & y.between(window.y1, window.y2)]


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(pixels)
    if picture.width > SHOWN_PX:
        picture = picture.resize((SHOWN_PX, SHOWN_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
