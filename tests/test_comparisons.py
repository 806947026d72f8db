import numpy as np
import pandas as pd
import pytest

from mammo_ml.comparisons import SHOWN_OF_FILMS as SHOWN
from mammo_ml.comparisons import (
    SHOWN_OF_PATCHES,
    ClassifierComparison,
    DetectorComparison,
    JudgedPatches,
    compared,
    mean_over_seeds,
    merged,
)
from mammo_ml.errors import BadInputError
from mammo_ml.metrics.detection import MatchedDetections, match_detections

COMMON = {
    "network": {"base": "small"},
    "pretrained": "none",
    "augmentation": {"strength": 0.5},
    "training": {
        "budget_samples": 100,
        "epoch_samples": 10,
        "batch_size": 2,
        "learning_rate": 0.001,
        "weight_decay": 0.01,
        "patience": 2,
        "threads": 1,
        "seed": 1,
    },
}
BOTH = {"plain": "plain", "other": "plain"}
"""Each configuration's reference."""
CUT = {
    "window_px": 256,
    "input_px": 128,
    "normals_per_lesion": 2,
    "min_breast_share": 0.9,
    "jittered_per_lesion": 2,
    "jitter_px": 64,
    "normal_cuts_per_film": 2,
    "min_visible_share": 0.3,
    "seed": 1,
}
ASKED = {"seeds": [1, 2], "folds_seed": 20, "resamples": 100, "reference": "plain", "common": COMMON}


def comparison(**configurations: object) -> DetectorComparison:
    return DetectorComparison.model_validate(ASKED | {"cut": CUT, "configurations": {"plain": {}} | configurations})


def found_by(share: float, seed: int, women: int = 40) -> MatchedDetections:
    """A detector that finds this share of lesions, one on each film of 40 women, and nothing else."""
    films = pd.DataFrame({"item": [f"film{n}" for n in range(women)]})
    films = films.assign(film_id=films["item"], patient_id=films["item"])
    lesions = films[["item"]].assign(
        x1=10.0, y1=10.0, x2=20.0, y2=20.0, severity="benign", x_px=15, y_px=15, radius_px=5
    )
    chosen = np.random.default_rng(seed).permutation(women)[: round(share * women)]
    boxes = lesions.iloc[chosen][["item", "x1", "y1", "x2", "y2"]].assign(p_benign=0.6, p_malignant=0.3)
    return match_detections(boxes, lesions, films, "films")


def test_a_configuration_differs_in_its_own_keys_alone() -> None:
    recipe = comparison(slow={"training": {"learning_rate": 0.0001}}).recipe("slow", seed=7)
    plain = comparison().recipe("plain", seed=7)
    assert recipe.training.learning_rate == 0.0001
    assert recipe.training.seed == 7
    assert recipe.model_copy(update={"training": plain.training}) == plain


def test_films_are_cut_for_the_base_of_the_configuration() -> None:
    asked = comparison(larger={"network": {"base": "vgg16"}})
    assert (asked.cutting("plain").input_px, asked.cutting("larger").input_px) == (128, 300)
    assert asked.cutting("larger").window_px == 256


