"""The versioned artifacts models learn from: classifier patches and detector cuts, each in its fixed views."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.datasets import catalog
from mammo_ml.datasets.catalog import BOX_COLUMNS, LABELS, write_table
from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.imaging import boxes as bx
from mammo_ml.imaging import patches as pt
from mammo_ml.imaging.augmentation import (
    CLASSIFIER_VIEWS,
    DETECTOR_VIEWS,
    INVERSE_VIEW,
    view_of_boxes,
    view_of_image,
)
from mammo_ml.imaging.breast import canonical_transform
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.manifest import verify_manifest, write_manifest

Pictures = NDArray[np.uint8]

BOX_TABLE = ["cut_id", "film_id", "patient_id", "lesion_id", "severity", *BOX_COLUMNS]
NAMES = dict.fromkeys(["patch_id", "cut_id", "film_id", "patient_id", "lesion_id"], "str")
"""Columns read as text, or a film named 001 would come back as 1."""


@dataclass(frozen=True)
class PatchSet:
    """Classifier patches.

    Attributes:
        patches: a row per patch: patch_id, film_id, patient_id, kind (lesion, normal), label, lesion_id,
            x1 … y2 (canonical px of its film), breast_share.
        pictures: uint8 (N, V, H, W), the V fixed views of each patch, in the order of `CLASSIFIER_VIEWS`.
    """

    patches: pd.DataFrame
    pictures: Pictures

    @property
    def every_picture(self) -> Pictures:
        """All views of all patches, uint8 (N * V, H, W), patch by patch."""
        return self.pictures.reshape(-1, *self.pictures.shape[2:])

    def items_of_views(self) -> pd.DataFrame:
        """The patches table with a row per picture: `item` names patch and view."""
        return _items_of_views(self.patches, CLASSIFIER_VIEWS)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index (N,) of each patch: 0 normal, 1 benign, 2 malignant."""
        return self.patches["label"].map(LABELS.index).to_numpy(dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Write patches.csv, pictures.npy, views.csv (a row per picture: source_item, view) and manifest.json."""
        _save(folder, "patches", self.patches, self.pictures, CLASSIFIER_VIEWS)
        write_manifest(folder)

    @classmethod
    def load(cls, folder: Path) -> "PatchSet":
        """Read what `save` wrote; raises BadInputError when a file changed or pictures and table do not match."""
        return cls(*_load(folder, "patches", len(CLASSIFIER_VIEWS)))


@dataclass(frozen=True)
class CutSet:
    """Detector cuts.

    Attributes:
        cuts: a row per cut: cut_id, film_id, patient_id, kind (centred, jittered, normal), lesion_id, x1 … y2
            (canonical px of its film), breast_share.
        boxes: a row per lesion seen in a cut: cut_id, film_id, patient_id, lesion_id, severity, x1 … y2 (input px of
            the identity view).
        pictures: uint8 (N, V, H, W), the V fixed views of each cut, in the order of `DETECTOR_VIEWS`.
    """

    cuts: pd.DataFrame
    boxes: pd.DataFrame
    pictures: Pictures

    @property
    def every_picture(self) -> Pictures:
        """All views of all cuts, uint8 (N * V, H, W), cut by cut."""
        return self.pictures.reshape(-1, *self.pictures.shape[2:])

    def items_of_views(self) -> pd.DataFrame:
        """The cuts table with a row per picture: `item` names cut and view."""
        return _items_of_views(self.cuts, DETECTOR_VIEWS)

    def only(self, wanted: NDArray[np.bool_]) -> "CutSet":
        """The cuts that are wanted, (N,)."""
        cuts = self.cuts[wanted].reset_index(drop=True)
        return CutSet(cuts, self.boxes[self.boxes["cut_id"].isin(cuts["cut_id"])], self.pictures[wanted])

    def targets(self) -> list[tuple[bx.Boxes, NDArray[np.int64]]]:
        """Boxes (G, 4) in input px and classes (G,), 1 benign or 2 malignant, of every cut's identity view."""
        seen = dict(list(self.boxes.groupby("cut_id")))
        return [_target(seen.get(cut_id)) for cut_id in self.cuts["cut_id"]]

    def save(self, folder: Path) -> None:
        """Write cuts.csv, boxes.csv, pictures.npy, views.csv and manifest.json."""
        _save(folder, "cuts", self.cuts, self.pictures, DETECTOR_VIEWS)
        write_table(self.boxes, folder / "boxes.csv")
        write_manifest(folder)

    @classmethod
    def load(cls, folder: Path) -> "CutSet":
        """Read what `save` wrote; raises BadInputError when a file changed or pictures and table do not match."""
        cuts, pictures = _load(folder, "cuts", len(DETECTOR_VIEWS))
        return cls(cuts, _read(folder / "boxes.csv"), pictures)


def _target(rows: pd.DataFrame | None) -> tuple[bx.Boxes, NDArray[np.int64]]:
    if rows is None:
        return np.empty((0, 4)), np.empty(0, dtype=np.int64)
    boxes, classes = rows[BOX_COLUMNS], rows["severity"].map(LABELS.index)
    # Copies: what pandas hands out is read-only, which torch cannot take.
    return boxes.to_numpy(dtype=np.float64, copy=True), classes.to_numpy(dtype=np.int64, copy=True)


def targets_of_views(
    targets: Sequence[tuple[bx.Boxes, NDArray[np.int64]]], edge_px: int
) -> list[tuple[bx.Boxes, NDArray[np.int64]]]:
    """Targets of every fixed view of every cut, cut by cut: N targets become N * V."""
    return [
        (view_of_boxes(boxes, edge_px, edge_px, view), labels) for boxes, labels in targets for view in DETECTOR_VIEWS
    ]


def cut_patches(
    films: pd.DataFrame, canonical: Mapping[str, CanonicalFilm], lesions: pd.DataFrame, parameters: pt.CutParameters
) -> PatchSet:
    """One patch per located lesion, and for each lesion lesion-free patches like it, which are named normal.

    `normals_per_lesion` of them come from normal films, `lesion_free_per_lesion` from abnormal ones, away from their
    lesions: what tells these from lesions cannot be the film. Films are dealt out in seeded order: each that has a
    window to give gives as many patches as any other, give or take one.

    Raises:
        BadInputError: when there is no located lesion or no normal film; when no film has a lesion-free window with
            `min_breast_share` of breast.
    """
    missing = {"located lesion": lesions["has_location"].any(), "normal film": (films["label"] == "normal").any()}
    raise_if_any("films to cut patches from", [f"there is no {what}" for what, there in missing.items() if not there])
    by_film = films.set_index("film_id")
    sources = {
        "like": (parameters.normals_per_lesion, _LesionFree("normal", films, canonical, lesions, parameters)),
        "beside": (parameters.lesion_free_per_lesion, _LesionFree("abnormal", films, canonical, lesions, parameters)),
    }
    rows, pictures = [], []
    for lesion in catalog.rows(lesions[lesions["has_location"]]):
        film = canonical[lesion.film_id]
        with pt.of_film(film.film_id):
            window = pt.lesion_window(_canonical_boxes(film, lesion), film, parameters)
        rows.append(
            _row(film, by_film, lesion.lesion_id, "lesion", lesion.lesion_id, window) | {"label": lesion.severity}
        )
        pictures.append(pt.crop(film.pixels, window, parameters.input_px))
        for how, (wanted, source) in sources.items():
            for n in range(wanted):
                other, matched = source.deal(window, film)
                name = f"{other.film_id}_{how}_{lesion.lesion_id}_{n}"
                rows.append(_row(other, by_film, name, "normal", None, matched) | {"label": "normal"})
                pictures.append(pt.crop(other.pixels, matched, parameters.input_px))
    table = pd.DataFrame(rows).rename(columns={"item": "patch_id"})
    return PatchSet(table, fixed_views(np.concatenate(pictures), CLASSIFIER_VIEWS))


def cut_detector_cuts(
    films: pd.DataFrame, canonical: Mapping[str, CanonicalFilm], lesions: pd.DataFrame, parameters: pt.CutParameters
) -> CutSet:
    """Cuts centred on each located lesion, cuts with it off the centre, and lesion-free cuts of normal films.

    An abnormal film without location gives none: its tissue is neither positive nor negative.
    """
    by_film = films.set_index("film_id")
    located = lesions[lesions["has_location"]]
    rows, boxes, pictures = [], [], []

    def add(film: CanonicalFilm, windows: bx.Boxes, kind: str, lesion_id: str | None, name: str) -> None:
        own = located[located["film_id"] == film.film_id]
        for n, window in enumerate(windows[:, None]):
            row = _row(film, by_film, f"{name}_{kind}_{n}", kind, lesion_id, window)
            rows.append(row)
            boxes.extend(_boxes_of_cut(row, film, own, window, parameters))
        pictures.append(pt.crop(film.pixels, windows, parameters.input_px))

    for lesion in catalog.rows(located):
        film = canonical[lesion.film_id]
        box, (height, width) = _canonical_boxes(film, lesion), film.pixels.shape
        generator = np.random.default_rng([parameters.seed, lesion.Index])
        with pt.of_film(film.film_id):
            centred = pt.centred_windows(box, parameters.window_px, width, height)
            jittered = pt.jittered_windows(box, width, height, parameters, generator)
        for kind, windows in (("centred", centred), ("jittered", jittered)):
            add(film, windows, kind, lesion.lesion_id, lesion.lesion_id)
    for number, film_id in enumerate(films["film_id"]):
        if by_film.loc[film_id, "label"] != "normal":
            continue
        generator = np.random.default_rng([parameters.seed, number, 1])
        with pt.of_film(film_id):
            windows = pt.normal_windows(canonical[film_id], parameters.normal_cuts_per_film, parameters, generator)
        add(canonical[film_id], windows, "normal", None, film_id)
    table = pd.DataFrame(rows).rename(columns={"item": "cut_id"})
    return CutSet(table, pd.DataFrame(boxes, columns=BOX_TABLE), fixed_views(np.concatenate(pictures), DETECTOR_VIEWS))


def cut_boxes_on_film(boxes: bx.Boxes, cut: Mapping[Any, Any], films: pd.DataFrame, edge_px: int) -> bx.Boxes:
    """Boxes (D, 4) in px of one view of a cut (`edge_px` wide and high) as boxes of the film file."""
    upright = view_of_boxes(boxes, edge_px, edge_px, INVERSE_VIEW[cut["view"]])
    window = np.array([cut[column] for column in BOX_COLUMNS])
    size = (window[2] - window[0]) / edge_px
    film = films.set_index("film_id").loc[cut["film_id"]]
    transform = canonical_transform(film["chest_wall"], film["width_px"], film["height_px"], film["pixel_spacing_mm"])
    return transform.boxes_to_film(bx.shift(bx.scale(upright, size, size), window[0], window[1]))


def windows_on_film(items: pd.DataFrame, films: pd.DataFrame) -> bx.Boxes:
    """Windows (N, 4) of cuts, in px of their film files."""
    whole = np.array([[0.0, 0.0, 1.0, 1.0]])
    upright = items.assign(view="identity").to_dict("records")
    return np.concatenate([np.empty((0, 4)), *(cut_boxes_on_film(whole, cut, films, 1) for cut in upright)])


def truth_of_cuts(cut_set: CutSet, items: pd.DataFrame, films: pd.DataFrame) -> pd.DataFrame:
    """Lesions of cuts in px of their film files: item, lesion_id, severity, x1 … y2.

    Args:
        cut_set: the cuts and their boxes.
        items: a row per picture judged: item, cut_id, film_id and the cut's window. Two views of one cut are two
            items with the same truth, for both are judged on the film.
        films: films.csv.
    """
    edge = cut_set.pictures.shape[2]
    windows = cut_set.cuts.assign(view="identity").set_index("cut_id").to_dict("index")
    on_film = cut_set.boxes[["cut_id", "lesion_id", "severity"]].copy()
    boxes = [
        cut_boxes_on_film(box[None], windows[cut_id], films, edge)[0]
        for cut_id, box in zip(on_film["cut_id"], cut_set.boxes[BOX_COLUMNS].to_numpy(dtype=np.float64), strict=True)
    ]
    on_film[BOX_COLUMNS] = np.array(boxes).reshape(-1, 4)
    return items[["item", "cut_id"]].merge(on_film, on="cut_id").drop(columns="cut_id")


class _Deck:
    """Names dealt out in seeded order, again and again."""

    def __init__(self, names: list[str], seed: int) -> None:
        self._names, self._generator, self._left = names, np.random.default_rng(seed), list[str]()

    def deal(self) -> str:
        if not self._left:
            self._left = [self._names[n] for n in self._generator.permutation(len(self._names))]
        return self._left.pop()


class _LesionFree:
    """Windows with enough breast that keep off lesions, of one film after the other; of normal or of abnormal films.

    An abnormal film with an unlocated lesion gives none: its tissue is neither positive nor negative.
    """

    def __init__(
        self,
        which: Literal["normal", "abnormal"],
        films: pd.DataFrame,
        canonical: Mapping[str, CanonicalFilm],
        lesions: pd.DataFrame,
        parameters: pt.CutParameters,
    ) -> None:
        located = lesions.groupby("film_id")["has_location"].all()
        of_which = {"normal": films.loc[films["label"] == "normal", "film_id"], "abnormal": located.index[located]}
        self._names = sorted(of_which[which])
        self._deck = _Deck(self._names, parameters.seed + (which == "abnormal"))
        self._which, self._canonical, self._lesions, self._parameters = which, canonical, lesions, parameters

    def deal(self, window: bx.Boxes, of: CanonicalFilm) -> tuple[CanonicalFilm, bx.Boxes]:
        """The next film, and its window (1, 4) like a lesion's (1, 4); a film without any is passed over."""
        tried = set[str]()
        while len(tried) < len(self._names):
            film = self._canonical[self._deck.deal()]
            tried.add(film.film_id)
            own = self._lesions.loc[self._lesions["film_id"] == film.film_id, BOX_COLUMNS]
            boxes = film.transform.boxes_to_canonical(own.to_numpy(dtype=np.float64))
            with pt.of_film(film.film_id):
                found = pt.matched_normal_window(window, of, film, self._parameters.min_breast_share, keep_off=boxes)
            if len(found):
                return film, found
        px, share = self._parameters.window_px, f"{self._parameters.min_breast_share:.0%} of breast"
        problem, remedy = (
            f"no {self._which} film has a window of {px} px with {share}",
            "Choose a smaller window_px or min_breast_share",
        )
        if self._which == "abnormal":
            problem, remedy = f"{problem} away from its lesions", f"{remedy}, or set lesion_free_per_lesion to 0"
        raise BadInputError("films to cut patches from", [problem], f"{remedy}.")


def _row(
    film: CanonicalFilm, films: pd.DataFrame, item: str, kind: str, lesion_id: str | None, window: bx.Boxes
) -> dict[str, object]:
    where = dict(zip(BOX_COLUMNS, window[0].tolist(), strict=True))
    return {
        "item": item,
        "film_id": film.film_id,
        "patient_id": films.loc[film.film_id, "patient_id"],
        "kind": kind,
        "lesion_id": lesion_id,
        **where,
        "breast_share": round(float(pt.breast_shares(film.mask, window)[0]), 6),
    }


def _boxes_of_cut(
    row: dict[str, object], film: CanonicalFilm, own: pd.DataFrame, window: bx.Boxes, parameters: pt.CutParameters
) -> list[dict[str, object]]:
    on_film = film.transform.boxes_to_canonical(own[BOX_COLUMNS].to_numpy(dtype=np.float64))
    seen, which = pt.boxes_in_window(on_film, window, parameters.input_px, parameters.min_visible_share)
    return [
        {
            "cut_id": row["item"],
            "film_id": row["film_id"],
            "patient_id": row["patient_id"],
            "lesion_id": own["lesion_id"].iloc[index],
            "severity": own["severity"].iloc[index],
            **dict(zip(BOX_COLUMNS, box.tolist(), strict=True)),
        }
        for box, index in zip(seen, which, strict=True)
    ]


def _canonical_boxes(film: CanonicalFilm, lesion: Any) -> bx.Boxes:
    box = np.array([[getattr(lesion, column) for column in BOX_COLUMNS]], dtype=np.float64)
    return film.transform.boxes_to_canonical(box)


def fixed_views(pictures: Pictures, views: Sequence[str]) -> Pictures:
    """Every view (N, V, S, S) of square pictures (N, S, S)."""
    seen = [[view_of_image(picture, view) for view in views] for picture in pictures]
    return np.array(seen, dtype=np.uint8).reshape(len(pictures), len(views), *pictures.shape[1:])


def _items_of_views(table: pd.DataFrame, views: Sequence[str]) -> pd.DataFrame:
    rows = table.loc[table.index.repeat(len(views))].reset_index(drop=True)
    rows["view"] = list(views) * len(table)
    return rows.assign(item=rows.iloc[:, 0] + ":" + rows["view"])


def _save(folder: Path, name: str, table: pd.DataFrame, pictures: Pictures, views: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_table(table, folder / f"{name}.csv")
    np.save(folder / "pictures.npy", pictures)
    sources = table.iloc[:, 0]
    index = pd.DataFrame({"source_item": np.repeat(sources, len(views)), "view": list(views) * len(table)})
    write_table(index, folder / "views.csv")


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=NAMES, float_precision="round_trip")


def _load(folder: Path, name: str, n_views: int) -> tuple[pd.DataFrame, Pictures]:
    verify_manifest(folder)
    table, pictures = _read(folder / f"{name}.csv"), np.load(folder / "pictures.npy", allow_pickle=False)
    found, expected = pictures.shape[:2], (len(table), n_views)
    raise_if_any(
        f"{folder}/pictures.npy",
        []
        if found == expected
        else [f"holds {found[0]} x {found[1]} pictures, {name}.csv lists {expected[0]} x {expected[1]}"],
        "Cut again: delete the folder and run `dvc repro cut`.",
    )
    return table, pictures
