import numpy as np
import pytest

from mammo_ml.errors import BadInputError
from mammo_ml.metrics.classification import auc
from mammo_ml.metrics.paired import paired_difference
from mammo_ml.metrics.resampling import interval, resample_women

GENERATOR = np.random.default_rng(0)
WOMEN = [f"woman{n // 2}" for n in range(120)]
POSITIVE = np.arange(120) % 2 == 0
HARD = np.repeat(GENERATOR.normal(size=60), 2)
GOOD = POSITIVE * 1.5 + HARD + 0.3 * GENERATOR.normal(size=120)
BETTER = POSITIVE * 1.8 + HARD + 0.3 * GENERATOR.normal(size=120)


def auc_of(scores):
    return lambda weights: {"auc": auc(scores, POSITIVE[: len(scores)], weights)}


def test_a_model_does_not_differ_from_itself():
    found = paired_difference(auc_of(GOOD), auc_of(GOOD), WOMEN, 100, 1)["auc"]
    assert found[2:] == (0, 0, 0)
    assert found.first == found.second == auc(GOOD, POSITIVE)


def test_the_point_is_the_difference_and_swapping_the_models_swaps_the_signs():
    found = paired_difference(auc_of(BETTER), auc_of(GOOD), WOMEN, 200, 1)["auc"]
    assert found.point == auc(BETTER, POSITIVE) - auc(GOOD, POSITIVE) > 0
    assert found.lo < found.point < found.hi
    other = paired_difference(auc_of(GOOD), auc_of(BETTER), WOMEN, 200, 1)["auc"]
    np.testing.assert_allclose((other.point, other.lo, other.hi), (-found.point, -found.hi, -found.lo), atol=1e-12)


def test_pairing_is_narrower_than_two_intervals_side_by_side():
    found = paired_difference(auc_of(BETTER), auc_of(GOOD), WOMEN, 500, 1)["auc"]
    weights = resample_women(WOMEN, 500, 1)
    own = [interval(lambda row, s=scores: auc(s, POSITIVE, row), weights) for scores in (BETTER, GOOD)]
    assert found.hi - found.lo < 0.5 * sum(high - low for low, high in own)


def test_other_items_of_the_same_women_get_the_same_draws():
    """The second model was judged on every item twice: the same figure, the same draws, no difference."""
    twice = np.tile(GOOD, 2)
    positive = np.tile(POSITIVE, 2)
    found = paired_difference(
        auc_of(GOOD), lambda weights: {"auc": auc(twice, positive, weights)}, WOMEN, 100, 1, second_ids=WOMEN * 2
    )["auc"]
    np.testing.assert_allclose(found[2:], 0, atol=1e-12)


def test_only_figures_both_have_are_compared():
    both = lambda weights: {"auc": 0.5, "ours": 1.0}  # noqa: E731
    assert list(paired_difference(both, auc_of(GOOD), WOMEN, 100, 1)) == ["auc"]
    with pytest.raises(BadInputError, match="no figure in common"):
        paired_difference(lambda weights: {"ours": 1.0}, auc_of(GOOD), WOMEN, 100, 1)


def test_models_judged_on_different_women_are_not_compared():
    with pytest.raises(BadInputError, match="different women: 60 and 59, 59 of them the same"):
        paired_difference(auc_of(GOOD), auc_of(BETTER[:118]), WOMEN, 100, 1, second_ids=WOMEN[:118])


def test_a_figure_that_is_undefined_in_most_draws_has_no_interval():
    rare = np.zeros(120, dtype=bool)
    rare[0] = True
    nearly = lambda weights: {"auc": auc(GOOD, rare, weights), "defined": 1.0}  # noqa: E731
    found = paired_difference(nearly, nearly, WOMEN, 300, 1)
    assert found["auc"].point == 0
    assert found["defined"][2:] == (0, 0, 0)
    never = lambda weights: {"auc": float("nan")}  # noqa: E731
    assert all(np.isnan(value) for value in paired_difference(never, never, WOMEN, 100, 1)["auc"])
