"""A model on films of another collection: which figures these films can give, and the figures, pure.

Everything is judged as the internal evaluation judges (docs/hit-rules.md, docs/architecture.md "Figures"): the same
matching, FROC, average precisions and AUCs, women resampled. A figure that the films cannot give is not computed; the
reason stands in its place.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.datasets.catalog import BOX_COLUMNS, LABELS, SEVERITIES, UNKNOWN_SEVERITY
from mammo_ml.errors import BadInputError
from mammo_ml.evaluation import (
    PROBABILITY_COLUMNS,
    EvaluateParameters,
    Figures,
    evaluate_detections,
    froc_band,
    lesions_of_films,
    located_films,
    random_boxes,
    with_bounds,
)
from mammo_ml.metrics.classification import MALIGNANT, NORMAL, auc, film_figures, malignancy
from mammo_ml.metrics.detection import DETECTION_COLUMNS, MatchedDetections, match_detections
from mammo_ml.metrics.froc import FP_RATES
from mammo_ml.metrics.subgroups import classifier_subgroups, detector_subgroups, thresholds_at
from mammo_ml.registry.comparison import Evidence
from mammo_ml.truth import CIRCLE, judged_items, judged_lesions

PROTOCOL = "external"
INTERNAL_RATE = 1.0
"""False positives per film of the internal operating point that is carried over."""
INTERNAL_SPECIFICITY = 0.9
BOUNDS = ("_lo", "_hi", "_baseline")
NO_NORMAL_FILMS = "the set has no normal films"
ON_LESION_FILMS = (
    "The set has no normal films: false positives per film are those on films with lesions, outside of them. "
    "Internally most films are normal; `internal, lesion films` counts as here, on internal films with lesions alone."
)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ExternalFigures:
    """What a model reached on an external set, and internally.

    Attributes:
        external: figures with `_lo`, `_hi` and `_baseline`; the counts `n_women`, `n_films` … beside them.
        internal: out-of-fold figures of the same names.
        lesion_films: internal figures on films with lesions alone, where the external set has no others.
        absent: why a figure of the internal evaluation does not exist here.
        notes: what was left out, and how figures are to be read, a sentence each.
        subgroups: as subgroups.csv.
        froc: fp_per_film, sensitivity, lo, hi; None of a classifier.
    """

    external: Figures
    internal: Figures
    lesion_films: Figures
    absent: Mapping[str, str]
    notes: tuple[str, ...]
    subgroups: pd.DataFrame
    froc: pd.DataFrame | None = field(default=None)


# ---------------------------------------------------------------------------------------------------- what can exist


def judged_by_detector(films: pd.DataFrame, lesions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Films that a detector is judged on, with their located lesions, and a sentence about each part left out.

    As internally, films with a lesion that nobody located are left out: what is found there can be called neither
    right nor wrong. So are films with a lesion of unknown severity, for class-blind and class figures alike.

    Args:
        films: films.csv.
        lesions: lesions.csv.

    Raises:
        BadInputError: when no located lesion is left.
    """
    located = located_films(films, lesions)
    unknown = set(lesions.loc[lesions["severity"] == UNKNOWN_SEVERITY, "film_id"])
    kept = located[~located["film_id"].isin(unknown)].reset_index(drop=True)
    truth = lesions_of_films(lesions, kept)
    if truth.empty:
        remedy = "A detector is judged by the lesions it finds: give their places, or validate a classifier."
        raise BadInputError("external set", ["none of its films has a located lesion of known severity"], remedy)
    parts = {
        "with a lesion that nobody located": len(films) - len(located),
        "with a lesion that is benign or malignant, the set does not say which": len(located) - len(kept),
    }
    return kept, truth, [f"Left out, films {why}: {count}." for why, count in parts.items() if count]


