"""The `mammo-ml` command; each command is a few lines over a library call."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mammo_ml import cli_dataset, cli_external, cli_feedback, cli_films
from mammo_ml.allocator import keep_freed_memory
from mammo_ml.cli_common import Workspace, errors_for_people, print_table, store_errors_for_people
from mammo_ml.errors import MammoError

if TYPE_CHECKING:
    from mammo_ml.registry import GateParameters

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Mammography models you can believe.")
app.add_typer(cli_films.app)
app.add_typer(cli_external.app)
app.add_typer(cli_feedback.app, name="feedback")
app.add_typer(cli_dataset.app, name="dataset")
Model = Annotated[str, typer.Argument(metavar="NAME", help="mammo-classifier, mammo-detector or mammo-locator.")]

REFERENCE_HELP = "Which version: NAME@champion, NAME@challenger or NAME/VERSION."


@app.callback()
def before_any_command() -> None:
    """Set the process up, whatever is asked of it."""
    keep_freed_memory()


@app.command()
def repro(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages to run; all of them by default.")] = None,
    phantom: Annotated[bool, typer.Option(help="Run on phantom films even where the real ones are at hand.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="With phantoms: change a parameter, as in train_classifier.training.seed=2."),
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            "-w",
            help="Where phantoms run, a new folder or that of an earlier phantom pass; build/phantom by default.",
        ),
    ] = None,
) -> None:
    """Run the pipeline: real films from MIAS_ARCHIVE or the official address, else phantoms in their own folder."""
    import yaml

    from mammo_ml import pipeline_run
    from mammo_ml import repro as pipeline

    begin = time.monotonic()
    with errors_for_people():
        pipeline_run.die_with_make()
        root = Path.cwd()
        pipeline.check_parameters(root)
        on_phantoms = phantom or not pipeline.films_at_hand(root)
        place = (workspace or Path("build/phantom")).resolve() if on_phantoms else root
        if set_ and not on_phantoms:
            raise MammoError("--set is for phantoms; on real films edit params.yaml or use `dvc exp run -S`")
        if workspace and not on_phantoms:
            raise MammoError("--workspace is for phantoms (--phantom); real films run in the project's own folder")
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
            with store_errors_for_people():
                _track(place)
            # a part of the pipeline is no pass to report on
            told = None if targets else _report_of_pass(place)
        typer.echo(pipeline.closing_words(place))
        if told:
            typer.echo(f"\n{told}")
        minutes, seconds = divmod(round(time.monotonic() - begin), 60)
        typer.echo(f"\nTotal time: {minutes} min {seconds} s")


def _track(workspace: Path) -> None:
    from mammo_ml.track_outputs import track_outputs

    typer.echo(track_outputs(workspace))


@app.command()
def track(workspace: Workspace = Path()) -> None:
    """Record and register in MLflow what the outputs hold and the store lacks, as after `dvc pull`."""
    with store_errors_for_people():
        _track(workspace.resolve())


def _report_of_pass(workspace: Path) -> str:
    from datetime import date

    from mammo_ml.reporting.report import report_of_pass

    return report_of_pass(workspace, date.today().isoformat())


@app.command()
def report(
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write here and leave MLflow alone; build/report.html by default."),
    ] = None,
    workspace: Workspace = Path(),
) -> None:
    """Write what the last pass made into one HTML file: figures, curves, failures, data, times, and what is missing.

    `mammo-ml repro` does it at the end of a whole pass and records the file in MLflow with the pass.
    """
    from datetime import date

    from mammo_ml.reporting.report import record_report, write_report

    with store_errors_for_people():
        path = write_report(workspace, out, date.today().isoformat())
        if out is None:
            record_report(workspace.resolve(), path)
        typer.echo(f"Report: {path.resolve().as_uri()}")


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

    with store_errors_for_people():
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

    with store_errors_for_people():
        done = registry.rollback(name, workspace.resolve(), reason)
    before = "no version" if done.before is None else f"version {done.before}"
    typer.echo(f"{name}: champion is version {done.to}; it was {before}")


@app.command()
def models(workspace: Workspace = Path()) -> None:
    """List registered models: versions, aliases, primary figures, data, and whether the audit knows the champions."""
    from mammo_ml.registry import overview

    with store_errors_for_people():
        table, lines = overview.models(workspace.resolve())
    print_table(table)
    typer.echo("\n".join(lines) or "No model is registered yet: `make repro` registers all three.")


@app.command()
def history(
    name: Model,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the whole table, with every figure.")] = None,
    workspace: Workspace = Path(),
) -> None:
    """Show who promoted, was refused, or rolled back NAME, when and why; ends with 1 if a record was changed."""
    from mammo_ml.datasets.catalog import write_table
    from mammo_ml.registry import overview

    with store_errors_for_people():
        if csv is not None:
            write_table(overview.history(name, workspace.resolve()), csv)
        table = overview.history(name, workspace.resolve(), brief=True)
        print_table(table)
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

    with store_errors_for_people():
        labels, differences, unlike = overview.compare(first, second, workspace.resolve(), _gate(workspace), name)
        print_table(overview.comparison_table(labels, differences))
        typer.echo(overview.HOW_TO_READ.format(first=labels[0], second=labels[1]))
        for line in unlike:
            typer.secho(f"Not judged on the same: {line}.", fg="yellow")
        if out is not None:
            overview.draw_comparison(labels, differences, out)


def _gate(workspace: Path) -> "GateParameters":
    from mammo_ml import registry
    from mammo_ml.parameters import read_section

    return read_section(workspace / "params.yaml", "gate", registry.GateParameters)


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

    with store_errors_for_people():
        facts = walk.lineage(walk.open_version(model, workspace.resolve()), workspace.resolve())
        show(tree_of(facts))
        if json_:
            json_.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


@app.command()
def card(
    model: Annotated[str, typer.Argument(metavar="NAME@champion", help=REFERENCE_HELP)],
    workspace: Workspace = Path(),
) -> None:
    """Print the card of a registered model: what it is for, its figures, subgroups and limits, and what is open.

    The card is signed with the version; what `mammo-ml validate-external` found since stands below it.
    """
    from mammo_ml import lineage as walk
    from mammo_ml.external.record import external_section
    from mammo_ml.registry.files import card_of

    with store_errors_for_people():
        version = walk.open_version(model, workspace.resolve())
        typer.echo(f"{card_of(version.files)}\n{external_section(version, workspace.resolve())}")


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
    with store_errors_for_people():
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

    with errors_for_people():
        archive = None if truth else os.environ.get("MIAS_ARCHIVE")
        benchmark = load_benchmark(truth or workspace / "data" / "catalog", archive)
        found = read_predictions(predictions, benchmark, task, looked_at)
        other = read_predictions(against, benchmark, found.task, looked_at) if against else None
        figures = scores.score(found, benchmark)
        print_table(scores.figures_table(found.task, figures, scores.committed_figures(found.task, workspace)))
        typer.echo("\n".join(scores.how_to_read(found, benchmark)))
        if other is not None:
            from mammo_ml.registry import overview

            labels = ("predictions", "against")
            print_table(overview.comparison_table(labels, scores.differences(found, other, benchmark)))
            typer.echo(overview.HOW_TO_READ.format(first=labels[0], second=labels[1]))
        if json is not None:
            scores.write_scores(json, predictions, found, figures)


@app.command("audit-split")
def audit_split(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV with a row an item, like the one shown.")],
    films: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="With the pictures that the items name: compares pixels.")
    ] = None,
    catalog: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Tells the women of films: data/catalog/films.csv.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A second CSV: each file is then one side and names no role.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every pair that leaks, as CSV.")] = None,
) -> None:
    """Look for leaks in any split: shared women, films, pixels, near-duplicates; ends with 1 if there is one.

    Every two roles are compared, every fold with the others; docs/leak-audit.md tells how. A file may look like this:

    \b
    item,role,patient_id,label
    mdb001.png,train,p001,benign
    mdb003.png,train,p002,normal
    mdb006_rot90.png,test,p003,normal
    mdb013.png,test,p007,benign

    mammo-ml audit-split split.csv --films pictures/
    """  # noqa: D301
    from tqdm import tqdm

    from mammo_ml import split_audit
    from mammo_ml.datasets.catalog import write_table
    from mammo_ml.split_file import read_split

    with errors_for_people():
        # None: shown on a terminal alone.
        quiet = None if films else True
        with tqdm(desc="reading pictures", unit=" pictures", disable=quiet) as bar:
            split = read_split(file, against, films, catalog, bar.update)
        with tqdm(desc="comparing pairs", unit=" pairs", unit_scale=True, disable=quiet) as bar:
            result = split_audit.audit_split(split, bar.update)
        typer.echo(result)
        if pairs is not None:
            write_table(result.pairs, pairs)
        if not result.audit.leak_free:
            raise typer.Exit(1)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
    workspace: Workspace = Path(),
) -> None:
    """Open the MLflow UI on this workspace's runs and models."""
    from mammo_ml import tracking

    with store_errors_for_people():
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

    with store_errors_for_people():
        name, which = parse_reference(model)
        serving.serve(name, which, workspace.resolve(), port)


@app.command()
def web(
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's own need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the token that is asked for; else MAMMO_TOKEN does.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Also answer when addressed by this name.")
    ] = None,
    workspace: Workspace = Path(),
) -> None:
    """Open the lesion locator: a web page and a REST interface on the champions, swapped when they change."""
    with store_errors_for_people():
        from mammo_ml.web import server

        server.serve(workspace.resolve(), host, port, token_file, tuple(allow_host or ()))


@app.command("tuning-ui")
def tuning_ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 8080,
    workspace: Workspace = Path(),
) -> None:
    """Open Optuna's dashboard on this workspace's tuning studies, also while they run."""
    from mammo_ml import tuning_ui as dashboard

    with errors_for_people():
        dashboard.serve(workspace.resolve(), port)


if __name__ == "__main__":
    app()
