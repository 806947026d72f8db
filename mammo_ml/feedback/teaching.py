"""What corrections teach the detector: cuts of their own, and cuts of the catalog that must no longer teach.

Nothing here reaches an evaluation: only cuts of women of the training part are taught (`Teaching.parts`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.cutting import CutSet, cut_detector_cuts
from mammo_ml.datasets.catalog import BOX_COLUMNS, LABELS, SEVERITIES, UNKNOWN_SEVERITY, write_table
from mammo_ml.feedback.tables import Tables, newest_readings
from mammo_ml.imaging import boxes as bx
from mammo_ml.imaging import patches as pt
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.metrics.matching import Detections, GroundTruth, match_by_centre

LEFT_OUT = "left_out.csv"
REJECTED = "rejected"
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Teaching:
    """The catalog's cuts with those of corrections after them.

    Attributes:
        cuts: all of them.
        of_catalog: (N,) whether a cut is the catalog's; these alone are looked at by anything that judges.
        taught: (N,) whether a cut may be trained on.
    """

    cuts: CutSet
    of_catalog: Bools
    taught: Bools

    def parts(self, roles: NDArray[np.str_]) -> tuple[Bools, Bools]:
        """Which cuts (N,) are trained on and which (N,) are the inner part, from the role (N,) of their women."""
        return (roles == "train") & self.taught, (roles == "inner") & self.of_catalog

    @classmethod
    def load(cls, cuts: Path, feedback: Path) -> "Teaching":
        """Read the catalog's cuts and what `save_feedback` wrote; raises BadInputError when a file changed."""
        left_out = pd.read_csv(feedback / LEFT_OUT, dtype="str")["cut_id"]
        return cls.of(CutSet.load(cuts), CutSet.load(feedback), left_out)

    @classmethod
    def of(cls, cuts: CutSet, feedback: CutSet, left_out: "pd.Series[str]") -> "Teaching":
        """Put the cuts of corrections after the catalog's; without corrections the catalog's are as they were."""
        taught = ~cuts.cuts["cut_id"].isin(left_out).to_numpy()
        n = len(feedback.cuts)
        if n:
            cuts = CutSet(
                pd.concat([cuts.cuts, feedback.cuts], ignore_index=True),
                pd.concat([cuts.boxes, feedback.boxes], ignore_index=True),
                np.concatenate([cuts.pictures, feedback.pictures]),
            )
        of_catalog = np.arange(len(cuts.cuts)) < len(taught)
        return cls(cuts, of_catalog, np.concatenate([taught, np.ones(n, dtype=np.bool_)]))


def save_feedback(cuts: CutSet, left_out: "pd.Series[str]", folder: Path) -> None:
    """Write the cuts of corrections, and left_out.csv with the catalog's cuts that must no longer teach."""
    write_table(left_out.to_frame("cut_id"), folder / LEFT_OUT)
    cuts.save(folder)


def cut_feedback(
    films: pd.DataFrame,
    canonical: Mapping[str, CanonicalFilm],
    lesions: pd.DataFrame,
    feedback: Tables,
    cuts: CutSet,
    parameters: pt.CutParameters,
) -> tuple[CutSet, "pd.Series[str]"]:
    """Cut what corrections teach, of the newest reading of each film.

    Every finding is cut as a lesion of the catalog is, centred and off its centre; every rejected box that overlaps no
    lesion gives one cut, round its centre. The boxes in a cut are the findings and those lesions of the catalog that no
    finding replaces. A finding of unknown class takes the class of the lesion it replaces; where there is none it is
    neither positive nor negative, and so is a rejected box on a film whose lesion has no location.

    Args:
        films: films.csv.
        canonical: films by film_id; those with corrections are looked at.
        lesions: lesions.csv, the catalog's.
        feedback: the three tables of corrections.
        cuts: the catalog's cuts.
        parameters: as the catalog's cuts were made with.

    Returns:
        The cuts of corrections, and the cut_id of each cut of the catalog that must no longer teach: it shows a lesion
        that a finding replaces, or a finding that it does not know of.
    """
    newest = newest_readings(feedback)
    findings, rejected = newest["lesions"], newest["rejected"]
    on_films = lesions[lesions["film_id"].isin(newest["films"]["film_id"])]
    located = on_films[on_films["has_location"]]
    replaced = {row: _replaced_by(finding, located) for row, finding in findings.iterrows()}
    gone = {lesion_id for ids in replaced.values() for lesion_id in ids}
    severity = located.set_index("lesion_id")["severity"]
    findings = findings.assign(
        severity=[_severity(own, severity[replaced[row]]) for row, own in findings["severity"].items()]
    )
    left_out = _left_out(cuts, canonical, findings, gone, parameters)
    truth = pd.concat([located[~located["lesion_id"].isin(gone)], findings]) if len(findings) else located
    negatives = _negatives(rejected, pd.concat([located, findings]), on_films)
    if findings.empty and negatives.empty:
        return cuts.only(np.zeros(len(cuts.cuts), dtype=np.bool_)), left_out
    columns = ["lesion_id", "film_id", "severity", "has_location", *BOX_COLUMNS]
    both = pd.concat([table[columns] for table in (truth, negatives) if len(table)], ignore_index=True)
    # no film gives lesion-free cuts here: the catalog's normal films have given theirs
    made = cut_detector_cuts(films.assign(label=""), canonical, both, parameters)
    return _of_corrections(made, findings, negatives), left_out


