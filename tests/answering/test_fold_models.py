"""`--out-of-fold`: the model that never saw the woman answers, and says which fold it is of."""

import pandas as pd
import pytest

from mammo_ml.answering.film_models import DETECTOR, LOCATOR
from mammo_ml.answering.film_reading import read_for_answer
from mammo_ml.answering.fold_models import fold_models
from mammo_ml.errors import BadInputError
from tests.answering.test_film_run import TOLD
from tests.test_locator_folds import workspace as finished  # noqa: F401


def _films_of_fold(folder, fold):
    """Hashes of the films of a fold's women, and of all others."""
    folds = pd.read_csv(folder / "data/split/folds.csv").set_index("patient_id")["fold"]
    hashes = {f"{n:064x}": folds[f"w{n}"] for n in range(15)}
    return [sha for sha, own in hashes.items() if own == fold], [sha for sha, own in hashes.items() if own != fold]


@pytest.mark.parametrize(("reference", "kind"), [(None, "locator"), ("mammo-detector@champion", "detector")])
def test_a_film_is_answered_by_the_model_of_its_own_fold_alone(finished, films, reference, kind):  # noqa: F811
    source, word = fold_models(reference, finished)
    assert word == ""
    own, others = _films_of_fold(finished, 1)
    model = source.model_for(own[0])
    assert (model.facts.fold, model.facts.version, model.facts.kind) == (1, None, kind)
    assert own[0] not in model.learned_from
    assert source.model_for(own[-1]) is model
    # only fold 1 was trained
    with pytest.raises(BadInputError, match="is missing"):
        source.model_for(others[0])
    film = read_for_answer(films / "a.pgm", "a.pgm", TOLD).film
    assert len(model.look(film, "a.pgm").boxes) > 0


def test_a_film_that_is_none_of_the_benchmark_needs_no_fold(finished):  # noqa: F811
    with pytest.raises(BadInputError, match="leave --out-of-fold away"):
        fold_models(None, finished)[0].model_for("f" * 64)


def test_detectors_stand_in_with_a_word_where_no_locators_were_made(finished, tmp_path):  # noqa: F811
    for name in ("params.yaml", "data/catalog", "data/split", "data/train_detector"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(finished / name)
    source, word = fold_models(None, tmp_path)
    assert source.name == DETECTOR
    assert "not calibrated" in word
    with pytest.raises(BadInputError, match="predict_locator is missing"):
        fold_models(f"{LOCATOR}@champion", tmp_path)
