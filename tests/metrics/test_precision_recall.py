import numpy as np
import pandas as pd

from mammo_ml.metrics.detection import match_detections
from mammo_ml.metrics.precision_recall import precision_at_recalls, precision_recall_band
from tests.metrics.arrays import random_case


def matched(seed: int, lesions: bool = True):
    found, truth, n, _ = random_case(seed)
    items = pd.DataFrame({"item": [f"f{k}" for k in range(n)], "patient_id": [f"w{k // 2}" for k in range(n)]})
    columns = ["x1", "y1", "x2", "y2"]
    boxes = pd.DataFrame(found.boxes, columns=columns).assign(item=[f"f{k}" for k in found.image])
    true = pd.DataFrame(truth.boxes, columns=columns).assign(item=[f"f{k}" for k in truth.image], severity="benign")
    return match_detections(
        boxes.assign(p_benign=found.scores, p_malignant=0.0), true if lesions else true[:0], items, "films"
    )


def test_the_mean_of_the_curve_is_the_average_precision_under_any_weights():
    for seed in range(5):
        one = matched(seed)
        weights = np.random.default_rng(seed).integers(0, 3, len(one.items)).astype(float)
        for own in (None, weights):
            np.testing.assert_allclose(precision_at_recalls(one, own).mean(), one.figures(own)["ap_50_any"])


def test_the_band_holds_the_curve_which_never_rises():
    one = matched(1)
    table = precision_recall_band(one, 100, 1)
    assert list(table) == ["recall", "precision", "lo", "hi"]
    assert (table["recall"].iloc[0], table["recall"].iloc[-1], len(table)) == (0, 1, 101)
    assert (table["lo"] <= table["hi"]).all()
    assert (np.diff(table["precision"]) <= 0).all()
    pd.testing.assert_frame_equal(table, precision_recall_band(one, 100, 1))


def test_without_lesions_there_is_no_precision_over_recall():
    assert np.isnan(precision_at_recalls(matched(0, lesions=False))).all()
