import numpy as np
import pytest

from mammo_ml.metrics.average_precision import average_precision, mean_average_precision_coco
from mammo_ml.metrics.detection import IOU_50_95
from mammo_ml.metrics.matching import Detections, GroundTruth, match_by_iou, strongest
from tests.metrics.arrays import around, detections, lesions, random_case

NO_IMAGES = np.zeros(0, dtype=np.int64)


def test_one_of_two_lesions_found_without_a_false_alarm_scores_half():
    # Precision 1 at the 51 recall levels 0, 0.01, ..., 0.5.
    assert average_precision(np.array([0.9]), np.array([True]), 2) == 51 / 101


def test_a_false_alarm_above_the_only_lesion_halves_the_precision_and_one_below_costs_nothing():
    scores = np.array([0.9, 0.8])
    assert average_precision(scores, np.array([False, True]), 1) == 0.5
    assert average_precision(scores, np.array([True, False]), 1) == 1


def test_corners_of_average_precision():
    nothing = np.zeros(0)
    assert average_precision(np.array([0.9]), np.array([False]), 3) == 0  # none found
    assert average_precision(nothing, nothing.astype(bool), 3) == 0  # nothing detected
    assert average_precision(np.array([0.9, 0.2]), np.array([True, True]), 2) == 1  # all found
    assert np.isnan(average_precision(np.array([0.9]), np.array([False]), 0))  # no ground truth
    # Ties keep their order, as in COCO: the same two detections either way round.
    tied = np.array([0.5, 0.5])
    assert average_precision(tied, np.array([True, False]), 1) == 1
    assert average_precision(tied, np.array([False, True]), 1) == 0.5
    assert average_precision(tied, np.array([False, True]), 1, image=np.array([1, 0])) == 1


def test_a_recall_of_one_tenth_reaches_the_level_of_one_tenth():
    found, truth = (
        detections((0, [0, 0, 20, 10], 0.9)),
        lesions(*[(0, [0, 20 * i, 20, 20 * i + 10]) for i in range(10)]),
    )
    assert average_precision(found.scores, match_by_iou(found, truth, 0.5), 10) == 11 / 101
    zeros = np.zeros(10, dtype=np.int64)
    coco = mean_average_precision_coco(found, zeros[:1], truth, zeros, 1, (0.5,), (0,))
    np.testing.assert_allclose(coco, 11 / 101)


def test_an_image_of_weight_0_is_as_if_it_were_not_there():
    scores, is_true = np.array([0.9, 0.8, 0.7]), np.array([False, True, True])
    weights = np.array([0.0, 1.0, 0.0])
    assert average_precision(scores, is_true, 1, weights) == 1
    assert average_precision(scores, is_true, 1, np.array([1.0, 0.0, 1.0])) == 0.5
    assert average_precision(scores, is_true, 1, np.zeros(3)) == 0


def our_average_precision(found, truth, threshold, weights=None):
    keep = strongest(found)
    kept = Detections(found.image[keep], found.boxes[keep], found.scores[keep])
    weights = np.ones(1 + max(found.image.max(), truth.image.max())) if weights is None else weights
    is_true = match_by_iou(kept, truth, threshold)
    return average_precision(kept.scores, is_true, weights[truth.image].sum(), weights[kept.image], kept.image)


@pytest.mark.parametrize("decimals", [1, 6])
@pytest.mark.parametrize("seed", range(6))
def test_average_precision_equals_faster_coco_eval_with_and_without_ties(seed, decimals):
    found, truth, n_images, rng = random_case(seed, decimals=decimals)
    detected_class, true_class = rng.integers(0, 2, len(found.image)), rng.integers(0, 2, len(truth.image))
    thresholds = (0.1, *IOU_50_95)
    theirs = mean_average_precision_coco(found, detected_class, truth, true_class, n_images, thresholds, classes=(0, 1))
    for column in (0, 1):
        d, g = detected_class == column, true_class == column
        ours = [
            our_average_precision(
                Detections(found.image[d], found.boxes[d], found.scores[d]),
                GroundTruth(truth.image[g], truth.boxes[g]),
                threshold,
            )
            for threshold in thresholds
        ]
        np.testing.assert_allclose(ours, theirs[:, column], atol=1e-12)