def absent_of_detector(films: pd.DataFrame, truth: pd.DataFrame) -> dict[str, str]:
    """Figures of a detector that these films (label) and located lesions (severity) cannot give, and why."""
    absent = dict[str, str]()
    if not (films["label"] == "normal").any():
        names = [*(f"sensitivity_at_{rate}_fp" for rate in FP_RATES), "froc_mean"]
        absent |= {f"{name}_normal_films": NO_NORMAL_FILMS for name in names}
    for severity in SEVERITIES:
        if not (truth["severity"] == severity).any():
            why = f"none of its located lesions is {severity}"
            absent |= dict.fromkeys((f"ap_50_{severity}", "map_50", "map_50_95"), why)
    return absent


def absent_of_classifier(films: pd.DataFrame, patches: pd.DataFrame) -> dict[str, str]:
    """Figures of a classifier that these films and patches of located lesions (label each) cannot give, and why."""
    here, lesions = set(films["label"]), set(patches["label"])
    lacking = [label for label in LABELS if label not in here]
    absent = dict[str, str]()
    if lacking:
        why = f"the set has no {' and no '.join(lacking)} films"
        absent |= dict.fromkeys(("film_auc_macro", "film_balanced_accuracy"), why)
    if "normal" not in here:
        needs_both = ("film_auc_normal_vs_abnormal", "film_specificity_at_internal_threshold")
        absent |= dict.fromkeys(needs_both, NO_NORMAL_FILMS)
    if here == {"normal"}:
        needs_lesions = ("film_auc_normal_vs_abnormal", "film_sensitivity_at_internal_threshold")
        absent |= dict.fromkeys(needs_lesions, "all its films are normal")
    for severity in SEVERITIES:
        if severity not in here:
            absent[f"film_auc_{severity}"] = f"the set has no {severity} films"
        elif here == {severity}:
            absent[f"film_auc_{severity}"] = f"all its films are {severity}"
    if not set(SEVERITIES) <= here:
        why = f"the set has no {' and no '.join(sorted(set(SEVERITIES) - here))} films"
        absent["film_auc_benign_vs_malignant"] = why
    if not set(SEVERITIES) <= lesions:
        why = f"none of its located lesions is {' or '.join(sorted(set(SEVERITIES) - lesions))}"
        absent["auc_benign_vs_malignant"] = why
    normal_patches = ("accuracy", "cross_entropy", "balanced_accuracy", "auc_macro", "auc_normal_vs_abnormal_patch")
    why = "normal patches, at places that match the lesions', are cut for the training set alone"
    rest = ("sensitivity_at_specificity_90", "ece", "brier", "binary_cross_entropy", "mean_squared_error")
    return absent | dict.fromkeys((*normal_patches, *rest), why)


# ---------------------------------------------------------------------------------------------------------- detector


def detector_figures(
    found: pd.DataFrame,
    films: pd.DataFrame,
    lesions: pd.DataFrame,
    internal: Figures,
    evidence: Evidence | None,
    parameters: EvaluateParameters,
) -> ExternalFigures:
    """Figures of a detector or locator on an external set.

    Args:
        found: boxes: film_id, x1 … y2 (px of the film file), p_benign, p_malignant.
        films: films.csv of the set; every film was looked at.
        lesions: lesions.csv of the set.
        internal: out-of-fold figures of `films_by_patient`, by name.
        evidence: what they were computed from; None where the version has not kept it.
        parameters: number of resamples and seed.

    Raises:
        BadInputError: when no film can be judged.
    """
    kept, truth, notes = judged_by_detector(films, lesions)
    absent = absent_of_detector(kept, truth)
    boxes = found[found["film_id"].isin(kept["film_id"])].assign(item=lambda table: table["film_id"])
    nothing = random_boxes(kept, truth, parameters.seed)
    # Adapters read boxes; the circle in their tables goes round the box's ellipse, which is what a hit must lie in.
    by_box = truth.assign(**dict.fromkeys(CIRCLE, math.nan))
    figures, matched = evaluate_detections(boxes, nothing, by_box, kept, "films", parameters)
    figures["n_lesions"] = float(len(truth))
    only_lesions = not (kept["label"] == "normal").any()
    own, lesion_films = dict(internal), Figures()
    if evidence is not None:
        inside = _matched(evidence)
        [threshold] = thresholds_at(inside.froc(), [INTERNAL_RATE])
        figures |= _at_threshold(matched, float(threshold), parameters)
        own |= _at_threshold(inside, float(threshold), parameters)
        if only_lesions:
            with_lesions = evidence.only((evidence.items["label"] != "normal").to_numpy())
            of_lesions = _matched(with_lesions)
            lesion_films = _bounded(of_lesions, parameters) | _at_threshold(of_lesions, float(threshold), parameters)
    else:
        why = "the version was registered without its out-of-fold predictions"
        absent |= dict.fromkeys(("sensitivity_at_internal_threshold", "fp_per_film_at_internal_threshold"), why)
    items = judged_items(PROTOCOL, "film", kept, films)
    true = judged_lesions(PROTOCOL, truth, lesions, films)
    subgroups = detector_subgroups(matched, boxes, true, items, parameters.resamples, parameters.seed)
    return ExternalFigures(
        external=without(figures, absent),
        internal=own,
        lesion_films=without(lesion_films, absent),
        absent=absent,
        notes=(*notes, *([ON_LESION_FILMS] if only_lesions else []), *_case_mix(true, evidence)),
        subgroups=subgroups[subgroups["point"].notna()],
        froc=froc_band(matched, parameters)[0].round(6),
    )


