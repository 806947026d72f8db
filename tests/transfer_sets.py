"""Three small collections of drawn films, as the study of transfers reads them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammo_ml.datasets.catalog import FILMS, LABELS, LESIONS, names, write_table
from mammo_ml.datasets.cbis_ddsm_split import PRETRAINING, women
from mammo_ml.imaging.readers import write_pgm
from mammo_ml.manifest import file_sha256, write_manifest
from mammo_ml.parameters import parse_section
from mammo_ml.transfer import SETS, TransferParameters

ASKED: dict[str, Any] = {
    "seeds": [1, 2],
    "folds_seed": 20,
    "women_apart": {"cbis_ddsm": 2, "cdd_cesm": 1},
    "apart_seed": 1,
    "resamples": 100,
    "reference": "mini_mias",
    "network": {"base": "small", "width": 8},
    "windows": {
        "window_px": 256,
        "lesion_share": 0.5,
        "max_offset": 0.35,
        "max_scale": 1.25,
        "min_visible_share": 0.3,
    },
    "augmentation": {"strength": 0.5},
    "training": {
        "budget_samples": 16,
        "epoch_samples": 8,
        "batch_size": 8,
        "learning_rate": 0.001,
        "weight_decay": 0.01,
        "patience": 1,
        "threads": 1,
        "seed": 1,
    },
    "later_learning_rate": 0.00003,
    "later_samples": 8,
    "configurations": {"mini_mias": [["mini_mias"]], "cbis_ddsm_then_mini_mias": [["cbis_ddsm"], ["mini_mias"]]},
}
EDGE = 400


def asked() -> TransferParameters:
    return parse_section(ASKED, TransferParameters, "compare_transfer")


def women_of(name: str) -> list[str]:
    n = {"mini_mias": 15, "cbis_ddsm": 4, "cdd_cesm": 3}[name]
    return sorted(women(PRETRAINING))[:n] if name == "cbis_ddsm" else [f"{name}_{number:02d}" for number in range(n)]


def write_sets(folder: Path) -> list[str]:
    """Write all sets below a folder; returns the options a stage finds them by."""
    options = []
    for number, name in enumerate(SETS):
        _write(folder / name, name, np.random.default_rng(number))
        flag = f"--{name.replace('_', '-')}"
        options += [f"{flag}-films", str(folder / name / "films"), f"{flag}-catalog", str(folder / name / "catalog")]
    return options


def _write(folder: Path, name: str, generator: np.random.Generator) -> None:
    (folder / "films").mkdir(parents=True)
    films, lesions = [], []
    for number, woman in enumerate(women_of(name)):
        film_id, label = f"{woman}_film", LABELS[number % 3 if name == "mini_mias" else 2]
        pixels = generator.integers(60, 90, (EDGE, EDGE)).astype(np.uint8)
        pixels[:, EDGE // 2 :] = 0
        if label != LABELS[0]:
            pixels[150:200, 60:110] = 240
            lesions.append(lesion_row(film_id, label, (60.0, 150.0, 110.0, 200.0)))
        path = folder / "films" / f"{film_id}.pgm"
        write_pgm(path, pixels)
        films.append(film_row(film_id, name, woman, label, file_sha256(path), EDGE))
    write_manifest(folder / "films")
    write_table(pd.DataFrame(films)[names(FILMS)], folder / "catalog" / "films.csv")
    write_table(pd.DataFrame(lesions)[names(LESIONS)], folder / "catalog" / "lesions.csv")


def film_row(film_id: str, dataset: str, woman: str, label: str, sha256: str, edge: int) -> dict[str, object]:
    """A row of films.csv: a square film, its left half breast."""
    return {
        "film_id": film_id,
        "dataset": dataset,
        "path": f"{film_id}.pgm",
        "sha256": sha256,
        "patient_id": woman,
        "laterality": "L",
        "chest_wall": "left",
        "view": "MLO",
        "density": "F" if dataset == "mini_mias" else "B",
        "label": label,
        "width_px": edge,
        "height_px": edge,
        "pixel_spacing_mm": 0.2,
        "breast_x1": 0.0,
        "breast_y1": 0.0,
        "breast_x2": edge / 2,
        "breast_y2": float(edge),
    }


def lesion_row(film_id: str, severity: str, box: tuple[float, float, float, float]) -> dict[str, object]:
    """A row of lesions.csv: a circle in a square box."""
    x1, y1, x2, y2 = box
    return {
        "lesion_id": f"{film_id}_1",
        "film_id": film_id,
        "kind": "CIRC",
        "severity": severity,
        "has_location": True,
        "x_px": (x1 + x2) / 2,
        "y_px": (y1 + y2) / 2,
        "radius_px": (x2 - x1) / 2,
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "source": "drawn",
    }
