import numpy as np
import pandas as pd
import pytest

from mammo_ml.errors import BadInputError
from mammo_ml.metrics import detection as dt
from mammo_ml.metrics.detection import Detections, GroundTruth
from mammo_ml.metrics.resampling import intervals, resample_women

NO_IMAGES = np.zeros(0, dtype=np.int64)


def detections(*rows) -> Detections:
    """Rows of (image, box, score)."""
    return Detections(
        np.array([r[0] for r in rows], dtype=np.int64),
        np.array([r[1] for r in rows], dtype=np.float64).reshape(-1, 4),
        np.array([r[2] for r in rows], dtype=np.float64),
    )


def lesions(*rows) -> GroundTruth:
    """Rows of (image, box) or (image, box, circle)."""
    circles = [r[2] if len(r) > 2 else [np.nan] * 3 for r in rows]
    return GroundTruth(
        np.array([r[0] for r in rows], dtype=np.int64),
        np.array([r[1] for r in rows], dtype=np.float64).reshape(-1, 4),
        np.array(circles, dtype=np.float64).reshape(-1, 3),
    )


def around(x, y, half=1.0):
    """A small box whose centre is (x, y)."""
    return [x - half, y - half, x + half, y + half]


# Matching by overlap


def test_a_lesion_is_found_once_and_by_the_stronger_detection():
    box = [10, 20, 50, 40]
    found = detections((0, box, 0.4), (0, box, 0.9), (0, box, 0.4))
    np.testing.assert_array_equal(dt.match_by_iou(found, lesions((0, box)), 0.5), [False, True, False])


def test_an_overlap_of_exactly_the_threshold_is_enough():
    # 20 of 40 px of a 40 x 10 box: IoU 200 / 400 = 0.5.
    found = detections((0, [0, 0, 20, 10], 0.9))
    truth = lesions((0, [0, 0, 40, 10]))
    assert dt.match_by_iou(found, truth, 0.5).all()
    assert not dt.match_by_iou(found, truth, 0.55).any()


def test_a_detection_takes_the_lesion_it_overlaps_most_and_leaves_the_other_to_the_next():
    left, right = [0, 0, 40, 20], [10, 0, 50, 20]
    # Both overlap both lesions (IoU 0.6); the strong one sits on the right lesion, the weak one 2 px off it.
    found = detections((0, [12, 0, 52, 20], 0.3), (0, right, 0.8))
    np.testing.assert_array_equal(dt.match_by_iou(found, lesions((0, left), (0, right)), 0.5), [True, True])
    # At 0.6 the weak one (28 of 52 px on the left lesion, 0.54) is left with nothing.
    np.testing.assert_array_equal(dt.match_by_iou(found, lesions((0, left), (0, right)), 0.6), [False, True])


def test_a_detection_never_matches_a_lesion_of_another_image():
    assert not dt.match_by_iou(detections((1, [0, 0, 9, 5], 0.9)), lesions((0, [0, 0, 9, 5])), 0.5).any()
    assert dt.match_by_centre(detections((1, [0, 0, 9, 5], 0.9)), lesions((0, [0, 0, 9, 5])))[0] == -1


def test_only_the_strongest_detections_of_each_image_are_kept():
    found = detections(*[(image, [0, 0, 2, 1], score) for image, score in ((1, 0.1), (0, 0.5), (1, 0.3), (1, 0.2))])
    np.testing.assert_array_equal(dt.strongest(found, 2), [False, True, True, True])


# Matching by centre: the one hit rule


def test_a_centre_inside_the_circle_hits_however_small_the_overlap():
    truth = lesions((0, [0, 0, 200, 200], [100, 100, 100]))
    assert dt.match_by_centre(detections((0, around(40, 180), 0.5)), truth)[0] == 0  # (60, 80): exactly on the border
    assert dt.match_by_centre(detections((0, around(39.9, 180), 0.5)), truth)[0] == -1
    # The corner of the box is no part of the circle.
    assert dt.match_by_centre(detections((0, around(5, 5), 0.5)), truth)[0] == -1


