import json

import numpy as np
import pytest
from scipy.special import softmax

from mammo_ml.errors import BadInputError
from mammo_ml.metrics import classification as cl
from mammo_ml.metrics.calibration import VectorScaling, fit


def well_calibrated(n: int, seed: int = 0):
    """Probabilities (N, 3) and labels drawn from them: nothing is left to calibrate."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([2.0, 1.0, 1.0], size=n)
    return p, (rng.random(n)[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(0, 2)


def test_a_calibrated_network_is_left_nearly_as_it_is():
    p, labels = well_calibrated(4000)
    scaling = fit(p, labels)
    np.testing.assert_allclose(scaling.scale, 1.0, atol=0.1)
    np.testing.assert_allclose(scaling.apply(p), p, atol=0.05)


def test_overconfidence_by_a_factor_of_three_is_undone():
    p, labels = well_calibrated(4000)
    overconfident = softmax(3 * np.log(p), axis=1)
    scaling = fit(overconfident, labels)
    np.testing.assert_allclose(scaling.scale, 1 / 3, atol=0.05)
    fresh, fresh_labels = well_calibrated(4000, seed=1)
    before = softmax(3 * np.log(fresh), axis=1)
    assert cl.ece(scaling.apply(before), fresh_labels) < cl.ece(before, fresh_labels) / 3
    assert cl.cross_entropy(scaling.apply(before), fresh_labels) < cl.cross_entropy(before, fresh_labels)


def test_a_wrong_share_of_classes_is_undone_by_the_biases():
    p, labels = well_calibrated(4000)
    shifted = softmax(np.log(p) + np.array([2.0, 0.0, 0.0]), axis=1)
    bias = np.array(fit(shifted, labels).bias)
    np.testing.assert_allclose(bias[0] - bias[1:], -2.0, atol=0.3)


def test_the_fit_is_a_minimum_of_the_penalised_cross_entropy():
    p, labels = well_calibrated(60)
    fitted = fit(p, labels)

    def loss(scaling: VectorScaling) -> float:
        penalty = ((np.array(scaling.scale) - 1) ** 2).sum() + (np.array(scaling.bias) ** 2).sum()
        own = scaling.apply(p)[np.arange(len(labels)), labels]
        return float(-np.log(own).sum() + penalty / 2)

    for axis in range(3):
        for step in (-0.01, 0.01):
            moved = np.eye(3)[axis] * step
            assert loss(VectorScaling(tuple(np.array(fitted.scale) + moved), fitted.bias)) > loss(fitted)
            assert loss(VectorScaling(fitted.scale, tuple(np.array(fitted.bias) + moved))) > loss(fitted)


def test_calibrated_rows_are_probabilities_even_where_the_network_was_certain():
    p = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    calibrated = fit(p, np.array([0, 2, 1])).apply(p)
    np.testing.assert_allclose(calibrated.sum(axis=1), 1.0)
    assert np.isfinite(calibrated).all()


def test_a_separable_inner_part_gives_finite_numbers_within_the_pull():
    p = np.array([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]] * 10)
    scaling = fit(p, np.array([0, 1, 2] * 10))
    # Without the pull the scales would grow for ever.
    assert max(scaling.scale) < 10
    assert min(scaling.scale) > 1


def test_a_stronger_pull_stays_nearer_to_identity():
    p, labels = well_calibrated(50)
    overconfident = softmax(3 * np.log(p), axis=1)
    distances = [np.abs(np.array(fit(overconfident, labels, pull).scale) - 1).sum() for pull in (0.1, 10, 1e6)]
    assert distances[0] > distances[1] > distances[2]
    np.testing.assert_allclose(distances[2], 0, atol=1e-3)


def test_scales_stay_positive_when_the_network_is_worse_than_chance():
    p, labels = well_calibrated(400)
    scaling = fit(p[:, [1, 2, 0]], labels)
    assert min(scaling.scale) > 0


def test_an_absent_class_still_gives_a_fit_and_one_class_alone_none():
    p, labels = well_calibrated(100)
    assert np.isfinite(fit(p[labels < 2], labels[labels < 2]).scale).all()
    with pytest.raises(BadInputError, match=r"hold only \[1\]"):
        fit(p[labels == 1], labels[labels == 1])


def test_faults_of_the_inner_part_are_named_together():
    with pytest.raises(BadInputError) as caught:
        fit(np.array([[0.1, 0.2, 0.7], [np.nan, 0.5, 0.5]]), np.array([0, 5]))
    assert len(caught.value.problems) == 2


def test_the_identity_changes_nothing():
    p, _ = well_calibrated(20)
    np.testing.assert_allclose(VectorScaling.identity(3).apply(p), p)


def test_a_scaling_survives_json():
    p, labels = well_calibrated(100)
    scaling = fit(p, labels)
    assert VectorScaling.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling


def test_a_scaling_with_other_keys_or_another_number_of_classes_is_refused():
    with pytest.raises(BadInputError, match="equal length"):
        VectorScaling.from_dict({"scale": [1.0, 1.0], "bias": [0.0]})
    with pytest.raises(BadInputError, match=r"expected \(N, 3\)"):
        VectorScaling.identity(3).apply(np.full((4, 2), 0.5))