def same_lesion(first: pd.Series, second: pd.Series) -> bool:
    """Tell whether two boxes of a film mean one lesion: THE hit rule, in either direction.

    An overlap would ask too much: annotated circles are rough, and a tight box in a wide circle has an IoU below 0.5.
    Either direction, or a wide correction of a small circle would stand beside what it corrects.
    """
    return _hits(first, second) or _hits(second, first)


def _hits(found: pd.Series, lesion: pd.Series) -> bool:
    box, truth = (one[BOX_COLUMNS].to_numpy(dtype=np.float64)[None] for one in (found, lesion))
    zero = np.zeros(1, dtype=np.int64)
    return bool(match_by_centre(Detections(zero, box, np.ones(1)), GroundTruth(zero, truth))[0] == 0)


def _replaced_by(finding: pd.Series, located: pd.DataFrame) -> list[str]:
    own = located[located["film_id"] == finding["film_id"]]
    return [str(lesion["lesion_id"]) for _, lesion in own.iterrows() if same_lesion(finding, lesion)]


def _severity(own: str, of_replaced: "pd.Series[str]") -> str:
    known = [severity for severity in of_replaced if severity in SEVERITIES]
    return max(known, key=LABELS.index) if own == UNKNOWN_SEVERITY and known else own


def _left_out(
    cuts: CutSet,
    canonical: Mapping[str, CanonicalFilm],
    findings: pd.DataFrame,
    gone: set[str],
    parameters: pt.CutParameters,
) -> "pd.Series[str]":
    shown = set(cuts.boxes.loc[cuts.boxes["lesion_id"].isin(gone), "cut_id"])
    for film_id, own in findings.groupby("film_id"):
        boxes = canonical[str(film_id)].transform.boxes_to_canonical(own[BOX_COLUMNS].to_numpy(dtype=np.float64))
        for _, cut in cuts.cuts[cuts.cuts["film_id"] == film_id].iterrows():
            window = cut[BOX_COLUMNS].to_numpy(dtype=np.float64)[None]
            if len(pt.boxes_in_window(boxes, window, parameters.input_px, parameters.min_visible_share)[1]):
                shown.add(str(cut["cut_id"]))
    return pd.Series(sorted(shown), dtype="str")


def _negatives(rejected: pd.DataFrame, known: pd.DataFrame, on_films: pd.DataFrame) -> pd.DataFrame:
    """Rejected boxes that overlap no lesion, as rows of a table of lesions."""
    nowhere = set(on_films.loc[~on_films["has_location"], "film_id"])
    kept = []
    for _, box in rejected.iterrows():
        others = known.loc[known["film_id"] == box["film_id"], BOX_COLUMNS].to_numpy(dtype=np.float64)
        overlaps = bx.iou(box[BOX_COLUMNS].to_numpy(dtype=np.float64)[None], others).any()
        kept.append(not overlaps and box["film_id"] not in nowhere)
    names = [f"{film_id}_rejected_{n + 1}" for n, film_id in enumerate(rejected["film_id"])]
    found = rejected.assign(lesion_id=names, severity=UNKNOWN_SEVERITY, has_location=True)
    return found[np.array(kept, dtype=np.bool_)]


def _of_corrections(made: CutSet, findings: pd.DataFrame, negatives: pd.DataFrame) -> CutSet:
    """The cuts of findings, and the centred ones of rejected boxes, which are no lesions."""
    is_negative = made.cuts["lesion_id"].isin(negatives["lesion_id"])
    boxes = made.boxes[~made.boxes["lesion_id"].isin(negatives["lesion_id"])]
    unclear = made.cuts["cut_id"].isin(boxes.loc[boxes["severity"] == UNKNOWN_SEVERITY, "cut_id"])
    # a finding too large to be seen in its own cut would be taught as background
    shown = pd.MultiIndex.from_frame(boxes[["cut_id", "lesion_id"]])
    is_finding = made.cuts["lesion_id"].isin(findings["lesion_id"])
    is_finding &= pd.MultiIndex.from_frame(made.cuts[["cut_id", "lesion_id"]]).isin(shown)
    wanted = is_finding | (is_negative & (made.cuts["kind"] == "centred"))
    cuts = made.cuts.assign(
        kind=made.cuts["kind"].mask(is_negative, REJECTED), lesion_id=made.cuts["lesion_id"].mask(is_negative, None)
    )
    return CutSet(cuts, boxes, made.pictures).only((wanted & ~unclear).to_numpy())
