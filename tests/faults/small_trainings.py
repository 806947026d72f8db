"""Small trainings of both models in processes that may be killed, each started in milliseconds: torch is imported once.

As a script: `small_trainings.py JOBS` trains the jobs of a JSON list one after the other. Without an argument it reads
a job per line, forks a process for it and answers with its number; an empty line is answered with how that one ended.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from mammo_ml.checkpoints import Checkpoints
from mammo_ml.classifier import ClassifierTask, ObjectiveParameters
from mammo_ml.detector import DetectorTask
from mammo_ml.errors import MammoError
from mammo_ml.imaging.augmentation import AugmentationParameters
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.ssd import SsdParameters, build_detector
from mammo_ml.training import TrainingParameters, fit, save_weights

KEY = "this configuration"
MODELS = ("classifier", "detector")
STEPS = {"classifier": 15, "detector": 15, "tiny": 6}
PARAMETERS = TrainingParameters(
    budget_samples=30,
    epoch_samples=10,
    batch_size=2,
    learning_rate=0.001,
    weight_decay=0.01,
    patience=10,
    threads=1,
    seed=3,
)
AUGMENTATION = AugmentationParameters(strength=0.5)


class TinyTask:
    """Three inputs to one number, with dropout, batch normalisation and noise from every generator there is."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.x = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 3))).float()

    def draw(self, n, generator):
        return generator.integers(0, 30, n)

    def loss(self, samples, generator):
        noise = 0.1 * torch.randn(len(samples), 3, generator=generator)
        return F.mse_loss(self.model(self.x[samples] + noise), self.x[samples].sum(1, keepdim=True))

    def inner_loss(self):
        self.model.eval()
        with torch.no_grad():
            return float(F.mse_loss(self.model(self.x[30:]), self.x[30:].sum(1, keepdim=True)))

    def describe(self, samples):
        return str(samples)


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, 128, 128), dtype=np.uint8)


def classifier_task(images: np.ndarray | None = None, n_classes: int = 3) -> ClassifierTask:
    """18 patches of `n_classes` classes to train on and 6 as inner part; batch normalisation and dropout are in."""
    torch.manual_seed(3)
    return ClassifierTask(
        build_classifier(ClassifierParameters(variant="normalised", dropout=0.3)),
        pictures(24) if images is None else images,
        np.arange(24) % n_classes,
        [f"patch_{n}" for n in range(24)],
        np.arange(18),
        np.arange(18, 24),
        AUGMENTATION,
        ObjectiveParameters(),
    )


def detector_task(images: np.ndarray | None = None, targets: list | None = None) -> DetectorTask:
    """12 cuts to train on, half of them with a lesion, and 4 as inner part."""
    lesion, normal = ([[30.0, 40, 70, 80]], [1]), (np.empty((0, 4)), [])
    torch.manual_seed(3)
    return DetectorTask(
        build_detector(SsdParameters(width=16)),
        pictures(16) if images is None else images,
        targets or [(np.array(b, dtype=float), np.array(c, dtype=np.int64)) for b, c in [lesion, normal] * 8],
        [f"cut_{n}" for n in range(16)],
        np.arange(12),
        np.arange(12, 16),
        AUGMENTATION,
    )


