"""A woman stands on one side of every split; the leaky split, and only it, breaks that."""

import numpy as np
import pandas as pd
import pytest

from mammo_ml import splits
from mammo_ml.errors import BadInputError
from mammo_ml.models.bundle import folds_sha256
from mammo_ml.splits import SplitParameters, folds_for, in_folds, make_folds, read_folds, role_column, roles_of

DENSITIES = ("F", "G", "D")


def films_of(n_normal: int = 60, n_benign: int = 24, n_malignant: int = 20) -> pd.DataFrame:
    """Two films a woman; only her right one (the second) shows the lesion."""
    rows = []
    for number, label in enumerate(["normal"] * n_normal + ["benign"] * n_benign + ["malignant"] * n_malignant):
        for side in "LR":
            rows.append(
                {
                    "film_id": f"film{number:03d}{side}",
                    "dataset": "made_up",
                    "patient_id": f"woman{number:03d}",
                    "density": DENSITIES[number % 3],
                    "label": label if side == "R" else "normal",
                }
            )
    return pd.DataFrame(rows)


def test_a_woman_has_the_label_of_her_worst_film():
    women = splits.women_of(films_of(1, 1, 1))
    assert women["label"].tolist() == ["normal", "benign", "malignant"]
    assert women["density"].tolist() == ["F", "G", "D"]


def test_every_woman_is_tested_once_and_is_on_one_side_of_each_fold():
    films = films_of()
    folds = make_folds(films, seed=3)
    assert folds["patient_id"].is_unique
    assert set(folds["patient_id"]) == set(films["patient_id"])
    for k in range(splits.N_FOLDS):
        roles = roles_of(folds, films["patient_id"], k)
        assert set(roles) == set(splits.ROLES)
        sides = pd.Series(roles).groupby(films["patient_id"]).nunique()
        assert (sides == 1).all()
        np.testing.assert_array_equal(roles == "test", in_folds(folds, films["patient_id"], [k]))


def test_folds_hold_equal_shares_of_every_label():
    folds = make_folds(films_of(), seed=3).merge(splits.women_of(films_of()), on="patient_id")
    counts = pd.crosstab(folds["fold"], folds["label"])
    # 60, 24 and 20 women over five folds: as many in each, give or take the one that is left over.
    assert (counts.max() - counts.min() <= 1).all()
    assert counts["normal"].tolist() == [12] * 5


def test_densities_within_a_label_are_spread_over_the_folds():
    folds = make_folds(films_of(), seed=3).merge(splits.women_of(films_of()), on="patient_id")
    counts = folds.groupby(["label", "density", "fold"]).size().unstack("fold", fill_value=0)
    # A run of n women of one kind is dealt in turn, so no fold gets two more of them than another.
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()


def test_the_inner_part_is_a_stratified_quarter_of_the_women_outside_the_fold():
    women = splits.women_of(films_of())
    folds = make_folds(films_of(), seed=3).merge(women, on="patient_id")
    for k in range(splits.N_FOLDS):
        outside = folds[folds[role_column(k)] != "test"]
        inner = outside[outside[role_column(k)] == "inner"]
        assert abs(len(inner) - len(outside) / 4) < 1
        shares = inner["label"].value_counts() - outside["label"].value_counts() / 4
        assert (shares.abs() < 1).all()


def test_the_smallest_label_allowed_still_reaches_every_role_of_every_fold():
    films = films_of(n_malignant=5)
    folds = make_folds(films, seed=0).merge(splits.women_of(films), on="patient_id")
    for k in range(splits.N_FOLDS):
        assert folds.loc[folds["label"] == "malignant", role_column(k)].value_counts().to_dict() == {
            "train": 3,
            "test": 1,
            "inner": 1,
        }


def test_the_same_seed_gives_the_same_folds_whatever_the_order_of_the_films():
    films = films_of()
    pd.testing.assert_frame_equal(make_folds(films, 5), make_folds(films.sample(frac=1, random_state=0), 5))
    assert not make_folds(films, 5).equals(make_folds(films, 6))


def test_a_label_with_fewer_women_than_folds_is_refused():
    with pytest.raises(BadInputError, match="only 4 women are 'malignant', fewer than the 5 folds"):
        make_folds(films_of(n_malignant=4), seed=0)


@pytest.mark.parametrize("ask", [lambda f, w: roles_of(f, w, 0), lambda f, w: in_folds(f, w, [0])])
def test_a_woman_without_a_fold_is_named_and_never_left_out_in_silence(ask):
    folds = make_folds(films_of(), seed=3)
    with pytest.raises(BadInputError, match="woman stranger has no fold"):
        ask(folds, pd.Series(["woman001", "stranger"]))


def test_committed_folds_of_other_women_are_refused_by_name(monkeypatch):
    films = films_of()
    folds = make_folds(films, seed=3)
    monkeypatch.setattr(splits, "committed_folds", lambda dataset: folds)
    benchmark = SplitParameters(folds="benchmark", seed=9)
    pd.testing.assert_frame_equal(folds_for(films, benchmark), folds)
    pd.testing.assert_frame_equal(
        folds_for(films, SplitParameters(folds="development", seed=9)), make_folds(films, seed=9)
    )
    others = films.replace({"patient_id": {"woman000": "newcomer"}})
    with pytest.raises(BadInputError) as caught:
        folds_for(others, benchmark)
    assert caught.value.problems == ["woman newcomer has films but no fold", "woman woman000 has a fold but no films"]


def test_a_data_set_without_committed_folds_gets_them_from_the_seed():
    films = films_of()
    assert splits.committed_folds("made_up") is None
    pd.testing.assert_frame_equal(
        folds_for(films, SplitParameters(folds="benchmark", seed=4)), make_folds(films, seed=4)
    )


def test_folds_survive_their_file(tmp_path):
    films = films_of().replace({"patient_id": {"woman000": "007"}})
    folds = make_folds(films, seed=3)
    folds.to_csv(tmp_path / "folds.csv", index=False)
    pd.testing.assert_frame_equal(read_folds(tmp_path / "folds.csv"), folds)


def test_the_leaky_split_is_70_10_20():
    roles, counts = np.unique(splits.split_at_random_leaky(500, seed=1), return_counts=True)
    assert dict(zip(roles, counts, strict=True)) == {"train": 350, "validation": 50, "test": 100}
    np.testing.assert_array_equal(splits.split_at_random_leaky(500, 1), splits.split_at_random_leaky(500, 1))


def test_the_leaky_split_puts_views_of_one_lesion_on_both_sides():
    lesion = np.repeat(np.arange(100), 5)  # five views of each
    roles = splits.split_at_random_leaky(500, seed=1)
    assert set(lesion[roles == "train"]) & set(lesion[roles == "test"])


def test_the_benchmark_folds_of_mini_mias_never_change():
    # Every committed figure, and every registered model, speaks of these folds: made once, and never again.
    folds = splits.committed_folds("mini_mias")
    assert folds is not None
    assert folds_sha256(folds) == "e9a630f1943f3be6d7590436f14037160b526da99fd205a930aebca09484696b"
    assert folds["fold"].value_counts().sort_index().tolist() == [32, 32, 32, 33, 32]
