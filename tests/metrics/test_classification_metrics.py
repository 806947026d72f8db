import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_calibration_error

from mammo_ml.errors import BadInputError
from mammo_ml.metrics import classification as cl

SEEDS = range(5)


def random_case(seed: int, n: int = 120, decimals: int = 8):
    """Probabilities (few decimals: many ties), labels, and whole-number weights, some 0."""
    rng = np.random.default_rng(seed)
    # Rounded down, so that what is left for the third class is not negative.
    probabilities = np.floor(rng.dirichlet([1.0, 1.0, 1.0], size=n) * 10**decimals) / 10**decimals
    probabilities[:, 2] = 1 - probabilities[:, 0] - probabilities[:, 1]
    return probabilities, rng.integers(0, 3, n), rng.integers(0, 4, n).astype(np.float64)


def one_hot(labels):
    return np.eye(3)[np.asarray(labels)]


# Worked by hand


def test_cross_entropy_of_a_coin_is_ln_2():
    probabilities = np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])
    np.testing.assert_allclose(cl.cross_entropy(probabilities, np.array([0, 2])), np.log(2))


def test_one_certain_error_costs_the_clip_and_not_infinity():
    assert cl.cross_entropy(one_hot([0]), np.array([1])) == pytest.approx(-np.log(1e-7))


def test_auc_counts_pairs_and_half_of_ties():
    scores = np.array([0.1, 0.4, 0.4, 0.8])
    positives = np.array([False, True, False, True])
    # Pairs (positive, negative): 0.4>0.1, 0.4=0.4 (half), 0.8>0.1, 0.8>0.4: 3.5 of 4.
    assert cl.auc(scores, positives) == 3.5 / 4


def test_auc_of_a_repeated_item_equals_the_auc_with_its_weight():
    scores, positives = np.array([0.2, 0.7, 0.5]), np.array([False, False, True])
    repeated = cl.auc(np.append(scores, 0.7), np.append(positives, False))
    # Weights 1, 2, 1: the positive beats one of three negatives.
    assert cl.auc(scores, positives, np.array([1.0, 2.0, 1.0])) == repeated == 1 / 3


def test_balanced_accuracy_gives_a_rare_class_the_same_say():
    predicted = one_hot([0, 0, 0, 0, 0, 1])
    # Recalls: normal 4/4, benign 1/1, malignant 0/1.
    assert cl.balanced_accuracy(predicted, np.array([0, 0, 0, 0, 2, 1])) == pytest.approx(2 / 3)


def test_balanced_accuracy_is_over_the_classes_that_are_present():
    assert cl.balanced_accuracy(one_hot([0, 1]), np.array([0, 1])) == 1
    # A class whose items all weigh 0 is not present.
    assert cl.balanced_accuracy(one_hot([0, 0]), np.array([0, 1]), np.array([1.0, 0.0])) == 1


def test_sensitivity_at_90_percent_specificity_allows_one_false_alarm_in_ten():
    negatives = np.arange(10) / 10  # 0.0 ... 0.9
    scores = np.concatenate([negatives, [0.95, 0.85, 0.75, 0.05]])
    positives = np.arange(14) >= 10
    # Threshold 0.85 lets in the one negative of 0.9 (specificity exactly 9/10) and two of four positives.
    assert cl.sensitivity_at_specificity(scores, positives) == 0.5
    # With no false alarm allowed only 0.95 is above every negative.
    assert cl.sensitivity_at_specificity(scores, positives, specificity=1.0) == 0.25


def test_confusion_matrix_has_labels_in_rows():
    matrix = cl.confusion_matrix(np.array([0, 2, 2]), np.array([0, 1, 1]), np.array([1.0, 2.0, 0.5]))
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [0, 0, 2.5], [0, 0, 0]])


def test_ece_of_always_certain_and_right_half_the_time_is_one_half():
    assert cl.ece(one_hot([0, 0]), np.array([0, 1])) == 0.5


def test_ece_keeps_over_and_under_confidence_of_different_bins_apart():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.5, 0.3, 0.2]])
    # 0.9 and wrong: gap 0.9; 0.5 and right: gap 0.5; each is half of the items.
    assert cl.ece(probabilities, np.array([1, 0])) == pytest.approx(0.7)


def test_binary_cross_entropy_and_mean_squared_error_are_means_over_the_outputs():
    probabilities, label = np.array([[0.5, 0.25, 0.25]]), np.array([0])
    expected = -(np.log(0.5) + 2 * np.log(0.75)) / 3
    assert cl.binary_cross_entropy(probabilities, label) == pytest.approx(expected)
    assert cl.mean_squared_error(probabilities, label) == pytest.approx((0.25 + 2 * 0.0625) / 3)
    assert cl.binary_cross_entropy(np.array([[0.0, 1.0, 0.0]]), label) == pytest.approx(-2 * np.log(1e-7) / 3)