def train(job: dict[str, Any]) -> None:
    """Train one job: a line per step goes to `log`; the weights' and the history's hash to `result`.

    Keys: model, log, result; folder and seconds of the checkpoints; threads; kill: [where, n], at the n-th step of this
    process, "inside" it (loss computed) or "after" it (whatever was due is saved).
    """
    task = {"tiny": TinyTask, "classifier": classifier_task, "detector": detector_task}[job["model"]]()
    parameters = PARAMETERS.model_copy(update={"threads": job.get("threads", 1)})
    if job["model"] == "tiny":
        parameters = parameters.model_copy(update={"budget_samples": 12, "epoch_samples": 6})
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    where, when = job.get("kill", ["nowhere", 0])
    step: dict[str, Any] = {"n": 0}
    own_loss = task.loss

    def loss(samples, generator):
        value = own_loss(samples, generator)
        step.update(n=step["n"] + 1, samples=samples.tolist(), loss=float(value.detach()).hex())
        if where == "inside" and step["n"] == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    def write(optimiser, *_):
        line = [step["samples"], step["loss"], optimiser.param_groups[0]["lr"].hex()]
        # writev here and below: faults are injected into write.
        os.writev(log, [json.dumps(line).encode() + b"\n"])

    def after_step(n):
        if where == "after" and step["n"] == when:
            os.kill(os.getpid(), signal.SIGKILL)

    task.loss = loss
    hook = register_optimizer_step_post_hook(write)
    checkpoints = Checkpoints(Path(job["folder"]), KEY, job["seconds"]) if "folder" in job else None
    fitted = fit(task, parameters, checkpoints=checkpoints, on_step=after_step)
    hook.remove()
    save_weights(task.model, Path(job["result"]).with_suffix(".safetensors"))
    weights = {name: sha256(value.numpy().tobytes()).hexdigest() for name, value in task.model.state_dict().items()}
    result = os.open(job["result"], os.O_WRONLY | os.O_CREAT)
    os.writev(result, [json.dumps([weights, repr(fitted)]).encode()])
    for file in (log, result):
        os.close(file)


def _train_in_a_fork(job: dict[str, Any]) -> None:
    """Never returns; exit status 0, or 3 with an error made for people on stderr."""
    status = 1
    try:
        errors = os.open(job["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 2)
        if job.get("traced"):
            ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER: any tracer
            while "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
                time.sleep(0.002)
        train(job)
        status = 0
    except MammoError as error:
        os.writev(2, [str(error).encode()])
        status = 3
    finally:
        os._exit(status)


def _serve() -> None:
    torch.set_num_threads(1)  # a pool of threads would not survive a fork
    classifier_task().inner_loss()  # its large kernels are compiled once, not in every fork
    child = 0
    for line in sys.stdin:
        if line.strip():
            child = os.fork()
            if child == 0:
                _train_in_a_fork(json.loads(line))
            print(child, flush=True)
        else:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


class Trainings:
    """Starts trainings, one at a time, in processes forked from one that has imported everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._n = 0
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()

    def start(self, **job: Any) -> "Training":
        self._n += 1
        names = {name: str(self.folder / f"{self._n}.{name}") for name in ("log", "result", "stderr")}
        self._send(json.dumps(names | job))
        return Training(self, int(self._server.stdout.readline()), names)

    def run(self, **job: Any) -> "Training":
        training = self.start(**job)
        training.wait()
        return training

    def wait(self) -> int:
        self._send("")
        return int(self._server.stdout.readline())

    def _send(self, line: str) -> None:
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()


class Training:
    """One started training: what it wrote, and how it ended."""

    def __init__(self, trainings: Trainings, pid: int, names: dict[str, str]) -> None:
        self._trainings, self.pid, self._names, self.status = trainings, pid, names, None

    def wait(self) -> int:
        """Exit status; -9 for a process that was killed."""
        self.status = self._trainings.wait() if self.status is None else self.status
        return self.status

    @property
    def steps(self) -> list[list]:
        """Samples, loss and learning rate of each step, the floats to the last bit."""
        path = Path(self._names["log"])
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def result(self) -> list:
        """Hash of every weight, and the history."""
        return json.loads(Path(self._names["result"]).read_text())

    @property
    def weights(self) -> Path:
        return Path(self._names["result"]).with_suffix(".safetensors")

    @property
    def stderr(self) -> str:
        return Path(self._names["stderr"]).read_text()


def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    # Passive: on a busy machine, threads that spin while they wait take a minute for what else takes seconds.
    return os.environ | {"PYTHONPATH": root, "PYTHONHASHSEED": "random", "OMP_WAIT_POLICY": "PASSIVE"}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for job in json.loads(sys.argv[1]):
            train(job)
    else:
        _serve()
