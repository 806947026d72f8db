import numpy as np
import pytest

from mammo_ml.metrics.froc import froc, froc_mean, sensitivity_at


def test_a_froc_curve_worked_by_hand():
    # Four films, three lesions. By descending score: hit, false, hit, false, false.
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    hits = np.array([True, False, True, False, False])
    curve = froc(scores, hits, n_images=4, n_lesions=3)
    np.testing.assert_array_equal(curve.thresholds, [np.inf, 0.9, 0.8, 0.7, 0.6, 0.5])
    np.testing.assert_array_equal(curve.fp_per_film, [0, 0, 0.25, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(curve.sensitivity, [0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert sensitivity_at(curve, 0.125) == 1 / 3
    assert sensitivity_at(curve, 0.25) == 2 / 3  # the better of two operating points at this rate
    assert sensitivity_at(curve, 8) == 2 / 3  # not extrapolated to 1
    # 1/8: 1/3; the other six rates: 2/3.
    assert froc_mean(curve) == pytest.approx((1 / 3 + 6 * 2 / 3) / 7)


def test_detections_of_equal_score_move_together():
    # Had the hit been counted first, the sensitivity at 0 false positives would be 1.
    curve = froc(np.array([0.5, 0.5]), np.array([True, False]), n_images=1, n_lesions=1)
    np.testing.assert_array_equal(curve.fp_per_film, [0, 1])
    assert sensitivity_at(curve, 0.5) == 0
    assert sensitivity_at(curve, 1) == 1


def test_the_four_corners_of_froc():
    nothing, no_hits = np.zeros(0), np.zeros(0, dtype=bool)
    assert froc_mean(froc(nothing, no_hits, 5, 2)) == 0  # nothing detected
    assert froc_mean(froc(np.array([0.9]), np.array([False]), 5, 2)) == 0  # none found
    assert froc_mean(froc(np.array([0.9, 0.4]), np.array([True, True]), 5, 2)) == 1  # all found, no false alarm
    for scores, hits in ((nothing, no_hits), (np.array([0.9]), np.array([False]))):
        assert np.isnan(froc_mean(froc(scores, hits, 5, 0)))  # no ground truth
        assert np.isnan(froc_mean(froc(scores, hits, 0, 2)))  # no film to spread false alarms over


def test_a_rate_is_met_to_the_last_bit():
    # 79 false positives on 316 films are exactly 1/4.
    scores = np.linspace(1, 0.5, 80)
    curve = froc(scores, np.arange(80) == 79, n_images=316, n_lesions=1)
    assert sensitivity_at(curve, 0.25) == 1
    assert sensitivity_at(curve, 0.125) == 0