def test_the_circle_counts_and_not_the_box_that_was_clipped_at_the_films_edge():
    # Centre 10 px from the left edge, radius 30: the box starts at 0, the circle's centre is not the box's.
    truth = lesions((0, [0, 70, 40, 130], [10, 100, 30]))
    assert dt.match_by_centre(detections((0, around(2, 128), 0.5)), truth)[0] == 0  # 8, 28 off: 29.1 px


def test_a_lesion_with_a_box_alone_is_the_ellipse_inscribed_in_it():
    truth = lesions((0, [0, 0, 100, 40]))  # half axes 50 and 20 round (50, 20)
    assert dt.match_by_centre(detections((0, around(80, 36), 0.5)), truth)[0] == 0  # (30/50)² + (16/20)² = 1
    assert dt.match_by_centre(detections((0, around(80, 36.1), 0.5)), truth)[0] == -1
    assert dt.match_by_centre(detections((0, around(50, 41), 0.5)), truth)[0] == -1


def test_two_detections_on_one_lesion_are_one_hit_and_one_false_positive():
    truth = lesions((0, around(50, 50, 20), [50, 50, 20]))
    hit = dt.match_by_centre(detections((0, around(50, 50), 0.6), (0, around(55, 50), 0.9)), truth)
    np.testing.assert_array_equal(hit, [-1, 0])  # the stronger one, though the weaker is nearer


def test_a_detection_inside_two_lesions_takes_the_nearest_that_is_not_yet_hit():
    truth = lesions((0, around(50, 50, 30), [50, 50, 30]), (0, around(80, 50, 30), [80, 50, 30]))
    both = detections((0, around(60, 50), 0.9), (0, around(60, 50), 0.8), (0, around(60, 50), 0.7))
    np.testing.assert_array_equal(dt.match_by_centre(both, truth), [0, 1, -1])


# Average precision


def test_one_of_two_lesions_found_without_a_false_alarm_scores_half():
    # Precision 1 at the 51 recall levels 0, 0.01, ..., 0.5.
    assert dt.average_precision(np.array([0.9]), np.array([True]), 2) == 51 / 101


def test_a_false_alarm_above_the_only_lesion_halves_the_precision_and_one_below_costs_nothing():
    scores = np.array([0.9, 0.8])
    assert dt.average_precision(scores, np.array([False, True]), 1) == 0.5
    assert dt.average_precision(scores, np.array([True, False]), 1) == 1


def test_corners_of_average_precision():
    nothing = np.zeros(0)
    assert dt.average_precision(np.array([0.9]), np.array([False]), 3) == 0  # none found
    assert dt.average_precision(nothing, nothing.astype(bool), 3) == 0  # nothing detected
    assert dt.average_precision(np.array([0.9, 0.2]), np.array([True, True]), 2) == 1  # all found
    assert np.isnan(dt.average_precision(np.array([0.9]), np.array([False]), 0))  # no ground truth
    # Ties keep their order, as in COCO: the same two detections either way round.
    tied = np.array([0.5, 0.5])
    assert dt.average_precision(tied, np.array([True, False]), 1) == 1
    assert dt.average_precision(tied, np.array([False, True]), 1) == 0.5
    assert dt.average_precision(tied, np.array([False, True]), 1, image=np.array([1, 0])) == 1


def test_a_recall_of_one_tenth_reaches_the_level_of_one_tenth():
    found, truth = (
        detections((0, [0, 0, 20, 10], 0.9)),
        lesions(*[(0, [0, 20 * i, 20, 20 * i + 10]) for i in range(10)]),
    )
    assert dt.average_precision(found.scores, dt.match_by_iou(found, truth, 0.5), 10) == 11 / 101
    zeros = np.zeros(10, dtype=np.int64)
    coco = dt.mean_average_precision_coco(found, zeros[:1], truth, zeros, 1, (0.5,), (0,))
    np.testing.assert_allclose(coco, 11 / 101)


