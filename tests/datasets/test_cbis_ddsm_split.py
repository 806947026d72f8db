"""The committed list of CBIS-DDSM's women: never made again, no woman on both sides, refused where it is not kept."""

from hashlib import sha256

import pandas as pd
import pytest

from mammo_ml.datasets import cbis_ddsm_split
from mammo_ml.datasets.cbis_ddsm_split import COMMITTED, make_split, pretraining_films, read_split, women
from mammo_ml.errors import BadInputError


def films_of(*patients: str, dataset: str = "cbis_ddsm") -> pd.DataFrame:
    """Two films of each woman."""
    names = [(f"{patient}_{side}", patient) for patient in patients for side in ("LEFT_CC", "RIGHT_MLO")]
    return pd.DataFrame(names, columns=["film_id", "patient_id"]).assign(dataset=dataset)


def test_the_list_is_the_committed_one():
    committed = "7eed531c5cda4c239caff682b6882a4a4633db58f0f5d6a1499b2998553788c5"
    assert sha256(COMMITTED.read_bytes()).hexdigest() == committed


def test_691_women_are_split_80_to_20_and_none_is_on_both_sides():
    pretraining, external_test = women("pretraining"), women("external_test")
    assert (len(pretraining), len(external_test)) == (553, 138)
    assert not pretraining & external_test
    # one person, one number: a part is given to a woman, not to her left or right breast or to a view
    assert all(name.startswith("P_") and name[2:].isdigit() and len(name) == 7 for name in pretraining | external_test)
    with pytest.raises(ValueError, match="training"):
        women("training")


def test_making_the_list_keeps_every_womans_films_together_and_the_labels_even():
    films = pd.DataFrame(
        [
            (f"P_{n:05d}_{side}_{view}", f"P_{n:05d}", "benign" if n % 2 else label, "ABCD"[n % 4])
            for n in range(1, 201)
            for side, label in (("LEFT", "malignant"), ("RIGHT", "benign"))
            for view in ("CC", "MLO")
        ],
        columns=["film_id", "patient_id", "label", "density"],
    )
    split = make_split(films)
    assert not split["patient_id"].duplicated().any()
    malignant = split["patient_id"].isin(films.loc[films["label"] == "malignant", "patient_id"])
    assert pd.crosstab(malignant, split["part"])["external_test"].tolist() == [20, 20]
    pd.testing.assert_frame_equal(make_split(films), split)
    pd.testing.assert_frame_equal(make_split(films.sample(frac=1, random_state=1)), split)
    assert not make_split(films, seed=1).equals(split)


def test_films_of_pretraining_women_pass_unchanged():
    films = films_of(*sorted(women("pretraining"))[:3])
    assert pretraining_films(films) is films


def test_films_of_women_kept_for_external_validation_are_refused_each_by_name():
    kept, allowed = sorted(women("external_test"))[:2], sorted(women("pretraining"))[:2]
    with pytest.raises(BadInputError) as caught:
        pretraining_films(films_of(*allowed, *kept))
    assert caught.value.problems == [
        f"film {woman}_{view}: woman {woman} is kept for external validation (external_test)"
        for woman in kept
        for view in ("LEFT_CC", "RIGHT_MLO")
    ]


def test_women_on_no_list_other_sets_and_films_under_another_womans_name_are_refused():
    allowed, kept = sorted(women("pretraining"))[0], sorted(women("external_test"))[0]
    renamed = films_of(kept).assign(patient_id=allowed)
    with pytest.raises(BadInputError) as caught:
        pretraining_films(pd.concat([films_of("P_99999"), films_of(allowed, dataset="mini_mias"), renamed]))
    text = str(caught.value)
    assert "film P_99999_LEFT_CC: woman P_99999 of cbis_ddsm is not on the list" in text
    assert f"woman {allowed} of mini_mias is not on the list" in text
    assert f"film {kept}_LEFT_CC: its name is not that of woman {allowed}" in text
    assert len(caught.value.problems) == 6


def test_no_films_at_all_are_refused():
    with pytest.raises(BadInputError, match="there are none"):
        pretraining_films(films_of())


def test_a_list_with_a_woman_on_both_sides_or_an_unknown_part_is_refused_by_name(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("patient_id,part\nP_00001,pretraining\nP_00001,external_test\nP_00002,test\n")
    with pytest.raises(BadInputError) as caught:
        read_split(path)
    assert caught.value.problems == [
        "woman P_00001 has several rows, so she could stand on both sides",
        "line 4: woman P_00002: part 'test' is not one of pretraining, external_test",
    ]
    path.write_text("woman\nP_00001\n")
    with pytest.raises(BadInputError, match="expected patient_id, part"):
        cbis_ddsm_split.read_split(path)