@pytest.mark.parametrize("seed", [10, 41, 66, 69])
def test_equal_overlaps_go_to_the_lesion_that_coco_gives_them_to(seed):
    # Boxes on a coarse grid tie in IoU; with these seeds, taking the first lesion, not the last, changes the figure.
    rng = np.random.default_rng(seed)

    def grid_boxes(count):
        corners, sizes = rng.integers(0, 6, (count, 2)) * 10.0, rng.integers(1, 4, (count, 2)) * 20.0
        return np.hstack([corners, corners + sizes])

    n_found, n_true = rng.integers(1, 40), rng.integers(1, 14)
    found = Detections(rng.integers(0, 6, n_found), grid_boxes(n_found), rng.integers(0, 8, n_found) / 8)
    truth = GroundTruth(rng.integers(0, 6, n_true), grid_boxes(n_true))
    thresholds = (0.1, 0.25, *IOU_50_95)
    no_class = np.zeros(40, dtype=np.int64)
    theirs = mean_average_precision_coco(found, no_class[:n_found], truth, no_class[:n_true], 6, thresholds, (0,))
    is_true = [match_by_iou(found, truth, threshold) for threshold in thresholds]
    ours = [average_precision(found.scores, true, n_true, image=found.image) for true in is_true]
    np.testing.assert_allclose(ours, theirs[:, 0], atol=1e-12)


def test_more_than_100_detections_of_an_image_are_cut_as_coco_cuts_them():
    rng = np.random.default_rng(0)
    boxes = [around(*rng.uniform(0, 300, 2), 10) for _ in range(40)]
    # Every lesion is found, but the weakest finds come after 100 stronger detections.
    rows = [(0, box, 0.9 - 0.01 * i) for i, box in enumerate(boxes)]
    rows += [(0, around(600 + i, 600, 2), 0.95 - 0.001 * i) for i in range(90)]
    found, truth = detections(*rows), lesions(*[(0, box) for box in boxes])
    zeros = np.zeros(len(rows), dtype=np.int64)
    theirs = mean_average_precision_coco(found, zeros, truth, np.zeros(40, dtype=np.int64), 1, (0.5,), (0,))
    ours = our_average_precision(found, truth, 0.5)
    np.testing.assert_allclose(ours, theirs[0, 0], atol=1e-12)
    uncut = average_precision(found.scores, match_by_iou(found, truth, 0.5), 40)
    assert ours < uncut


@pytest.mark.parametrize("seed", range(4))
def test_the_weight_of_an_image_counts_as_that_many_copies_of_it_in_coco(seed):
    found, truth, n_images, rng = random_case(seed + 20)
    weights = rng.integers(0, 4, n_images).astype(np.float64)
    copies = np.repeat(np.arange(n_images), weights.astype(int))
    d = [(new, i) for new, old in enumerate(copies) for i in np.flatnonzero(found.image == old)]
    g = [(new, i) for new, old in enumerate(copies) for i in np.flatnonzero(truth.image == old)]
    d_new, d_old = np.array(d).T
    g_new, g_old = np.array(g).T
    copied = Detections(d_new, found.boxes[d_old], found.scores[d_old])
    theirs = mean_average_precision_coco(
        copied,
        np.zeros(len(d), dtype=np.int64),
        GroundTruth(g_new, truth.boxes[g_old]),
        np.zeros(len(g), dtype=np.int64),
        len(copies),
        (0.5,),
        (0,),
    )
    np.testing.assert_allclose(our_average_precision(found, truth, 0.5, weights), theirs[0, 0], atol=1e-12)


def test_coco_gives_nan_and_not_minus_1_for_what_is_undefined():
    nothing, no_lesions = detections(), lesions()
    empty = mean_average_precision_coco(nothing, NO_IMAGES, no_lesions, NO_IMAGES, 2, (0.1, 0.5), (0, 1))
    np.testing.assert_array_equal(empty, np.full((2, 2), np.nan))
    found = detections((0, [0, 0, 9, 5], 0.9))
    one = np.ones(1, dtype=np.int64)
    # Detected as class 0, there is only a lesion of class 1: undefined for 0, not found for 1.
    answer = mean_average_precision_coco(found, one - 1, lesions((0, [0, 0, 9, 5])), one, 1, (0.5,), (0, 1))
    np.testing.assert_array_equal(answer, [[np.nan, 0.0]])
