"""A small data set of a workspace, made of phantoms, and evidence of a detector that knows what it was asked."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_ml.datasets.catalog import FILMS, LESIONS, dtypes, names, write_table
from mammo_ml.datasets.phantom import PhantomParameters, draw, plan
from mammo_ml.datasets.workspace_sets import DataSet
from mammo_ml.imaging.readers import write_pgm
from mammo_ml.manifest import write_manifest
from mammo_ml.registry.comparison import Evidence
from mammo_ml.truth import judged_items, judged_lesions

SPACING_MM = 0.2


def toy_tables(labels: list[str], dataset: str = "other") -> tuple[pd.DataFrame, pd.DataFrame]:
    """films.csv and lesions.csv: a woman and a film of each label, one located lesion on each that is not normal."""
    films, lesions = [], []
    for number, label in enumerate(labels):
        film_id = f"film{number}"
        films.append(
            (film_id, dataset, f"{film_id}.pgm", f"{number:064x}", f"woman{number}", "L", "left", "MLO",
             "FGD"[number % 3], label, 1000, 1000, SPACING_MM, 0.0, 0.0, 800.0, 1000.0)
        )  # fmt: skip
        if label != "normal":
            circle = (400.0, 500.0, 30.0 + number)
            box = (370.0 - number, 470.0 - number, 430.0 + number, 530.0 + number)
            lesions.append((f"{film_id}_1", film_id, "MASS", label, True, *circle, *box, "toy:1"))
    return (
        pd.DataFrame(films, columns=names(FILMS)).astype(dtypes(FILMS)),
        pd.DataFrame(lesions, columns=names(LESIONS)).astype(dtypes(LESIONS)),
    )


def toy_boxes(films: pd.DataFrame, lesions: pd.DataFrame, found: int, false_score: float = 0.2) -> pd.DataFrame:
    """The first `found` lesions boxed at score 0.9, and on every film a false positive."""
    hits = lesions.head(found).assign(p_benign=0.45, p_malignant=0.45)
    false = films[["film_id"]].assign(
        x1=10.0, y1=10.0, x2=60.0, y2=60.0, p_benign=false_score / 2, p_malignant=false_score / 2
    )
    columns = ["film_id", "x1", "y1", "x2", "y2", "p_benign", "p_malignant"]
    return pd.concat([hits[columns], false[columns]], ignore_index=True)


def toy_evidence(labels: list[str], found: int) -> Evidence:
    """What a detector's internal figures were computed from."""
    films, lesions = toy_tables(labels, "mini_mias")
    items = judged_items("films_by_patient", "film", films.assign(item=films["film_id"]), films)
    truth = lesions.assign(item=lesions["film_id"])
    boxes = toy_boxes(films, lesions, found)
    predictions = boxes.assign(item=boxes["film_id"], protocol="films_by_patient")
    return Evidence("detector", predictions, items, judged_lesions("films_by_patient", truth, lesions, films))


def phantom_set(folder: Path, dataset: str = "other", n_films: int = 3) -> DataSet:
    """A set as `data/datasets` holds it, of phantoms that pass for real films of `dataset` without a normal one."""
    chosen = plan(PhantomParameters(women=20, seed=1))[:n_films]
    films, lesions = toy_tables(["benign", "malignant", "malignant", "benign"][:n_films], dataset)
    (folder / "films").mkdir(parents=True)
    for number, film in enumerate(chosen):
        path = folder / "films" / films.loc[number, "path"]
        pixels = draw(film, seed=1)
        write_pgm(path, pixels)
        films.loc[number, ["height_px", "width_px"]] = pixels.shape
        films.loc[number, "sha256"] = sha256(path.read_bytes()).hexdigest()
    write_manifest(folder / "films")
    write_table(films, folder / "catalog" / "films.csv")
    write_table(lesions, folder / "catalog" / "lesions.csv")
    facts = {"name": folder.name, "collection": dataset, "notes": ["Spacing is a guess."]}
    (folder / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    return DataSet(films, lesions, folder / "films", facts)


def classes(labels: list[str], skill: float, seed: int = 0) -> np.ndarray:
    """Probabilities (N, 3) of a classifier that is right the more often the higher its skill."""
    order = ("normal", "benign", "malignant")
    right = np.eye(3)[[order.index(label) for label in labels]]
    scores = np.random.default_rng(seed).normal(size=(len(labels), 3)) + skill * right
    shares: np.ndarray = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return shares
