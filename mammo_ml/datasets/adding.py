"""A folder of films becomes a data set of the workspace: read, checked, shown, put under DVC; or nothing."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from mammo_ml.data_quality import Failure, validate
from mammo_ml.datasets.adapter import Adapter, Modality, Read, Report, holds
from mammo_ml.datasets.catalog import BOX_COLUMNS, LABELS, write_table
from mammo_ml.datasets.coco import Coco
from mammo_ml.datasets.from_cbis_jpeg import CbisJpeg
from mammo_ml.datasets.from_cesm import Cesm
from mammo_ml.datasets.from_csv import Table
from mammo_ml.datasets.from_tcia import Tcia
from mammo_ml.datasets.workspace_sets import FACTS, SETS
from mammo_ml.errors import BadInputError, MammoError, raise_if_any
from mammo_ml.figures import GREEN, MarkedPicture, marked_figure
from mammo_ml.imaging.canonical import eight_bits
from mammo_ml.imaging.readers import read_film
from mammo_ml.manifest import write_manifest

SHEET = "contact_sheet.png"
ADAPTERS: Sequence[Adapter] = (CbisJpeg(), Tcia(), Cesm(), Coco(), Table())
"""Asked in this order: what names a published set goes before what any folder may hold."""
_SHOWN = 24
_EDGE_PX = 400
_NAME = "Give another --name, or remove what has it."
_NOTHING = "Nothing was added. Mend what is named and add the folder again."


@dataclass(frozen=True)
class Wish:
    """What the user says of a set, before what its files say."""

    name: str
    adapter: str | None = None
    spacing_mm: float | None = None
    modality: Modality | None = None
    collection: str | None = None
    source: str | None = None


def recognise(folder: Path, adapter: str | None = None) -> tuple[Adapter, str]:
    """The adapter for a folder, and why.

    Raises:
        BadInputError: none is; naming what each of them missed.
    """
    if not folder.is_dir():
        raise BadInputError(str(folder), ["no such folder"])
    asked = [one for one in ADAPTERS if adapter in (None, one.name)]
    for one in asked:
        if why := one.recognise(folder):
            return one, why
    missed = [
        f"{one.name}: no {', '.join(need for need in one.needs if not holds(folder, (need,)))}" for one in asked
    ] or [f"no adapter is called {adapter}; there are {', '.join(one.name for one in ADAPTERS)}"]
    raise BadInputError(
        f"{folder} is not recognised",
        missed,
        "`mammo-ml dataset template` prints a table to fill in for films of your own.",
    )


def add(
    folder: Path, workspace: Path, wish: Wish, report: Report, confirmed: Callable[[dict[str, object], Path], bool]
) -> Path | None:
    """Add a folder as data/datasets/<name>; returns it, or None when the person said no.

    Args:
        folder: films and annotations, read alone.
        workspace: with data, expectations and DVC.
        wish: name, and what the user says.
        report: called with films done, and films in all.
        confirmed: asked with the facts and the contact sheet before anything is published.

    Raises:
        BadInputError: the name cannot be had; or naming every problem with its file and row. Nothing is left behind.
    """
    target = _free_place(workspace, wish.name)
    adapter, _ = recognise(folder, wish.adapter)
    draft = target.with_name(f".{wish.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "films").mkdir(parents=True)
    try:
        read = adapter.read(folder, draft / "films", wish.name, wish.spacing_mm, report)
        problems = [*read.problems, *_copies(read, draft / "films", workspace)]
        problems += [] if len(read.films) or problems else ["no film was found"]
        raise_if_any(str(folder), problems, _NOTHING)
        tables = {"films": read.films} | ({"lesions": read.lesions} if len(read.lesions) else {})
        docs = workspace / "build" / "datasets" / wish.name
        quality = validate(tables, workspace / "expectations", docs)
        quality.raise_if_failed()
        facts = _write(read, draft, adapter, wish, [f"Check by eye: {_short(failure)}" for failure in quality.failures])
        contact_sheet(read.films, read.lesions, draft / "films", wish.name, draft / SHEET)
        if not confirmed(facts, draft / SHEET):
            return None
        draft.rename(target)
        _put_under_dvc(workspace, target)
        return target
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _free_place(workspace: Path, name: str) -> Path:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise BadInputError("dataset add", [f"name '{name}' is not made of a-z, 0-9 and _, a letter first"], _NAME)
    target = workspace / SETS / name
    for place in (target, target.with_name(f"{name}.dvc")):
        if place.exists():
            raise BadInputError("dataset add", [f"name '{name}' is taken by {place.relative_to(workspace)}"], _NAME)
    return target


def _write(read: Read, draft: Path, adapter: Adapter, wish: Wish, warnings: list[str]) -> dict[str, object]:
    write_manifest(draft / "films")
    write_table(read.films, draft / "catalog" / "films.csv")
    write_table(read.lesions, draft / "catalog" / "lesions.csv")
    counts = read.films["label"].value_counts()
    facts: dict[str, object] = {
        "name": wish.name,
        "adapter": adapter.name,
        "collection": wish.collection or adapter.collection,
        "films": len(read.films),
        "women": int(read.films["patient_id"].nunique()),
        "lesions": len(read.lesions),
        "labels": {label: int(counts.get(label, 0)) for label in LABELS},
        **read.facts,
        "notes": [*read.facts["notes"], *warnings],
    }
    facts |= {key: said for key, said in (("source", wish.source), ("modality", wish.modality)) if said}
    (draft / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return facts


def _short(failure: Failure) -> str:
    """A failed expectation with the rows that contradict it, without their values."""
    return re.sub(r" \(found .*\)(?= in rows )", "", str(failure))


def _put_under_dvc(workspace: Path, target: Path) -> None:
    command = [sys.executable, "-m", "dvc", "add", str(target.relative_to(workspace))]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(target, ignore_errors=True)
        target.with_name(f"{target.name}.dvc").unlink(missing_ok=True)
        told = "\n".join(line for line in (done.stdout + done.stderr).splitlines() if line.strip())
        raise MammoError(f"dvc add failed, so nothing was added:\n{told}")


def _pixels_sha256(path: Path) -> str:
    pixels = read_film(path).pixels
    return hashlib.sha256(repr((pixels.shape, pixels.dtype.str)).encode() + pixels.tobytes()).hexdigest()


def _copies(read: Read, films: Path, workspace: Path) -> Iterator[str]:
    """Films of the same pixels, in the set, in the workspace's own films and in its other sets."""
    if read.films.empty:
        return
    source = read.lesions.drop_duplicates("film_id").set_index("film_id")["source"].to_dict()
    seen: dict[str, str] = {}
    for folder in (workspace / "data" / "ingest", *sorted((workspace / SETS).glob("[!.]*/films"))):
        for path in sorted(folder.rglob("*.pgm")):
            seen.setdefault(_pixels_sha256(path), path.relative_to(workspace).as_posix())
    for film_id, name in read.films[["film_id", "path"]].itertuples(index=False):
        value = _pixels_sha256(films / name)
        if value in seen:
            yield f"film {film_id} ({source.get(film_id, 'without lesions')}): the same pixels as {seen[value]}"
        seen.setdefault(value, f"film {film_id} of this set")


