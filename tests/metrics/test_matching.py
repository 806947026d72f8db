import numpy as np

from mammo_ml.metrics.matching import match_by_centre, match_by_iou, strongest
from tests.metrics.arrays import around, detections, lesions


def test_a_lesion_is_found_once_and_by_the_stronger_detection():
    box = [10, 20, 50, 40]
    found = detections((0, box, 0.4), (0, box, 0.9), (0, box, 0.4))
    np.testing.assert_array_equal(match_by_iou(found, lesions((0, box)), 0.5), [False, True, False])


def test_an_overlap_of_exactly_the_threshold_is_enough():
    # 20 of 40 px of a 40 x 10 box: IoU 200 / 400 = 0.5.
    found = detections((0, [0, 0, 20, 10], 0.9))
    truth = lesions((0, [0, 0, 40, 10]))
    assert match_by_iou(found, truth, 0.5).all()
    assert not match_by_iou(found, truth, 0.55).any()


def test_a_detection_takes_the_lesion_it_overlaps_most_and_leaves_the_other_to_the_next():
    left, right = [0, 0, 40, 20], [10, 0, 50, 20]
    # Both overlap both lesions (IoU 0.6); the strong one sits on the right lesion, the weak one 2 px off it.
    found = detections((0, [12, 0, 52, 20], 0.3), (0, right, 0.8))
    np.testing.assert_array_equal(match_by_iou(found, lesions((0, left), (0, right)), 0.5), [True, True])
    # At 0.6 the weak one (28 of 52 px on the left lesion, 0.54) is left with nothing.
    np.testing.assert_array_equal(match_by_iou(found, lesions((0, left), (0, right)), 0.6), [False, True])


def test_a_detection_never_matches_a_lesion_of_another_image():
    assert not match_by_iou(detections((1, [0, 0, 9, 5], 0.9)), lesions((0, [0, 0, 9, 5])), 0.5).any()
    assert match_by_centre(detections((1, [0, 0, 9, 5], 0.9)), lesions((0, [0, 0, 9, 5])))[0] == -1


def test_only_the_strongest_detections_of_each_image_are_kept():
    found = detections(*[(image, [0, 0, 2, 1], score) for image, score in ((1, 0.1), (0, 0.5), (1, 0.3), (1, 0.2))])
    np.testing.assert_array_equal(strongest(found, 2), [False, True, True, True])


def test_a_centre_inside_the_circle_hits_however_small_the_overlap():
    truth = lesions((0, [0, 0, 200, 200], [100, 100, 100]))
    assert match_by_centre(detections((0, around(40, 180), 0.5)), truth)[0] == 0  # (60, 80): exactly on the border
    assert match_by_centre(detections((0, around(39.9, 180), 0.5)), truth)[0] == -1
    # The corner of the box is no part of the circle.
    assert match_by_centre(detections((0, around(5, 5), 0.5)), truth)[0] == -1


def test_the_circle_counts_and_not_the_box_that_was_clipped_at_the_films_edge():
    # Centre 10 px from the left edge, radius 30: the box starts at 0, the circle's centre is not the box's.
    truth = lesions((0, [0, 70, 40, 130], [10, 100, 30]))
    assert match_by_centre(detections((0, around(2, 128), 0.5)), truth)[0] == 0  # 8, 28 off: 29.1 px


def test_a_lesion_with_a_box_alone_is_the_ellipse_inscribed_in_it():
    truth = lesions((0, [0, 0, 100, 40]))  # half axes 50 and 20 round (50, 20)
    assert match_by_centre(detections((0, around(80, 36), 0.5)), truth)[0] == 0  # (30/50)² + (16/20)² = 1
    assert match_by_centre(detections((0, around(80, 36.1), 0.5)), truth)[0] == -1
    assert match_by_centre(detections((0, around(50, 41), 0.5)), truth)[0] == -1


def test_two_detections_on_one_lesion_are_one_hit_and_one_false_positive():
    truth = lesions((0, around(50, 50, 20), [50, 50, 20]))
    hit = match_by_centre(detections((0, around(50, 50), 0.6), (0, around(55, 50), 0.9)), truth)
    np.testing.assert_array_equal(hit, [-1, 0])  # the stronger one, though the weaker is nearer


def test_a_detection_inside_two_lesions_takes_the_nearest_that_is_not_yet_hit():
    truth = lesions((0, around(50, 50, 30), [50, 50, 30]), (0, around(80, 50, 30), [80, 50, 30]))
    both = detections((0, around(60, 50), 0.9), (0, around(60, 50), 0.8), (0, around(60, 50), 0.7))
    np.testing.assert_array_equal(match_by_centre(both, truth), [0, 1, -1])
