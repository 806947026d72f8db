"""What the modules of the `mammo-ml` command share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mammo_ml.errors import MammoError

if TYPE_CHECKING:
    from pandas import DataFrame

Workspace = Annotated[
    Path, typer.Option("--workspace", "-w", help="Folder with dvc.yaml; build/phantom holds the phantoms' one.")
]


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Print an error that is made for people without a traceback, and end with 1."""
    try:
        yield
    except (MammoError, OSError) as error:
        typer.secho(f"\n{error}", fg="red", err=True)
        raise typer.Exit(1) from None


@contextmanager
def store_errors_for_people() -> Iterator[None]:
    """The same, and errors of MLflow's store beside them."""
    from mammo_ml.tracking import store_errors

    with errors_for_people():
        try:
            yield
        except store_errors() as error:
            raise MammoError(f"MLflow's store: {error}") from None


def print_table(table: "DataFrame") -> None:
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
