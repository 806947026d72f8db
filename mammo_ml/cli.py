"""The `mammo-ml` command; each command is a few lines over a library call."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mammo_ml.errors import MammoError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Mammography models you can believe.")
Workspace = Annotated[
    Path, typer.Option("--workspace", "-w", help="Folder with dvc.yaml; build/phantom holds the phantoms' one.")
]


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
    name: Annotated[str, typer.Argument(help="mammo-classifier or mammo-detector.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the decision, change nothing.")] = False,
    workspace: Workspace = Path(),
) -> None:
    """Make the challenger of NAME its champion, if the gate in params.yaml lets it; ends with 1 if not."""
    from mammo_ml import registry
    from mammo_ml.parameters import read_section

    with _store_errors_for_people():
        gate = read_section(workspace / "params.yaml", "gate", registry.GateParameters)
        decision = registry.promote(name, workspace.resolve(), gate, dry_run=dry_run)
        typer.echo(registry.format_decision(decision))
        if not decision.allowed:
            raise typer.Exit(1)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
    workspace: Workspace = Path(),
) -> None:
    """Open the MLflow UI on this workspace's runs and models."""
    from mammo_ml import tracking

    with _store_errors_for_people():
        tracking.serve_ui(workspace.resolve(), port)


if __name__ == "__main__":
    app()