def contact_sheet(films: pd.DataFrame, lesions: pd.DataFrame, folder: Path, title: str, out: Path) -> None:
    """Write a PNG of films spread evenly over the set with their lesions' boxes, for a person to check."""
    chosen = films.iloc[np.unique(np.linspace(0, len(films) - 1, min(_SHOWN, len(films))).round().astype(int))]
    pictures, boxes = [], []
    for _, film in chosen.iterrows():
        on_film = lesions[(lesions["film_id"] == film["film_id"]) & lesions["has_location"]]
        caption = f"{film['film_id']}\n{film['laterality']} {film['view']} {film['density']} {film['label']}"
        pixels = eight_bits(read_film(folder / film["path"]))
        step = max(1, max(pixels.shape) // _EDGE_PX)
        # whole films: what is found of the breast may itself be wrong
        pictures.append(MarkedPicture(pixels[::step, ::step], caption))
        boxes.append(on_film[BOX_COLUMNS].to_numpy(dtype=np.float64) / step)
    figure = marked_figure(pictures, f"{title}: {len(chosen)} of {len(films)} films", min(6, len(pictures)))
    for axes, on_film in zip(figure.axes, boxes, strict=False):
        for x1, y1, x2, y2 in on_film:
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=GREEN, linewidth=1.2))
    figure.savefig(out, dpi=100, metadata={"Software": None})
