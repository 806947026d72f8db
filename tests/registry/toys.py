"""A registry of classifiers that were never trained, with predictions as good as one asks for."""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from mammo_ml.datasets.catalog import LABELS, write_table
from mammo_ml.evaluation import EvaluateParameters, evaluate_films, evaluate_patches
from mammo_ml.registry import GateParameters, register
from mammo_ml.registry.comparison import PREDICTIONS_FILE, PROBABILITIES
from mammo_ml.tracking import FOLDER
from mammo_ml.truth import ITEMS_FILE, judged_items
from tests.toy_models import METRICS, NAME, REGISTER, toy_bundle

WOMEN = 24
GATE = GateParameters(resamples=100, subgroup_lesions=8)


def toy_items(women: int = WOMEN) -> pd.DataFrame:
    """A film and a patch of each woman; the labels and the densities take turns."""
    rows = [
        (unit, f"{unit}{n}", f"film{n}", f"woman{n}", LABELS[n % 3], "FGD"[n // 3 % 3])
        for unit in ("patch", "film")
        for n in range(women)
    ]
    return pd.DataFrame(rows, columns=["unit", "item", "film_id", "patient_id", "label", "density"])


def toy_evidence(folder: Path, skill: float, seed: int = 0, women: int = WOMEN) -> tuple[list[Path], dict]:
    """Write what a version is compared by, and return the files and their metrics.json.

    Args:
        folder: where to.
        skill: 0 knows nothing, 3 is nearly always right.
        seed: of the noise.
        women: how many, two items each.
    """
    items = toy_items(women)
    labels = items["label"].map(LABELS.index).to_numpy()
    scores = np.random.default_rng(seed).normal(size=(len(items), 3)) + skill * np.eye(3)[labels]
    predictions = items.drop(columns="density").assign(protocol="by_patient", fold=0)
    predictions[PROBABILITIES] = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    write_table(predictions, folder / PREDICTIONS_FILE)
    films = items[["film_id", "density"]].drop_duplicates()
    parts = [judged_items("by_patient", unit, own, films.assign(label="")) for unit, own in items.groupby("unit")]
    write_table(pd.concat(parts, ignore_index=True), folder / ITEMS_FILE)
    how = EvaluateParameters(resamples=100, seed=1)
    by_unit = dict(list(predictions.groupby("unit")))
    metrics = evaluate_patches(by_unit["patch"], how) | evaluate_films(by_unit["film"], how)
    return [folder / PREDICTIONS_FILE, folder / ITEMS_FILE], {"by_patient": metrics}


SKILLS = (2.0, 3.0, 1.2)
"""Of versions 1, 2 and 3, which differ in nothing else: 2 is better than 1, 3 worse. Version 4 cannot be compared."""


def make_registry(folder: Path) -> Path:
    """A workspace of phantoms with four sound versions of one classifier."""
    for number, skill in enumerate(SKILLS, start=1):
        bundle = toy_bundle(folder / f"bundle_{number}", seed=number)
        evidence, metrics = toy_evidence(folder / f"evidence_{number}", skill)
        assert register(bundle, NAME, metrics, folder, **REGISTER, evidence=evidence) == number
    assert register(toy_bundle(folder / "bundle_4", seed=4), NAME, METRICS, folder, **REGISTER) == 4
    params = {"dataset": "phantom", "gate": GATE.model_dump()}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return folder


def overwrite(path: Path, content: bytes) -> None:
    """Put other bytes in the place of a file that other copies of the registry share."""
    path.unlink()
    path.write_bytes(content)


def copy_registry(registry: Path, to: Path) -> Path:
    """Copy a workspace, its files as hard links (see `overwrite`); the store names them by their whole paths."""
    shutil.copytree(registry, to, ignore=shutil.ignore_patterns("running", "lock", "*.db*"), copy_function=os.link)
    with contextlib.closing(sqlite3.connect(to / FOLDER / "mlflow.db")) as database:
        with contextlib.closing(sqlite3.connect(registry / FOLDER / "mlflow.db")) as original:
            original.backup(database)
        for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            for column in database.execute(f"pragma table_info({table})").fetchall():
                if column[2].startswith(("VARCHAR", "TEXT")):
                    change = f"update {table} set {column[1]} = replace({column[1]}, ?, ?)"
                    database.execute(change, (f"{registry}/", f"{to}/"))
        database.commit()
    return to
