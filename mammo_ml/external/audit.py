"""Whether a model, or weights it started from, has seen a data set: by woman, film, bytes and picture."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.copied_films import MIN_SIMILARITY
from mammo_ml.datasets.catalog import FILMS, LESIONS, names, read_table, rows
from mammo_ml.datasets.workspace_sets import DataSet
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.breast import CANONICAL_SPACING_MM, canonical_transform
from mammo_ml.imaging.canonical import CanonicalFilm, check_films, eight_bits, to_canonical
from mammo_ml.imaging.readers import read_film
from mammo_ml.leak_audit import ANCESTRY_REMEDY, Audit, audit_ancestry, merge
from mammo_ml.near_duplicates import near_duplicates

CATALOGS = {"data/catalog": "data/ingest", "data/studies/catalog_cbis_ddsm": "data/studies/ingest_cbis_ddsm"}
"""Where a workspace keeps the tables of films that models learn from, and the films."""
NAMED = 20
"""Leaks named in one error; all of them are in `SEEN_FILE`."""
SEEN_FILE = "seen_before.txt"
PHANTOM = "phantom"


def refuse_phantoms(phantom_model: bool, data: DataSet, model: str, name: str) -> None:
    """Keep phantoms away from models of real films, and real films from models of phantoms.

    Raises:
        BadInputError: when one is synthetic and the other is not.
    """
    phantom_set = PHANTOM in {*data.films["dataset"], data.facts.get("collection")}
    if phantom_set != phantom_model:
        words = {True: "is made of synthetic films", False: "is made of real films"}
        sides = [f"{name} {words[phantom_set]}, {model} {words[phantom_model]}"]
        remedy = "Figures of phantoms say nothing about real films, and the other way round."
        raise BadInputError("external validation", sides, remedy)


def _called(data: DataSet) -> set[str]:
    """Names of the collections that the films of a set may belong to."""
    collection = str(data.facts.get("collection") or "").replace("-", "_")
    return {*data.films["dataset"], *([collection] if collection else [])}


def same_collection(seen: pd.DataFrame, data: DataSet) -> str:
    """A sentence where a model has learned from other films of the same collection; empty where it has not.

    Args:
        seen: as for `audit_names`.
        data: the set.
    """
    own = seen[seen["dataset"].isin(_called(data))]
    if own.empty:
        return ""
    sets, steps = (", ".join(sorted(set(own[column]))) for column in ("dataset", "step"))
    return (
        f"NOT ANOTHER COLLECTION: the model or its ancestors learned from {len(own)} films of "
        f"{own['patient_id'].nunique()} other women of {sets} ({steps}). These women are new to it; scanners, readers "
        "and the choice of cases are not."
    )


def audit_names(seen: pd.DataFrame, data: DataSet, name: str) -> Audit:
    """Compare women, films and bytes with what a model and its ancestors learned from.

    Films of a set that are of a published collection (facts: collection) are also taken for films of that one:
    whoever gives CBIS-DDSM a name of his own still has its women.

    Args:
        seen: film_id, sha256, dataset, patient_id, step, as a bundle lists them.
        data: the set.
        name: of the set, for messages.
    """
    found = [audit_ancestry(seen, data.films, name)]
    found += [
        audit_ancestry(seen, data.films.assign(dataset=other), name)
        for other in sorted(_called(data) - set(data.films["dataset"]))
    ]
    joined = merge(found)
    return Audit(tuple(dict.fromkeys(joined.problems)), joined.figures, ANCESTRY_REMEDY)


def films_here(workspace: Path, seen: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Films that a model has seen and the workspace holds: films.csv with `folder` and `step`; and their lesions."""
    places = {workspace / catalog: workspace / films for catalog, films in CATALOGS.items()}
    places |= {folder / "catalog": folder / "films" for folder in sorted((workspace / "data" / "datasets").glob("*/"))}
    steps = seen.drop_duplicates("sha256").set_index("sha256")["step"]
    films, lesions = [], []
    for catalog, folder in places.items():
        if not (catalog / "films.csv").is_file() or not folder.is_dir():
            continue
        table = read_table(catalog / "films.csv", FILMS)
        own = table[table["sha256"].isin(steps.index)]
        films.append(own.assign(folder=str(folder), step=own["sha256"].map(steps)))
        of_them = read_table(catalog / "lesions.csv", LESIONS)
        lesions.append(of_them[of_them["film_id"].isin(own["film_id"])])
    if not films:
        return pd.DataFrame(columns=[*names(FILMS), "folder", "step"]), pd.DataFrame(columns=names(LESIONS))
    all_films = pd.concat(films, ignore_index=True).drop_duplicates("sha256", ignore_index=True)
    return all_films, pd.concat(lesions, ignore_index=True).drop_duplicates("lesion_id", ignore_index=True)


