"""A registered model looks at the films of an external set, film after film; what it said is kept, and gone on from."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mammo_ml import __file__ as package
from mammo_ml.answering.film_answers import Classes, Lesions, write_whole
from mammo_ml.answering.film_models import LoadedModel
from mammo_ml.classifier import PROBABILITY_COLUMNS, predict_patches
from mammo_ml.cutting import fixed_views
from mammo_ml.datasets.catalog import BOX_COLUMNS, SEVERITIES, rows
from mammo_ml.datasets.workspace_sets import DataSet
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.external.figures import grey_histogram
from mammo_ml.imaging.augmentation import CLASSIFIER_VIEWS
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.imaging.patches import centred_windows, crop
from mammo_ml.imaging.readers import read_film
from mammo_ml.metrics.calibration import VectorScaling
from mammo_ml.models.bundle import Bundle
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.prediction import prepared_film

Patches = Callable[[CanonicalFilm, pd.DataFrame], list[dict[str, Any]]]


class FilmRecord(BaseModel):
    """What a model said of one film, and what the film is like."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    film_id: str
    findings: Lesions | Classes | None = Field(description="none where the film could not be answered")
    patches: list[dict[str, Any]] = Field(description="of a classifier: what it says of the patch of each lesion")
    grey: list[int] = Field(description="pixels of the breast by grey value")
    failed: str = Field(description="why the film could not be answered; empty where it could")


def record_key(bundle: Bundle, data: DataSet) -> str:
    """Hash of all that the records of a set depend on: the model, films and lesions, and the code that looks."""
    digest = hashlib.sha256(bundle.content_sha256.encode())
    for table in (data.films, data.lesions):
        digest.update(table.to_csv(index=False).encode())
    for path in sorted(Path(package).parent.rglob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def look_at_set(
    model: LoadedModel, bundle: Bundle, data: DataSet, kept: Path, done: Callable[[int], object] = lambda films: None
) -> list[FilmRecord]:
    """What a model says of every film of a set, in its order.

    Args:
        model: ready to look.
        bundle: the same model's files.
        data: the set.
        kept: file of what was said so far, a line each; a second start goes on from it.
        done: told how many more films are done.

    Raises:
        BadInputError: when another process looks at the same set with the same model.
    """
    patches = _patches_with(bundle) if bundle.config.kind == "classifier" else None
    located = data.lesions[data.lesions["has_location"] & data.lesions["severity"].isin(SEVERITIES)]
    of_film = dict(list(located.groupby("film_id")))
    with _alone(kept):
        records = {record.film_id: record for record in _read(kept)}
        write_whole(kept, _lines(list(records.values())))
        done(len(records))
        with kept.open("ab") as file:
            for row in rows(data.films):
                if row.film_id not in records:
                    records[row.film_id] = _look(model, patches, row, of_film.get(row.film_id), data.films_folder)
                    file.write(_lines([records[row.film_id]]))
                    file.flush()
                    done(1)
    return [records[film_id] for film_id in data.films["film_id"]]


def _look(
    model: LoadedModel, patches: Patches | None, row: Any, lesions: pd.DataFrame | None, folder: Path
) -> FilmRecord:
    try:
        film = replace(read_film(folder / row.path), pixel_spacing_mm=row.pixel_spacing_mm)
        canonical = prepared_film(row.film_id, film)
        grey = [int(count) for count in grey_histogram(canonical)]
        own = [] if patches is None or lesions is None else patches(canonical, lesions)
        found = model.look(film, row.film_id)
        return FilmRecord(film_id=row.film_id, findings=found, patches=own, grey=grey, failed="")
    except MammoError as error:
        return FilmRecord(film_id=row.film_id, findings=None, patches=[], grey=[], failed=str(error))


def _patches_with(bundle: Bundle) -> Patches:
    """Calibrated probabilities of a patch centred on each lesion, which training's patches need not be."""
    config = bundle.config
    network = bundle.load_into(build_classifier(ClassifierParameters(**config.network)))
    scaling = VectorScaling.from_dict(config.calibration["patches"])
    window = config.preprocessing

    def patches(film: CanonicalFilm, lesions: pd.DataFrame) -> list[dict[str, Any]]:
        boxes = film.transform.boxes_to_canonical(lesions[BOX_COLUMNS].to_numpy(dtype=np.float64))
        windows = centred_windows(boxes, window.window_px, *film.pixels.shape[::-1])
        views = fixed_views(crop(film.pixels, windows, window.input_px), CLASSIFIER_VIEWS)
        found = scaling.apply(predict_patches(network, views))
        return [
            {"item": lesion, "label": severity} | dict(zip(PROBABILITY_COLUMNS, values, strict=True))
            for lesion, severity, values in zip(
                lesions["lesion_id"], lesions["severity"], found.round(5).tolist(), strict=True
            )
        ]

    return patches


# ------------------------------------------------------------------------------------------------------------- keeping


def _lines(records: Sequence[FilmRecord]) -> bytes:
    return "".join(record.model_dump_json() + "\n" for record in records).encode()


def _read(kept: Path) -> Iterator[FilmRecord]:
    """Records of an earlier start; a line that a kill cut off is none, and its film is looked at again."""
    for line in kept.read_bytes().splitlines() if kept.is_file() else []:
        try:
            yield FilmRecord.model_validate_json(line)
        except ValidationError:
            continue


@contextmanager
def _alone(kept: Path) -> Iterator[None]:
    kept.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(f"{kept}.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise BadInputError("external validation", [f"another process writes {kept}"], "Wait for it.") from None
    try:
        yield
    finally:
        lock.release()


# -------------------------------------------------------------------------------------------------------------- tables


def boxes_of(records: Sequence[FilmRecord], films: pd.DataFrame) -> pd.DataFrame:
    """A row per box: film_id, patient_id, box (from 1), x1 … y2, score, p_*; a film without any has one, box 0.

    A film that could not be answered is one on which nothing was found: its lesions are missed.
    """
    found: list[dict[str, Any]] = []
    for record in records:
        boxes = record.findings.boxes if isinstance(record.findings, Lesions) else []
        own = [{"box": number, **box.model_dump()} for number, box in enumerate(boxes, 1)] or [{"box": 0}]
        found += [{"film_id": record.film_id, **row} for row in own]
    columns = ["film_id", "patient_id", "box", *BOX_COLUMNS, "score", "p_benign", "p_malignant"]
    women = films.set_index("film_id")["patient_id"]
    return pd.DataFrame(found).assign(patient_id=lambda table: table["film_id"].map(women)).reindex(columns=columns)


def classes_of(records: Sequence[FilmRecord], films: pd.DataFrame) -> pd.DataFrame:
    """A row per film and per patch of a lesion: unit, item, film_id, patient_id, label, p_normal and the others."""
    known = films.set_index("film_id")
    found: list[dict[str, Any]] = []
    for record in records:
        if isinstance(record.findings, Classes):
            own = {"unit": "film", "item": record.film_id, "label": known.loc[record.film_id, "label"]}
            found.append({"film_id": record.film_id, **own, **record.findings.model_dump()})
        found += [{"film_id": record.film_id, "unit": "patch", **patch} for patch in record.patches]
    columns = ["unit", "item", "film_id", "patient_id", "label", *PROBABILITY_COLUMNS]
    table = pd.DataFrame(found, columns=[column for column in columns if column != "patient_id"])
    return table.assign(patient_id=table["film_id"].map(known["patient_id"]))[columns]
