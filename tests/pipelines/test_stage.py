"""The key under which a stage's resumable state is kept: any change that could change the state changes the key."""

import pytest

from mammo_ml.training import TrainingParameters
from pipelines import stage

PARAMETERS = TrainingParameters(
    budget_samples=60,
    epoch_samples=12,
    batch_size=5,
    learning_rate=0.05,
    weight_decay=0.01,
    patience=10,
    threads=1,
    seed=3,
)
CODE = {
    "pipelines/train_x.py": "from mammo_ml import near\nfrom mammo_ml import tracking\n",
    "pipelines/train_y.py": "from mammo_ml import near\n",
    "mammo_ml/near.py": "def f():\n    from mammo_ml import far\n",
    "mammo_ml/far.py": "TABLE = 'known.csv'\n",
    "mammo_ml/datasets/known.csv": "a\n",
    "mammo_ml/unrelated.py": "a = 1\n",
    "mammo_ml/tracking.py": "a = 1\n",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project in which the module of stages stands."""
    for name, text in CODE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(stage, "__file__", str(tmp_path / "pipelines" / "stage.py"))
    return tmp_path


def key(project, *parts):
    return stage.state_key("train_x", *(parts or (PARAMETERS, 0)))


def test_the_key_is_the_same_for_the_same_stage_and_values(project):
    assert key(project) == key(project)
    assert key(project, PARAMETERS.model_copy(), 0) == key(project)


def test_the_key_changes_with_stage_parameters_and_fold(project):
    keys = [
        key(project),
        stage.state_key("train_y", PARAMETERS, 0),
        key(project, PARAMETERS.model_copy(update={"seed": 9}), 0),
        key(project, PARAMETERS, 1),
        key(project, PARAMETERS, None),
        key(project, PARAMETERS),
        key(project, "ab", "c"),
        key(project, "a", "bc"),
    ]
    assert len(set(keys)) == len(keys)


def test_the_key_changes_with_the_bytes_of_data_not_with_their_place(project):
    for name, text in {"a": "1", "b": "1", "c": "2"}.items():
        (project / name).write_text(text)
    assert key(project, project / "a") == key(project, project / "b") != key(project, project / "c")
    assert key(project, project / "a", project / "c") != key(project, project / "c", project / "a")


@pytest.mark.parametrize(
    "name", ["pipelines/train_x.py", "mammo_ml/near.py", "mammo_ml/far.py", "mammo_ml/datasets/known.csv"]
)
def test_the_key_changes_with_code_however_far_away_it_is_imported(project, name):
    before = key(project)
    (project / name).write_text(CODE[name] + "# changed\n")
    assert key(project) != before


@pytest.mark.parametrize("name", ["mammo_ml/unrelated.py", "mammo_ml/tracking.py", "pipelines/train_y.py"])
def test_the_key_does_not_change_with_code_that_cannot_change_the_training(project, name):
    before = key(project)
    (project / name).write_text(CODE[name] + "# changed\n")
    assert key(project) == before
