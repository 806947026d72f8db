"""From films to table rows: the same pure functions for pipeline stages, command line and server.

Boxes in the tables are in px of the film file as read, also when found in tiles of the canonical film.
"""

from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn
from torchvision.ops import nms

from mammo_ml.classifier import PROBABILITY_COLUMNS, predict_probabilities
from mammo_ml.cutting import cut_boxes_on_film
from mammo_ml.datasets.catalog import BOX_COLUMNS, LABELS, rows
from mammo_ml.detector import detect
from mammo_ml.errors import BadInputError, MammoError, raise_if_any
from mammo_ml.imaging import boxes as bx
from mammo_ml.imaging.breast import CANONICAL_SPACING_MM, breast_mask, chest_wall_side
from mammo_ml.imaging.canonical import CanonicalFilm, eight_bits, to_canonical
from mammo_ml.imaging.patches import TileParameters, Tiling, breast_tiles, crop, of_film
from mammo_ml.imaging.readers import Film, parse_film
from mammo_ml.metrics import calibration
from mammo_ml.metrics.calibration import VectorScaling
from mammo_ml.metrics.classification import film_figures
from mammo_ml.models.bundle import Bundle
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.ssd import LesionSSD, SsdParameters, build_detector
from mammo_ml.parameters import Parameters

Aggregation = Literal["mean", "max", "top_3"]
AGGREGATIONS: tuple[Aggregation, ...] = ("mean", "max", "top_3")
MINI_MIAS_SHAPE = (1024, 1024)
FILM_EDGE_MM = (10, 500)
"""What the longer edge of a film, or of a part of one, can be: a spacing in the wrong unit lies outside."""
DETECTION_COLUMNS = [*BOX_COLUMNS, "p_benign", "p_malignant"]


class MergeParameters(Parameters):
    """How the boxes of overlapping tiles become the boxes of a film."""

    nms_iou: float = Field(gt=0, lt=1, description="of two boxes that overlap more, the one of lower score goes")
    max_per_tile: int = Field(ge=1)
    max_per_film: int = Field(ge=1)


class FilmDetectionParameters(Parameters):
    """Section `predict_detector`: how a whole film is looked at."""

    tiles: Tiling
    merge: MergeParameters


def classify_tiles(model: nn.Module, film: CanonicalFilm, tiles: TileParameters) -> pd.DataFrame:
    """Class probabilities of every tile of a film: film_id, x1 … y2 (film file px), p_normal, p_benign, p_malignant."""
    windows = tiles_of_film(film, tiles)
    pictures = crop(film.pixels, windows, tiles.input_px)
    probabilities = predict_probabilities(model, pictures, names_of_tiles(film, windows))
    table = pd.DataFrame(film.transform.boxes_to_film(windows), columns=BOX_COLUMNS)
    table[PROBABILITY_COLUMNS] = probabilities
    table.insert(0, "film_id", film.film_id)
    return table


def tiles_of_film(film: CanonicalFilm, tiles: Tiling) -> bx.Boxes:
    """Tiles (T, 4) on a film's breast, in px of the canonical film.

    Raises:
        BadInputError: naming the film, when it is smaller than a tile.
    """
    with of_film(film.film_id):
        return breast_tiles(film.mask, tiles)


def names_of_tiles(film: CanonicalFilm, windows: bx.Boxes) -> list[str]:
    """What the tiles (T, 4) of a film, px of the canonical film, are called in messages."""
    return [f"film {film.film_id}, tile at {x:.0f}, {y:.0f}" for x, y in windows[:, :2]]


def aggregate(tiles: pd.DataFrame, how: Aggregation) -> pd.DataFrame:
    """One row per film, in the order of the tiles: film_id and its class probabilities.

    The tiles that count are all of them (`mean`), the most abnormal one (`max`) or the three most abnormal (`top_3`);
    abnormal means 1 - P(normal).
    """
    n_tiles = {"mean": len(tiles), "max": 1, "top_3": 3}[how]
    ranked = tiles.sort_values(["p_normal", *BOX_COLUMNS], kind="stable")
    films = ranked.groupby("film_id", sort=False).head(n_tiles).groupby("film_id")[PROBABILITY_COLUMNS].mean()
    return films.loc[tiles["film_id"].unique().tolist()].reset_index()


def choose_aggregation(tiles: pd.DataFrame, labels: pd.Series) -> Aggregation:
    """Aggregation with the best `film_auc_macro` on these films (the inner part); labels by film_id."""

    def figure(how: Aggregation) -> float:
        films = aggregate(tiles, how)
        found = film_figures(
            films[PROBABILITY_COLUMNS].to_numpy(),
            labels.loc[films["film_id"]].map(LABELS.index).to_numpy(dtype=np.int64),
        )
        return float(np.nan_to_num(found["film_auc_macro"]))

    return max(AGGREGATIONS, key=figure)


