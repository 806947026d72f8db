"""Small real models, never trained, and a server to ask: what tests of serving and of a tracking server share."""

import base64
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from mammo_ml.datasets.catalog import names
from mammo_ml.datasets.phantom import PhantomParameters, draw, plan
from mammo_ml.imaging.readers import format_pgm
from mammo_ml.models.bundle import FILM_COLUMNS, BundleConfig, Preprocessing, folds_sha256, write_bundle
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.ssd import SsdParameters, build_detector
from mammo_ml.registry.gate import Kind
from mammo_ml.splits import committed_folds

METRICS = {
    "classifier": {
        "by_patient": {"auc_macro": 0.70, "auc_macro_lo": 0.64, "auc_macro_hi": 0.76, "auc_macro_baseline": 0.5}
    },
    "detector": {
        "films_by_patient": {"froc_mean": 0.3, "froc_mean_lo": 0.2, "froc_mean_hi": 0.4, "froc_mean_baseline": 0.04}
    },
}
"""Made up, so that the gate lets them pass."""
WAIT_S = 120


def small_bundle(folder: Path, kind: Kind, seed: int = 1) -> Path:
    """A bundle as finalize writes it, for the registry of mini-MIAS, with random weights."""
    torch.manual_seed(seed)
    folds = committed_folds("mini_mias")
    assert folds is not None
    given = {
        "preprocessing": Preprocessing(step_px=256, min_breast_share=0.5), "thresholds": {}, "dataset": "mini_mias",
        "phantom": False, "folds_sha256": folds_sha256(folds),
    }  # fmt: skip
    films = pd.DataFrame([("a", "1" * 64, "mini_mias", "anna", "training")], columns=names(FILM_COLUMNS))
    if kind == "classifier":
        scaling = {"films": {"scale": [1.0, 1.0, 1.0], "bias": [0.0, 0.1, 0.2]}}
        classifier = ClassifierParameters(variant="exact")
        network = classifier.model_dump(mode="json")
        config = BundleConfig(kind=kind, network=network, calibration=scaling, aggregation={"how": "mean"}, **given)
        write_bundle(folder, config, build_classifier(classifier).state_dict(), films)
    else:
        merge = {"nms_iou": 0.3, "max_per_tile": 2, "max_per_film": 4}
        detector = SsdParameters(width=8)
        network = detector.model_dump(mode="json")
        config = BundleConfig(kind=kind, network=network, calibration={}, aggregation=merge, **given)
        write_bundle(folder, config, build_detector(detector).state_dict(), films)
    return folder


def films_to_ask() -> pd.DataFrame:
    """Two phantom films as a client sends them: the bytes of PGM files, in base64."""
    films = plan(PhantomParameters(women=20, seed=1))[:2]
    images = [base64.b64encode(format_pgm(draw(film, seed=1))).decode() for film in films]
    return pd.DataFrame({"film_id": [film.film_id for film in films], "image": images})


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def server(command: Sequence[str], url: str, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a server until the block ends; it is up once `url` answers."""
    own = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=output, stderr=subprocess.STDOUT,
            env=own | dict(environment or {}), start_new_session=True, cwd=log.parent,
        )  # fmt: skip
        try:
            wait_for(url, process, log)
            yield
        finally:
            # with the workers it started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        if process.poll() is not None:
            break
        time.sleep(0.3)
    raise AssertionError(f"{url} does not answer:\n{log.read_text(errors='replace')[-4000:]}")


def http(url: str, data: bytes | None = None, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Status and body of a request; a refusal is an answer too."""
    request = urllib.request.Request(url, data, dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()
