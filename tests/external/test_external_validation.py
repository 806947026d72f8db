import pandas as pd
import pytest

from mammo_ml.errors import BadInputError
from mammo_ml.evaluation import EvaluateParameters, evaluate_detections, lesions_of_films, located_films
from mammo_ml.external.report import absent_lines, card_section, comparison_table, metrics_json, names_of
from mammo_ml.external.validation import (
    ON_LESION_FILMS,
    ExternalFigures,
    classifier_figures,
    detector_figures,
    judged_by_detector,
)
from mammo_ml.registry.comparison import Evidence
from tests.external.external_sets import classes, toy_boxes, toy_evidence, toy_tables

HOW = EvaluateParameters(resamples=100, seed=1)
INTERNAL = {"froc_mean": 0.8, "froc_mean_lo": 0.7, "froc_mean_hi": 0.9, "froc_mean_normal_films": 0.8, "map_50": 0.4}
BOTH = ["benign", "malignant"] * 5


def detector(labels: list[str], found: int, evidence: Evidence | None = None) -> ExternalFigures:
    films, lesions = toy_tables(labels)
    return detector_figures(toy_boxes(films, lesions, found), films, lesions, INTERNAL, evidence, HOW)


def test_figures_of_a_detector_are_those_of_the_internal_evaluation() -> None:
    films, lesions = toy_tables([*BOTH, "normal", "normal"])
    boxes = toy_boxes(films, lesions, 6)
    found = detector_figures(boxes, films, lesions, INTERNAL, None, HOW)
    judged = located_films(films, lesions)
    truth = lesions_of_films(lesions, judged)
    nothing = boxes.head(0).assign(item=[])
    alone, _ = evaluate_detections(boxes.assign(item=boxes["film_id"]), nothing, truth, judged, "films", HOW)
    for name in ("froc_mean", "froc_mean_lo", "froc_mean_hi", "ap_50_any", "froc_mean_normal_films"):
        assert found.external[name] == alone[name]
    assert found.external["sensitivity_at_0_125_fp"] == 0.6
    assert not found.lesion_films
    assert found.external["n_lesions"] == 10


def test_a_hit_lies_in_the_ellipse_of_the_box_not_in_the_circle_round_it() -> None:
    films, lesions = toy_tables(BOTH)
    flat = lesions.assign(y1=lesions["y_px"] - 5, y2=lesions["y_px"] + 5)
    # 15 px below the centre: in the circle of 30 px, outside of an ellipse of 5 px
    below = toy_boxes(films, lesions, len(lesions)).head(len(lesions))
    below[["y1", "y2"]] += 15
    assert detector_figures(below, films, lesions, INTERNAL, None, HOW).external["froc_mean"] == 1.0
    assert detector_figures(below, films, flat, INTERNAL, None, HOW).external["froc_mean"] == 0.0


def test_without_normal_films_nothing_is_told_of_normal_films_and_the_like_of_it_stands_beside() -> None:
    found = detector(BOTH, 6, toy_evidence([*BOTH, *["normal"] * 10], 8))
    assert not [name for name in found.external if "normal_films" in name]
    assert found.absent["froc_mean_normal_films"] == "the set has no normal films"
    assert ON_LESION_FILMS in found.notes
    assert "Lesions by kind" not in " ".join(found.notes)
    # a false positive at 0.2 on each film: all boxes are called at one per film, whatever the films
    assert found.external["sensitivity_at_internal_threshold"] == 0.6
    assert found.external["fp_per_film_at_internal_threshold"] == 1.0
    assert found.internal["sensitivity_at_internal_threshold"] == 0.8
    assert found.lesion_films["froc_mean"] == pytest.approx(0.8)
    assert list(comparison_table(found)) == [
        *("figure", "internal (out-of-fold)", "internal, lesion films", "external", "external, knowing nothing")
    ]


def test_a_set_of_malignant_lesions_has_no_figure_of_both_classes() -> None:
    found = detector(["malignant"] * 6, 6, toy_evidence(BOTH, 8))
    assert {"ap_50_benign", "map_50", "map_50_95"} <= set(found.absent)
    assert not {"ap_50_benign", "map_50", "map_50_lo", "map_50_baseline"} & set(found.external)
    assert found.external["ap_50_malignant"] > 0
    assert "map_50" not in comparison_table(found)["figure"].tolist()
    assert "none of its located lesions is benign" in " ".join(absent_lines(found.absent))
    assert set(found.subgroups["value"]) >= {"MASS", "malignant"}
    assert found.subgroups["point"].notna().all()


