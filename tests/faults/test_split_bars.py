"""Bar L6, the shared woman: a split file with one woman on two sides is refused, with a message a person can act on."""

import numpy as np
import pandas as pd
import pytest

from mammo_ml.errors import BadInputError
from mammo_ml.leak_audit import audit_roles
from mammo_ml.splits import make_folds, read_folds, role_column, roles_of


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


def test_the_split_file_as_made_is_accepted(folds_file):
    assert len(read_folds(folds_file)) == 20


def test_a_woman_written_twice_into_the_split_file_is_refused_by_name(folds_file):
    folds = read_folds(folds_file)
    again = folds.iloc[[0]].assign(role_0="train")
    pd.concat([folds, again]).to_csv(folds_file, index=False)
    message = _refused(folds_file)
    assert "folds.csv" in message
    assert f"woman {folds['patient_id'][0]} has several rows, so she could stand on both sides" in message


def test_a_test_woman_turned_into_a_training_woman_is_refused_by_name(folds_file):
    folds = read_folds(folds_file)
    row = folds.index[folds["fold"] == 2][0]
    folds.loc[row, role_column(2)] = "train"
    folds.to_csv(folds_file, index=False)
    message = _refused(folds_file)
    assert f"woman {folds['patient_id'][row]} of fold 2 is 'train' in role_2" in message
    assert "role_k is 'test' where fold is k" in message


def test_a_role_that_does_not_exist_and_a_lost_column_are_refused(folds_file):
    folds = read_folds(folds_file)
    row = folds.index[folds["role_1"] == "train"][0]
    folds.assign(role_1=folds["role_1"].where(folds.index != row, "trian")).to_csv(folds_file, index=False)
    assert "is 'trian' in role_1" in _refused(folds_file)
    folds.drop(columns="role_3").to_csv(folds_file, index=False)
    assert "column 'role_3' is missing" in _refused(folds_file)


def test_mdb001_in_training_and_mdb002_in_test_is_refused_and_names_both_and_their_woman():
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


def test_a_split_by_woman_shares_none_in_any_fold():
    films = _films().assign(item=lambda table: table["film_id"])
    folds = make_folds(films, seed=1)
    for k in range(5):
        audit_roles(films, roles_of(folds, films["patient_id"], k), f"fold {k}").raise_if_leaking()
