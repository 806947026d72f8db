"""The commands that answer film files: `mammo-ml locate` and `mammo-ml classify`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mammo_ml.cli_common import Workspace, print_table, store_errors_for_people
from mammo_ml.errors import BadInputError

if TYPE_CHECKING:
    from mammo_ml.answering.film_files import FilmFiles
    from mammo_ml.answering.film_models import ModelSource
    from mammo_ml.answering.film_run import Format, RunReport

app = typer.Typer()
Films = Annotated[
    list[Path], typer.Argument(metavar="FILE|FOLDER", help="PGM, PNG, TIFF, JPEG or DICOM; folders to their depths.")
]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Where answers go; made if need be.")]
Again = Annotated[bool, typer.Option("--again", help="Answer films anew that this model version has answered.")]
Spacing = Annotated[
    float | None,
    typer.Option(metavar="MM", help="Edge of a pixel, for files that do not say it. A mini-MIAS PGM needs none."),
]
Side = Annotated[str | None, typer.Option(metavar="L|R", help="Which breast, for files that do not say it.")]
OutOfFold = Annotated[
    bool,
    typer.Option("--out-of-fold", help="For films of the benchmark: ask the model of the fold that never saw her."),
]
SHOWN = 30
"""Films that are listed in the terminal."""


@app.command()
def locate(
    films: Films,
    out: Out = Path("located"),
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="LIST",
            help="Of json, csv, coco, overlay (a PNG), sr (DICOM structured report, for DICOM films), with commas.",
        ),
    ] = "json,overlay",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME@champion",
            help="Or NAME/VERSION. By default mammo-locator@champion; mammo-detector@champion where none was promoted.",
        ),
    ] = None,
    spacing: Spacing = None,
    laterality: Side = None,
    out_of_fold: OutOfFold = False,
    again: Again = False,
    workspace: Workspace = Path(),
) -> None:
    """Find lesions on films: boxes with scores. Research use only.

    Films that the same model version has answered are kept, so a run goes on where it was stopped.

    A film that cannot be answered is named at the end with its reason; all others are answered.

    \b
    One film, JSON and overlay into located/:
      mammo-ml locate film.pgm
    A folder, with one table and one COCO file for all films:
      mammo-ml locate films/ --out found --format overlay,csv,coco
    A scan whose file does not say how large a pixel is:
      mammo-ml locate scan.png --spacing 0.05
    DICOM films, with DICOM structured reports:
      mammo-ml locate study/ --format overlay,sr
    A film that the registered model learned from:
      mammo-ml locate data/ingest/mdb001.pgm --out-of-fold
    """  # noqa: D301  # the marker that keeps lines apart is a character of its own
    with store_errors_for_people():
        known = ("json", "csv", "coco", "overlay", "sr")
        wanted = _formats(formats, known)
        _check_told(spacing, laterality)
        found = _find(films, out)
        from mammo_ml.answering.film_models import OneModel, lesion_model
        from mammo_ml.answering.fold_models import fold_models

        source: ModelSource
        if out_of_fold:
            source, word = fold_models(model, workspace)
        else:
            loaded, word = lesion_model(model, workspace.resolve())
            source = OneModel(loaded)
        if word:
            typer.secho(word, fg="yellow", err=True)
        report = _run(source, found, out, wanted, spacing, laterality, again)
        _tell(report, found, out)
        if report.without_report:
            typer.echo(
                f"{report.without_report} of them are no DICOM: a structured report is made of DICOM films only."
            )
        _end(report)


@app.command()
def classify(
    films: Films,
    out: Out = Path("classified"),
    formats: Annotated[str, typer.Option("--format", metavar="LIST", help="Of json and csv, with a comma.")] = "json",
    model: Annotated[str, typer.Option(metavar="NAME@champion", help="Or NAME/VERSION.")] = "mammo-classifier@champion",
    spacing: Spacing = None,
    laterality: Side = None,
    out_of_fold: OutOfFold = False,
    again: Again = False,
    workspace: Workspace = Path(),
) -> None:
    """Tell how probably a film is normal, benign or malignant. Research use only.

    Goes on where it was stopped, and past films that cannot be answered, as `mammo-ml locate`.

    \b
    One film, JSON into classified/:
      mammo-ml classify film.pgm
    A folder, with one table for all films:
      mammo-ml classify films/ --out told --format csv
    A film that the registered model learned from:
      mammo-ml classify data/ingest/mdb001.pgm --out-of-fold
    """  # noqa: D301  # the marker that keeps lines apart is a character of its own
    with store_errors_for_people():
        wanted = _formats(formats, ("json", "csv"))
        _check_told(spacing, laterality)
        found = _find(films, out)
        from mammo_ml.answering.film_models import OneModel, open_model
        from mammo_ml.answering.fold_models import classifiers_of_folds

        source: ModelSource
        if out_of_fold:
            source = classifiers_of_folds(workspace)
        else:
            source = OneModel(open_model(model, workspace.resolve(), ("classifier",)))
        report = _run(source, found, out, wanted, spacing, laterality, again)
        _tell(report, found, out)
        _end(report)


def _formats(text: str, known: tuple[str, ...]) -> "frozenset[Format]":
    asked = [name.strip().lower() for name in text.split(",") if name.strip()]
    strange = [f"'{name}' is none of {', '.join(known)}" for name in asked if name not in known]
    if strange or not asked:
        raise BadInputError("--format", strange or ["nothing is asked for"], f"As in --format {','.join(known[:2])}.")
    return frozenset(asked)  # type: ignore[arg-type]  # checked just above


def _check_told(spacing: float | None, laterality: str | None) -> None:
    problems = []
    if spacing is not None and not 0.01 <= spacing <= 1:
        problems.append(f"--spacing {spacing:g}: pixels of films have edges of 0.01 to 1 mm")
    if laterality is not None and laterality not in ("L", "R"):
        problems.append(f"--laterality '{laterality}' is neither L nor R")
    if problems:
        raise BadInputError("what was told of the films", problems)


def _find(films: list[Path], out: Path) -> "FilmFiles":
    from mammo_ml.answering.film_files import find_films

    found = find_films(films, out)
    if line := found.passed_over_line():
        typer.echo(line, err=True)
    return found


def _run(
    source: "ModelSource", found: "FilmFiles", out: Path, wanted: "frozenset[Format]",
    spacing: float | None, laterality: str | None, again: bool,
) -> "RunReport":  # fmt: skip
    from tqdm import tqdm

    from mammo_ml.answering.film_answers import Told
    from mammo_ml.answering.film_reading import read_for_answer
    from mammo_ml.answering.film_run import FilmRun

    told = Told(spacing_mm=spacing, laterality=laterality)  # type: ignore[arg-type]  # checked by _check_told
    run = FilmRun(source, read_for_answer, told, wanted, again)
    # on a terminal alone, and from the second film on
    with tqdm(total=len(found.films), desc="films", unit="film", disable=None if len(found.films) > 1 else True) as bar:
        return run.answer_films(found.films, out, bar.update)


def _tell(report: "RunReport", found: "FilmFiles", out: Path) -> None:
    from mammo_ml.answering.film_answers import NOTICE
    from mammo_ml.answering.summary import summary_table

    if not report.answers:
        return
    if len(report.answers) <= SHOWN:
        print_table(summary_table(report.answers))
    models = ", ".join(sorted({answer.model.label for answer in report.answers}))
    kept = f", {report.kept} of them by an earlier run" if report.kept else ""
    typer.echo(f"{len(report.answers)} of {len(found.films)} films answered by {models}{kept}: see {out}/")
    for line in _counted([warning for answer in report.answers for warning in answer.warnings]):
        typer.secho(line, fg="yellow", err=True)
    for line in _counted([note for answer in report.answers for note in answer.notes]):
        typer.echo(line, err=True)
    typer.echo("\n".join([*dict.fromkeys(answer.scores for answer in report.answers), NOTICE]))


def _counted(sentences: list[str]) -> list[str]:
    """Each sentence once, with the number of films it is about."""
    return [f"{n} film{'s' if n > 1 else ''}: {sentence}" for sentence, n in Counter(sentences).items()]


def _end(report: "RunReport") -> None:
    """Name the films without an answer; the command then ends with 1."""
    if not report.failed:
        return
    lines = [f"\n{len(report.failed)} film{'s' if len(report.failed) > 1 else ''} without an answer:"]
    for name, reason in report.failed.items():
        lines += ["", name, *(f"  {line}" for line in reason.splitlines())]
    typer.secho("\n".join(lines), fg="red", err=True)
    raise typer.Exit(1)