def test_lesions_without_place_or_class_are_left_out_and_told_of() -> None:
    films, lesions = toy_tables(BOTH)
    lesions.loc[0, "has_location"] = False
    lesions.loc[1, "severity"] = "unknown"
    kept, truth, notes = judged_by_detector(films, lesions)
    assert len(kept) == len(truth) == 8
    assert [note[-2:] for note in notes] == ["1.", "1."]
    with pytest.raises(BadInputError, match="none of its films has a located lesion"):
        judged_by_detector(films, lesions.assign(has_location=False))


def classifier(labels: list[str], with_patches: bool = True) -> ExternalFigures:
    films, lesions = toy_tables(labels)
    columns = ["p_normal", "p_benign", "p_malignant"]
    answers = pd.DataFrame(classes(labels, 2.0), columns=columns).assign(film_id=films["film_id"])
    patches = lesions.rename(columns={"lesion_id": "item", "severity": "label"})[["item", "film_id", "label"]]
    patches["patient_id"] = patches["film_id"].str.replace("film", "woman")
    patches[columns] = classes(patches["label"].tolist(), 2.0, seed=1)
    inside = [*BOTH, *["normal"] * 20]
    films_inside, _ = toy_tables(inside)
    predictions = films_inside[["film_id", "patient_id", "label"]].assign(unit="film", protocol="by_patient")
    predictions["item"] = predictions["film_id"]
    predictions[columns] = classes(inside, 2.0, seed=2)
    items = predictions[["protocol", "unit", "item", "film_id", "patient_id", "label"]].assign(density="F")
    evidence = Evidence("classifier", predictions, items, pd.DataFrame(columns=["protocol", "item"]))
    return classifier_figures(answers, patches if with_patches else patches.head(0), films, lesions, {}, evidence, HOW)


@pytest.mark.parametrize(
    ("labels", "there", "absent"),
    [
        (
            BOTH,
            {"film_auc_benign_vs_malignant", "auc_benign_vs_malignant", "film_sensitivity_at_internal_threshold"},
            {"film_auc_normal_vs_abnormal", "film_auc_macro", "film_specificity_at_internal_threshold", "accuracy"},
        ),
        (
            ["malignant"] * 6,
            {"film_sensitivity_at_internal_threshold"},
            {"film_auc_benign_vs_malignant", "auc_benign_vs_malignant", "film_balanced_accuracy"},
        ),
        (
            [*BOTH, "normal", "normal"],
            {"film_auc_normal_vs_abnormal", "film_auc_macro", "film_specificity_at_internal_threshold"},
            {"auc_macro"},
        ),
    ],
)
def test_which_figures_of_a_classifier_exist(labels: list[str], there: set[str], absent: set[str]) -> None:
    found = classifier(labels)
    assert there <= set(names_of(found.external))
    assert absent <= set(found.absent)
    assert not set(found.absent) & set(found.external)
    # a tenth of the 20 normal films may be called
    assert found.internal["film_specificity_at_internal_threshold"] == 0.9


def test_a_classifier_needs_no_located_lesion() -> None:
    found = classifier(BOTH, with_patches=False)
    assert "auc_benign_vs_malignant" in found.absent
    assert "film_auc_benign_vs_malignant" in found.external


def test_the_card_lists_every_set_and_what_could_not_be_computed() -> None:
    import json

    found = detector(BOTH, 6, toy_evidence([*BOTH, "normal"], 8))
    about = {"model": "mammo-detector/1", "kind": "detector", "set": "other", "date": "2026-11-23"}
    record = json.loads(metrics_json(found, about))
    text = card_section([record], ["third: metrics.json of its run was changed"])
    assert "### other (2026-11-23)" in text
    assert "Judged: 10 women, 10 films, 10 lesions." in text
    assert "| `sensitivity_at_internal_threshold` | 0.800 [" in text
    assert (
        "Not computed: sensitivity_at_*_fp_normal_films, froc_mean_normal_films: the set has no normal films." in text
    )
    assert "**Not shown:** third" in text
    assert "None yet" in card_section([])
