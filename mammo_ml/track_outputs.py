"""Log and register whatever the MLflow store lacks, from the outputs of the stages: `mammo-ml track`.

DVC may skip a stage, or `dvc pull` its outputs onto a machine with an empty store: the outputs hold what its run shows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from mammo_ml import tracking
from mammo_ml.errors import BadInputError, MammoError, raise_if_any
from mammo_ml.parameters import parse_section, read_yaml
from mammo_ml.tracking import StageEntry, StageRun, Store, TrackedData

Kind = Literal["classifier", "detector", "locator"]
KINDS: tuple[Kind, ...] = ("classifier", "detector", "locator")
CHECKS = ("validate_tables", "validate_cuts")
TUNED_FOR: Mapping[str, str] = {"classifier": "auc_macro", "detector": "froc_mean"}
"""The figure that tuning raises, in trials.csv as `value`."""
PROTOCOLS: Mapping[str, str] = {
    "classifier": "by_patient",
    "detector": "films_by_patient",
    "locator": "films_by_patient",
    "leaky_classifier": "patches_at_random_leaky",
    "leaky_detector": "cuts_at_random_leaky",
}
"""Protocol a run is tagged with, by stage, else by model."""
SHOWN = (".png", ".html")
GIVEN = ("data/finalize_", "reports/")
"""What the registry reads, beside the evaluation itself."""
NOTE = "Logged from the stage's outputs by `mammo-ml track`: its times are those of the logging, not of the work."
LATER = "Nothing of the pipeline is lost: run `mammo-ml track` once the store works."
WAIT_S = 900
"""How long a second `mammo-ml track` waits for the first."""


# ------------------------------------------------------------------------------------------ what a stage's outputs show


@dataclass(frozen=True)
class Shown:
    """What the run of a stage shows: figures, figures by epoch, trials as (number, values, figures), files."""

    figures: Mapping[str, Any]
    epochs: Sequence[tuple[int, Mapping[str, float]]]
    trials: Sequence[tuple[int, Mapping[str, Any], Mapping[str, float]]]
    files: Sequence[Path]

    def log(self, run: StageRun) -> None:
        """Record it all in a run."""
        for epoch, figures in self.epochs:
            run.log_metrics(figures, step=epoch)
        run.log_metrics(self.figures)
        for number, values, figures in self.trials:
            with run.trial(number, values) as trial:
                trial.log_metrics(figures)
        run.log_files(self.files)


def shown_by(stage: str, outputs: Iterable[Path]) -> Shown:
    """Read what the outputs of a stage show.

    metrics.json, history.csv and trials.csv give figures; where a stage has none of them, its tables' numbers of rows
    do. Files are the reports, pictures and pages; a folder with an index.html is shown whole.

    Args:
        stage: its name, without the fold.
        outputs: the files and folders it wrote.
    """
    pages = [path for path in outputs if (path / "index.html").is_file()]
    files = sorted(file for path in outputs if path not in pages for file in _files(path))
    named = {file.name: file for file in files}
    figures: dict[str, Any] = {}
    epochs: list[tuple[int, dict[str, float]]] = []
    trials: list[tuple[int, dict[str, Any], dict[str, float]]] = []
    if "metrics.json" in named:
        from mammo_ml.evaluation import read_metrics

        figures |= read_metrics(named["metrics.json"])
    if "history.csv" in named:
        history = _read(named["history.csv"]).set_index("epoch").drop(columns="samples_seen")
        epochs = [(int(str(epoch)), _by_column(row)) for epoch, row in history.iterrows()]
        figures["best_epoch"] = history["inner_loss"].idxmin() if history["inner_loss"].notna().any() else len(history)
    if "trials.csv" in named:
        name, table = TUNED_FOR[stage.partition("_")[2]], _read(named["trials.csv"])
        figures |= {name: table["value"].max(), f"{name}_defaults": table["value"].iloc[0]}
        rows = [_by_column(row) for _, row in table.astype("object").iterrows()]
        trials = [_trial(row, name) for row in rows]
    if not figures and not pages:
        figures = {"rows": _rows_by_table([file for file in files if file.suffix == ".csv"])}
    shown = [file for file in files if file.suffix in SHOWN or "reports" in file.parts]
    return Shown(figures, epochs, trials, [*shown, *pages])


def _trial(row: dict[str, Any], name: str) -> tuple[int, dict[str, Any], dict[str, float]]:
    """Number, tried values and figures of a row of trials.csv."""
    number, value, pruned = int(row.pop("trial")), row.pop("value"), row.pop("pruned", False)
    return number, row, {"pruned": 1} if pruned else {name: value}


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, float_precision="round_trip")


def _rows_by_table(files: Sequence[Path]) -> dict[str, int]:
    """Rows of each table by its name, and by its folder's too where an earlier one has the same."""
    found: dict[str, int] = {}
    for file in files:
        name = file.stem if file.stem not in found else f"{file.parent.name}_{file.stem}"
        found[name] = len(pd.read_csv(file))
    return found


