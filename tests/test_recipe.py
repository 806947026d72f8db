"""A recipe's keys can be read and set wherever they stand, and every value set is checked."""

import json

import numpy as np
import pandas as pd
import pytest
from pydantic import Field

from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.imaging.augmentation import AugmentationParameters
from mammo_ml.parameters import Parameters
from mammo_ml.recipe import Recipe, best_on_average, load_best, save_best
from mammo_ml.training import TrainingParameters


class Network(Parameters):
    width: int = Field(ge=1)


class MyRecipe(Recipe):
    network: Network


RECIPE = MyRecipe(
    augmentation=AugmentationParameters(strength=0.5),
    training=TrainingParameters(
        budget_samples=100,
        epoch_samples=10,
        batch_size=4,
        learning_rate=0.001,
        weight_decay=0.01,
        patience=2,
        threads=1,
        seed=1,
    ),
    network=Network(width=8),
)


def test_values_are_found_in_whichever_section_they_stand():
    assert RECIPE.values({"learning_rate": 0, "strength": 0, "width": 0}) == {
        "learning_rate": 0.001,
        "strength": 0.5,
        "width": 8,
    }


def test_setting_the_recipes_own_values_changes_nothing_and_other_values_only_themselves():
    assert RECIPE.with_values(RECIPE.values({"learning_rate": 0, "width": 0})) == RECIPE
    changed = RECIPE.with_values({"learning_rate": 0.1, "strength": 0.0})
    assert isinstance(changed, MyRecipe)
    assert changed.training.learning_rate == 0.1
    assert changed.augmentation.strength == 0
    assert changed.with_values({"learning_rate": 0.001, "strength": 0.5}) == RECIPE
    assert RECIPE.training.learning_rate == 0.001


@pytest.mark.parametrize("use", ["values", "with_values"])
def test_every_key_the_recipe_does_not_have_is_named(use):
    with pytest.raises(BadInputError) as caught:
        getattr(RECIPE, use)({"learning_rat": 1, "colour": 2, "width": 3})
    assert caught.value.problems == [
        "'learning_rat' is no key of augmentation, training, network",
        "'colour' is no key of augmentation, training, network",
    ]
    assert "learning_rate" in str(caught.value)


def test_every_value_out_of_range_is_named():
    with pytest.raises(BadInputError) as caught:
        RECIPE.with_values({"learning_rate": -1.0, "strength": 2.0})
    assert len(caught.value.problems) == 2
    assert "key 'augmentation.strength'" in str(caught.value)
    assert "key 'training.learning_rate'" in str(caught.value)


def test_a_budget_can_be_changed_alone_or_with_its_seed():
    assert RECIPE.with_budget(30).training == RECIPE.training.model_copy(update={"budget_samples": 30})
    assert RECIPE.with_budget(30, seed=9).training.seed == 9
    assert RECIPE.with_budget(30).network == RECIPE.network


def test_best_values_survive_their_file_with_the_same_bytes_in_any_order(tmp_path):
    values = {"learning_rate": 0.1 + 0.2, "batch_size": 16, "base": "small"}
    save_best(values, tmp_path / "new" / "a.json")
    save_best(dict(reversed(values.items())), tmp_path / "b.json")
    assert load_best(tmp_path / "new" / "a.json") == values
    assert (tmp_path / "new" / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def _trials(*rows: tuple) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["value", "learning_rate", "batch_size", "base"])
    return table.assign(trial=range(len(table)))


def test_the_best_values_on_average_are_among_those_every_fold_tried():
    folds = [
        _trials((0.5, 0.001, 16, "small"), (0.9, 0.1, 8, "small"), (0.6, 0.01, 16, "wide")),
        _trials((0.6, 0.001, 16, "small"), (0.9, 0.2, 8, "small"), (0.7, 0.01, 16, "wide")),
    ]
    # 0.1 and 0.2 were each tried once; of the others 0.65 beats the defaults' 0.55.
    assert best_on_average(folds) == {"learning_rate": 0.01, "batch_size": 16, "base": "wide"}


def test_the_defaults_win_a_tie():
    folds = [_trials((0.5, 0.001, 16, "small"), (0.5, 0.01, 16, "small"))] * 2
    assert best_on_average(folds)["learning_rate"] == 0.001


def test_values_that_failed_in_one_fold_are_out():
    folds = [
        _trials((0.5, 0.001, 16, "small"), (0.9, 0.01, 16, "small")),
        _trials((0.5, 0.001, 16, "small"), (np.nan, 0.01, 16, "small")),
    ]
    assert best_on_average(folds)["learning_rate"] == 0.001


def test_whole_numbers_stay_whole_and_fit_into_a_file(tmp_path):
    best = best_on_average([_trials((0.5, 0.001, 16, "small")).drop(columns="base")])
    assert isinstance(best["batch_size"], int)
    save_best(best, tmp_path / "best.json")
    assert json.loads((tmp_path / "best.json").read_text()) == {"learning_rate": 0.001, "batch_size": 16}


def test_folds_without_any_finite_figure_in_common_are_an_error():
    with pytest.raises(MammoError, match="not even the defaults"):
        best_on_average([_trials((np.nan, 0.001, 16, "small"))])
