import numpy as np
import pytest

from mammo_ml.errors import BadInputError
from mammo_ml.metrics.resampling import interval, intervals, paired_interval, resample_women


def test_both_films_of_a_woman_always_move_together():
    weights = resample_women(["a", "b", "a", "c"], 200, seed=0)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    assert (weights[:, 0] != weights[:, 1]).any()


def test_every_resample_draws_as_many_women_as_there_are():
    # Items 0 and 1 are one woman, so women are counted on items 0, 2 and 3 alone.
    weights = resample_women(["a", "a", "b", "c"], 100, seed=1)
    np.testing.assert_array_equal(weights[:, [0, 2, 3]].sum(axis=1), np.full(100, 3.0))
    assert weights.dtype == np.float64


def test_a_woman_is_left_out_as_often_as_drawing_with_replacement_leaves_her_out():
    weights = resample_women([f"w{i}" for i in range(161)], 2000, seed=2)
    # (1 - 1/161)^161 = 0.3668; over 2000 resamples of 161 women the share is within 0.005 of it.
    np.testing.assert_allclose((weights == 0).mean(), (1 - 1 / 161) ** 161, atol=0.005)


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    ids = ["a", "b", "c", "d"]
    np.testing.assert_array_equal(resample_women(ids, 50, 3), resample_women(ids, 50, 3))
    assert (resample_women(ids, 50, 3) != resample_women(ids, 50, 4)).any()


def test_the_order_of_the_items_does_not_change_who_is_drawn():
    forward, backward = resample_women(["a", "b", "c"], 50, 5), resample_women(["c", "b", "a"], 50, 5)
    np.testing.assert_array_equal(forward, backward[:, ::-1])


def test_items_without_a_woman_are_refused_together():
    with pytest.raises(BadInputError) as caught:
        resample_women(["a", "", None], 0, 0)  # type: ignore[list-item]
    assert len(caught.value.problems) == 3  # two items and n_resamples


def test_no_items_are_refused():
    with pytest.raises(BadInputError, match="no items"):
        resample_women([], 10, 0)


def test_an_interval_is_the_percentiles_of_the_resampled_figure():
    # The figure is the weight of the single item: 0, 1, ..., 100. 95 % leaves 2.5 values out at each end.
    weights = np.arange(101, dtype=np.float64)[:, None]
    np.testing.assert_allclose(interval(lambda w: float(w[0]), weights), (2.5, 97.5))
    np.testing.assert_allclose(interval(lambda w: float(w[0]), weights, level=0.5), (25.0, 75.0))


def test_undefined_resamples_are_left_out_of_the_interval():
    values = np.array([[np.nan], [1.0], [1.0], [1.0]])
    assert interval(lambda w: float(w[0]), values) == (1.0, 1.0)


def test_half_undefined_still_gives_an_interval_and_more_than_half_none():
    half = np.array([[np.nan], [np.nan], [2.0], [2.0]])
    assert interval(lambda w: float(w[0]), half) == (2.0, 2.0)
    more = np.array([[np.nan], [np.nan], [2.0]])
    np.testing.assert_array_equal(interval(lambda w: float(w[0]), more), (np.nan, np.nan))


def test_many_figures_at_once_have_the_intervals_they_have_alone():
    weights = resample_women(list("abcdefgh"), 200, 6)
    together = intervals(lambda w: {"first": float(w[0]), "spread": float(w.std())}, weights)
    assert together["first"] == interval(lambda w: float(w[0]), weights)
    assert together["spread"] == interval(lambda w: float(w.std()), weights)


def test_a_figure_that_comes_and_goes_between_resamples_is_an_error():
    weights = np.array([[0.0], [1.0]])
    with pytest.raises(BadInputError, match="resample 1"):
        intervals(lambda w: {"a": 1.0} if w[0] == 0 else {"b": 1.0}, weights)


def test_two_models_that_always_differ_by_one_tenth_have_a_paired_interval_of_no_width():
    weights = resample_women(list("abcdefghij"), 300, 7)
    low, high = paired_interval(lambda w: w[0] + 0.1, lambda w: w[0], weights)
    np.testing.assert_allclose((low, high), (0.1, 0.1), atol=1e-12)
    # Unpaired, either figure alone is far from certain.
    alone = interval(lambda w: float(w[0]), weights)
    assert alone[1] - alone[0] > 1


def test_a_level_outside_0_to_1_is_refused():
    with pytest.raises(BadInputError, match="level is 95"):
        interval(lambda w: 1.0, np.ones((3, 1)), level=95)
