"""Which films are meant by the files and folders on a command line, and how their answers are called."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mammo_ml.errors import BadInputError, raise_if_any

SUFFIXES = (".pgm", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".dcm", ".dicom")
ANSWERS = (".overlay.png", ".sr.dcm")
"""How answers end that look like films: those of earlier runs are none."""
_FIRST_BYTES = (b"P5", b"\x89PNG\r\n\x1a\n", b"II*\x00", b"MM\x00*", b"\xff\xd8\xff")
_DICOM_PLACE = 128
NAMED = 5
"""Files passed over that are named."""


def shown(name: str) -> str:
    """A file's name for the terminal: what cannot be printed, or would steer the terminal, as its code."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


@dataclass(frozen=True)
class FilmFile:
    """A film, and its name below the folder that was given: its answers are called after it."""

    path: Path
    name: str


@dataclass(frozen=True)
class FilmFiles:
    """Films in the order of their names, and the files in the given folders that are taken for something else."""

    films: tuple[FilmFile, ...]
    passed_over: tuple[str, ...]

    def passed_over_line(self) -> str:
        """A sentence about what was passed over; empty where nothing was."""
        if not self.passed_over:
            return ""
        more = f" and {len(self.passed_over) - NAMED} more" if len(self.passed_over) > NAMED else ""
        names = ", ".join(map(shown, self.passed_over[:NAMED]))
        return f"Passed over, no film by name or first bytes: {names}{more}."


def find_films(given: Sequence[Path], out: Path) -> FilmFiles:
    """Films meant by files and folders; folders are searched to their depths, but for hidden files and `out`.

    In a folder a file is a film by its name's ending or its first bytes; a file that is given by itself always is.

    Raises:
        BadInputError: naming each that does not exist, each folder without a film, and films whose answers would have
            the same name.
    """
    found: dict[Path, str] = {}
    passed_over: list[str] = []
    problems: list[str] = []
    for one in given:
        if not one.exists():
            problems.append(f"{one}: no such file or folder")
        elif not one.is_dir():
            found.setdefault(one.resolve(), one.name)
        elif one.resolve() == out.resolve():
            problems.append(f"{one}: the answers would be written among the films; give another folder with --out")
        else:
            inside = list(_files_in(one, out))
            films = {path: None for path in inside if _is_film(path)}
            others = [path.relative_to(one).as_posix() for path in inside if path not in films]
            passed_over += others
            if not films:
                problems.append(f"{one}: no film in this folder{_what_else(others)}")
            for path in films:
                found.setdefault(path.resolve(), path.relative_to(one).as_posix())
    raise_if_any("films", problems, f"Films are binary PGM, PNG, TIFF, JPEG or DICOM ({', '.join(SUFFIXES)}).")
    _refuse_same_names(found)
    named = sorted((FilmFile(path, name) for path, name in found.items()), key=lambda film: film.name)
    return FilmFiles(tuple(named), tuple(sorted(passed_over)))


def _files_in(folder: Path, out: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (here / name).resolve() != out.resolve()
        )
        yield from (here / name for name in sorted(files) if not name.startswith("."))


def _is_film(path: Path) -> bool:
    if path.name == "DICOMDIR" or path.name.endswith(ANSWERS):
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            first = file.read(_DICOM_PLACE + 4)
    except OSError:
        return False
    return first.startswith(_FIRST_BYTES) or first[_DICOM_PLACE:] == b"DICM"


def _what_else(others: Sequence[str]) -> str:
    if not others:
        return "; it is empty"
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return f"; it holds {', '.join(map(shown, others[:NAMED]))}{more}"


def _refuse_same_names(found: dict[Path, str]) -> None:
    by_name: dict[str, list[Path]] = {}
    for path, name in found.items():
        by_name.setdefault(name, []).append(path)
    problems = [
        f"{name} is in {' and in '.join(str(path.parent) for path in paths)}"
        for name, paths in by_name.items()
        if len(paths) > 1
    ]
    if problems:
        shown = problems[:NAMED] + ([f"and {len(problems) - NAMED} more names"] if len(problems) > NAMED else [])
        paths = next(paths for paths in by_name.values() if len(paths) > 1)
        above = os.path.commonpath([path.parent for path in paths])
        remedy = f"Give the folder above them ({above}), so that answers lie in folders of their own, or run once each."
        raise BadInputError("films of one name, whose answers would overwrite each other", shown, remedy)
