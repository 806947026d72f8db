"""Film after film: answers that are there already are kept, one bad film stops nothing, every file is written whole."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import filelock

from mammo_ml.answering.film_answers import (
    FilmAnswer,
    FilmFacts,
    Told,
    answer_json,
    read_answer,
    write_whole,
)
from mammo_ml.answering.film_files import FilmFile, shown
from mammo_ml.answering.film_models import LoadedModel, ModelSource
from mammo_ml.answering.film_reading import ReadFile, ReadFilm
from mammo_ml.answering.tables import answers_coco, answers_csv
from mammo_ml.errors import BadInputError, MammoError, raise_if_any
from mammo_ml.manifest import file_sha256

Format = Literal["json", "csv", "coco", "overlay", "sr"]
FORMATS: tuple[Format, ...] = ("json", "csv", "coco", "overlay", "sr")
ENDINGS: dict[Format, str] = {"json": ".json", "overlay": ".overlay.png", "sr": ".sr.dcm"}
"""What the files beside each film's JSON are called, behind the film's own name."""
TABLES: dict[Format, str] = {"csv": "answers.csv", "coco": "answers.coco.json"}
LOCK = ".lock"
LONGEST_NAME = 235
"""Bytes; file systems take 255, of which the longest ending needs 18."""
SEEN = (
    "SEEN IN TRAINING: the model learned from this very film, so what it says of it proves nothing. "
    "--out-of-fold asks a model that never saw her."
)
PHANTOM = "The model was trained on synthetic films: its numbers mean nothing on real ones."


@dataclass
class RunReport:
    """What came of a run.

    Attributes:
        answers: of every film that has one, in the films' order; those that were there already included.
        failed: why a film has none, by its name.
        kept: how many answers were there already.
        without_report: films that are no DICOM, so that no structured report was made of them.
    """

    answers: list[FilmAnswer] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    kept: int = 0
    without_report: int = 0


@dataclass(frozen=True)
class FilmRun:
    """What is asked of every film of a run.

    Attributes:
        source: the model for each film.
        read: reads a film file.
        told: what the user said of films whose files do not say it.
        formats: what is written; the JSON always is, for it is what a later run goes on from.
        again: answer also films that are answered already.
    """

    source: ModelSource
    read: ReadFile
    told: Told
    formats: frozenset[Format]
    again: bool = False

    def answer_films(
        self, films: Sequence[FilmFile], out: Path, done: Callable[[int], object] = lambda n: None
    ) -> RunReport:
        """Answer films and write what is asked for into `out`; `done` is told of each film that is.

        Raises:
            BadInputError: when `out` cannot be written to, or another run writes there.
            OSError: when an answer cannot be written.
        """
        report = RunReport()
        with only_writer(out):
            for film in films:
                self._answer_one(film, out, report)
                done(1)
            for kind, make in (("csv", answers_csv), ("coco", answers_coco)):
                if kind in self.formats and report.answers:
                    write_whole(out / TABLES[kind], make(report.answers))
        return report

    def _answer_one(self, film: FilmFile, out: Path, report: RunReport) -> None:
        try:
            _check_name(film)
            sha256 = file_sha256(film.path)
            model = self.source.model_for(sha256)
            earlier = None if self.again else self._earlier(film, out, sha256, model)
            if earlier is None:
                answer, files = self._look(film, sha256, model)
            else:
                answer, files = earlier, self._missing(film, out, earlier)
        except Exception as error:  # of any type: a decoder or a network stumbles over one film, not over the next
            report.failed[shown(film.name)] = _reason(error)
            return
        report.kept += earlier is not None
        if earlier is None:
            # the answer itself goes first and comes last: where it is, all that belongs to it is there
            for ending in ENDINGS.values():
                _of(out, film, ending).unlink(missing_ok=True)
        for ending, content in files.items():
            write_whole(_of(out, film, ending), content)
        report.answers.append(answer)
        report.without_report += "sr" in self.formats and not _of(out, film, ENDINGS["sr"]).exists()

    def _earlier(self, film: FilmFile, out: Path, sha256: str, model: LoadedModel) -> FilmAnswer | None:
        """The answer that is there, where the same model gave it of the same file and was told the same."""
        found = read_answer(_of(out, film, ENDINGS["json"]))
        same = found is not None and (found.film.sha256, found.model, found.told) == (sha256, model.facts, self.told)
        return found if same else None

    def _look(self, film: FilmFile, sha256: str, model: LoadedModel) -> tuple[FilmAnswer, dict[str, bytes]]:
        read = self.read(film.path, film.name, self.told)
        assert read.film.pixel_spacing_mm is not None
        height, width = read.film.pixels.shape
        seen = sha256 in model.learned_from
        answer = FilmAnswer(
            film=FilmFacts(
                file=film.name,
                sha256=sha256,
                width_px=width,
                height_px=height,
                pixel_spacing_mm=read.film.pixel_spacing_mm,
                pixel_spacing_from=read.spacing_from,
                laterality=read.laterality,
                view=read.view,
            ),
            told=self.told,
            model=model.facts,
            seen_in_training=seen,
            scores=model.scores,
            warnings=[*([SEEN] * seen), *([PHANTOM] * model.facts.phantom), *read.unlike_training],
            notes=list(read.notes),
            findings=model.look(read.film, film.name),
        )
        files = self._pictures(film, read, answer, self.formats)
        # last, so that it is written last
        return answer, {**files, ENDINGS["json"]: answer_json(answer)}

    def _missing(self, film: FilmFile, out: Path, answer: FilmAnswer) -> dict[str, bytes]:
        """What an earlier run was not asked for."""
        wanted = frozenset(
            kind for kind in self.formats & {"overlay", "sr"} if not _of(out, film, ENDINGS[kind]).exists()
        )
        return self._pictures(film, self.read(film.path, film.name, self.told), answer, wanted) if wanted else {}

    def _pictures(
        self, film: FilmFile, read: ReadFilm, answer: FilmAnswer, wanted: frozenset[Format]
    ) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        if "overlay" in wanted:
            from mammo_ml.answering.overlay import overlay_png

            files[ENDINGS["overlay"]] = overlay_png(read.film, answer)
        if "sr" in wanted and read.is_dicom:
            from mammo_ml.answering.structured_report import structured_report

            files[ENDINGS["sr"]] = structured_report(film.path, answer)
        return files


@contextlib.contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Make the folder, and let no other run write to it meanwhile.

    Raises:
        BadInputError: when it cannot be written to, or another run writes there.
    """
    lock = filelock.FileLock(out / LOCK, timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        problem = f"another run writes to {out}"
        raise BadInputError("--out", [problem], "Wait for it, or choose another folder with --out.") from None
    except (OSError, NotImplementedError) as error:
        problem = f"cannot write to {out}: {getattr(error, 'strerror', None) or error}"
        raise BadInputError("--out", [problem], "Choose a folder that you may write to with --out.") from None
    try:
        yield
    finally:
        lock.release()


def _of(out: Path, film: FilmFile, ending: str) -> Path:
    return out / f"{film.name}{ending}"


def _check_name(film: FilmFile) -> None:
    """Refuse a name that no answer can be called after, instead of stumbling over it when the answer is written."""
    problems = []
    if len(os.fsencode(film.path.name)) > LONGEST_NAME:
        problems.append(f"its name is longer than {LONGEST_NAME} bytes, so no answer can be called after it")
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in film.name):
        problems.append("its name is no valid text (UTF-8)")
    raise_if_any(shown(film.name), problems, "Rename the file.")


def _reason(error: Exception) -> str:
    """Why a film has no answer. Unforeseen errors are told by their type alone: their text may quote a header."""
    if isinstance(error, MammoError):
        # messages name the file
        return "\n".join(map(shown, str(error).splitlines()))
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or type(error).__name__}"
    return f"cannot be looked at ({type(error).__name__}). The file may be damaged: export it again."
