"""What a small pass of the pipeline leaves behind, made by hand: a few films, women and figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from mammo_ml.datasets.catalog import LABELS
from mammo_ml.imaging.readers import format_pgm
from mammo_ml.manifest import file_sha256
from mammo_ml.reporting.looked_at import GAMES, PICTURE
from mammo_ml.tracking import computed_md5

N_FILMS = 12
SIZE_PX = 400
DENSITIES = "FGD"
TRIALS = "trial,value,learning_rate\n0,0.6,0.1\n1,0.7,0.05\n"
PATCHES = ("auc_macro", "auc_normal_vs_abnormal_patch", "auc_benign_vs_malignant", "accuracy", "ece", "brier")
BOXES = ("map_50", "ap_50_any", "ap_10_any", "map_50_95")
RATES = ("0_125", "0_25", "0_5", "1", "2", "4", "8")
SUBGROUPS = (
    "protocol,subgroup,value,figure,n_women,n_films,n_lesions,point,lo,hi\n"
    "{protocol},kind,CIRC,{figure},4,4,4,0.51,0.41,0.61\n"
    "{protocol},severity,malignant,{figure},4,4,4,,,\n"
)


def figures(names: tuple[str, ...], value: float, counts: dict[str, float]) -> dict[str, float]:
    """Each figure a little above the one before, with bounds and baseline."""
    found: dict[str, float] = {}
    for step, name in enumerate(names):
        own = round(value + step / 1000, 6)
        ends = {"": own, "_lo": own - 0.1, "_hi": own + 0.1, "_baseline": own / 4}
        found |= {f"{name}{end}": round(number, 6) for end, number in ends.items()}
    return found | counts


def metrics() -> dict[str, dict[str, Any]]:
    """metrics.json by stage."""
    women = {"n_women": 12.0, "n_films": 12.0}
    froc = ("froc_mean", "ap_50_any", "ap_10_any", "map_50", *(f"sensitivity_at_{rate}_fp" for rate in RATES))
    checked = {"valid": 1.0, "expectations_evaluated": 7.0, "expectations_failed": 0.0, "expectations_warned": 1.0}
    return {
        "evaluate_classifier": {
            "by_patient": figures(PATCHES, 0.611, women | {"n_patches": 24.0}),
            "patches_at_random_leaky": figures(PATCHES, 0.711, women | {"n_patches": 24.0}),
        },
        "evaluate_detector": {
            "films_by_patient": figures(froc, 0.311, women),
            "cuts_by_patient": figures(BOXES, 0.211, women | {"n_cuts": 8.0}),
            "cuts_at_random_leaky": figures((*BOXES, "map_50_all_sets"), 0.811, women | {"n_cuts": 8.0}),
        },
        "explain_classifier": {
            "cuts_by_patient": figures(tuple(f"pointing_game{one}" for one in GAMES), 0.411, women | {"n_cuts": 9.0})
            | figures(tuple(f"pointing_game_minus{one}" for one in GAMES if one), 0.111, {})
        },
        "validate_tables": {"validation": checked | {"rows_films": 12.0}},
        "validate_cuts": {"validation": checked, "leak_audit": {"leak_free": 1.0, "women_shared": 0.0}},
    }


def make_pass(folder: Path, dataset: str = "mini_mias") -> Path:
    """Write the outputs of a pass, its params.yaml and its dvc.lock."""
    for stage, found in metrics().items():
        _write(folder / "reports" / stage / "metrics.json", json.dumps(found))
    films, lesions = _catalogue(folder)
    _predictions(folder, films, lesions)
    for model in ("classifier", "detector"):
        for fold in (0, 1):
            _write(folder / "data" / f"tune_{model}" / f"fold_{fold}" / "trials.csv", TRIALS)
    for model, protocol, figure in (
        ("classifier", "by_patient", "auc_normal_vs_abnormal_patch"),
        ("detector", "films_by_patient", "froc_mean"),
    ):
        leaky = f"patches_at_random_leaky,kind,CIRC,{figure},4,4,4,0.9,0.8,1\n" if model == "classifier" else ""
        rows = SUBGROUPS.format(protocol=protocol, figure=figure) + leaky
        _write(folder / f"reports/evaluate_{model}/subgroups.csv", rows)
    for task in ("normal_vs_abnormal", "benign_vs_malignant"):
        _write(folder / f"reports/evaluate_classifier/roc_{task}.csv", "fpr,tpr\n0,0\n0,0.5\n1,1\n")
    _write(
        folder / "reports/evaluate_detector/froc.csv",
        "fp_per_film,sensitivity,lo,hi\n0.125,0.2,0.1,0.3\n8,0.6,0.5,0.7\n",
    )
    _write(
        folder / "reports/evaluate_detector/pr.csv", "recall,precision,lo,hi\n0,1,0.9,1\n0.5,0.4,0.2,0.6\n1,0,0,0.1\n"
    )
    (folder / PICTURE).parent.mkdir(parents=True)
    Image.fromarray(np.full((60, 90, 3), 120, dtype=np.uint8)).save(folder / PICTURE)
    for stage in ("validate_tables", "validate_cuts"):
        _write(folder / "data" / stage / "index.html", "<p>fine</p>")
    _write(
        folder / "params.yaml", yaml.safe_dump({"dataset": dataset, "folds": [0, 1], "split": {"folds": "benchmark"}})
    )
    _lock(folder)
    return folder


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _catalogue(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Films of one woman each, every other with a lesion; on one of them nobody located it."""
    (folder / "data" / "ingest").mkdir(parents=True)
    films, lesions = [], []
    for n in range(N_FILMS):
        name, label = f"f{n:02d}", LABELS[n % 3]
        pixels = np.random.default_rng(n).integers(0, 255, (SIZE_PX, SIZE_PX + 20)).astype(np.uint8)
        path = folder / "data" / "ingest" / f"{name}.pgm"
        path.write_bytes(format_pgm(pixels))
        films.append((name, f"{name}.pgm", file_sha256(path), f"w{n}", label, DENSITIES[n % 3]))
        if label != "normal":
            lesions.append((f"{name}_1", name, "CIRC", label, n != N_FILMS - 1))
    films_table = pd.DataFrame(films, columns=["film_id", "path", "sha256", "patient_id", "label", "density"])
    lesions_table = pd.DataFrame(lesions, columns=["lesion_id", "film_id", "kind", "severity", "has_location"])
    (folder / "data" / "catalog").mkdir()
    films_table.to_csv(folder / "data" / "catalog" / "films.csv", index=False)
    lesions_table.to_csv(folder / "data" / "catalog" / "lesions.csv", index=False)
    return films_table, lesions_table


