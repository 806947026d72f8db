"""Every leak that is planted is found and named; a clean split passes."""

import numpy as np
import pandas as pd
import pytest

from mammo_ml.errors import BadInputError
from mammo_ml.leak_audit import audit_ancestry, audit_roles, merge, pixel_keys

ROLES = np.array(["train", "train", "inner", "test"])


def _items() -> pd.DataFrame:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 6, 8), dtype=np.uint8)
    return pd.DataFrame(
        {
            "item": ["p1", "p2", "p3", "p4"],
            "patient_id": ["anna", "anna", "berta", "clara"],
            "film_id": ["mdb001", "mdb002", "mdb003", "mdb005"],
            "pixel_key": pixel_keys(pictures),
        },
        index=[7, 7, 3, 1],  # tables that were filtered keep such an index
    )


def _with(column: str, row: int, value: str) -> pd.DataFrame:
    items = _items()
    items.iloc[row, items.columns.get_loc(column)] = value
    return items


def test_a_split_that_shares_nothing_passes():
    audit = audit_roles(_items(), ROLES, "fold 0")
    assert audit.leak_free
    assert set(audit.figures.values()) == {0.0}
    audit.raise_if_leaking()


def test_a_womans_other_film_on_the_other_side_is_found_and_named():
    audit = audit_roles(_with("patient_id", 3, "anna"), ROLES, "fold 0")
    assert audit.problems == ("fold 0: woman anna is on both sides: p4 (test), p1 (train)",)
    assert audit.figures == {"women_shared": 1.0, "films_shared": 0.0, "pictures_shared": 0.0}


def test_a_film_on_both_sides_is_found_and_named():
    audit = audit_roles(_with("film_id", 2, "mdb002"), ROLES, "fold 2")
    assert audit.problems == ("fold 2: film mdb002 is on both sides: p3 (inner), p2 (train)",)
    assert audit.figures["films_shared"] == 1.0


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turned_or_mirrored_copy_of_a_picture_is_found_and_named(turn, mirrored):
    picture, other = np.random.default_rng(1).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    copy = np.rot90(np.fliplr(picture) if mirrored else picture, turn)
    keys = pixel_keys(np.stack([picture, other, copy]))
    items = _items().iloc[[0, 2, 3]].assign(pixel_key=keys)
    audit = audit_roles(items, np.array(["train", "train", "test"]), "fold 1")
    assert audit.problems == ("fold 1: one picture is on both sides: p4 (test), p1 (train)",)
    assert audit.figures["pictures_shared"] == 1.0


def test_one_changed_pixel_makes_another_picture():
    picture = np.zeros((1, 8, 8), dtype=np.uint8)
    changed = picture.copy()
    changed[0, 2, 3] = 1
    assert pixel_keys(picture) != pixel_keys(changed)


def test_pictures_of_the_same_bytes_but_another_shape_are_different():
    # Every byte alike: only the shape tells 2 x 8 from 4 x 4.
    assert pixel_keys(np.zeros((1, 2, 8), np.uint8)) != pixel_keys(np.zeros((1, 4, 4), np.uint8))


def test_items_without_pictures_are_still_compared_by_woman_and_film():
    items = _with("patient_id", 3, "anna").drop(columns="pixel_key")
    audit = audit_roles(items, ROLES, "fold 0")
    assert len(audit.problems) == 1
    assert audit.figures["pictures_shared"] == 0.0


def test_several_folds_become_one_audit():
    leaking = audit_roles(_with("patient_id", 3, "anna"), ROLES, "fold 1")
    both = merge([audit_roles(_items(), ROLES, "fold 0"), leaking, leaking])
    assert both.figures["women_shared"] == 2.0
    assert both.problems == leaking.problems * 2
    assert merge([]).leak_free


def test_a_leak_stops_the_run_and_says_what_to_do():
    with pytest.raises(BadInputError, match=r"woman anna is on both sides(.|\n)*Split by patient first"):
        audit_roles(_with("patient_id", 3, "anna"), ROLES, "fold 0").raise_if_leaking()


def _learned(*rows: tuple[str, str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["film_id", "sha256", "dataset", "patient_id", "step"])


LEARNED = _learned(
    ("P_00001_LEFT_CC", "1" * 64, "cbis_ddsm", "P_00001", "pretraining"),
    ("P_00001_LEFT_MLO", "2" * 64, "cbis_ddsm", "P_00001", "pretraining"),
    ("mdb001", "3" * 64, "mini_mias", "p001", "training"),
)


def _tested(film_id: str, sha256: str, dataset: str, patient_id: str) -> pd.DataFrame:
    return _learned((film_id, sha256, dataset, patient_id, "")).drop(columns="step")


def test_films_of_women_whom_no_ancestor_has_seen_pass():
    audit = audit_ancestry(LEARNED, _tested("P_00002_LEFT_CC", "9" * 64, "cbis_ddsm", "P_00002"), "validation")
    assert audit.leak_free
    assert audit.figures == {"women_shared": 0.0, "films_shared": 0.0, "sha256_shared": 0.0}


def test_a_woman_of_the_pretraining_is_found_by_another_film_of_hers_and_named_once():
    other_breast = _tested("P_00001_RIGHT_CC", "9" * 64, "cbis_ddsm", "P_00001")
    audit = audit_ancestry(LEARNED, pd.concat([other_breast] * 2), "validation")
    assert audit.problems == (
        "validation: woman P_00001 of cbis_ddsm is on both sides: P_00001_RIGHT_CC (tested), "
        "P_00001_LEFT_CC (pretraining), P_00001_LEFT_MLO (pretraining)",
    )
    with pytest.raises(BadInputError, match=r"Test on other women"):
        audit.raise_if_leaking()


def test_the_bytes_of_a_film_are_found_under_another_name_set_and_woman():
    audit = audit_ancestry(LEARNED, _tested("copy", "3" * 64, "own", "somebody"), "validation")
    assert audit.problems == (
        "validation: a file (sha256 333333333333…) is on both sides: copy (tested), mdb001 (training)",
    )


def test_a_woman_of_another_set_with_the_same_name_is_another_woman():
    assert audit_ancestry(LEARNED, _tested("mdb001", "9" * 64, "own", "p001"), "validation").leak_free


def test_what_cannot_show_that_nothing_is_shared_is_refused_and_named():
    tested = _tested("P_00002_LEFT_CC", "9" * 64, "cbis_ddsm", "P_00002")
    with pytest.raises(BadInputError, match=r"training films(.|\n)*column 'patient_id' is missing"):
        audit_ancestry(LEARNED[["film_id", "sha256"]], tested, "validation")
    with pytest.raises(BadInputError, match=r"tested films(.|\n)*no rows"):
        audit_ancestry(LEARNED, tested.iloc[:0], "validation")
    with pytest.raises(BadInputError, match=r"row 1: patient_id is unknown"):
        audit_ancestry(LEARNED, pd.concat([tested, tested.assign(patient_id="")]), "validation")
