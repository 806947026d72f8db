import numpy as np
import pandas as pd
import pytest

from mammo_ml.classifier import PROBABILITY_COLUMNS
from mammo_ml.cutting import PatchSet
from mammo_ml.errors import BadInputError
from mammo_ml.patch_baseline import baseline_probabilities, differences, patch_features

FILMS = pd.DataFrame(
    {
        "film_id": ["f"],
        "chest_wall": ["left"],
        "width_px": [1000],
        "height_px": [1000],
        "pixel_spacing_mm": [0.2],
        "breast_x1": [0.0],
        "breast_y1": [100.0],
        "breast_x2": [400.0],
        "breast_y2": [900.0],
    }
)


def patches(pictures: np.ndarray) -> PatchSet:
    table = pd.DataFrame({"film_id": "f", "x1": [100.0, 0.0], "y1": [400.0, 0.0], "x2": [300.0, 200.0]})
    table = table.assign(y2=[600.0, 200.0], breast_share=[1.0, 0.5])
    return PatchSet(table, pictures)


def test_a_patch_is_told_by_its_grey_values_its_breast_and_its_place():
    pictures = np.zeros((2, 5, 4, 4), dtype=np.uint8)
    pictures[0, 0, :2] = 255
    features = patch_features(patches(pictures), FILMS)
    np.testing.assert_allclose(features, [[0.5, 0.5, 1.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.25, 0.0]], atol=1e-12)


def test_classes_that_differ_in_brightness_are_told_apart_and_others_are_not():
    generator = np.random.default_rng(1)
    labels = np.arange(300) % 3
    told = np.column_stack([labels + generator.normal(0, 0.1, 300), generator.normal(size=300)])
    first = np.arange(300) < 150
    found = baseline_probabilities(told, labels, first)[~first]
    assert (found.argmax(axis=1) == labels[~first]).mean() > 0.99
    nothing = baseline_probabilities(told[:, 1:], labels, first)[~first]
    assert 0.2 < (nothing.argmax(axis=1) == labels[~first]).mean() < 0.47


def test_a_class_nobody_can_learn_is_named():
    with pytest.raises(BadInputError, match="no malignant patch to learn from"):
        baseline_probabilities(np.zeros((4, 1)), np.array([0, 1, 0, 2]), np.array([True, True, True, False]))


def table(probabilities: np.ndarray) -> pd.DataFrame:
    labels = ["normal", "benign", "malignant"] * 20
    women = [f"w{n // 3}" for n in range(60)]
    frame = pd.DataFrame({"item": [f"i{n}" for n in range(60)], "patient_id": women, "label": labels})
    return frame.assign(**dict(zip(PROBABILITY_COLUMNS, probabilities.T, strict=True)))


def test_a_perfect_model_is_better_by_a_half_than_a_coin_and_no_better_than_itself():
    perfect = table(np.tile(np.eye(3), (20, 1)))
    coin = table(np.full((60, 3), 1 / 3)).sample(frac=1, random_state=1)  # the items are matched by name
    gain = differences(perfect, coin, resamples=100, seed=1)
    assert gain["auc_macro"] == gain["auc_macro_lo"] == gain["auc_benign_vs_malignant_hi"] == 0.5
    assert set(differences(perfect, perfect, resamples=100, seed=1).values()) == {0.0}