def detect_on_films(model: LesionSSD, films: Iterable[CanonicalFilm], looking: FilmDetectionParameters) -> pd.DataFrame:
    """Boxes on whole films, most suspicious first: film_id, x1 … y2 (film file px), p_benign, p_malignant."""
    return _stacked([_detect_on_film(model, film, looking.tiles, looking.merge) for film in films], ["film_id"])


def _detect_on_film(model: LesionSSD, film: CanonicalFilm, tiles: Tiling, merge: MergeParameters) -> pd.DataFrame:
    windows = tiles_of_film(film, tiles)
    pictures = crop(film.pixels, windows, model.side_px)
    names = names_of_tiles(film, windows)
    found = detect(model, pictures, merge.nms_iou, merge.max_per_tile, names)
    on_film = pd.concat(
        [out_of_window(table, window, model.side_px) for table, window in zip(found, windows, strict=True)]
    )
    best = on_film.iloc[kept_by_suppression(on_film, merge)].reset_index(drop=True)
    best[BOX_COLUMNS] = film.transform.boxes_to_film(best[BOX_COLUMNS].to_numpy(dtype=np.float64))
    best.insert(0, "film_id", film.film_id)
    return best


def detect_on_cuts(
    model: LesionSSD, pictures: NDArray[np.uint8], cuts: pd.DataFrame, films: pd.DataFrame, merge: MergeParameters
) -> pd.DataFrame:
    """Boxes on cuts: item, film_id, patient_id, x1 … y2 (film file px), p_benign, p_malignant.

    Args:
        model: the detector.
        pictures: uint8 (N, H, W), one view of each cut.
        cuts: a row per picture: item, film_id, patient_id, view, and the cut's window x1 … y2 in canonical px.
        films: films.csv, for the way back to each film file.
        merge: suppression and the number of boxes per cut.
    """
    found = detect(model, pictures, merge.nms_iou, merge.max_per_tile, [f"cut {item}" for item in cuts["item"]])
    tables = []
    for table, cut in zip(found, cuts.to_dict("records"), strict=True):
        boxes = cut_boxes_on_film(table[BOX_COLUMNS].to_numpy(dtype=np.float64), cut, films, pictures.shape[1])
        table[BOX_COLUMNS] = boxes
        tables.append(table.assign(item=cut["item"], film_id=cut["film_id"], patient_id=cut["patient_id"]))
    return _stacked(tables, ["item", "film_id", "patient_id"])


def out_of_window(table: pd.DataFrame, window: NDArray[np.float64], input_px: int) -> pd.DataFrame:
    """Boxes found in a window (4,) that was brought to `input_px`, in px of what the window was cut from."""
    size = (window[2] - window[0]) / input_px
    boxes = bx.scale(table[BOX_COLUMNS].to_numpy(dtype=np.float64), size, size)
    return table.assign(**dict(zip(BOX_COLUMNS, bx.shift(boxes, window[0], window[1]).T, strict=True)))


def _stacked(tables: list[pd.DataFrame], names: list[str]) -> pd.DataFrame:
    """Tables one below the other, with their columns and types also where none has a row."""
    types = dict.fromkeys(names, "str") | dict.fromkeys(DETECTION_COLUMNS, "float64")
    filled = [table for table in tables if len(table)]
    stacked = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=[*types])
    return stacked[[*types]].astype(types)


def kept_by_suppression(table: pd.DataFrame, merge: MergeParameters) -> NDArray[np.int64]:
    """Rows to keep, by non-maximum suppression that ignores the class, best first."""
    boxes = torch.tensor(table[BOX_COLUMNS].to_numpy(dtype=np.float64))
    scores = torch.tensor((table["p_benign"] + table["p_malignant"]).to_numpy(dtype=np.float64))
    kept: NDArray[np.int64] = nms(boxes, scores, merge.nms_iou)[: merge.max_per_film].numpy()
    return kept


def calibrated(table: pd.DataFrame, scaling: VectorScaling) -> pd.DataFrame:
    """The table with calibrated probabilities in p_*, the network's own ones kept as raw_p_*."""
    raw = table[PROBABILITY_COLUMNS].to_numpy(dtype=np.float64)
    kept = table.assign(**{f"raw_{name}": raw[:, n] for n, name in enumerate(PROBABILITY_COLUMNS)})
    kept[PROBABILITY_COLUMNS] = scaling.apply(raw)
    return kept


def fit_scaling(table: pd.DataFrame) -> VectorScaling:
    """Vector scaling from a table of probabilities p_* and their label."""
    probabilities = table[PROBABILITY_COLUMNS].to_numpy(dtype=np.float64)
    return calibration.fit(probabilities, table["label"].map(LABELS.index).to_numpy(dtype=np.int64))


