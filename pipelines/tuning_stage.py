"""What the tuning stages of both models share: the study under `.state/`, its workers, a live run, a bar, two files."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import optuna

from mammo_ml import tracking, tuning
from mammo_ml.datasets.catalog import write_table
from mammo_ml.errors import raise_if_any
from mammo_ml.manifest import file_sha256
from mammo_ml.parameters import Parameters
from mammo_ml.recipe import Recipe, Values, save_best
from mammo_ml.studies import Finished
from mammo_ml.training import Epoch, Fit
from mammo_ml.tuning_pictures import study_figures
from pipelines import stage
from pipelines.dependencies import modules_of

WORKER, RUN, ADDRESS = "MAMMO_WORKER", "MAMMO_TUNING_RUN", "MAMMO_STUDIES"
"""A helper's number, the MLflow run it works for, and an address of the user's for the studies' database."""
HELPER_ENDS_S = 60
"""Once every trial has ended a helper has nothing left to do."""
KEYS_OF_THE_LOSS = ("base", "negative_to_positive_ratio", "min_negatives", "scale_factor", "scales")
"""Of a detector: they change what its inner loss is a mean of; between two values it cannot say who learns better."""
ROOT = Path(__file__).resolve().parents[1]
R = TypeVar("R", bound=Recipe)
OnStep = Callable[[int], None]
OnEpoch = Callable[[Epoch], None]
Score = Callable[[R, OnStep, OnEpoch], tuple[float, Fit]]
"""Train with a recipe, telling the samples seen after every step and of every epoch; the figure tuning raises, and the
training."""


def refuse_to_prune_by(keys: Iterable[str], name: str, parameters: tuning.TuningParameters) -> None:
    """Stop before a study that would end trials by an inner loss which what it searches changes.

    Raises:
        BadInputError: naming every such key of the stage's space.
    """
    changing = [key for key in keys if key in parameters.space and parameters.prune_after_trials is not None]
    raise_if_any(
        f"section '{name}'",
        [f"'{key}' is searched, and trials are pruned by the inner loss, which it changes" for key in changing],
        "Set prune_after_trials to null, or leave these keys out of the space.",
    )