def _by_column(row: "pd.Series[Any]") -> dict[str, Any]:
    return {str(column): value for column, value in row.items()}


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def effective_parameters(entry: StageEntry, folder: Path) -> Mapping[str, Any]:
    """Parameters a stage really worked with: its own section, for a training the recipe with the tuned values in it.

    Args:
        entry: the stage, as dvc.lock has it.
        folder: where its inputs are.
    """
    kind, _, model = entry.stage.partition("_")
    if kind == "tune":
        from mammo_ml.tuning import TuningParameters

        return parse_section(entry.parameters.get(entry.stage), TuningParameters, entry.label).model_dump(mode="json")
    if model == "locator":  # nothing of it is trained
        return dict(entry.parameters.get("evaluate_locator" if kind == "evaluate" else "predict_locator") or {})
    if kind not in ("train", "leaky", "finalize"):
        return dict(entry.parameters.get(entry.stage) or {})
    from mammo_ml.classifier import ClassifierRecipe
    from mammo_ml.detector import DetectorRecipe
    from mammo_ml.recipe import Recipe, best_on_average, load_best

    kinds: dict[str, type[Recipe]] = {"classifier": ClassifierRecipe, "detector": DetectorRecipe}
    recipe = parse_section(entry.parameters.get(f"train_{model}"), kinds[model], entry.label)
    if kind == "train":
        recipe = recipe.with_values(load_best(folder / f"data/tune_{model}/fold_{entry.fold}/best.json"))
    if kind == "leaky":
        recipe = recipe.with_values((entry.parameters.get(entry.stage) or {}).get("values", {}))
    if kind == "finalize":
        studies = sorted((folder / f"data/tune_{model}").glob("fold_*/trials.csv"))
        recipe = recipe.with_values(best_on_average([pd.read_csv(path) for path in studies]))
    return recipe.model_dump(mode="json")


# ------------------------------------------------------------------------------------------------------ registering


def register_outputs(
    kind: Kind, model: Path, evaluated: Path, judged: Path, checks: Path, workspace: Path, gate: Mapping[str, Any]
) -> int:
    """Register a finalized model with its figures as challenger; the same contents are registered once.

    Args:
        kind: classifier, detector or locator.
        model: the bundle `finalize_<kind>` wrote.
        evaluated: the folder of reports `evaluate_<kind>` wrote.
        judged: its folder of data, with the tables of what it was judged against.
        checks: folder of the reports of `validate_tables` and `validate_cuts`.
        workspace: the project's folder.
        gate: section `gate` of the parameters.

    Returns:
        The version.

    Raises:
        BadInputError: when the bundle is not what its manifest says.
        MlflowException: when the store fails.
    """
    from mammo_ml import registry
    from mammo_ml.evaluation import read_metrics
    from mammo_ml.registry.comparison import FILES

    data = {name: read_metrics(checks / name / "metrics.json") for name in CHECKS}
    return registry.register(
        model,
        registry.NAMES[kind],
        read_metrics(evaluated / "metrics.json"),
        workspace,
        leak_free=data["validate_cuts"]["leak_audit"]["leak_free"] == 1.0,
        data_valid=all(report["validation"]["valid"] == 1.0 for report in data.values()),
        evidence=[path for file in FILES[kind] for path in (evaluated / file, judged / file) if path.is_file()],
        subgroups=subgroups if (subgroups := evaluated / "subgroups.csv").is_file() else None,
        gate=parse_section(dict(gate), registry.GateParameters, "section 'gate'"),
    )


# ---------------------------------------------------------------------------------------------------- what is lacking


def track_outputs(workspace: Path) -> str:
    """Log every finished stage and register every model that the store lacks; returns the lines to print.

    A stage is there when the store has a FINISHED and complete run of the same stage, fold, code, parameters and data,
    in whatever pass. A store that fails, outputs that are missing or not those of dvc.lock, and a model that cannot be
    registered are told in the lines and raise nothing.

    Args:
        workspace: folder with dvc.yaml and dvc.lock.

    Raises:
        BadInputError: when the workspace has no params.yaml that names a data set.
    """
    from filelock import FileLock

    workspace = workspace.resolve()
    dataset = str(read_yaml(workspace / "params.yaml").get("dataset", ""))
    if not dataset:
        raise BadInputError(str(workspace / "params.yaml"), ["key 'dataset' is missing"])
    tracking.quiet_mlflow()
    lines: list[str] = []
    try:
        (workspace / tracking.FOLDER).mkdir(exist_ok=True)
        with FileLock(workspace / tracking.FOLDER / "track.lock", timeout=WAIT_S):
            store = Store(workspace)
            entries = tracking.locked_entries(workspace)
            _log_lacking(store, dataset, entries, lines)
            for kind in KINDS:
                _register_lacking(store, kind, entries, lines)
    except tracking.store_errors() as error:
        reason = tracking.without_password(" ".join(str(error).split())[:400])
        address = tracking.without_password(tracking.store_address(workspace))
        lines += [f"the store at {address} failed: {type(error).__name__}: {reason}", LATER]
    return "\n".join(f"MLflow: {line}" for line in lines or ["the store has every run of this pass"])


