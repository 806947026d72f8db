"""The `mammo-ml` command; each command is a few lines over a library call."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mammo_ml.errors import MammoError

if TYPE_CHECKING:
    from pandas import DataFrame

    from mammo_ml.registry import GateParameters

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Mammography models you can believe.")
Workspace = Annotated[
    Path, typer.Option("--workspace", "-w", help="Folder with dvc.yaml; build/phantom holds the phantoms' one.")
]
Model = Annotated[str, typer.Argument(metavar="NAME", help="mammo-classifier or mammo-detector.")]

REFERENCE_HELP = "Which version: NAME@champion, NAME@challenger or NAME/VERSION."


@contextmanager
def _errors_for_people() -> Iterator[None]:
    """Print an error that is made for people without a traceback, and end with 1."""
    try:
        yield
    except (MammoError, OSError) as error:
        typer.secho(f"\n{error}", fg="red", err=True)
        raise typer.Exit(1) from None


@contextmanager
def _store_errors_for_people() -> Iterator[None]:
    """The same, and errors of MLflow's store beside them."""
    from mammo_ml.tracking import store_errors

    with _errors_for_people():
        try:
            yield
        except store_errors() as error:
            raise MammoError(f"MLflow's store: {error}") from None


@app.command()
def repro(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages to run; all of them by default.")] = None,
    phantom: Annotated[bool, typer.Option(help="Run on phantom films even where the real ones are at hand.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="With phantoms: change a parameter, as in train_classifier.training.seed=2."),
    ] = None,
    workspace: Workspace = Path("build/phantom"),
) -> None:
    """Run the pipeline: real films from MIAS_ARCHIVE or the official address, else phantoms in WORKSPACE."""
    import yaml

    from mammo_ml import pipeline_run
    from mammo_ml import repro as pipeline

    begin = time.monotonic()
    with _errors_for_people():
        pipeline_run.die_with_make()
        root = Path.cwd()
        pipeline.check_parameters(root)
        on_phantoms = phantom or not pipeline.films_at_hand(root)
        place = workspace.resolve() if on_phantoms else root
        if set_ and not on_phantoms:
            raise MammoError("--set is for phantoms; on real films edit params.yaml or use `dvc exp run -S`")
        if on_phantoms:
            pipeline.check_free(root, place)
        with pipeline_run.only_run(place):
            if on_phantoms:
                changes = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in set_ or [])}
                pipeline.make_phantom_workspace(root, place, changes)
                reason = pipeline.ASKED_FOR if phantom else pipeline.NOT_HERE
                banner = pipeline.PHANTOM_BANNER.format(reason=reason, workspace=place)
                typer.secho(banner, fg="yellow", bold=True, err=True)
            pipeline.reproduce(place, targets or [])
            with _store_errors_for_people():
                _track(place)
        typer.echo(pipeline.closing_words(place))
        minutes, seconds = divmod(round(time.monotonic() - begin), 60)
        typer.echo(f"\nTotal time: {minutes} min {seconds} s")


def _track(workspace: Path) -> None:
    from mammo_ml.track_outputs import track_outputs

    typer.echo(track_outputs(workspace))


@app.command()
def track(workspace: Workspace = Path()) -> None:
    """Record and register in MLflow what the outputs hold and the store lacks, as after `dvc pull`."""
    with _store_errors_for_people():
        _track(workspace.resolve())


