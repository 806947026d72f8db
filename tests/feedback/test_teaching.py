"""Corrections teach women of the training part alone; without any, what is taught is what it was before."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mammo_ml.cutting import CutSet, cut_boxes_on_film, cut_detector_cuts
from mammo_ml.datasets.catalog import BOX_COLUMNS
from mammo_ml.feedback.tables import empty_tables
from mammo_ml.feedback.teaching import Teaching, cut_feedback, same_lesion, save_feedback
from mammo_ml.splits import N_FOLDS, role_column
from pipelines import finalize_detector, train_detector, tune_detector
from tests.test_cutting import FILMS, LESIONS, PARAMETERS, canonical_of

WHO = {"author": "Roe", "read_at": "2026-05-04T12:30:15.123Z"}
MOVED = ("004", (51.0, 41.0, 63.0, 53.0), "malignant")  # over 004_1; 004_2 stands beside it
DRAWN = ("001", (40.0, 50.0, 52.0, 64.0), "benign")
ON_UNPLACED = ("006", (20.0, 20.0, 30.0, 30.0), "benign")
FALSE = ("003", (20.0, 80.0, 30.0, 90.0))
Given = tuple[str, tuple[float, float, float, float], str]


def feedback(*findings: Given, rejected: tuple = (), read_at: str = WHO["read_at"]) -> dict[str, pd.DataFrame]:
    def placed(name: str, box: tuple[float, ...]) -> dict[str, object]:
        return {"film_id": name, **WHO, "read_at": read_at, **dict(zip(BOX_COLUMNS, box, strict=True))}

    names = sorted({one[0] for one in (*findings, *rejected)})
    tables = {
        "films": [{"film_id": name, **WHO, "read_at": read_at} for name in names],
        "lesions": [
            placed(name, box) | {"lesion_id": f"{name}_feedback_{n}", "severity": severity, "has_location": True}
            for n, (name, box, severity) in enumerate(findings)
        ],
        "rejected": [placed(name, box) for name, box in rejected],
    }
    return {name: pd.DataFrame(rows) if rows else empty_tables()[name] for name, rows in tables.items()}


@pytest.fixture(scope="module")
def cuts() -> CutSet:
    return cut_detector_cuts(FILMS, canonical_of(FILMS), LESIONS, PARAMETERS)


def cut(cuts: CutSet, tables: dict[str, pd.DataFrame]) -> tuple[CutSet, list[str]]:
    made, left_out = cut_feedback(FILMS, canonical_of(FILMS), LESIONS, tables, cuts, PARAMETERS)
    return made, list(left_out)


def saved(folder: Path, cuts: CutSet, tables: dict[str, pd.DataFrame]) -> tuple[Path, Path]:
    cuts.save(folder / "cuts")
    save_feedback(*cut_feedback(FILMS, canonical_of(FILMS), LESIONS, tables, cuts, PARAMETERS), folder / "feedback")
    return folder / "cuts", folder / "feedback"


def test_without_corrections_arrays_order_and_parts_are_as_before(tmp_path: Path, cuts: CutSet) -> None:
    places = saved(tmp_path, cuts, empty_tables())
    before, teaching = CutSet.load(places[0]), Teaching.load(*places)
    pd.testing.assert_frame_equal(teaching.cuts.cuts, before.cuts)
    pd.testing.assert_frame_equal(teaching.cuts.boxes, before.boxes)
    assert teaching.cuts.pictures.dtype == before.pictures.dtype
    assert np.array_equal(teaching.cuts.pictures, before.pictures)
    roles = np.random.default_rng(1).choice(["train", "inner", "test"], len(before.cuts))
    train, inner = teaching.parts(roles)
    assert np.array_equal(train, roles == "train")
    assert np.array_equal(inner, roles == "inner")
    assert teaching.taught.all()


def test_findings_are_cut_like_lesions_and_their_boxes_lie_where_the_reader_put_them(cuts: CutSet) -> None:
    made, _ = cut(cuts, feedback(MOVED, DRAWN, ON_UNPLACED, rejected=(FALSE,)))
    kinds = made.cuts.groupby("film_id")["kind"].agg(list).to_dict()
    lesion = ["centred", *["jittered"] * PARAMETERS.jittered_per_lesion]
    assert kinds == {"001": lesion, "003": ["rejected"], "004": lesion, "006": lesion}
    windows = made.cuts.assign(view="identity").set_index("cut_id").to_dict("index")
    for finding, n in ((MOVED, 0), (DRAWN, 1), (ON_UNPLACED, 2)):
        own = made.boxes[made.boxes["cut_id"] == f"{finding[0]}_feedback_{n}_centred_0"].set_index("lesion_id")
        row = own.loc[f"{finding[0]}_feedback_{n}"]
        box = row[BOX_COLUMNS].to_numpy(dtype=np.float64)[None]
        on_film = cut_boxes_on_film(box, windows[row["cut_id"]], FILMS, PARAMETERS.input_px)
        assert on_film[0] == pytest.approx(finding[1])
        assert row["severity"] == finding[2]
    # the lesion beside the moved one is seen too, the one it replaces is not
    beside = made.boxes.loc[made.boxes["cut_id"] == "004_feedback_0_centred_0", "lesion_id"]
    assert sorted(beside) == ["004_2", "004_feedback_0"]
    assert "003" not in set(made.boxes["film_id"])
    assert made.cuts.loc[made.cuts["kind"] == "rejected", "lesion_id"].isna().all()
    assert made.pictures.shape == (len(made.cuts), *cuts.pictures.shape[1:])


def test_cuts_of_the_catalog_that_contradict_a_finding_teach_no_more(cuts: CutSet) -> None:
    _, left_out = cut(cuts, feedback(MOVED, DRAWN))
    shows = set(cuts.boxes.loc[cuts.boxes["lesion_id"] == "004_1", "cut_id"])
    assert shows <= set(left_out)
    assert {name[:3] for name in left_out} <= {"001", "004"}
    # a lesion-free cut of a normal film, but for what was drawn there
    x, y = 90 - 46, 57
    free = cuts.cuts[(cuts.cuts["film_id"] == "001") & cuts.cuts["x1"].lt(x - 6) & cuts.cuts["x2"].gt(x + 6)]
    free = free[free["y1"].lt(y - 7) & free["y2"].gt(y + 7)]
    assert set(free["cut_id"]) <= set(left_out)


@pytest.mark.parametrize("role", ["train", "inner", "test"])
def test_inner_and_test_women_never_see_a_correction(tmp_path: Path, cuts: CutSet, role: str) -> None:
    teaching = Teaching.load(*saved(tmp_path, cuts, feedback(MOVED, DRAWN, rejected=(FALSE,))))
    roles = np.full(len(teaching.cuts.cuts), role)
    train, inner = teaching.parts(roles)
    by_catalog = np.arange(len(roles)) < len(cuts.cuts)
    assert np.array_equal(teaching.of_catalog, by_catalog)
    assert np.array_equal(inner, by_catalog & (role == "inner"))  # the left out ones too
    assert train[~by_catalog].all() == (role == "train")
    assert train.any() == (role == "train")


def test_a_class_that_is_not_known_is_that_of_the_replaced_lesion_or_nothing_is_taught(cuts: CutSet) -> None:
    made, _ = cut(cuts, feedback((*MOVED[:2], "unknown")))
    own = made.boxes[made.boxes["lesion_id"] == "004_feedback_0"]
    assert set(own["severity"]) == {"benign"}
    everywhere = ("001", (1.0, 1.0, 89.0, 119.0), "unknown")
    nothing, left_out = cut(cuts, feedback((*DRAWN[:2], "unknown")))
    assert len(nothing.cuts) == len(nothing.boxes) == 0
    assert nothing.pictures.shape[1:] == cuts.pictures.shape[1:]
    assert left_out == cut(cuts, feedback(DRAWN))[1]
    assert len(cut(cuts, feedback(everywhere))[0].cuts) == 0


def test_a_rejected_box_teaches_only_where_no_lesion_is(cuts: CutSet) -> None:
    over_lesion, on_unplaced = ("004", (58.0, 50.0, 62.0, 58.0)), ("006", (20.0, 20.0, 30.0, 30.0))
    made, left_out = cut(cuts, feedback(rejected=(over_lesion, on_unplaced, FALSE)))
    assert made.cuts[["film_id", "kind"]].to_numpy().tolist() == [["003", "rejected"]]
    assert left_out == []


def test_the_newest_reading_of_a_film_replaces_older_ones(cuts: CutSet) -> None:
    old, new = feedback(MOVED, DRAWN), feedback(DRAWN, read_at="2026-06-01T00:00:00.000Z")
    both = {name: pd.concat([old[name], new[name]]) if len(new[name]) else old[name] for name in old}
    found = cut(cuts, both)[0].cuts["lesion_id"]
    assert set(found) == {"004_feedback_0", "001_feedback_0"}


def test_one_lesion_is_told_by_the_centre_of_either_box() -> None:
    def box(*edges: float) -> pd.Series:
        return pd.Series(dict(zip(BOX_COLUMNS, edges, strict=True)))

    wide, tight, beside = box(0, 0, 100, 100), box(60, 60, 80, 80), box(90, 0, 130, 40)
    assert same_lesion(wide, tight)
    assert same_lesion(tight, wide)
    assert not same_lesion(wide, beside)


class TaughtError(Exception):
    """Ends a stage when it has its data."""


@pytest.mark.parametrize("module", [tune_detector, train_detector, finalize_detector])
def test_every_training_stage_learns_from_corrections_and_judges_without(
    module: Any, tmp_path: Path, cuts: CutSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    women = ["1", "2", "3"]  # films 001 and 002; 003 and 004; 005 and 006
    roles = pd.DataFrame({role_column(fold): ["test"] * 3 for fold in range(N_FOLDS)}).assign(patient_id=women)
    roles[role_column(0)] = ["inner", "train", "test"]
    places = saved(tmp_path, cuts, feedback(MOVED, DRAWN, ON_UNPLACED, rejected=(FALSE,)))
    paths = {"cuts": places[0], "feedback": places[1], "fold": 0}
    paths |= dict.fromkeys(("catalog", "films", "films_table", "folds", "best", "tuned", "trained", "out"), tmp_path)
    found: list[Any] = []

    def catch(recipe: object, given: CutSet, train: np.ndarray, inner: np.ndarray) -> None:
        found.extend((given.cuts, train, inner))
        raise TaughtError

    recipe = SimpleNamespace(with_values=lambda values: None, space={}, prune_after_trials=None, pretrained="none")
    replaced = {
        "task_on_cuts": catch,
        "read_folds": lambda path: roles,
        "read_table": lambda path, columns: LESIONS if path.name == "lesions.csv" else FILMS,
        "canonical_films": lambda *given: [],
        "load_best": lambda path: {},
        "best_on_average": lambda trials: {},
        "median_best_epoch": lambda histories: 1,
        "refuse_one_sided_fold": lambda *given: None,
        "tune": lambda *given, **named: given[3](recipe, lambda samples: None, lambda history: None),
    }
    for name, value in replaced.items():
        if hasattr(module, name):
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module.stage, "arguments", lambda *given, **named: SimpleNamespace(**paths))
    monkeypatch.setattr(module.stage, "section", lambda *given: recipe)
    with pytest.raises(TaughtError):
        getattr(module, module.__name__.rpartition(".")[2])()

    table, train, inner = found
    corrected = ~table["cut_id"].isin(cuts.cuts["cut_id"])
    if module is finalize_detector:
        assert set(table.loc[corrected & train, "film_id"]) == {"001", "003", "004", "006"}
        assert not inner.any()
    else:
        assert set(table.loc[corrected & train, "film_id"]) == {"003", "004"}
        assert set(table.loc[train, "patient_id"]) == {"2"}
        assert table.loc[inner, "cut_id"].tolist() == cuts.cuts.loc[cuts.cuts["patient_id"] == "1", "cut_id"].tolist()
    shown = set(cuts.boxes.loc[cuts.boxes["lesion_id"] == "004_1", "cut_id"])
    assert not shown & set(table.loc[train, "cut_id"])
