"""A server on small models: what tests of the REST interface, of its bars and of the page share."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import uvicorn
from fastapi import FastAPI

from mammo_ml.datasets.phantom import PhantomParameters, draw, plan
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.imaging.readers import format_pgm
from mammo_ml.locator import LOCATED_COLUMNS, TILE_COLUMNS, Calibration, Located
from mammo_ml.locator_bundle import open_bundle, write_locator
from mammo_ml.metrics.calibration import VectorScaling
from mammo_ml.models.bundle import Bundle, read_bundle
from mammo_ml.registry.comparison import Evidence
from mammo_ml.web.app import Service
from mammo_ml.web.models import ServedClassifier, ServedLocator
from mammo_ml.web.operating_points import operating_points
from mammo_ml.web.sandbox import Sandbox
from mammo_ml.web.server import PatientHttp
from mammo_ml.web.slots import Slot
from tests.served_models import free_port, small_bundle

WAIT_S = 60


def phantom_film(number: int = 0) -> bytes:
    """A phantom film in mini-MIAS's form, 1024 x 1024 px."""
    films = plan(PhantomParameters(women=20, seed=1))
    return format_pgm(draw(films[number], seed=1))


def small_film(height: int = 300, width: int = 260) -> bytes:
    """A breast at the left edge of a film that is read in milliseconds; 0.2 mm per pixel have to be told."""
    y, x = np.mgrid[:height, :width]
    share = np.clip(1.2 - np.hypot(x / (0.7 * width), (y - 0.5 * height) / (0.45 * height)), 0, 1)
    return format_pgm(np.round(share / share.max() * 220).astype(np.uint8))


def locator_folder(folder: Path, seed: int = 1, threshold: float = 0.2) -> Path:
    """A locator of two small untrained networks."""
    parts = [read_bundle(small_bundle(folder / kind, kind, seed)) for kind in ("classifier", "detector")]
    known = Calibration(VectorScaling.identity(3), VectorScaling.identity(2), VectorScaling.identity(2))
    write_locator(folder / "locator", parts[0], parts[1], known, threshold)
    return folder / "locator"


def evidence() -> Evidence:
    """Out-of-fold predictions made by hand: four films of three women, three lesions, five boxes, three are hits."""
    protocol = "films_by_patient"
    items = pd.DataFrame(
        [("f1", "anna", "malignant"), ("f2", "anna", "normal"), ("f3", "berta", "benign"), ("f4", "clara", "normal")],
        columns=["item", "patient_id", "label"],
    ).assign(protocol=protocol, unit="film", film_id=lambda table: table["item"], density="F")
    lesion = {"kind": "CIRC", "severity": "benign", "diameter_mm": 4.0, "radius_px": 10.0}
    places = [("f1", 100.0, 100.0), ("f1", 300.0, 300.0), ("f3", 50.0, 60.0)]
    lesions = pd.DataFrame(
        [
            {"item": item, "lesion_id": f"{item}_{n}", "x_px": x, "y_px": y} | _box(x, y) | lesion
            for n, (item, x, y) in enumerate(places)
        ]
    ).assign(protocol=protocol)
    found = [("f1", 100, 100, 0.9), ("f2", 40, 40, 0.8), ("f1", 300, 300, 0.6), ("f3", 50, 60, 0.4), ("f4", 9, 9, 0.3)]
    predictions = pd.DataFrame(
        [
            {"item": item, "score": score, "p_benign": 0, "p_malignant": score} | _box(x, y)
            for item, x, y, score in found
        ]
    ).assign(protocol=protocol)
    return Evidence("locator", predictions, items, lesions)


def _box(x: float, y: float) -> dict[str, float]:
    return {"x1": x - 10.0, "y1": y - 10.0, "x2": x + 10.0, "y2": y + 10.0}


@dataclass(frozen=True)
class KnownLocator(ServedLocator):
    """A locator that says its version's number: its one box has the score number / 100."""

    seconds: float = 0.0
    broken: bool = field(default=False)

    def answer(self, film: CanonicalFilm) -> Located:
        if self.broken:
            raise RuntimeError("these weights are torn")
        time.sleep(self.seconds)
        score = self.number / 100
        box = pd.DataFrame([[10, 20, 60.5, 80, 0.1, 0.2, score]], columns=LOCATED_COLUMNS)
        tile = pd.DataFrame([[0, 0, 256, 256, 0.4, 0.3, 0.3, 0.6, 1]], columns=TILE_COLUMNS)
        return Located(box, float(film.mask.mean()), tile.astype({"searched": "bool"}))


def service(
    folder: Path,
    locator: ServedLocator | None = None,
    sandbox: Sandbox | None = None,
    **options: Any,
) -> Service:
    """A service on the small models, or on another locator."""
    classifier = read_bundle(folder / "classifier")
    served = locator or ServedLocator(
        "mammo-locator", 1, open_bundle(folder / "locator"), operating_points(evidence())
    )  # fmt: skip
    slots = (
        Slot("mammo-locator", lambda: (served.number, folder / "locator"), lambda number, found: served),
        Slot(
            "mammo-classifier",
            lambda: (1, folder / "classifier"),
            lambda number, found: ServedClassifier("mammo-classifier", number, classifier),
        ),
    )
    for slot in slots:
        slot.refresh()
        assert not slot.fault, slot.fault
    return Service(*slots, sandbox or Sandbox(), poll_s=0, **options)


def bundle_of(folder: Path) -> Bundle:
    return open_bundle(folder / "locator")


@contextlib.contextmanager
def running(app: FastAPI | Callable[..., Any]) -> Iterator[int]:
    """The application behind a real server in this process, until the block ends; gives the port."""
    port = free_port()
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, http=PatientHttp, ws="none", log_config=None, log_level="critical"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + WAIT_S
    while not server.started and time.monotonic() < end:
        time.sleep(0.02)
    assert server.started
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