def tune(
    name: str,
    parameters: tuning.TuningParameters,
    recipe: R,
    score: Score[R],
    *,
    figure: str,
    fold: int,
    data: list[Path],
    files: list[Path],
    out: Path,
    others: Mapping[str, Parameters] | None = None,
    protocol: str = "by_patient",
) -> None:
    """Run the study of a fold with its workers; write best.json and trials.csv, show its pictures in MLflow.

    Args:
        name: the stage.
        parameters: of the study.
        recipe: what trial 0 trains with.
        score: trains and judges one recipe.
        figure: name of what `score` returns, as in the run.
        fold: the test fold.
        data: what the stage reads, as recorded in the run.
        files: every file that the figures depend on; others make another study.
        out: folder of the two files.
        others: further sections of params.yaml that the figures depend on.
        protocol: of the run.
    """
    parts = _parts(name, parameters, {"recipe": recipe, **(others or {})}, files)
    # Threads beyond the cores wait for each other awake: two workers took longer than one.
    share_of_threads = max(1, recipe.training.threads // parameters.workers)
    label = f"{name}@{fold}"
    key = stage.state_key(name, fold, json.dumps(parts, sort_keys=True))

    def run_study(run: tracking.StageRun, advance: Callable[[int], None]) -> None:
        def objective(number: int, values: Values, report: tuning.Report) -> float:
            tried = recipe.with_values({"threads": share_of_threads, **values}).with_budget(parameters.budget_samples)
            seen, found = 0, float("nan")

            def on_step(samples: int) -> None:
                nonlocal seen
                seen += samples
                advance(samples)

            pruned: tuning.PrunedError | None = None
            with run.trial(number, values) as trial:

                def on_epoch(epoch: Epoch) -> None:
                    trial.log_metrics(epoch.figures(), step=epoch.epoch)
                    report(-epoch.inner_loss)

                try:
                    found, fitted = score(tried, on_step, on_epoch)
                    trial.log_metrics({figure: found, "best_epoch": fitted.best_epoch})
                except tuning.PrunedError as error:  # the trial's run has not failed
                    pruned = error
                    trial.log_metrics({"pruned": 1})
            advance(parameters.budget_samples - seen)  # where it stopped early
            if pruned is not None:
                raise pruned
            return found

        def on_elsewhere(trial: Finished) -> None:
            advance(parameters.budget_samples)
            if not helper and trial.started < begun:  # shown in this run too, so that it is complete
                with run.trial(trial.trial, trial.values) as again:
                    for epoch, reported in enumerate(trial.curve, start=1):
                        again.log_metrics({"inner_loss": -reported}, step=epoch)
                    again.log_metrics({"pruned": 1} if trial.pruned else {figure: trial.value})

        ended: list[optuna.Study] = []
        best, trials = tuning.tune(
            objective,
            recipe.values(parameters.space),
            parameters,
            stage.STATE / "studies",
            name=f"{label} · {key}",
            parts=parts,
            address=_address(),
            on_elsewhere=on_elsewhere,
            on_end=ended.append,
        )
        if not helper:
            run.log_metrics({figure: trials["value"].max(), f"{figure}_defaults": trials["value"].iloc[0]})
            if "pruned" in trials:
                run.log_metrics({"trials_pruned": int(trials["pruned"].sum())})
            save_best(best, out / "best.json")
            write_table(trials, out / "trials.csv")
            for picture, drawn in study_figures(ended[0], figure).items():
                run.log_figure(drawn, f"{picture}.png")

    helper, begun = os.environ.get(WORKER), datetime.now().isoformat()
    if helper:
        run_study(_run_of_first_worker(f"{label}, worker {helper}"), lambda samples: None)
        return
    total = parameters.trials * parameters.budget_samples
    with (
        stage.run(name, parameters, data, fold, protocol) as run,
        _helpers(parameters.workers - 1, label, run),
        stage.bar(total, f"{name.replace('_', ' ')}, fold {fold}") as advance,
    ):
        run_study(run, advance)


def _parts(
    name: str, parameters: tuning.TuningParameters, sections: Mapping[str, Parameters], files: list[Path]
) -> dict[str, object]:
    """All that a study depends on, by kind; another value of any makes another study."""
    code = modules_of(ROOT / "pipelines" / f"{name}.py", ROOT)
    space = {key: span.model_dump(mode="json", exclude_none=True) for key, span in parameters.space.items()}
    return {
        "space": space,
        "parameters": parameters.what_counts() | {key: each.model_dump(mode="json") for key, each in sections.items()},
        "data": {path.as_posix(): file_sha256(path)[:12] for path in files},
        "code": {path: file_sha256(ROOT / path)[:12] for path in code},
    }


def _address() -> str | None:
    """Address of the user's database; a phantom workspace keeps its own, as it does for runs."""
    return None if stage.dataset() == stage.PHANTOM else os.environ.get(ADDRESS, "").strip() or None


@contextlib.contextmanager
def _helpers(number: int, label: str, run: tracking.StageRun) -> Iterator[None]:
    """Start copies of this command as further workers; they end by themselves when every trial has ended."""
    command = [sys.executable, *sys.orig_argv[1:]]
    started = []
    for n in range(1, number + 1):
        # DVC_STAGE: a helper dies with this process as a stage dies with its DVC
        own = {WORKER: str(n), RUN: f"{run.experiment}:{run.run_id or ''}", "TQDM_DISABLE": "1"}
        started.append(subprocess.Popen(command, env={**os.environ, "DVC_STAGE": label, **own}))
    try:
        yield
        for n, process in enumerate(started, start=1):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=HELPER_ENDS_S)
            if process.returncode != 0:
                how = "hung" if process.returncode is None else f"ended with {process.returncode}"
                print(f"{label}: worker {n} {how}; the others did its trials", file=sys.stderr)
    finally:
        for process in started:
            process.kill()
            process.wait()


def _run_of_first_worker(name: str) -> tracking.StageRun:
    """The stage's MLflow run, that of the first worker, to put trials below it."""
    experiment, _, run_id = os.environ.get(RUN, "").partition(":")
    if not run_id:
        return tracking.StageRun(None)
    try:
        store = tracking.Store(tracking.workspace_of(Path.cwd()))
    except tracking.store_errors() as error:
        reason = tracking.without_password(str(error))
        print(f"WARNING: MLflow: {name} goes on without a record: {reason}", file=sys.stderr)
        return tracking.StageRun(None)
    return tracking.StageRun(store, experiment, run_id, name)
