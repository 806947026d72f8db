"""What both evaluating stages do at the end: show everything in MLflow and register the finalized model."""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from mammo_ml import figures, registry, tracking
from mammo_ml.errors import MammoError
from mammo_ml.evaluation import EvaluateParameters, Figures, read_metrics
from pipelines import stage

PROTOCOLS = {"classifier": "by_patient", "detector": "films_by_patient"}


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture whose bytes depend on what it shows alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata=figures.PNG)


def record_and_register(
    kind: str, parameters: EvaluateParameters, metrics: dict[str, Figures], paths: argparse.Namespace
) -> None:
    """Log figures and pictures of the evaluation, then register the model they speak for as challenger."""
    data = [paths.predicted, paths.leaky, paths.folds]
    protocol = PROTOCOLS[kind]
    with stage.run(f"evaluate_{kind}", parameters, data, protocol=protocol) as run:
        run.log_metrics(metrics)
        run.log_files([*sorted(paths.out.iterdir()), *sorted(paths.gallery.iterdir())])
    try:
        register_outputs(kind, paths.model, paths.out, paths.checks)
    except tracking.store_errors() as error:
        raise MammoError(
            f"the {kind} could not be registered in MLflow: {error}\n"
            "Everything before this stage is kept: run `dvc repro` again once the store works."
        ) from None


def register_outputs(kind: str, model: Path, evaluated: Path, checks: Path) -> int:
    """Register a finalized model with its figures; the same contents are registered once.

    Args:
        kind: classifier or detector.
        model: the bundle `finalize_<kind>` wrote.
        evaluated: the folder `evaluate_<kind>` wrote.
        checks: folder of the reports of `validate_tables` and `validate_cuts`.
    """
    data = [read_metrics(checks / name / "metrics.json") for name in ("validate_tables", "validate_cuts")]
    version = registry.register(
        model,
        f"mammo-{kind}",
        read_metrics(evaluated / "metrics.json"),
        tracking.workspace_of(Path.cwd()),
        leak_free=data[1]["leak_audit"]["leak_free"] == 1.0,
        data_valid=all(report["validation"]["valid"] == 1.0 for report in data),
        predictions=[evaluated / "predictions.csv"],
        gate=stage.section("gate", registry.GateParameters),
    )
    print(f"mammo-{kind} version {version} is registered as challenger")
    return version