def test_brier_of_a_certain_error_is_2_and_of_knowing_nothing_two_thirds():
    assert cl.brier(one_hot([0]), np.array([1])) == 2
    assert cl.brier(np.full((1, 3), 1 / 3), np.array([1])) == pytest.approx(2 / 3)


def test_malignancy_compares_the_two_abnormal_classes_and_is_one_half_where_neither_has_a_chance():
    values = cl.malignancy(np.array([[0.5, 0.1, 0.4], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(values, [0.8, 0.5])


# Corners


def test_everything_right_is_the_best_value_of_every_figure():
    labels = np.array([0, 0, 1, 2])
    figures = cl.patch_figures(one_hot(labels), labels)
    losses = {"cross_entropy", "binary_cross_entropy", "mean_squared_error", "ece", "brier"}
    assert {name: value for name, value in figures.items() if name not in losses} == {
        "accuracy": 1,
        "balanced_accuracy": 1,
        "auc_macro": 1,
        "auc_normal_vs_abnormal_patch": 1,
        "auc_benign_vs_malignant": 1,
        "sensitivity_at_specificity_90": 1,
    }
    assert {name: figures[name] for name in losses} == dict.fromkeys(losses, 0)


def test_everything_wrong_is_the_worst_value():
    labels = np.array([0, 0, 1, 2])
    figures = cl.patch_figures(one_hot([2, 2, 0, 0]), labels)
    assert figures["accuracy"] == figures["balanced_accuracy"] == figures["sensitivity_at_specificity_90"] == 0
    assert figures["auc_normal_vs_abnormal_patch"] == 0
    assert figures["brier"] == 2
    assert figures["ece"] == 1


def test_the_same_score_for_every_item_is_a_coin():
    labels = np.array([0, 0, 1, 2])
    figures = cl.patch_figures(np.full((4, 3), 1 / 3), labels)
    assert figures["auc_macro"] == figures["auc_normal_vs_abnormal_patch"] == figures["auc_benign_vs_malignant"] == 0.5
    # The one threshold that finds a positive costs every negative.
    assert figures["sensitivity_at_specificity_90"] == 0


def test_without_positives_or_negatives_a_ranking_figure_is_undefined():
    scores, nobody = np.array([0.1, 0.9]), np.array([False, False])
    for positives in (nobody, ~nobody):
        assert np.isnan(cl.auc(scores, positives))
        assert np.isnan(cl.sensitivity_at_specificity(scores, positives))
    assert np.isnan(cl.auc(scores, np.array([True, False]), np.array([1.0, 0.0])))


def test_without_items_every_figure_is_undefined():
    figures = cl.patch_figures(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
    assert np.isnan(list(figures.values())).all()
    figures = cl.film_figures(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
    assert np.isnan(list(figures.values())).all()


def test_an_absent_class_makes_the_macro_auc_undefined_and_leaves_the_accuracy():
    figures = cl.patch_figures(one_hot([0, 1, 1]), np.array([0, 1, 1]))
    assert np.isnan(figures["auc_macro"])
    assert np.isnan(figures["auc_benign_vs_malignant"])
    assert figures["accuracy"] == 1


def test_a_score_of_nan_is_an_error_and_not_a_rank():
    with pytest.raises(BadInputError, match="row 1"):
        cl.auc(np.array([0.1, np.nan]), np.array([True, False]))


def test_rows_that_are_no_probabilities_are_named_together():
    probabilities = np.array([[0.2, 0.3, 0.5], [0.9, 0.9, 0.9], [np.nan, 0.5, 0.5]])
    with pytest.raises(BadInputError) as caught:
        cl.patch_figures(probabilities, np.array([0, 1, 7]))
    assert [line.split(":")[0] for line in caught.value.problems] == ["row 1", "row 2", "row 2"]


# Against others


@pytest.mark.parametrize("decimals", [1, 8])
@pytest.mark.parametrize("seed", SEEDS)
def test_figures_equal_scikit_learn_with_and_without_ties_and_weights(seed, decimals):
    p, labels, weights = random_case(seed, decimals=decimals)
    positives, scores = labels == 2, p[:, 2]
    hard = p.argmax(axis=1)
    clipped = np.maximum(p, 1e-7)
    clipped /= clipped.sum(axis=1, keepdims=True)
    outputs = np.clip(p, 1e-7, 1 - 1e-7)
    pairs = {
        "accuracy": (cl.accuracy(p, labels, weights), sk.accuracy_score(labels, hard, sample_weight=weights)),
        "auc": (cl.auc(scores, positives, weights), sk.roc_auc_score(positives, scores, sample_weight=weights)),
        "auc_macro": (
            cl.auc_macro(p, labels, weights),
            np.mean([sk.roc_auc_score(labels == c, p[:, c], sample_weight=weights) for c in range(3)]),
        ),
        "balanced": (
            cl.balanced_accuracy(p, labels, weights),
            sk.balanced_accuracy_score(labels, hard, sample_weight=weights),
        ),
        "binary_cross_entropy": (
            cl.binary_cross_entropy(p, labels, weights),
            np.mean([sk.log_loss(labels == c, outputs[:, c], sample_weight=weights) for c in range(3)]),
        ),
        "mean_squared_error": (
            cl.mean_squared_error(p, labels, weights),
            sk.mean_squared_error(np.eye(3)[labels], p, sample_weight=weights),
        ),
        "cross_entropy": (
            cl.cross_entropy(p, labels, weights),
            sk.log_loss(labels, clipped, sample_weight=weights, labels=[0, 1, 2]),
        ),
    }
    for ours, theirs in pairs.values():
        # scikit-learn wants clipped rows to sum to 1: a difference below 1e-6.
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    matrix = sk.confusion_matrix(labels, hard, sample_weight=weights, labels=[0, 1, 2])
    np.testing.assert_array_equal(cl.confusion_matrix(hard, labels, weights), matrix)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_roc_curve_equals_scikit_learn_and_gives_its_sensitivity_at_specificity(seed):
    p, labels, weights = random_case(seed, decimals=1)
    weights += 1
    fpr, tpr = cl.roc_curve(p[:, 1], labels == 1, weights)
    their_fpr, their_tpr, _ = sk.roc_curve(labels == 1, p[:, 1], sample_weight=weights, drop_intermediate=False)
    np.testing.assert_allclose(fpr, their_fpr, atol=1e-12)
    np.testing.assert_allclose(tpr, their_tpr, atol=1e-12)
    np.testing.assert_allclose(np.trapezoid(tpr, fpr), cl.auc(p[:, 1], labels == 1, weights))
    ours = cl.sensitivity_at_specificity(p[:, 1], labels == 1, 0.9, weights)
    np.testing.assert_allclose(ours, their_tpr[their_fpr <= 0.1].max())


@pytest.mark.parametrize("seed", SEEDS)
def test_ece_equals_torchmetrics(seed):
    p, labels, _ = random_case(seed)
    theirs = multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(labels), 3, n_bins=15, norm="l1")
    np.testing.assert_allclose(cl.ece(p, labels), theirs.item(), atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_weight_counts_as_that_many_copies_in_every_figure(seed):
    p, labels, weights = random_case(seed)
    lesion_centred = np.arange(len(labels)) % 3 > 0
    copies = np.repeat(np.arange(len(labels)), weights.astype(int))
    weighted = cl.patch_figures(p, labels, lesion_centred, weights)
    copied = cl.patch_figures(p[copies], labels[copies], lesion_centred[copies])
    assert weighted == pytest.approx(copied, rel=1e-9)
    assert cl.film_figures(p, labels, weights) == pytest.approx(cl.film_figures(p[copies], labels[copies]), rel=1e-9)


def test_lesion_figures_use_the_lesion_centred_patches_and_all_normal_ones():
    p, labels, _ = random_case(11)
    lesion_centred = (np.arange(len(labels)) % 2 == 0) & (labels > 0)
    figures = cl.patch_figures(p, labels, lesion_centred)
    lesions = p[lesion_centred]
    expected = sk.roc_auc_score(labels[lesion_centred] == 2, lesions[:, 2] / (lesions[:, 1] + lesions[:, 2]))
    assert figures["auc_benign_vs_malignant"] == pytest.approx(expected)
    kept = lesion_centred | (labels == 0)
    expected = sk.roc_auc_score(labels[kept] > 0, 1 - p[kept, 0])
    assert figures["auc_normal_vs_abnormal_patch"] == pytest.approx(expected)
    assert figures["accuracy"] == cl.accuracy(p, labels)


def test_a_film_is_abnormal_by_the_complement_of_its_normal_probability():
    p, labels, _ = random_case(12)
    figures = cl.film_figures(p, labels)
    of_classes = [sk.roc_auc_score(labels == n, p[:, n]) for n in (1, 2)]
    assert [figures["film_auc_benign"], figures["film_auc_malignant"]] == pytest.approx(of_classes)
    assert figures["film_accuracy"] == pytest.approx((p.argmax(1) == labels).mean())
    assert figures["film_auc_normal_vs_abnormal"] == pytest.approx(sk.roc_auc_score(labels > 0, 1 - p[:, 0]))
