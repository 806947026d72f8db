"""The commands for data sets beside the workspace's own: `mammo-ml dataset add | list | show | export | template`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from mammo_ml.cli_common import Workspace, errors_for_people, print_table
from mammo_ml.errors import MammoError

app = typer.Typer(
    no_args_is_help=True, help="Films of other collections, and your own, as data sets (docs/datasets.md)."
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Folder below data/datasets.")]


@app.command()
def add(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder with films and their annotations.")],
    name: Annotated[str | None, typer.Option(help="What to call the set; the adapter's name by default.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Read it by this adapter, not by the first that fits.")] = None,
    spacing_mm: Annotated[float | None, typer.Option(help="Edge of a pixel of every film, mm.", min=0.001)] = None,
    modality: Annotated[
        Literal["film", "digital", "contrast-enhanced"] | None, typer.Option(help="How the films were made.")
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(help="Published collection they are of: no model that learned from its women is judged on them."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Where the films are from: citation, licence.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    workspace: Workspace = Path(),
) -> None:
    """Look at a folder, say what it is, check it, show it, put it under DVC; or name every problem and add nothing."""
    with errors_for_people():
        from tqdm import tqdm

        from mammo_ml.datasets import adding
        from mammo_ml.datasets.workspace_sets import SETS

        found, why = adding.recognise(path, adapter)
        typer.echo(f"Recognised by the adapter {found.name}: {why}.")
        if not yes and not sys.stdin.isatty():
            raise MammoError("nobody is at a terminal to look at the boxes; give --yes to add the set unseen")
        wish = adding.Wish(name or found.name, found.name, spacing_mm, modality, collection, source)

        def confirmed(facts: dict[str, object], sheet: Path) -> bool:
            _print_facts(facts)
            if yes:
                return True
            typer.echo(f"\nLook at the boxes: {sheet.resolve()}")
            return typer.confirm("Add it?")

        with tqdm(unit=" films", disable=None) as bar:

            def report(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            target = adding.add(path, workspace.resolve(), wish, report, confirmed)
        if target is None:
            typer.echo("Nothing was added.")
            return
        typer.echo(f"\nAdded: {target}; its boxes: {target / adding.SHEET}\nNext: `git add {SETS}/{wish.name}.dvc`")


@app.command("list")
def list_(workspace: Workspace = Path()) -> None:
    """Data sets of the workspace."""
    with errors_for_people():
        import pandas as pd

        from mammo_ml.datasets.catalog import LABELS
        from mammo_ml.datasets.workspace_sets import FACTS, known_sets, set_folder

        facts = [json.loads((set_folder(name, workspace) / FACTS).read_text("utf-8")) for name in known_sets(workspace)]
        if not facts:
            typer.echo("There is none yet: `mammo-ml dataset add PATH`.")
            return
        columns = ["name", "collection", "films", "women", "lesions", *LABELS, "modality"]
        print_table(pd.DataFrame([one | one["labels"] for one in facts]).reindex(columns=columns))


@app.command()
def show(name: Name, workspace: Workspace = Path()) -> None:
    """Facts and contact sheet of a set, after its films were compared with their manifest."""
    with errors_for_people():
        from mammo_ml.datasets.adding import SHEET
        from mammo_ml.datasets.workspace_sets import read_set, set_folder

        folder = set_folder(name, workspace)
        _print_facts(read_set(folder).facts)
        sheet = folder / SHEET
        typer.echo(f"Contact sheet: {sheet}" if sheet.is_file() else "It has no contact sheet.")


@app.command()
def export(
    name: Name,
    coco: Annotated[Path, typer.Option(metavar="FILE", help="Write COCO JSON here; file names are those of films/.")],
    workspace: Workspace = Path(),
) -> None:
    """Write the annotations of a set as COCO JSON."""
    with errors_for_people():
        from mammo_ml.datasets.coco import to_coco
        from mammo_ml.datasets.workspace_sets import read_set, set_folder

        if coco.exists():
            raise MammoError(f"{coco} is there already; give another name")
        data = read_set(set_folder(name, workspace))
        coco.write_text(json.dumps(to_coco(data.films, data.lesions), indent=1) + "\n", encoding="utf-8")
        typer.echo(f"{len(data.films)} films, {int(data.lesions['has_location'].sum())} boxes: {coco}")


def _print_facts(facts: Mapping[str, object]) -> None:
    for key, value in facts.items():
        if isinstance(value, list):
            typer.echo(f"{key}:" + "".join(f"\n  - {line}" for line in value))
        elif isinstance(value, dict):
            typer.echo(f"{key}: " + ", ".join(f"{count} {label}" for label, count in value.items()))
        elif value:
            typer.echo(f"{key}: {value}")


@app.command()
def template() -> None:
    """Print films.csv for films of your own: fill it in and lay it beside them."""
    from mammo_ml.datasets.from_csv import TEMPLATE

    typer.echo(TEMPLATE, nl=False)