def _case_mix(lesions: pd.DataFrame, evidence: Evidence | None) -> list[str]:
    """A sentence where lesions are not of the same kinds inside and outside: some are found more easily."""
    if evidence is None:
        return []
    inside, outside = (
        ", ".join(f"{kind} {count}" for kind, count in table["kind"].value_counts().sort_index().items())
        for table in (evidence.of_protocol("films_by_patient").lesions, lesions)
    )
    told = f"Lesions by kind: external {outside}; internal {inside}. Compare with the internal subgroups of like kinds."
    return [told] if inside != outside else []


def _matched(evidence: Evidence) -> MatchedDetections:
    own = evidence.of_protocol("films_by_patient")
    return match_detections(own.predictions[DETECTION_COLUMNS], own.lesions, own.items, "films")


def _bounded(matched: MatchedDetections, parameters: EvaluateParameters) -> Figures:
    point = matched.figures()
    nothing = dict.fromkeys(point, math.nan)
    return with_bounds(point, matched.figures, pd.Series(matched.patient_ids), nothing, parameters)


def _at_threshold(matched: MatchedDetections, threshold: float, parameters: EvaluateParameters) -> Figures:
    """Sensitivity, and false positives per film, of boxes that score at least as the internal operating point."""
    called = matched.scores >= threshold

    def figures(weights: Floats) -> Figures:
        counted = weights[matched.image]
        lesions, n_films = float(weights @ matched.lesions), float(weights.sum())
        return {
            "sensitivity_at_internal_threshold": float(counted @ (called & matched.hits)) / lesions
            if lesions
            else math.nan,
            "fp_per_film_at_internal_threshold": float(counted @ (called & ~matched.hits)) / n_films,
        }

    point = figures(np.ones(len(matched.items)))
    return with_bounds(point, figures, pd.Series(matched.patient_ids), dict.fromkeys(point, math.nan), parameters)


# --------------------------------------------------------------------------------------------------------- classifier