def test_merging_leaves_what_was_given_as_it_was() -> None:
    values = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(values, {"a": {"b": 5}, "d": {"e": 6}}) == {"a": {"b": 5, "c": 2}, "d": {"e": 6}}
    assert values == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize(
    ("configuration", "changes", "message"),
    [
        (
            "slow",
            {"training": {"learning_rat": 1}},
            "unknown key 'training.learning_rat'; did you mean",
        ),
        ("slow", {"network": {"base": "tiny"}}, "key 'network.base'"),
        ("fast", {}, "compare_detector: 1 problem\n  - configuration 'fast' is none of plain, slow"),
    ],
)
def test_a_wrong_key_is_named_with_its_configuration(
    configuration: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(BadInputError, match=f"configuration '{configuration}'") as caught:
        comparison(slow=changes).recipe(configuration, seed=1)
    assert message in str(caught.value)


def test_a_reference_that_is_not_listed_is_refused() -> None:
    with pytest.raises(ValueError, match="reference 'other' is none of plain"):
        DetectorComparison.model_validate(ASKED | {"cut": CUT, "reference": "other", "configurations": {"plain": {}}})


def test_a_configuration_may_have_a_reference_of_its_own() -> None:
    configurations = {"plain": {}, "slow": {}, "slower": {}}
    asked = DetectorComparison.model_validate(
        ASKED | {"cut": CUT, "configurations": configurations, "references": {"slower": "slow"}}
    )
    assert asked.compared_with == {"plain": "plain", "slow": "plain", "slower": "slow"}
    judged = {"plain": [found_by(0.5, 1)], "slow": [found_by(0.25, 1)], "slower": [found_by(0.75, 1)]}
    found = compared(judged, asked.compared_with, SHOWN, resamples=100, seed=1)
    assert found["slow"]["froc_mean_gain"] == pytest.approx(-0.25)
    assert found["slower"]["froc_mean_gain"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="reference 'fast' is none of plain, slow, slower"):
        DetectorComparison.model_validate(
            ASKED | {"cut": CUT, "configurations": configurations, "references": {"slow": "fast"}}
        )


def test_a_figure_is_the_mean_over_seeds() -> None:
    matched = [found_by(0.25, seed=1), found_by(0.75, seed=2)]
    assert mean_over_seeds(matched, SHOWN)(np.ones(40))["froc_mean"] == pytest.approx(0.5)


def test_a_gain_is_paired_and_has_an_interval_that_holds_it() -> None:
    half, most = [found_by(0.5, 1), found_by(0.5, 2)], [found_by(0.9, 1), found_by(0.9, 2)]
    found = compared({"plain": half, "other": most}, BOTH, SHOWN, resamples=200, seed=1)
    better = found["other"]
    assert better["froc_mean_gain"] == pytest.approx(0.4)
    assert 0 < better["froc_mean_gain_lo"] < 0.4 < better["froc_mean_gain_hi"]
    # the same lesions, drawn with the same seeds: what both find cancels out
    assert better["froc_mean_gain_hi"] - better["froc_mean_gain_lo"] < 0.4
    assert "froc_mean_gain" not in found["plain"]
    assert found["plain"]["froc_mean_lo"] < 0.5 < found["plain"]["froc_mean_hi"]
    assert (better["n_seeds"], better["n_items"], better["n_women"]) == (2, 40, 40)


def test_the_spread_of_the_seeds_is_shown() -> None:
    found = compared({"plain": [found_by(0.25, 1), found_by(0.75, 2)]}, {"plain": "plain"}, SHOWN, 100, seed=1)["plain"]
    assert (found["froc_mean_seed_min"], found["froc_mean_seed_max"]) == pytest.approx((0.25, 0.75))


def test_models_judged_on_different_women_are_refused() -> None:
    with pytest.raises(BadInputError, match="judged on different women"):
        compared({"plain": [found_by(0.5, 1)], "other": [found_by(0.5, 1, women=39)]}, BOTH, SHOWN, 100, 1)


def test_classifiers_are_compared_the_same_way() -> None:
    asked = ASKED | {"common": COMMON | {"network": {"variant": "exact"}}}
    asked["configurations"] = {"plain": {}, "small": {"network": {"variant": "compact"}}}
    assert ClassifierComparison.model_validate(asked).recipe("small", seed=3).network.variant == "compact"

    labels, women = np.arange(60) % 3, [f"w{n // 3}" for n in range(60)]
    coin = JudgedPatches(np.full((60, 3), 1 / 3), labels, women)
    perfect = JudgedPatches(np.eye(3)[labels], labels, women)
    found = compared({"plain": [coin], "other": [perfect]}, BOTH, SHOWN_OF_PATCHES, resamples=100, seed=1)
    assert found["other"]["auc_macro_gain"] == found["other"]["auc_macro_gain_lo"] == 0.5
    assert found["plain"]["auc_benign_vs_malignant"] == 0.5