def test_an_image_of_weight_0_is_as_if_it_were_not_there():
    scores, is_true = np.array([0.9, 0.8, 0.7]), np.array([False, True, True])
    weights = np.array([0.0, 1.0, 0.0])
    assert dt.average_precision(scores, is_true, 1, weights) == 1
    assert dt.average_precision(scores, is_true, 1, np.array([1.0, 0.0, 1.0])) == 0.5
    assert dt.average_precision(scores, is_true, 1, np.zeros(3)) == 0


def random_case(seed: int, n_images: int = 14, per_image: int = 12, decimals: int = 6):
    """Jittered copies of lesions and noise, on images 300 x 200 px, some without lesions, some without detections."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(n_images):
        for _ in range(rng.integers(0, 4)):
            x, y = rng.uniform([0, 0], [240, 160])
            w, h = rng.uniform(15, 60, 2)
            truth.append((image, [x, y, x + w, y + h]))
        for _ in range(rng.integers(0, per_image)):
            own = [box for number, box in truth if number == image]
            x, y = rng.uniform([0, 0], [240, 160])
            box = [x, y, x + 40, y + 30]
            if own and rng.random() < 0.6:
                box = (np.array(own[rng.integers(len(own))]) + rng.normal(0, 4, 4)).tolist()
            found.append((image, box, round(float(rng.random()), decimals)))
    return detections(*found), lesions(*truth), n_images, rng


def our_average_precision(found, truth, threshold, weights=None):
    keep = dt.strongest(found)
    kept = Detections(found.image[keep], found.boxes[keep], found.scores[keep])
    weights = np.ones(1 + max(found.image.max(), truth.image.max())) if weights is None else weights
    is_true = dt.match_by_iou(kept, truth, threshold)
    return dt.average_precision(kept.scores, is_true, weights[truth.image].sum(), weights[kept.image], kept.image)


@pytest.mark.parametrize("decimals", [1, 6])
@pytest.mark.parametrize("seed", range(6))
def test_average_precision_equals_faster_coco_eval_with_and_without_ties(seed, decimals):
    found, truth, n_images, rng = random_case(seed, decimals=decimals)
    detected_class, true_class = rng.integers(0, 2, len(found.image)), rng.integers(0, 2, len(truth.image))
    thresholds = (0.1, *dt.IOU_50_95)
    theirs = dt.mean_average_precision_coco(
        found, detected_class, truth, true_class, n_images, thresholds, classes=(0, 1)
    )
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
    thresholds = (0.1, 0.25, *dt.IOU_50_95)
    no_class = np.zeros(40, dtype=np.int64)
    theirs = dt.mean_average_precision_coco(found, no_class[:n_found], truth, no_class[:n_true], 6, thresholds, (0,))
    is_true = [dt.match_by_iou(found, truth, threshold) for threshold in thresholds]
    ours = [dt.average_precision(found.scores, true, n_true, image=found.image) for true in is_true]
    np.testing.assert_allclose(ours, theirs[:, 0], atol=1e-12)


def test_more_than_100_detections_of_an_image_are_cut_as_coco_cuts_them():
    rng = np.random.default_rng(0)
    boxes = [around(*rng.uniform(0, 300, 2), 10) for _ in range(40)]
    # Every lesion is found, but the weakest finds come after 100 stronger detections.
    rows = [(0, box, 0.9 - 0.01 * i) for i, box in enumerate(boxes)]
    rows += [(0, around(600 + i, 600, 2), 0.95 - 0.001 * i) for i in range(90)]
    found, truth = detections(*rows), lesions(*[(0, box) for box in boxes])
    zeros = np.zeros(len(rows), dtype=np.int64)
    theirs = dt.mean_average_precision_coco(found, zeros, truth, np.zeros(40, dtype=np.int64), 1, (0.5,), (0,))
    ours = our_average_precision(found, truth, 0.5)
    np.testing.assert_allclose(ours, theirs[0, 0], atol=1e-12)
    uncut = dt.average_precision(found.scores, dt.match_by_iou(found, truth, 0.5), 40)
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
    theirs = dt.mean_average_precision_coco(
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
    empty = dt.mean_average_precision_coco(nothing, NO_IMAGES, no_lesions, NO_IMAGES, 2, (0.1, 0.5), (0, 1))
    np.testing.assert_array_equal(empty, np.full((2, 2), np.nan))
    found = detections((0, [0, 0, 9, 5], 0.9))
    one = np.ones(1, dtype=np.int64)
    # Detected as class 0, there is only a lesion of class 1: undefined for 0, not found for 1.
    answer = dt.mean_average_precision_coco(found, one - 1, lesions((0, [0, 0, 9, 5])), one, 1, (0.5,), (0, 1))
    np.testing.assert_array_equal(answer, [[np.nan, 0.0]])


# FROC


def test_a_froc_curve_worked_by_hand():
    # Four films, three lesions. By descending score: hit, false, hit, false, false.
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    hits = np.array([True, False, True, False, False])
    curve = dt.froc(scores, hits, n_images=4, n_lesions=3)
    np.testing.assert_array_equal(curve.thresholds, [np.inf, 0.9, 0.8, 0.7, 0.6, 0.5])
    np.testing.assert_array_equal(curve.fp_per_film, [0, 0, 0.25, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(curve.sensitivity, [0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert dt.sensitivity_at(curve, 0.125) == 1 / 3
    assert dt.sensitivity_at(curve, 0.25) == 2 / 3  # the better of two operating points at this rate
    assert dt.sensitivity_at(curve, 8) == 2 / 3  # not extrapolated to 1
    # 1/8: 1/3; the other six rates: 2/3.
    assert dt.froc_mean(curve) == pytest.approx((1 / 3 + 6 * 2 / 3) / 7)


def test_detections_of_equal_score_move_together():
    # Had the hit been counted first, the sensitivity at 0 false positives would be 1.
    curve = dt.froc(np.array([0.5, 0.5]), np.array([True, False]), n_images=1, n_lesions=1)
    np.testing.assert_array_equal(curve.fp_per_film, [0, 1])
    assert dt.sensitivity_at(curve, 0.5) == 0
    assert dt.sensitivity_at(curve, 1) == 1


def test_the_four_corners_of_froc():
    nothing, no_hits = np.zeros(0), np.zeros(0, dtype=bool)
    assert dt.froc_mean(dt.froc(nothing, no_hits, 5, 2)) == 0  # nothing detected
    assert dt.froc_mean(dt.froc(np.array([0.9]), np.array([False]), 5, 2)) == 0  # none found
    assert dt.froc_mean(dt.froc(np.array([0.9, 0.4]), np.array([True, True]), 5, 2)) == 1  # all found, no false alarm
    for scores, hits in ((nothing, no_hits), (np.array([0.9]), np.array([False]))):
        assert np.isnan(dt.froc_mean(dt.froc(scores, hits, 5, 0)))  # no ground truth
        assert np.isnan(dt.froc_mean(dt.froc(scores, hits, 0, 2)))  # no film to spread false alarms over


def test_a_rate_is_met_to_the_last_bit():
    # 79 false positives on 316 films are exactly 1/4.
    scores = np.linspace(1, 0.5, 80)
    curve = dt.froc(scores, np.arange(80) == 79, n_images=316, n_lesions=1)
    assert dt.sensitivity_at(curve, 0.25) == 1
    assert dt.sensitivity_at(curve, 0.125) == 0


# Tables


def tables():
    """Three films of two women: f1 (a) with a benign lesion, f2 (a) normal, f3 (b) with a malignant one."""
    items = pd.DataFrame({"item": ["f1", "f2", "f3"], "patient_id": ["a", "a", "b"]})
    columns = ["item", "x1", "y1", "x2", "y2", "severity", "x_px", "y_px", "radius_px"]
    truth = pd.DataFrame(
        [
            ["f1", 100, 200, 180, 280, "benign", 140, 240, 40],
            ["f3", 300, 100, 340, 140, "malignant", 320, 120, 20],
        ],
        columns=columns,
    )
    found = pd.DataFrame(
        [
            ["f1", "f1", "a", 100, 200, 180, 280, 0.6, 0.1],
            ["f2", "f2", "a", 10, 20, 60, 50, 0.5, 0.3],
            # Half as wide as its lesion: IoU 0.5. Thought benign.
            ["f3", "f3", "b", 300, 100, 320, 140, 0.4, 0.2],
            # On it too, IoU 0.25, and its centre in the circle.
            ["f3", "f3", "b", 310, 110, 330, 130, 0.0, 0.1],
        ],
        columns=["item", "film_id", "patient_id", "x1", "y1", "x2", "y2", "p_benign", "p_malignant"],
    )
    return found, truth, items


def test_the_figures_of_three_films_worked_by_hand():
    figures = dt.match_detections(*tables(), "films").figures()
    # Benign score: 0.6 (true) first.
    assert figures["ap_50_benign"] == 1
    # Malignant score: 0.3 (normal film), then 0.2 (true), then 0.1, 0.1.
    assert figures["ap_50_malignant"] == 0.5
    assert figures["map_50"] == 0.75
    # Either class: 0.8 (false), 0.7 (true), 0.6 (true): precision 2/3 at every recall.
    assert figures["ap_50_any"] == pytest.approx(2 / 3)
    assert figures["ap_10_any"] == pytest.approx(2 / 3)
    # Benign 1 at all ten thresholds; malignant 0.5 at 0.5, then 0.
    assert figures["map_50_95"] == pytest.approx((10 * 1 + 0.5) / 20)
    # One false positive on three films before both hits: 1/3. The centre (310, 120) is 10 px from the lesion's.
    assert figures["sensitivity_at_0_25_fp"] == 0
    assert figures["sensitivity_at_0_5_fp"] == figures["sensitivity_at_8_fp"] == 1
    assert figures["froc_mean"] == pytest.approx(5 / 7)
    # Spread over the one normal film, that false positive is a whole one; the second on f3 does not count.
    assert figures["sensitivity_at_0_5_fp_normal_films"] == 0
    assert figures["sensitivity_at_1_fp_normal_films"] == 1


def test_the_names_are_those_of_the_protocol():
    cuts = dt.match_detections(*tables(), "cuts").figures()
    names = {"ap_50_benign", "ap_50_malignant", "map_50", "ap_50_any", "ap_10_any", "map_50_95"}
    assert set(cuts) == names
    films = dt.match_detections(*tables(), "films").figures()
    rates = ("0_125", "0_25", "0_5", "1", "2", "4", "8")
    names |= {f"sensitivity_at_{rate}_fp{ending}" for rate in rates for ending in ("", "_normal_films")}
    assert set(films) == names | {"froc_mean", "froc_mean_normal_films"}


def random_tables(seed: int, decimals: int):
    found, truth, n_images, rng = random_case(seed, n_images=20, decimals=decimals)
    items = pd.DataFrame(
        {"item": [f"f{i}" for i in range(n_images)], "patient_id": [f"w{i // 2}" for i in range(n_images)]}
    )
    names = items["item"].to_numpy()
    scores = rng.dirichlet([2.0, 1.0, 1.0], len(found.image)).round(decimals)
    detected = pd.DataFrame(found.boxes, columns=["x1", "y1", "x2", "y2"]).assign(
        item=names[found.image], p_benign=scores[:, 1], p_malignant=scores[:, 2]
    )
    true = pd.DataFrame(truth.boxes, columns=["x1", "y1", "x2", "y2"]).assign(
        item=names[truth.image], severity=rng.choice(["benign", "malignant"], len(truth.image))
    )
    return detected, true, items


@pytest.mark.parametrize(("seed", "decimals"), [(0, 6), (1, 6), (2, 1), (3, 1)])
def test_reported_figures_from_coco_equal_those_the_intervals_come_from(seed, decimals):
    arguments = random_tables(seed, decimals)
    reported = dt.detection_figures(*arguments, "films")
    assert reported == pytest.approx(dt.match_detections(*arguments, "films").figures(), abs=1e-12)


def test_the_weight_of_a_film_counts_as_that_many_copies_of_it():
    found, truth, items = random_tables(4, 6)
    weights = np.random.default_rng(0).integers(0, 4, len(items)).astype(np.float64)
    copied = [[], [], []]
    for item, weight in zip(items["item"], weights, strict=True):
        for copy in range(int(weight)):
            for target, table in zip(copied, (found, truth, items), strict=True):
                target.append(table[table["item"] == item].assign(item=f"{item}-{copy}"))
    again = [pd.concat(parts, ignore_index=True) for parts in copied]
    weighted = dt.match_detections(found, truth, items, "films").figures(weights)
    assert weighted == pytest.approx(dt.match_detections(*again, "films").figures(), abs=1e-12)


def test_the_order_of_the_rows_does_not_change_a_figure_without_ties():
    found, truth, items = random_tables(5, 6)
    shuffled = [table.sample(frac=1, random_state=0).reset_index(drop=True) for table in (found, truth, items)]
    straight = dt.match_detections(found, truth, items, "films").figures()
    assert dt.match_detections(*shuffled, "films").figures() == pytest.approx(straight, abs=1e-12)


def test_a_set_without_one_class_has_no_mean_over_classes():
    found, truth, items = tables()
    for figures in (
        dt.match_detections(found, truth[truth["severity"] == "benign"], items, "films").figures(),
        dt.detection_figures(found, truth[truth["severity"] == "benign"], items, "films"),
    ):
        assert figures["ap_50_benign"] == 1
        assert np.isnan([figures["ap_50_malignant"], figures["map_50"], figures["map_50_95"]]).all()


def test_nothing_detected_is_0_and_no_lesions_at_all_is_undefined():
    found, truth, items = tables()
    for evaluate in (dt.detection_figures, lambda *arguments: dt.match_detections(*arguments).figures()):
        assert set(evaluate(found.iloc[:0], truth, items, "films").values()) == {0}
        assert np.isnan(list(evaluate(found, truth.iloc[:0], items, "films").values())).all()


def test_a_resample_that_misses_a_woman_misses_her_lesions_and_her_false_alarms():
    matched = dt.match_detections(*tables(), "films")
    figures = matched.figures(np.array([0.0, 0.0, 1.0]))  # woman b alone
    assert np.isnan(figures["ap_50_benign"])
    assert figures["ap_50_malignant"] == 1
    assert figures["sensitivity_at_0_125_fp"] == 1
    assert np.isnan(figures["froc_mean_normal_films"])


def test_intervals_of_all_figures_hold_the_figure():
    found, truth, items = random_tables(6, 6)
    matched = dt.match_detections(found, truth, items, "films")
    ranges = intervals(matched.figures, resample_women(matched.patient_ids, 100, 0))
    for name, value in matched.figures().items():
        low, high = ranges[name]
        assert low <= value <= high, name


def test_every_fault_of_the_tables_is_named_in_one_error():
    found, truth, items = tables()
    found.loc[0, "item"] = "f9"
    found.loc[1, "p_benign"] = np.nan
    found.loc[2, "x2"] = found.loc[2, "x1"]
    truth.loc[0, "severity"] = "normal"
    truth.loc[1, "x1"] = np.nan
    with pytest.raises(BadInputError) as caught:
        dt.match_detections(found, truth, pd.concat([items, items.iloc[[1]]]), "films")
    starts = [problem.split(":")[0] for problem in caught.value.problems]
    assert starts == [
        "items",
        "detections, row 0",
        "detections, row 2",
        "lesions, row 1",
        "detections, row 1",
        "lesions, row 0",
    ]


def test_missing_columns_are_named():
    found, truth, items = tables()
    with pytest.raises(BadInputError, match=r"detections: columns missing.*p_malignant") as caught:
        dt.match_detections(found.drop(columns="p_malignant"), truth.drop(columns="severity"), items, "cuts")
    assert len(caught.value.problems) == 2
