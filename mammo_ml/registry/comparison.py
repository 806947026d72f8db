"""Two versions compared on the same women, from what each has stored: predictions.csv, items.csv and lesions.csv."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.datasets.catalog import LABELS
from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.metrics.classification import film_figures, patch_figures
from mammo_ml.metrics.detection import match_detections
from mammo_ml.metrics.froc import froc_figures
from mammo_ml.metrics.paired import Difference, Statistic, paired_difference
from mammo_ml.metrics.subgroups import lesion_hit, subgroups
from mammo_ml.registry.gate import GateParameters, Kind, SubgroupDifference
from mammo_ml.truth import ITEMS, ITEMS_FILE, LESIONS, LESIONS_FILE, read_truth

PREDICTIONS_FILE = "predictions.csv"
FILES: Mapping[Kind, tuple[str, ...]] = {
    "classifier": (PREDICTIONS_FILE, ITEMS_FILE),
    "detector": (PREDICTIONS_FILE, ITEMS_FILE, LESIONS_FILE),
    "locator": (PREDICTIONS_FILE, ITEMS_FILE, LESIONS_FILE),
}
"""What a version stores to be compared by."""
PROTOCOLS: Mapping[Kind, tuple[str, ...]] = {
    "classifier": ("by_patient",),
    "detector": ("films_by_patient", "cuts_by_patient"),
    "locator": ("films_by_patient",),
}
PROBABILITIES = [f"p_{label}" for label in LABELS]
CORE: Mapping[Kind, tuple[str, ...]] = {
    "classifier": (
        "by_patient.auc_macro",
        "by_patient.auc_normal_vs_abnormal_patch",
        "by_patient.auc_benign_vs_malignant",
        "by_patient.sensitivity_at_specificity_90",
        "by_patient.balanced_accuracy",
        "by_patient.accuracy",
        "by_patient.ece",
        "by_patient.brier",
        "by_patient.film_auc_normal_vs_abnormal",
        "by_patient.film_auc_macro",
        "by_patient.film_balanced_accuracy",
    ),
    "detector": (
        "films_by_patient.froc_mean",
        "films_by_patient.sensitivity_at_0_5_fp",
        "films_by_patient.sensitivity_at_1_fp",
        "films_by_patient.sensitivity_at_2_fp",
        "films_by_patient.ap_50_any",
        "films_by_patient.ap_10_any",
        "films_by_patient.map_50",
        "cuts_by_patient.map_50",
        "cuts_by_patient.ap_50_any",
        "cuts_by_patient.ap_10_any",
    ),
    "locator": (
        "films_by_patient.froc_mean",
        "films_by_patient.sensitivity_at_0_5_fp",
        "films_by_patient.sensitivity_at_1_fp",
        "films_by_patient.sensitivity_at_2_fp",
    ),
}
"""The figures that `mammo-ml compare` shows."""
LOWER_IS_BETTER = ("ece", "brier", "cross_entropy", "binary_cross_entropy", "mean_squared_error")


@dataclass(frozen=True)
class Evidence:
    """Out-of-fold predictions of one version, and what they were judged against.

    Attributes:
        predictions: predictions.csv.
        items: `mammo_ml.truth.ITEMS`.
        lesions: `mammo_ml.truth.LESIONS`; no rows for a classifier.
    """

    kind: Kind
    predictions: pd.DataFrame
    items: pd.DataFrame
    lesions: pd.DataFrame

    def only(self, items: NDArray[np.bool_]) -> "Evidence":
        """The part that some items (N,) make up, with their predictions and lesions."""
        chosen = self.items[items]
        parts = [table[_keys(table).isin(_keys(chosen))] for table in (self.predictions, self.lesions)]
        return replace(self, items=chosen.reset_index(drop=True), predictions=parts[0], lesions=parts[1])

    def of_protocol(self, protocol: str) -> "Evidence":
        """The part that belongs to one protocol."""
        return self.only((self.items["protocol"] == protocol).to_numpy())

    @property
    def n_lesions(self) -> int:
        """Number of lesions: for a classifier its patches that are not normal."""
        if self.kind != "classifier":
            return len(self.lesions)
        return int(((self.items["unit"] == "patch") & (self.items["label"] != "normal")).sum())


def read_evidence(kind: Kind, files: Mapping[str, Path]) -> Evidence:
    """Read what a version stores to be compared by; `files` by their names, as in `FILES`.

    Raises:
        BadInputError: when a file is not the table it should be, or an item of a classifier has no prediction.
    """
    text = dict.fromkeys(["protocol", "unit", "item", "film_id", "patient_id", "label"], "str")
    predictions = pd.read_csv(files[PREDICTIONS_FILE], dtype=text, keep_default_na=False)
    items = read_truth(files[ITEMS_FILE], ITEMS)
    none = pd.DataFrame(columns=[column.name for column in LESIONS])
    lesions = read_truth(files[LESIONS_FILE], LESIONS) if kind != "classifier" else none
    problems = [f"{ITEMS_FILE}: {item} is there twice" for item in items["item"][_keys(items).duplicated()]]
    if kind == "classifier":
        lacking = items["item"][~_keys(items).isin(_keys(predictions))]
        problems += [f"{PREDICTIONS_FILE}: {item} has no prediction" for item in lacking]
    raise_if_any("what a version stores to be compared by", problems, "Evaluate the model again and register it.")
    return Evidence(kind, predictions, items, lesions)


def _keys(table: pd.DataFrame) -> pd.Series:
    return table["protocol"] + "\n" + table["item"]


# ------------------------------------------------------------------------------------------------------ its figures


@dataclass(frozen=True)
class Judged:
    """Figures of one protocol from item weights (N,), and the woman of each item."""

    figures: Statistic
    patient_ids: list[str]


def judged(evidence: Evidence, protocol: str, figure: str = "") -> Judged:
    """Figures of one version by one protocol; `figure` names the only one wanted, which may be faster.

    Raises:
        BadInputError: when the version has no items of this protocol, or a table is not what it should be.
    """
    own = evidence.of_protocol(protocol)
    if own.items.empty:
        raise BadInputError("comparison", [f"there are no items of protocol {protocol}"])
    return _judged_patches(own, figure) if own.kind == "classifier" else _judged_boxes(own, figure)


def _judged_boxes(own: Evidence, figure: str) -> Judged:
    films = bool((own.items["unit"] == "film").all())
    matched = match_detections(own.predictions, own.lesions, own.items, "films" if films else "cuts")
    froc_only = films and figure in froc_figures(matched.froc())
    figures: Statistic = (lambda weights: froc_figures(matched.froc(weights))) if froc_only else matched.figures
    return Judged(figures, list(matched.patient_ids))


def _judged_patches(own: Evidence, figure: str) -> Judged:
    """Patches and films have figures of their own: the weights are those of the patches, then those of the films."""
    units = {unit: own.items[own.items["unit"] == unit] for unit in ("patch", "film")}
    known = own.predictions.assign(key=_keys(own.predictions)).set_index("key")
    said = {unit: known.loc[_keys(items), PROBABILITIES].to_numpy(dtype=np.float64) for unit, items in units.items()}
    true = {unit: items["label"].map(LABELS.index).to_numpy(dtype=np.int64) for unit, items in units.items()}
    n = len(units["patch"])

    def figures(weights: NDArray[np.float64]) -> dict[str, float]:
        found = dict[str, float]()
        if not figure.startswith("film_"):
            found |= patch_figures(said["patch"], true["patch"], weights=weights[:n])
        if not figure or figure.startswith("film_"):
            found |= film_figures(said["film"], true["film"], weights[n:])
        return found

    return Judged(figures, [*units["patch"]["patient_id"], *units["film"]["patient_id"]])


def differences(
    first: Evidence, second: Evidence, protocol: str, gate: GateParameters, figure: str = ""
) -> dict[str, Difference]:
    """Paired differences first minus second of every figure of a protocol, by name without the protocol.

    Raises:
        BadInputError: when they were judged on different women, or as `judged` does.
    """
    ours, theirs = judged(first, protocol, figure), judged(second, protocol, figure)
    return paired_difference(
        ours.figures, theirs.figures, ours.patient_ids, gate.resamples, gate.seed, theirs.patient_ids
    )


def unlike_items(first: Evidence, second: Evidence, protocol: str) -> str:
    """What two versions were judged on where that is not the same, in words; empty where it is.

    The women are the same, so the difference has its interval; but it is of what was cut as well as of the models.
    """
    told = []
    sides = [side.of_protocol(protocol).items for side in (first, second)]
    for unit in sorted({*sides[0]["unit"], *sides[1]["unit"]}):
        ours, theirs = ({*side.loc[side["unit"] == unit, "item"]} for side in sides)
        if ours != theirs:
            told.append(f"{len(ours)} and {len(theirs)} {unit} items, {len(ours & theirs)} of the same name")
    return f"{protocol}: {'; '.join(told)}: a difference is of what was cut as well as of the models" if told else ""


def core_differences(first: Evidence, second: Evidence, gate: GateParameters) -> dict[str, Difference]:
    """Paired differences of the figures in `CORE`, by name with the protocol.

    Raises:
        BadInputError: when the two are of different kinds, or as `differences` does.
    """
    if first.kind != second.kind:
        raise BadInputError("comparison", [f"a {first.kind} and a {second.kind} have no figure in common"])
    found = {
        f"{protocol}.{name}": difference
        for protocol in PROTOCOLS[first.kind]
        for name, difference in differences(first, second, protocol, gate).items()
    }
    return {name: found[name] for name in CORE[first.kind]}


# ------------------------------------------------------------------------------------------------------- subgroups


def subgroup_differences(
    first: Evidence, second: Evidence, primary: str, gate: GateParameters
) -> tuple[SubgroupDifference, ...]:
    """Differences of the primary figure in every subgroup; those with fewer lesions than the gate asks for come last.

    Subgroups are densities for a classifier, and for a detector those of `mammo_ml.metrics.subgroups`.

    Raises:
        BadInputError: as `differences` does.
    """
    protocol, _, figure = primary.partition(".")
    theirs = dict(_subgroups(second.of_protocol(protocol)))
    found = []
    for name, own in _subgroups(first.of_protocol(protocol)):
        if name in theirs:
            difference = differences(own, theirs[name], protocol, gate, figure)[figure]
            found.append(SubgroupDifference(name, own.n_lesions, difference))
    return tuple(sorted(found, key=lambda one: one.lesions < gate.subgroup_lesions))


def _subgroups(own: Evidence) -> Iterator[tuple[str, Evidence]]:
    if own.kind == "classifier":
        for density in sorted(own.items["density"].unique()):
            yield f"density {density}", own.only((own.items["density"] == density).to_numpy())
        return
    hit = lesion_hit(own.predictions, own.lesions, own.items)
    for group in subgroups(own.lesions, own.items):
        yield f"{group.what} {group.value}", _only_lesions(own, group.lesions, hit)


def _only_lesions(own: Evidence, lesions: NDArray[np.bool_], hit: NDArray[np.int64]) -> Evidence:
    """Leave out the other lesions (G,) and the boxes (D,) that hit them: neither found nor false positives."""
    elsewhere = (hit >= 0) & ~lesions[hit]
    return replace(own, lesions=own.lesions[lesions], predictions=own.predictions[~elsewhere])
