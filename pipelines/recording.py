"""What the models' evaluating stages do at the end: show everything in MLflow and register the finalized model."""

import argparse
import sys
from pathlib import Path

from matplotlib.figure import Figure

from mammo_ml import figures, track_outputs, tracking
from mammo_ml.evaluation import EvaluateParameters
from mammo_ml.registry.gate import GateParameters
from pipelines import stage


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture whose bytes depend on what it shows alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata=figures.PNG)


def record_and_register(kind: track_outputs.Kind, parameters: EvaluateParameters, paths: argparse.Namespace) -> None:
    """Log figures and pictures of the evaluation, then register the model they speak for as challenger.

    Both are read from the files just written; where the store fails, `mammo-ml track` does the same later.
    """
    name = f"evaluate_{kind}"
    read = [path for path in (paths.predicted, getattr(paths, "leaky", None), paths.folds) if path]
    with stage.run(name, parameters, read, protocol=track_outputs.PROTOCOLS[kind]) as run:
        track_outputs.shown_by(name, [paths.out, paths.gallery]).log(run)
    gate = stage.section("gate", GateParameters).model_dump()
    try:
        workspace = tracking.workspace_of(Path.cwd())
        version = track_outputs.register_outputs(
            kind, paths.model, paths.out, paths.gallery, paths.checks, workspace, gate
        )
        print(f"mammo-{kind} version {version} is registered as challenger")
    except tracking.store_errors() as error:
        reason = tracking.without_password(str(error))
        print(f"WARNING: mammo-{kind} is not registered: {reason}\n         {track_outputs.LATER}", file=sys.stderr)
