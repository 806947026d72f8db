"""Protocols as data: by patient, and those of the literature, each with what leaks and what was claimed under it.

Only a protocol by patient can be promoted; every other one carries `leaky` in its name, which the gate refuses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.datasets.catalog import BOX_COLUMNS
from mammo_ml.imaging import boxes as bx
from mammo_ml.splits import roles_of, split_at_random_leaky
from mammo_ml.turned_windows import FULL_TURN

Task = Literal["patches", "crops", "cuts"]
Views = Literal["five_fixed", "six_fixed", "rotations_360", "copies_20"]
Split = Literal["by_patient", "by_film", "70/10/20", "90/10", "80/20"]

FIVE_FIXED = ((0, False), (90, False), (180, False), (270, False), (180, True))
"""Degrees and whether mirrored of the views that stage `cut` makes for the classifier; the last is top to bottom."""
SIX_FIXED = (*FIVE_FIXED, (0, True))
COPIES = 20
TEST_SHARE = {"90/10": 0.1, "80/20": 0.2, "by_film": 0.2}
EXPOSURES = ("pixels", "film", "lesion", "woman")


@dataclass(frozen=True)
class Protocol:
    """How items are made and split, and what was claimed of it.

    Attributes:
        name: unique; by patient, or with `leaky` in it.
        model: classifier or detector.
        task: patches (normal, benign, malignant), crops (benign, malignant) or cuts (boxes); protocols of one task are
            compared.
        views: what every window becomes before the split.
        split: who goes to the test items.
        leaks: one sentence; empty where nothing does.
        claimed: the figure claimed under it, None where nobody claimed one.
        source: who claimed it.
    """

    name: str
    model: Literal["classifier", "detector"]
    task: Task
    views: Views
    split: Split
    leaks: str = ""
    claimed: float | None = None
    source: str = ""

    @property
    def can_be_promoted(self) -> bool:
        """Whether its figures may decide about a model."""
        return self.split == "by_patient"


FIGURE_OF: dict[Task, str] = {"patches": "accuracy", "crops": "accuracy", "cuts": "map_50"}
"""The figure claims are made in, by task."""

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("patches_by_patient", "classifier", "patches", "five_fixed", "by_patient"),
        Protocol(
            "patches_by_film_leaky",
            "classifier",
            "patches",
            "five_fixed",
            "by_film",
            "A woman's other breast is learned from: her two films are alike in density, exposure and scanner.",
        ),
        Protocol(
            "patches_at_random_leaky",
            "classifier",
            "patches",
            "five_fixed",
            "70/10/20",
            "Patches are turned and mirrored first and split after: a test patch was learned from in another view.",
            0.7325,
            "the reference slides",
        ),
        Protocol("crops_by_patient", "classifier", "crops", "rotations_360", "by_patient"),
        Protocol(
            "rotations_360_leaky",
            "classifier",
            "crops",
            "rotations_360",
            "80/20",
            "Each lesion is turned 360 times and split after: a test crop was learned from one degree away.",
            0.942,
            "NIT Calicut 2021",
        ),
        Protocol("cuts_by_patient", "detector", "cuts", "six_fixed", "by_patient"),
        Protocol(
            "cuts_at_random_leaky",
            "detector",
            "cuts",
            "six_fixed",
            "70/10/20",
            "Cuts are turned and mirrored first and split after: a test cut's lesion was learned from in another view.",
            0.803,
            "the reference poster",
        ),
        Protocol(
            "copies_90_10_leaky",
            "detector",
            "cuts",
            "copies_20",
            "90/10",
            "Every cut is copied 20 times and the copies are split: about 18 copies of each test lesion were learned.",
            0.987,
            "delmalih 2019",
        ),
    )
}


def honest(protocol: Protocol) -> Protocol:
    """The protocol by patient of the same task."""
    return next(one for one in PROTOCOLS.values() if one.task == protocol.task and one.can_be_promoted)


def items_of(windows: pd.DataFrame, views: Views, seed: int) -> pd.DataFrame:
    """A row per picture: `item`, the columns of its window, `source` (row of the window), `angle`, `mirrored`.

    The first view of every window is the window as it is.

    Args:
        windows: a row per window, its first column its name.
        views: what each becomes.
        seed: of the turns of copies, which differ among themselves.
    """
    each = [_views(views, np.random.default_rng([seed, n])) for n in range(len(windows))]
    rows = windows.loc[windows.index.repeat([len(own) for own in each])].reset_index(drop=True)
    rows["source"] = np.repeat(np.arange(len(windows)), [len(own) for own in each])
    rows["angle"] = np.array([angle for own in each for angle, _ in own], dtype=np.int64)
    rows["mirrored"] = np.array([mirrored for own in each for _, mirrored in own], dtype=np.bool_)
    turn = [f":{angle:03d}{'m' if mirrored else ''}" for own in each for angle, mirrored in own]
    return rows.assign(item=rows.iloc[:, 0] + turn)


def _views(views: Views, generator: np.random.Generator) -> Sequence[tuple[int, bool]]:
    match views:
        case "five_fixed":
            return FIVE_FIXED
        case "six_fixed":
            return SIX_FIXED
        case "rotations_360":
            return [(angle, False) for angle in range(FULL_TURN)]
        case "copies_20":
            ways: list[int] = (1 + generator.choice(2 * FULL_TURN - 1, COPIES - 1, replace=False)).tolist()
            return [(0, False), *((way % FULL_TURN, way >= FULL_TURN) for way in ways)]


def roles_under(
    protocol: Protocol, items: pd.DataFrame, folds: pd.DataFrame, test_folds: Sequence[int], seed: int
) -> dict[int, NDArray[np.str_]]:
    """Role (N,) of each item, train, test or unused, for each training of a protocol.

    By patient there is one training for each test fold, and a woman's windows are tested as they are, once. A leaky
    protocol has one training, numbered 0; what its source kept for validation is left unused, for nothing is chosen.

    Args:
        protocol: decides the split.
        items: as of `items_of`.
        folds: folds of the women.
        test_folds: those that are tested by patient.
        seed: of the leaky draws.
    """
    if protocol.split == "by_patient":
        return {fold: _by_patient(items, folds, fold) for fold in test_folds}
    if protocol.split == "70/10/20":
        roles = split_at_random_leaky(len(items), seed)
        return {0: np.where(roles == "validation", "unused", roles)}
    drawn = items["film_id"] if protocol.split == "by_film" else items["item"]
    names = np.array(sorted(set(drawn)))
    n_test = round(TEST_SHARE[protocol.split] * len(names))
    tested = np.random.default_rng(seed).permutation(names)[:n_test]
    roles = np.where(drawn.isin(tested), "test", "train")
    if protocol.split == "by_film":
        roles[(roles == "test") & ~_as_they_are(items)] = "unused"
    return {0: roles}


def _by_patient(items: pd.DataFrame, folds: pd.DataFrame, fold: int) -> NDArray[np.str_]:
    tested = roles_of(folds, items["patient_id"], fold) == "test"
    return np.where(tested, np.where(_as_they_are(items), "test", "unused"), "train")


def _as_they_are(items: pd.DataFrame) -> NDArray[np.bool_]:
    upright: NDArray[np.bool_] = ((items["angle"] == 0) & ~items["mirrored"]).to_numpy()
    return upright


def exposure(tested: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """Whether each tested item (N) was in training: columns pixels, film, lesion, woman; lesion is null without one.

    Pixels were in training when a training item's window covers a part of this one's on the same film, turned or not.

    Args:
        tested: film_id, patient_id, lesion_id and the window x1 … y2 on the canonical film.
        trained: the same of the training items.
    """
    windows = {film: own[BOX_COLUMNS].to_numpy() for film, own in trained.drop_duplicates("source").groupby("film_id")}
    nothing = np.empty((0, 4))
    once = tested.drop_duplicates("source")
    shared = {
        source: bool((bx.iou(window[None], windows.get(film, nothing)) > 0).any())
        for source, film, window in zip(once["source"], once["film_id"], once[BOX_COLUMNS].to_numpy(), strict=True)
    }
    lesion = tested["lesion_id"].isin(trained["lesion_id"].dropna()).astype("boolean")
    return pd.DataFrame(
        {
            "pixels": tested["source"].map(shared).astype(bool),
            "film": tested["film_id"].isin(trained["film_id"]),
            "lesion": lesion.mask(tested["lesion_id"].isna()),
            "woman": tested["patient_id"].isin(trained["patient_id"]),
        }
    )