def _predictions(folder: Path, films: pd.DataFrame, lesions: pd.DataFrame) -> None:
    """On films: a box in the corner everywhere, and one on the lesion of the first film that has one."""
    located = lesions[lesions["has_location"]]
    judged = films[~films["film_id"].isin(lesions.loc[~lesions["has_location"], "film_id"])]
    box = {"x1": 150.0, "y1": 160.0, "x2": 210.0, "y2": 220.0}
    circle = {"x_px": 180.0, "y_px": 190.0, "radius_px": 30.0, "diameter_mm": 12.0}
    truth = located.assign(protocol="films_by_patient", item=located["film_id"], **box, **circle)
    corner = films.assign(x1=10.0, y1=10.0, x2=40.0, y2=40.0, p_benign=[0.05 * n for n in range(1, N_FILMS + 1)])
    hit = located.head(1).assign(**box, p_benign=0.9)
    found = pd.concat([corner, hit])[["film_id", "x1", "y1", "x2", "y2", "p_benign"]]
    found = found.assign(protocol="films_by_patient", item=found["film_id"], p_malignant=0.0)
    items = judged.assign(protocol="films_by_patient", item=judged["film_id"])
    patches = films.assign(protocol="by_patient", unit="patch", item=films["film_id"])
    share = np.linspace(0.2, 0.7, N_FILMS)
    patches = patches.assign(p_normal=share, p_benign=(1 - share) / 2, p_malignant=(1 - share) / 2)
    for path, table in {
        "data/evaluate_detector/items.csv": items,
        "data/evaluate_detector/lesions.csv": truth,
        "reports/evaluate_detector/predictions.csv": found,
        "reports/evaluate_classifier/predictions.csv": patches,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(folder / path, index=False)


def _lock(folder: Path) -> None:
    """dvc.lock with every folder below data and every file below reports as an output of a stage of its name."""
    outputs: dict[str, list[str]] = {}
    for path in sorted((folder / "data").iterdir()):
        outputs.setdefault(path.name, []).append(f"data/{path.name}")
    for path in sorted((folder / "reports").rglob("*.*")):
        outputs.setdefault(path.parent.name, []).append(path.relative_to(folder).as_posix())
    stages = {
        stage: {"outs": [{"path": path, "md5": computed_md5(folder / path)} for path in paths]}
        for stage, paths in outputs.items()
    }
    _write(folder / "dvc.lock", yaml.safe_dump({"schema": "2.0", "stages": stages}))