def classifier_figures(
    answers: pd.DataFrame,
    patches: pd.DataFrame,
    films: pd.DataFrame,
    lesions: pd.DataFrame,
    internal: Figures,
    evidence: Evidence | None,
    parameters: EvaluateParameters,
) -> ExternalFigures:
    """Figures of a classifier on an external set.

    Args:
        answers: a row per film: film_id, p_normal, p_benign, p_malignant.
        patches: a row per located lesion of known severity: item (its lesion_id), film_id, patient_id, label and p_*.
        films: films.csv of the set.
        lesions: lesions.csv of the set.
        internal: out-of-fold figures of `by_patient`, by name.
        evidence: what they were computed from; None where the version has not kept it.
        parameters: number of resamples and seed.
    """
    judged = films.merge(answers, on="film_id")
    absent = absent_of_classifier(judged, patches)
    internal_threshold, own = None, dict(internal)
    if evidence is not None:
        inside = evidence.of_protocol("by_patient").predictions
        inside = inside[inside["unit"] == "film"]
        internal_threshold = _threshold_of_specificity(inside)
        own |= _film_figures(inside, internal_threshold, parameters)
    else:
        why = "the version was registered without its out-of-fold predictions"
        absent |= {f"film_{name}_at_internal_threshold": why for name in ("sensitivity", "specificity")}
    figures = _film_figures(judged, internal_threshold, parameters)
    if "auc_benign_vs_malignant" not in absent:
        figures |= _patch_figures(patches, parameters)
    figures |= {
        "n_women": float(judged["patient_id"].nunique()),
        "n_films": float(len(judged)),
        "n_lesions": float(len(patches)),
    }
    subgroups = pd.DataFrame()
    if len(patches):
        items = judged_items(PROTOCOL, "patch", patches, films)
        truth = patches.assign(lesion_id=patches["item"], severity=patches["label"])
        places = lesions.set_index("lesion_id")[[*BOX_COLUMNS, *CIRCLE]]
        true = judged_lesions(PROTOCOL, truth.join(places, on="lesion_id"), lesions, films)
        subgroups = classifier_subgroups(patches, true, items, parameters.resamples, parameters.seed)
        subgroups = subgroups[subgroups["point"].notna()]
    missed = len(films) - len(judged)
    notes = [f"Left out, films that the model could not answer: {missed}."] if missed else []
    return ExternalFigures(without(figures, absent), own, {}, absent, tuple(notes), subgroups)


def _threshold_of_specificity(films: pd.DataFrame) -> float:
    """Lowest score 1 - P(normal) that at most a tenth of the normal films reach."""
    scores = np.sort(1 - films.loc[films["label"] == "normal", "p_normal"].to_numpy(dtype=np.float64))
    allowed = int(len(scores) * (1 - INTERNAL_SPECIFICITY) + 1e-9)
    return float(np.nextafter(scores[len(scores) - 1 - allowed], np.inf)) if len(scores) else math.nan


def _film_figures(films: pd.DataFrame, threshold: float | None, parameters: EvaluateParameters) -> Figures:
    probabilities = films[PROBABILITY_COLUMNS].to_numpy(dtype=np.float64)
    labels = films["label"].map(LABELS.index).to_numpy(dtype=np.int64)
    abnormal, score = labels != NORMAL, 1 - probabilities[:, NORMAL]

    def figures(weights: Floats) -> Figures:
        own = film_figures(probabilities, labels, weights)
        of_lesions = malignancy(probabilities[abnormal]), labels[abnormal] == MALIGNANT, weights[abnormal]
        own["film_auc_benign_vs_malignant"] = auc(*of_lesions)
        if threshold is not None:
            called = score >= threshold
            own["film_sensitivity_at_internal_threshold"] = _share(called, weights * abnormal)
            own["film_specificity_at_internal_threshold"] = _share(~called, weights * ~abnormal)
        return own

    point = figures(np.ones(len(labels)))
    nothing = {name: 0.5 if "_auc_" in name else math.nan for name in point}
    return with_bounds(point, figures, films["patient_id"].reset_index(drop=True), nothing, parameters)


def _patch_figures(patches: pd.DataFrame, parameters: EvaluateParameters) -> Figures:
    score = malignancy(patches[PROBABILITY_COLUMNS].to_numpy(dtype=np.float64))
    malignant = (patches["label"] == "malignant").to_numpy()

    def figures(weights: Floats) -> Figures:
        return {"auc_benign_vs_malignant": auc(score, malignant, weights)}

    point, nothing = figures(np.ones(len(score))), {"auc_benign_vs_malignant": 0.5}
    return with_bounds(point, figures, patches["patient_id"], nothing, parameters)


def _share(called: NDArray[np.bool_], weights: Floats) -> float:
    total = float(weights.sum())
    return float(weights @ called) / total if total > 0 else math.nan


def without(figures: Figures, absent: Mapping[str, str]) -> Figures:
    """The figures without those that do not exist, and without their bounds."""
    gone = {f"{name}{suffix}" for name in absent for suffix in ("", *BOUNDS)}
    return {name: value for name, value in figures.items() if name not in gone}
