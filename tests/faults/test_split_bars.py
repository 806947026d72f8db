"""Bar L6: a woman, a film or a copy of it on two sides of a split is refused by name."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from mammo_ml.datasets.mini_mias import patient_of
from mammo_ml.datasets.mini_mias_archive import official_manifest
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.augmentation import CLASSIFIER_VIEWS, view_of_image
from mammo_ml.leak_audit import audit_ancestry, audit_roles, pixel_keys
from mammo_ml.splits import ROLES, committed_folds, make_folds, read_folds, role_column, roles_of


def _films() -> pd.DataFrame:
    labels = ["normal"] * 10 + ["benign"] * 5 + ["malignant"] * 5
    numbers = np.arange(1, 41)
    return pd.DataFrame(
        {
            "film_id": [f"mdb{n:03d}" for n in numbers],
            "patient_id": [f"mdb{n + n % 2 - 1:03d}_{n + n % 2:03d}" for n in numbers],
            "density": "F",
            "label": np.repeat(labels, 2),
        }
    )


@pytest.fixture
def folds_file(tmp_path):
    path = tmp_path / "folds.csv"
    make_folds(_films(), seed=1).to_csv(path, index=False)
    return path


def _refused(path) -> str:
    with pytest.raises(BadInputError) as caught:
        read_folds(path)
    return str(caught.value)


@pytest.mark.bar("L6")
def test_l6_the_split_file_as_made_is_accepted(folds_file):
    assert len(read_folds(folds_file)) == 20


@pytest.mark.bar("L6")
def test_l6_a_woman_written_twice_into_the_split_file_is_refused_by_name(folds_file, record_property):
    record_property("tried", "a woman twice in the split file")
    folds = read_folds(folds_file)
    again = folds.iloc[[0]].assign(role_0="train")
    pd.concat([folds, again]).to_csv(folds_file, index=False)
    message = _refused(folds_file)
    assert "folds.csv" in message
    assert f"woman {folds['patient_id'][0]} has several rows, so she could stand on both sides" in message


@pytest.mark.bar("L6")
@pytest.mark.parametrize("role", ["train", "inner"])
def test_l6_a_test_woman_who_would_be_trained_or_tuned_on_is_refused_by_name(role, folds_file, record_property):
    record_property("tried", f"a test woman turned into '{role}' in the split file")
    folds = read_folds(folds_file)
    row = folds.index[folds["fold"] == 2][0]
    folds.loc[row, role_column(2)] = role
    folds.to_csv(folds_file, index=False)
    message = _refused(folds_file)
    assert f"woman {folds['patient_id'][row]} of fold 2 is '{role}' in role_2" in message
    assert "role_k is 'test' where fold is k" in message


@pytest.mark.bar("L6")
def test_l6_a_role_that_does_not_exist_and_a_lost_column_are_refused(folds_file):
    folds = read_folds(folds_file)
    row = folds.index[folds["role_1"] == "train"][0]
    folds.assign(role_1=folds["role_1"].where(folds.index != row, "trian")).to_csv(folds_file, index=False)
    assert "is 'trian' in role_1" in _refused(folds_file)
    folds.drop(columns="role_3").to_csv(folds_file, index=False)
    assert "column 'role_3' is missing" in _refused(folds_file)


@pytest.mark.bar("L6")
def test_l6_mdb001_in_training_and_mdb002_in_test_is_refused_and_names_both_and_their_woman(record_property):
    record_property("tried", "mdb001 in training, mdb002 in test")
    films = _films()
    folds = make_folds(films, seed=1)
    roles = roles_of(folds, films["patient_id"], 0)
    roles[:2] = ["train", "test"]
    with pytest.raises(BadInputError) as caught:
        audit_roles(films.assign(item=films["film_id"]), roles, "fold 0").raise_if_leaking()
    assert caught.value.problems == [
        "fold 0: woman mdb001_002 is on both sides: mdb002 (test), mdb001 (train)",
    ]
    assert "Split by patient first, augment after." in str(caught.value)


@pytest.mark.bar("L6")
def test_l6_a_split_by_woman_shares_none_in_any_fold():
    films = _films().assign(item=lambda table: table["film_id"])
    folds = make_folds(films, seed=1)
    for k in range(5):
        audit_roles(films, roles_of(folds, films["patient_id"], k), f"fold {k}").raise_if_leaking()


@pytest.mark.bar("L6")
@pytest.mark.parametrize("view", CLASSIFIER_VIEWS)
def test_l6_an_augmented_copy_of_a_test_film_in_training_is_refused_and_names_both(view, record_property):
    record_property("tried", f"a test picture in training under another name, in {len(CLASSIFIER_VIEWS)} views")
    pictures = list(np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8))
    films = _films()
    roles = roles_of(make_folds(films, seed=1), films["patient_id"], 0)
    test, train = (int(np.flatnonzero(roles == role)[0]) for role in ("test", "train"))
    pictures[train] = view_of_image(pictures[test], view)
    items = films.assign(item=films["film_id"], pixel_key=pixel_keys(np.stack(pictures)))
    with pytest.raises(BadInputError) as caught:
        audit_roles(items, roles, "fold 0").raise_if_leaking()
    names = films["film_id"]
    assert caught.value.problems == [
        f"fold 0: one picture is on both sides: {names[test]} (test), {names[train]} (train)"
    ]


@pytest.mark.bar("L6")
def test_l6_a_model_tuned_on_a_test_film_is_refused_and_names_the_film_and_the_step(record_property):
    record_property("tried", "a model tuned on one of its test films")
    films = _films().assign(dataset="mini_mias", sha256=lambda table: "hash of " + table["film_id"])
    learned = pd.concat([films[:20].assign(step="training"), films[20:22].assign(step="tuning")])
    audit_ancestry(learned, films[22:], "evaluate").raise_if_leaking()
    with pytest.raises(BadInputError) as caught:
        audit_ancestry(learned, films[21:], "evaluate").raise_if_leaking()
    assert "film mdb022 of mini_mias is on both sides: mdb022 (tested), mdb022 (tuning)" in str(caught.value)


@pytest.mark.bar("L6")
def test_l6_the_committed_folds_share_no_woman_and_no_film(record_property):
    manifest, folds = official_manifest(), committed_folds("mini_mias")
    women = pd.Series([patient_of(film_id) for film_id in manifest])
    hashes = pd.Series(list(manifest.values()))
    record_property("tried", f"{len(manifest)} films of {women.nunique()} women in the committed folds")
    for fold in range(5):
        roles = roles_of(folds, women, fold)
        assert {*roles} == {*ROLES}
        for first, second in combinations(ROLES, 2):
            assert not {*women[roles == first]} & {*women[roles == second]}
            assert not {*hashes[roles == first]} & {*hashes[roles == second]}