Entries = Sequence[tuple[StageEntry, Mapping[str, str]]]


def _log_lacking(store: Store, dataset: str, entries: Entries, lines: list[str]) -> None:
    """Log the stages that have no run, and say which of them could not be logged, and why."""
    experiment = store.experiment(dataset)
    a_pass = tracking.current_pass(store.workspace, dataset)
    lacking = [(entry, outputs) for entry, outputs in entries if not _is_there(store, experiment, entry)]
    present = [one for one in lacking if all((store.workspace / path).exists() for path in one[1])]
    absent = [one[0] for one in lacking if one not in present]
    logged = 0
    if present:
        parent = store.open_pass(experiment, a_pass)
        with tracking.closing(parent):
            for entry, outputs in present:
                try:
                    _check_outputs(store.workspace, outputs)
                    _rebuild(store, parent, a_pass, entry, outputs)
                    logged += 1
                except (MammoError, FileNotFoundError) as error:
                    lines.append(f"{entry.label} is not logged: {error}")
    if logged:
        lines.append(f"{logged} {'run was' if logged == 1 else 'runs were'} logged from the outputs of the stages")
    if absent:
        stages = ", ".join(dict.fromkeys(entry.stage for entry in absent))
        lines.append(f"not logged, for their outputs are not here (`dvc pull` fetches them): {stages}")


def _is_there(store: Store, experiment: str, entry: StageEntry) -> bool:
    return any(
        run.info.status == "FINISHED" and run.data.tags.get("mammo.incomplete") != "true"
        for run in store.runs_of(experiment, entry)
    )


def _check_outputs(workspace: Path, outputs: Mapping[str, str]) -> None:
    problems = []
    for path, md5 in outputs.items():
        if not (workspace / path).exists():
            problems.append(f"{path} is not here")
        elif md5 and tracking.computed_md5(workspace / path) != md5:
            problems.append(f"{path} is not what dvc.lock says")
    raise_if_any("outputs", problems, "Run `dvc pull` for what was finished, or `dvc repro`.")


def _rebuild(
    store: Store, parent: StageRun, a_pass: tracking.Pass, entry: StageEntry, outputs: Mapping[str, str]
) -> None:
    parameters = effective_parameters(entry, store.workspace)
    shown = shown_by(entry.stage, [store.workspace / path for path in outputs])
    tags: dict[str, Any] = {"phantom": a_pass.dataset == "phantom", "mammo.rebuilt": True, "mlflow.note.content": NOTE}
    if entry.stage.endswith(KINDS):
        tags["protocol"] = PROTOCOLS.get(entry.stage) or PROTOCOLS[entry.stage.partition("_")[2]]
    run = store.open_stage(parent, entry, a_pass, tags)
    with tracking.closing(run):
        run.log_parameters(parameters)
        run.log_data([TrackedData(Path(path), md5=md5) for path, md5 in entry.data.items()], store.workspace)
        shown.log(run)
        if not run.recorded:
            raise ConnectionError(f"the record of {entry.label} broke off, see above")


def _register_lacking(store: Store, kind: Kind, entries: Entries, lines: list[str]) -> None:
    """Register the model that an evaluation speaks for, if it and all it stands on are those of dvc.lock."""
    name, workspace = f"mammo-{kind}", store.workspace
    before = {int(version.version) for version in store.client.search_model_versions(f"name = '{name}'")}
    for entry, outputs in entries:
        if entry.stage != f"evaluate_{kind}":
            continue
        try:
            _check_evaluation(workspace, entries, entry, outputs)
            model, evaluated = workspace / "data" / f"finalize_{kind}", workspace / "reports" / entry.stage
            gate = entry.parameters.get("gate", {})
            judged = workspace / "data" / entry.stage
            version = register_outputs(kind, model, evaluated, judged, workspace / "reports", workspace, gate)
        except (MammoError, FileNotFoundError) as error:
            lines.append(f"{name} is not registered: {error}")
            continue
        if version not in before:
            lines.append(f"{name} version {version} is registered as challenger")


def _check_evaluation(workspace: Path, entries: Entries, entry: StageEntry, outputs: Mapping[str, str]) -> None:
    """Refuse figures whose model or data have changed since: they would speak for other weights."""
    locked = {path: md5 for _, made in entries for path, md5 in made.items()}
    # what the registry is given is hashed, as are the folders that gather several folds; of the rest dvc.lock knows
    stale = [path for path, md5 in entry.data.items() if locked.get(path, md5) != md5]
    raise_if_any(entry.label, [f"{path} has changed since" for path in stale], "Run `dvc repro`.")
    read = {path: md5 for path, md5 in entry.data.items() if path not in locked or path.startswith(GIVEN)}
    _check_outputs(workspace, {**read, **outputs})