def predict_with_bundle(bundle: Bundle, films: pd.DataFrame) -> pd.DataFrame:
    """Answer films with a registered model: what the pyfunc, and any server, does.

    Args:
        bundle: a classifier or a detector.
        films: film_id; image: base64 of the bytes of a film file, as `parse_film` reads it; and, optional,
            pixel_spacing_mm: edge of a pixel. A PGM of mini-MIAS's size has 0.2 mm unless told otherwise; any other
            film must be given it.

    Returns:
        For a classifier a row per film: film_id, p_normal, p_benign, p_malignant, seen_in_training. For a detector a
        row per box: film_id, x1 … y2 (film file px), p_benign, p_malignant, seen_in_training.

    Raises:
        BadInputError: naming every film that cannot be read, whose spacing is unknown, or whose name is there twice.
        MammoError: naming the film on which no breast is found.
    """
    answer = classify_films_with if bundle.config.kind == "classifier" else _detect_with
    raise_if_any("films to answer", ["there is no film"] if films.empty else [])
    twice = films["film_id"][films["film_id"].duplicated()].unique()
    raise_if_any("films to answer", [f"film {name} is there twice" for name in twice], "Give each film its own name.")
    contents = decoded_contents(films)
    seen = {name: bundle.seen_in_training(sha256(content).hexdigest()) for name, content in contents.items()}
    table = answer(bundle, [prepared_film(name, film) for name, film in parsed_films(films, contents).items()])
    return table.assign(seen_in_training=table["film_id"].map(seen).astype(bool))


def decoded_contents(films: pd.DataFrame) -> dict[str, bytes]:
    """Bytes of each film's file by name, from the base64 in column `image`.

    Raises:
        BadInputError: naming every film whose image is not base64.
    """
    contents, problems = dict[str, bytes](), []
    for row in rows(films):
        try:
            contents[row.film_id] = b64decode(row.image, validate=True)
        except (ValueError, TypeError) as error:
            problems.append(f"film {row.film_id}: image is not base64: {error}")
    raise_if_any("films to answer", problems)
    return contents


def parsed_films(films: pd.DataFrame, contents: Mapping[str, bytes]) -> dict[str, Film]:
    """Films by name, each with its pixel spacing.

    Raises:
        BadInputError: naming every film that cannot be read or has no spacing that makes a film of it.
    """
    found, problems = dict[str, Film](), []
    for row in rows(films):
        try:
            film = parse_film(contents[row.film_id], f"film {row.film_id}")
            spacing = spacing_of(film, contents[row.film_id], getattr(row, "pixel_spacing_mm", None))
            found[row.film_id] = replace(film, pixel_spacing_mm=spacing)
        except BadInputError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(f"film {row.film_id}: {error}")
    raise_if_any("films to answer", problems, "Films: PGM, PNG, TIFF or JPEG in grey, with their pixel_spacing_mm.")
    return found


def spacing_of(film: Film, content: bytes, told: float | None) -> float:
    """Edge of a pixel in mm; raises ValueError where it is unknown or makes no film of it."""
    height, width = film.pixels.shape
    mini_mias = content.startswith(b"P5") and film.pixels.shape == MINI_MIAS_SHAPE and film.max_value == 255
    spacing = film.pixel_spacing_mm if told is None or pd.isna(told) else float(told)
    if spacing is None and mini_mias:
        return CANONICAL_SPACING_MM
    if spacing is None:
        raise ValueError("pixel_spacing_mm is missing; only an 8-bit PGM of mini-MIAS's 1024 x 1024 px goes without")
    smallest, largest = FILM_EDGE_MM
    if not smallest <= max(width, height) * spacing <= largest:
        edge = max(width, height) * spacing
        raise ValueError(
            f"pixel_spacing_mm {spacing:g}: {width} x {height} px would be {edge:g} mm long; "
            f"a film has {smallest} to {largest}"
        )
    return spacing


def prepared_film(film_id: str, film: Film) -> CanonicalFilm:
    """A film as models see it; raises MammoError naming the film where no breast is found."""
    try:
        side = chest_wall_side(breast_mask(eight_bits(film)))
    except MammoError as error:
        raise MammoError(f"film {film_id}: {error}") from None
    return to_canonical(film_id, film, side, film.pixel_spacing_mm)


def tiles_of_bundle(bundle: Bundle) -> TileParameters:
    """How a bundle's model looks at films."""
    return TileParameters(**bundle.config.preprocessing.model_dump(exclude={"pixel_spacing_mm"}))


def classify_films_with(bundle: Bundle, films: list[CanonicalFilm]) -> pd.DataFrame:
    """Calibrated class probabilities of each film: film_id, p_normal, p_benign, p_malignant."""
    model = bundle.load_into(build_classifier(ClassifierParameters(**bundle.config.network)))
    tiles = [classify_tiles(model, film, tiles_of_bundle(bundle)) for film in films]
    table = aggregate(pd.concat(tiles, ignore_index=True), bundle.config.aggregation["how"])
    scaling = VectorScaling.from_dict(bundle.config.calibration["films"])
    return calibrated(table, scaling)[["film_id", *PROBABILITY_COLUMNS]]


def _detect_with(bundle: Bundle, films: list[CanonicalFilm]) -> pd.DataFrame:
    model = bundle.load_into(build_detector(SsdParameters(**bundle.config.network)))
    merge = MergeParameters(**bundle.config.aggregation)
    return detect_on_films(model, films, FilmDetectionParameters(tiles=tiles_of_bundle(bundle), merge=merge))
