"""What the classifier looks at: the pointing game of its Grad-CAM, and the maps themselves."""

import base64
import io

from PIL import Image

from mammo_ml.reporting.blocks import Block, Cell, Chart, Table
from mammo_ml.reporting.gallery import SOURCE
from mammo_ml.reporting.leakage import value_of
from mammo_ml.reporting.outputs import Outputs

STAGE, PROTOCOL = "explain_classifier", "cuts_by_patient"
PICTURE = f"data/{STAGE}/looked_at.png"
GAMES = {
    "": "the strongest place of the map",
    "_centre": "the middle of the cut",
    "_brightest": "its brightest place",
    "_chance": "any place",
}
"""Endings of `pointing_game`, and what is pointed at."""
QUALITY = 85
KEY = (
    "Grad-CAM on cuts of women each network has not seen, surest hits above, surest misses below. The cross marks the "
    "strongest place of the map, the ellipse the lesion."
)


def looked_at(outputs: Outputs) -> list[Block]:
    """The pointing game beside places that know nothing, and hits and misses."""
    metrics = outputs.metrics(STAGE)
    rows: list[list[Cell]] = []
    for ending, what in GAMES.items():
        value = value_of(metrics, PROTOCOL, f"pointing_game{ending}")
        less = value_of(metrics, PROTOCOL, f"pointing_game_minus{ending}") if ending else None
        rows.append([what, "-" if value is None else value, "-" if less is None else less])
    counts = metrics.get(PROTOCOL, {})
    told = f"{counts.get('n_cuts', 0):,.0f} cuts of {counts.get('n_women', 0):,.0f} women, one lesion in each"
    caption = f"Pointing game: how often a place lies in the lesion. {told}, off the centre."
    table = Table(caption, ["pointing at", "hits", "the map hits more by"], rows)
    source = "" if outputs.dataset == "phantom" else f" {SOURCE}"
    return [table, Chart(_jpeg(outputs), f"Maps of what the classifier looks at. {told}.", f"{KEY}{source}", wide=True)]


def _jpeg(outputs: Outputs) -> str:
    buffer = io.BytesIO()
    with Image.open(outputs.path(PICTURE)) as picture:
        picture.convert("RGB").save(buffer, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
