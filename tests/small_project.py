"""A project under git and DVC whose last stage copies a small classifier: registered, and made again in seconds."""

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import yaml
from safetensors.torch import load_file, save_file

from mammo_ml import registry
from mammo_ml.datasets.catalog import names
from mammo_ml.models.bundle import FILM_COLUMNS, Ancestor, BundleConfig, Preprocessing, folds_sha256, write_bundle
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.splits import committed_folds
from mammo_ml.tracking import Store, closing, computed_md5, current_pass, locked_entries
from tests.toy_models import METRICS, NAME

PARAMS = {
    "dataset": "mini_mias",
    "split": {"folds": "benchmark"},
    "tune_classifier": {"space": {"learning_rate": {"low": 0.1, "high": 1.0}}},
    "train_classifier": {"training": {"learning_rate": 0.3, "threads": 1}},
}
FINALIZE = """\
import shutil
from pathlib import Path

shutil.copytree("given", "data/finalize_classifier")
assert Path("data/catalog/films.csv").read_text() == "film_id\\nmdb001\\n"
"""
STAGES: dict[str, tuple[list[str], list[str], list[str]]] = {
    "ingest": (["mammo_ml/datasets/mini_mias_sha256.csv"], ["data/ingest"], []),
    "catalog": (["data/ingest"], ["data/catalog"], []),
    "tune_classifier@0": (["data/catalog"], ["data/tune_classifier/fold_0"], ["tune_classifier"]),
    "finalize_classifier": (
        ["pipelines/finalize_classifier.py", "data/catalog", "data/tune_classifier"],
        ["data/finalize_classifier"],
        ["train_classifier"],
    ),
    "evaluate_classifier": (
        ["data/ingest", "data/finalize_classifier"],
        ["reports/evaluate_classifier/metrics.json"],
        [],
    ),
}
FILMS = [
    ("a", "1" * 64, "cbis_ddsm", "anna", "pretraining"),
    ("b", "2" * 64, "cbis_ddsm", "anna", "pretraining"),
    ("c", "3" * 64, "mini_mias", "berta", "training"),
]
ANCESTOR = Ancestor(name="starter", weights_sha256="b" * 64, dataset="cbis_ddsm", command="dvc repro pretrain")


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=tester", "-c", "user.email=tester@localhost", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path, message: str) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def small_bundle(folder: Path, seed: int) -> Path:
    import torch

    torch.manual_seed(seed)
    network = ClassifierParameters(variant="exact")
    folds = committed_folds("mini_mias")
    assert folds is not None
    config = BundleConfig(
        kind="classifier", network=network.model_dump(mode="json"), calibration={}, aggregation={"how": "mean"},
        preprocessing=Preprocessing(window_px=512, step_px=512, input_px=128), thresholds={}, dataset="mini_mias",
        phantom=False, folds_sha256=folds_sha256(folds), ancestry=(ANCESTOR,),
    )  # fmt: skip
    films = pd.DataFrame(FILMS, columns=names(FILM_COLUMNS))
    write_bundle(folder, config, build_classifier(network).state_dict(), films)
    return folder


def nudged(bundle: Path, to: Path, by: float) -> Path:
    """A copy of a bundle whose weights are `by` of their own size larger."""
    shutil.copytree(bundle, to)
    weights = {name: tensor * (1 + by) for name, tensor in load_file(bundle / "weights.safetensors").items()}
    save_file(weights, to / "weights.safetensors")
    from mammo_ml.manifest import write_manifest

    (to / "manifest.json").unlink()
    write_manifest(to)
    return to


def make_project(folder: Path) -> Path:
    """Code at one commit, a finished pass whose dvc.lock is not committed yet, its outputs in DVC's cache."""
    write(folder / "params.yaml", yaml.safe_dump(PARAMS))
    write(folder / "pipelines" / "__init__.py", "")
    write(folder / "pipelines" / "finalize_classifier.py", FINALIZE)
    write(folder / "mammo_ml" / "datasets" / "mini_mias_sha256.csv", "film_id,sha256\nmdb001,0\n")
    write(folder / ".dvc" / "config", "[core]\n    analytics = false\n    check_update = false\n")
    write(folder / ".dvc" / ".gitignore", "/config.local\n/tmp\n/cache\n")
    write(folder / ".gitignore", "/data/\n/build/\n/.mlflow/\n/.state/\n__pycache__/\n")
    finalize = {
        "cmd": "python -m pipelines.finalize_classifier",
        "deps": STAGES["finalize_classifier"][0],
        "params": ["train_classifier"],
        "outs": ["data/finalize_classifier"],
    }
    write(folder / "dvc.yaml", yaml.safe_dump({"stages": {"finalize_classifier": finalize}}))
    write(folder / "dvc.lock", "schema: '2.0'\nstages: {}\n")
    small_bundle(folder / "given", seed=1)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "Code before the pass")
    write(folder / "data" / "ingest" / "mdb001.pgm", "a film")
    write(folder / "data" / "catalog" / "films.csv", "film_id\nmdb001\n")
    write(folder / "data" / "tune_classifier" / "fold_0" / "best.json", '{"learning_rate": 0.5}')
    write(folder / "reports" / "evaluate_classifier" / "metrics.json", json.dumps(METRICS))
    shutil.copytree(folder / "given", folder / "data" / "finalize_classifier")
    write_lock(folder)
    for path in ("data/ingest", "data/catalog", "data/tune_classifier/fold_0", "data/finalize_classifier"):
        put_into_cache(folder, path)
    return folder


def write_lock(folder: Path) -> None:
    def entries(paths: list[str]) -> list[dict[str, str]]:
        return [{"path": path, "md5": computed_md5(folder / path)} for path in paths]

    stages = {
        name: {
            "deps": entries(deps),
            "outs": entries(outs),
            "params": {"params.yaml": {section: PARAMS[section] for section in sections}},
        }
        for name, (deps, outs, sections) in STAGES.items()
    }
    write(folder / "dvc.lock", yaml.safe_dump({"schema": "2.0", "stages": stages}))


def put_into_cache(folder: Path, path: str) -> None:
    """As DVC does for a folder: an object per file, and the list of them."""
    cache = folder / ".dvc" / "cache" / "files" / "md5"
    files = sorted(file for file in (folder / path).rglob("*") if file.is_file())
    listing = [{"md5": computed_md5(f), "relpath": f.relative_to(folder / path).as_posix()} for f in files]
    for file, entry in zip(files, listing, strict=True):
        (cache / entry["md5"][:2]).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, cache / entry["md5"][:2] / entry["md5"][2:])
    md5 = computed_md5(folder / path)
    write(cache / md5[:2] / md5[2:], json.dumps(listing, sort_keys=True))


def record_stages(folder: Path) -> None:
    """The runs that the last two stages would have made."""
    store = Store(folder)
    experiment, a_pass = store.experiment("mini_mias"), current_pass(folder, "mini_mias")
    parent = store.open_pass(experiment, a_pass)
    with closing(parent):
        for entry, _ in locked_entries(folder):
            if entry.stage.startswith(("finalize", "evaluate")):
                run = store.open_stage(parent, entry, a_pass, {"dataset": "mini_mias"})
                with closing(run):
                    run.log_parameters({"training": {"learning_rate": 0.5, "threads": 1}})
                    run.log_metrics({"best_epoch": 7})


def register(folder: Path, bundle: Path) -> int:
    return registry.register(bundle, NAME, METRICS, folder, leak_free=True, data_valid=True)
