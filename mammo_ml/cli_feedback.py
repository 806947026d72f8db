"""The command that takes corrections back: `mammo-ml feedback import`."""

from pathlib import Path
from typing import Annotated

import typer

from mammo_ml.cli_common import Workspace, errors_for_people, print_table

app = typer.Typer(no_args_is_help=True, help="Corrections of readers, from the web page back to the data.")
NEXT = """\
Next: `git add feedback` and commit it; `make repro{where}` trains the detector with it; then compare and promote:
  mammo-ml compare mammo-detector@challenger mammo-detector@champion --workspace {workspace}
  mammo-ml promote mammo-detector --dry-run --workspace {workspace}"""


@app.callback()
def feedback() -> None:
    """Corrections of readers, from the web page back to the data."""


@app.command("import")
def import_(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE.zip|FILE.json", help="As the page exports them: tables or COCO.")
    ],
    workspace: Workspace = Path(),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and count; write nothing.")] = False,
) -> None:
    """Check exported corrections and add them to feedback/, a new data version for training (docs/feedback.md).

    All files are taken or none: every problem is told at once, with its file, table and row. Only films of the
    workspace's data set can be corrected, told by the hash of their bytes.

    What is evaluated keeps the annotations of the catalog, so figures before and after can be compared.
    """
    with errors_for_people():
        from mammo_ml.feedback.importing import import_feedback

        done = import_feedback(files, workspace, dry_run=dry_run)
        print_table(done.films)
        where = (workspace / "feedback").resolve()
        holds = (
            f"{done.totals['films']} readings, {done.totals['lesions']} findings, {done.totals['rejected']} rejected"
        )
        if dry_run:
            typer.echo(f"{where} would hold {holds}. Nothing was written.")
            return
        typer.echo(f"{where} holds {holds} boxes.\nData version: md5 {done.version}, in dvc.lock after the next run.\n")
        made = "" if (workspace / "Makefile").exists() else f" WORKSPACE={workspace}"
        typer.echo(NEXT.format(where=made, workspace=workspace))