@app.command()
def promote(
    name: Model,
    version: Annotated[int | None, typer.Option(help="Version to promote; the challenger by default.")] = None,
    override: Annotated[
        str,
        typer.Option(
            metavar="REASON",
            help="Promote although figures, subgroups or speed fail; the reason is kept. Leaks, invalid data, damaged "
            "files and other films or folds are never overridden.",
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the decision, change nothing.")] = False,
    workspace: Workspace = Path(),
) -> None:
    """Make the challenger of NAME its champion, if the gate in params.yaml lets it; ends with 1 if not."""
    from mammo_ml import registry

    with _store_errors_for_people():
        gate = _gate(workspace)
        place = workspace.resolve()
        decision = registry.promote(name, place, gate, number=version, override=override, dry_run=dry_run)
        typer.echo(registry.format_decision(decision))
        if not decision.allowed:
            raise typer.Exit(1)


@app.command()
def rollback(
    name: Model,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "",
    workspace: Workspace = Path(),
) -> None:
    """Make the champion before the present one champion again; mends an alias that was moved by hand."""
    from mammo_ml import registry

    with _store_errors_for_people():
        done = registry.rollback(name, workspace.resolve(), reason)
    before = "no version" if done.before is None else f"version {done.before}"
    typer.echo(f"{name}: champion is version {done.to}; it was {before}")


@app.command()
def models(workspace: Workspace = Path()) -> None:
    """List registered models: versions, aliases, primary figures, data, and whether the audit knows the champions."""
    from mammo_ml.registry import overview

    with _store_errors_for_people():
        table, lines = overview.models(workspace.resolve())
    _print_table(table)
    typer.echo("\n".join(lines) or "No model is registered yet: `make repro` registers both.")


@app.command()
def history(
    name: Model,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the whole table, with every figure.")] = None,
    workspace: Workspace = Path(),
) -> None:
    """Show who promoted, was refused, or rolled back NAME, when and why; ends with 1 if a record was changed."""
    from mammo_ml.datasets.catalog import write_table
    from mammo_ml.registry import overview

    with _store_errors_for_people():
        if csv is not None:
            write_table(overview.history(name, workspace.resolve()), csv)
        table = overview.history(name, workspace.resolve(), brief=True)
        _print_table(table)
        if (table["record"] != "sound").any():
            raise typer.Exit(1)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="NAME/VERSION or NAME@alias; VERSION with --name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    name: Annotated[str, typer.Option(help="Registered model, where A and B are versions or aliases alone.")] = "",
    out: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the differences.")] = None,
    workspace: Workspace = Path(),
) -> None:
    """Show how much better version A is than B on the same women: paired differences with 95 % intervals."""
    from mammo_ml.registry import overview

    with _store_errors_for_people():
        labels, differences = overview.compare(first, second, workspace.resolve(), _gate(workspace), name)
        _print_table(overview.comparison_table(labels, differences))
        typer.echo(overview.HOW_TO_READ.format(first=labels[0], second=labels[1]))
        if out is not None:
            overview.draw_comparison(labels, differences, out)


def _gate(workspace: Path) -> "GateParameters":
    from mammo_ml import registry
    from mammo_ml.parameters import read_section

    return read_section(workspace / "params.yaml", "gate", registry.GateParameters)


def _print_table(table: "DataFrame") -> None:
    """Print a table in columns; where this is no terminal (a pipe, a file), as wide as it needs to be."""
    import pandas as pd
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=1000)
    shown = Table(*map(str, table.columns), box=box.SIMPLE_HEAD)
    for row in table.astype(object).itertuples(index=False):
        shown.add_row(*("" if pd.isna(value) else str(value) for value in row))
    console.print(shown)


@app.command()
def lineage(
    model: Annotated[str, typer.Argument(metavar="NAME@champion", help=REFERENCE_HELP)],
    json_: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write it here, as JSON.")] = None,
    workspace: Workspace = Path(),
) -> None:
    """Walk back from a registered model to figures, parameters, folds, data, pre-training and code."""
    import json

    from rich import print as show

    from mammo_ml import lineage as walk
    from mammo_ml.lineage_tree import tree_of

    with _store_errors_for_people():
        facts = walk.lineage(walk.open_version(model, workspace.resolve()), workspace.resolve())
        show(tree_of(facts))
        if json_:
            json_.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