def canonical_of(films: pd.DataFrame) -> Iterator[CanonicalFilm]:
    """Canonical films of rows of films.csv with `folder`, one by one, their files' hashes compared first."""
    _check_files(films)
    for row in rows(films):
        film = read_film(Path(row.folder) / row.path)
        yield to_canonical(row.film_id, film, row.chest_wall, row.pixel_spacing_mm)


def _check_files(films: pd.DataFrame) -> None:
    for folder, own in films.groupby("folder"):
        check_films(Path(str(folder)), own)


def audit_pictures(
    seen: pd.DataFrame, tested: pd.DataFrame, name: str, progress: Callable[[int], object] = lambda pairs: None
) -> Audit:
    """Compare the fine texture of every tested film with that of every film seen, at 0.2 mm, in all eight turns.

    It finds a film also under another name, turned, cut, or saved in another format and size, if its spacing says so.

    Args:
        seen: films.csv with `folder` and `step`.
        tested: films.csv with `folder`.
        name: of the set.
        progress: told how many more pairs are done.
    """
    _check_files(seen)
    # the few first: rows of the comparison are the films that have partners behind them
    both = pd.concat([tested, seen], ignore_index=True)
    films = list(rows(both))
    roles = np.array(["tested"] * len(tested) + ["seen"] * len(seen))
    scale = both["pixel_spacing_mm"] / CANONICAL_SPACING_MM
    shapes = [
        (round(height), round(width))
        for height, width in zip(both["height_px"] * scale, both["width_px"] * scale, strict=True)
    ]

    def load(place: int) -> NDArray[np.uint8]:
        row: Any = films[place]
        film = read_film(Path(row.folder) / row.path)
        height, width = film.pixels.shape
        return canonical_transform(row.chest_wall, width, height, row.pixel_spacing_mm).image(eight_bits(film))

    pairs = [pair for pair in near_duplicates(shapes, load, roles, progress).pairs if pair.similarity >= MIN_SIMILARITY]
    problems = tuple(
        f"{name}: film {both['film_id'][pair.first]} is the picture of film {both['film_id'][pair.second]} of "
        f"{both['dataset'][pair.second]} ({both['step'][pair.second]}), similarity {pair.similarity:.2f}"
        for pair in pairs
    )
    return of_copies(problems)


def of_copies(problems: Sequence[str]) -> Audit:
    """Audit that found these copies, a sentence each."""
    return Audit(tuple(problems), {"pictures_shared": float(len(problems))}, ANCESTRY_REMEDY)


def refuse_seen(audit: Audit, model: str, name: str, folder: Path) -> None:
    """Refuse a set that a model has seen; the first leaks are named, all of them written into `folder`.

    Raises:
        BadInputError: naming women, films and pictures.
    """
    if audit.leak_free:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SEEN_FILE).write_text("\n".join(audit.problems) + "\n", encoding="utf-8")
    counts = ", ".join(f"{count:,.0f} {what.removesuffix('_shared')}" for what, count in audit.figures.items() if count)
    shown = list(audit.problems[:NAMED])
    if len(audit.problems) > NAMED:
        shown.append(f"and {len(audit.problems) - NAMED} more; all of them are in {folder / SEEN_FILE}")
    head = f"{model} or weights it started from has seen films of {name} ({counts})"
    raise BadInputError(head, shown, audit.remedy)
