"""The command that judges a registered model on films of another collection: `mammo-ml validate-external`."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from mammo_ml.cli_common import Workspace, print_table, store_errors_for_people

app = typer.Typer()


@app.command("validate-external")
def validate_external(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Version: NAME@champion, NAME@challenger or NAME/VERSION.")
    ],
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of a folder below data/datasets.")],
    workspace: Workspace = Path(),
) -> None:
    """Judge a registered model on films it never saw: figures beside the internal ones, subgroups, what is different.

    Refused are sets whose women, films or pictures the model, or weights it started from, has learned from. A figure
    that the films cannot give is not made up: the reason is told. A run that was stopped goes on where it was.

    Written to reports/external/DATASET/MODEL-vN/, logged to MLflow, and shown by `mammo-ml card MODEL`;
    docs/external-validation.md tells how to read it.

    \b
    The CBIS-DDSM women that no pre-training has seen:
      dvc repro pipelines/studies/dvc.yaml:cbis_external_test
      mammo-ml validate-external mammo-detector@champion cbis_external_test
    """  # noqa: D301  # the marker that keeps lines apart is a character of its own
    with store_errors_for_people(), ExitStack() as open_bars:
        from datetime import date

        from tqdm import tqdm

        from mammo_ml.evaluation import EvaluateParameters
        from mammo_ml.external import run
        from mammo_ml.external.report import absent_lines, comparison_table
        from mammo_ml.parameters import read_section
        from mammo_ml.registry import GateParameters

        def bars(step: str, total: int, unit: str) -> Callable[[int], object]:
            # on a terminal alone
            bar = open_bars.enter_context(tqdm(total=total, desc=step, unit=f" {unit}s", unit_scale=True, disable=None))
            return lambda n: bar.update(n)

        gate = read_section(workspace / "params.yaml", "gate", GateParameters)
        parameters = EvaluateParameters(resamples=gate.resamples, seed=gate.seed)
        today = date.today().isoformat()
        done = run.validate_external(model, dataset, workspace.resolve(), parameters, bars, today)
        open_bars.close()
        counts = ", ".join(f"{done.figures.external[f'n_{one}']:,.0f} {one}" for one in ("women", "films", "lesions"))
        typer.echo(f"{done.model} on {dataset}: {counts}. Brackets: 95 %, women resampled.")
        print_table(comparison_table(done.figures))
        told = {"Not computed": absent_lines(done.figures.absent), "Read this with it": done.figures.notes}
        for title, lines in told.items():
            if lines:
                typer.echo("\n".join([f"{title}:", *(f"  {line}" for line in lines)]))
        typer.echo(f"Written to {done.folder}; MLflow run {done.run_id}; `mammo-ml card {done.model}` shows it.")