@app.command()
def reproduce(
    model: Annotated[str, typer.Argument(metavar="NAME@champion", help=REFERENCE_HELP)],
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to build; below build/reproduce by default. An earlier try is gone on with."),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also from a commit that was dirty, is missing or does not hold what ran.")
    ] = False,
    remake: Annotated[bool, typer.Option("--remake", help="Run the stages whose outputs DVC's cache lacks.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, with time and disk.")] = False,
    workspace: Workspace = Path(),
) -> None:
    """Train the weights of a registered model again, in a folder of their own, and compare; ends with 1 if they differ.

    The workspace is only read. The same processor, threads and packages give the same bytes; otherwise the weights and
    what they answer must be within the tolerance that docs/mlflow.md explains.
    """
    from tqdm import tqdm

    from mammo_ml import lineage as walk
    from mammo_ml import reproduction
    from mammo_ml.bundle_comparison import compare

    begin = time.monotonic()
    with _store_errors_for_people():
        version = walk.open_version(model, workspace.resolve())
        plan = reproduction.make_plan(version, workspace, folder, anyway=anyway, remake=remake)
        typer.echo(plan)
        if dry_run:
            return
        with tqdm(total=plan.copied_bytes, desc="data", unit="B", unit_scale=True) as bar:
            reproduction.prepare(plan, workspace, bar.update)
        bundle = reproduction.build(plan)
        comparison = compare(version.files, bundle, reproduction.other_inputs(plan))
        result = reproduction.finish(plan, comparison)
        typer.echo(f"\n{comparison}\n\n{time.monotonic() - begin:.0f} s; the result is in {result}")
        if not comparison.reproduced:
            raise typer.Exit(1)


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Option(metavar="FILE", help="CSV, or COCO results as .json.")],
    task: Annotated[
        Literal["classifier", "detector"] | None, typer.Option(help="Told from the columns by default.")
    ] = None,
    looked_at: Annotated[
        str | None,
        typer.Option(metavar="all|FILE", help="Films a detector looked at, also where it found nothing; one a line."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="With films.csv and lesions.csv; data/catalog by default, else the archive."
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Other predictions, to show paired differences on the same women."),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every figure, with hashes.")] = None,
    workspace: Workspace = Path(),
) -> None:
    """Score anyone's predictions on mini-MIAS: benchmark folds, the hit rule, 95 % intervals (docs/benchmark.md).

    A detector's CSV has film_id, x1, y1, x2, y2 (px of the film file) and score, or p_benign and p_malignant.

    A classifier's CSV has film_id, p_normal, p_benign, p_malignant, and item where a patch is meant.

    The truth comes from data/catalog of the workspace, else (half a minute) from the archive that MIAS_ARCHIVE names.
    """
    from mammo_ml import benchmark_scores as scores
    from mammo_ml.benchmark import load_benchmark
    from mammo_ml.foreign_predictions import read_predictions

    with _errors_for_people():
        archive = None if truth else os.environ.get("MIAS_ARCHIVE")
        benchmark = load_benchmark(truth or workspace / "data" / "catalog", archive)
        found = read_predictions(predictions, benchmark, task, looked_at)
        other = read_predictions(against, benchmark, found.task, looked_at) if against else None
        figures = scores.score(found, benchmark)
        _print_table(scores.figures_table(found.task, figures, scores.committed_figures(found.task, workspace)))
        typer.echo("\n".join(scores.how_to_read(found, benchmark)))
        if other is not None:
            from mammo_ml.registry import overview

            labels = ("predictions", "against")
            _print_table(overview.comparison_table(labels, scores.differences(found, other, benchmark)))
            typer.echo(overview.HOW_TO_READ.format(first=labels[0], second=labels[1]))
        if json is not None:
            scores.write_scores(json, predictions, found, figures)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
    workspace: Workspace = Path(),
) -> None:
    """Open the MLflow UI on this workspace's runs and models."""
    from mammo_ml import tracking

    with _store_errors_for_people():
        tracking.serve_ui(workspace.resolve(), port)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="NAME@champion", help=REFERENCE_HELP)],
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5001,
    workspace: Workspace = Path(),
) -> None:
    """Answer films over HTTP with a registered model, its files and its promotion verified first."""
    from mammo_ml import serving
    from mammo_ml.lineage import parse_reference

    with _store_errors_for_people():
        name, which = parse_reference(model)
        serving.serve(name, which, workspace.resolve(), port)


@app.command("tuning-ui")
def tuning_ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 8080,
    workspace: Workspace = Path(),
) -> None:
    """Open Optuna's dashboard on this workspace's tuning studies, also while they run."""
    from mammo_ml import tuning_ui as dashboard

    with _errors_for_people():
        dashboard.serve(workspace.resolve(), port)


if __name__ == "__main__":
    app()
