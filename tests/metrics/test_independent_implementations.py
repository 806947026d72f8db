"""Average precision and FROC against slow implementations written from their definitions, in exact fractions.

Nothing of the library is used in them but its input types: areas are counted in pixels, every threshold starts again
from nothing, and a maximum is a maximum over everything that qualifies.
"""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from mammo_ml.metrics.average_precision import average_precision
from mammo_ml.metrics.classification import auc
from mammo_ml.metrics.detection import match_detections
from mammo_ml.metrics.froc import FP_RATES
from mammo_ml.metrics.matching import Detections, GroundTruth, match_by_iou
from tests.metrics.arrays import detections, lesions

RATES = {name: Fraction(rate) for name, rate in FP_RATES.items()}


def pixels(box):
    x1, y1, x2, y2 = map(int, box)
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


def slow_matches(found, truth, threshold):
    """(score, image, position, matched) by descending score: the lesion of largest overlap, the last of equal ones."""
    free = {number: pixels(box) for number, box in enumerate(truth.boxes)}
    ranked = sorted(range(len(found.scores)), key=lambda n: (-found.scores[n], found.image[n], n))
    answer = []
    for n in ranked:
        own = pixels(found.boxes[n])
        overlaps = [
            (Fraction(len(own & area), len(own | area)), number)
            for number, area in free.items()
            if truth.image[number] == found.image[n]
        ]
        best = max(overlaps, default=(Fraction(0), -1))
        hit = best[1] >= 0 and best[0] >= threshold
        if hit:
            del free[best[1]]
        answer.append(hit)
    return answer


def slow_average_precision(found, truth, threshold):
    """Mean over 101 recalls of the best precision among all cut-offs of the ranking that reach the recall."""
    matches, total = slow_matches(found, truth, threshold), len(truth.boxes)
    points = [
        (Fraction(sum(matches[:cut]), total), Fraction(sum(matches[:cut]), cut)) for cut in range(1, len(matches) + 1)
    ]
    best = [max((p for r, p in points if r >= Fraction(level, 100)), default=Fraction(0)) for level in range(101)]
    return sum(best) / 101


def grid_case(seed):
    """Boxes and scores on coarse grids, so that overlaps, distances and scores tie; some images stay empty."""
    rng = np.random.default_rng(seed)

    def boxes(count):
        corners = rng.integers(0, 8, (count, 2)) * 2
        return np.hstack([corners, corners + rng.integers(1, 5, (count, 2)) * 2]).astype(np.float64)

    n_found, n_true = int(rng.integers(0, 30)), int(rng.integers(1, 12))
    found = Detections(rng.integers(0, 5, n_found), boxes(n_found), rng.integers(0, 6, n_found) / 8)
    return found, GroundTruth(rng.integers(0, 5, n_true), boxes(n_true)), rng


@pytest.mark.parametrize("threshold", [Fraction(1, 10), Fraction(1, 2), Fraction(3, 4), Fraction(1)])
@pytest.mark.parametrize("seed", range(25))
def test_average_precision_equals_its_definition(seed, threshold):
    found, truth, _ = grid_case(seed)
    is_true = match_by_iou(found, truth, float(threshold))
    ours = average_precision(found.scores, is_true, len(truth.boxes), image=found.image)
    assert ours == pytest.approx(float(slow_average_precision(found, truth, threshold)), abs=1e-12)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], 0),
        ([(0, [0, 0, 4, 4], 0.5), (0, [0, 0, 4, 4], 0.5)], Fraction(51, 101)),  # found twice: the second is false
        ([(1, [0, 0, 4, 4], 0.9)], 0),  # right place, wrong image
        ([(0, [0, 0, 4, 2], 0.9)], Fraction(51, 101)),  # an overlap of exactly one half is enough
        ([(0, [0, 0, 2, 4], 0.0), (1, [8, 8, 12, 12], 1.0)], 1),  # scores of 0 and 1 are scores like any other
    ],
)
def test_corners_worked_by_hand_are_those_of_both(rows, expected):
    found, truth = detections(*rows), lesions((0, [0, 0, 4, 4]), (1, [8, 8, 12, 12]))
    assert slow_average_precision(found, truth, Fraction(1, 2)) == expected
    is_true = match_by_iou(found, truth, 0.5)
    assert average_precision(found.scores, is_true, 2, image=found.image) == pytest.approx(float(expected), abs=1e-12)


def slow_froc(found, truth, n_films, normal_films_only=False):
    """Sensitivity at each rate: over all cut-offs, each matched from nothing, the best that costs no more."""
    with_lesion = set(truth["item"])
    n_counted = n_films - len(with_lesion) if normal_films_only else n_films
    points = [(Fraction(0), Fraction(0))]
    for cut in sorted(set(found["score"])):
        free, hits, false = set(truth.index), 0, 0
        above = found[found["score"] >= cut].sort_values("score", ascending=False, kind="stable")
        for row in above.itertuples():
            x, y = Fraction(row.x1 + row.x2) / 2, Fraction(row.y1 + row.y2) / 2
            away = {
                n: (x - Fraction(truth.at[n, "x_px"])) ** 2 + (y - Fraction(truth.at[n, "y_px"])) ** 2
                for n in sorted(free)
                if truth.at[n, "item"] == row.item
            }
            around = {n: square for n, square in away.items() if square <= Fraction(truth.at[n, "radius_px"]) ** 2}
            if around:
                hits += 1
                free.remove(min(around, key=around.__getitem__))
            elif not normal_films_only or row.item not in with_lesion:
                false += 1
        points.append((Fraction(false, n_counted), Fraction(hits, len(truth))))
    return {name: max(found for cost, found in points if cost <= rate) for name, rate in RATES.items()}


def film_case(seed):
    """Up to 12 detections a film on a grid of whole pixels, lesions that may overlap, scores of eighths."""
    rng = np.random.default_rng(seed)
    items = pd.DataFrame({"item": [f"f{n}" for n in range(9)], "patient_id": [f"p{n // 2}" for n in range(9)]})
    centres, radii = rng.integers(4, 20, (8, 2)) * 1.0, rng.integers(2, 9, 8) * 1.0
    truth = pd.DataFrame({"item": [f"f{n}" for n in rng.integers(0, 3, 8)], "severity": "benign"})
    truth[["x_px", "y_px"]], truth["radius_px"] = centres, radii
    truth[["x1", "y1"]], truth[["x2", "y2"]] = centres - radii[:, None], centres + radii[:, None]
    n = int(rng.integers(1, 80))
    middle, half = rng.integers(2, 22, (n, 2)) * 1.0, rng.integers(1, 4, (n, 2)) * 1.0
    found = pd.DataFrame({"item": [f"f{k}" for k in rng.integers(0, 9, n)], "score": rng.integers(1, 8, n) / 8})
    found[["x1", "y1"]], found[["x2", "y2"]] = middle - half, middle + half
    return found.assign(p_benign=found["score"] / 2, p_malignant=found["score"] / 2), truth, items


@pytest.mark.parametrize("seed", range(30))
def test_froc_equals_its_definition_from_tables_to_figures(seed):
    found, truth, items = film_case(seed)
    figures = match_detections(found, truth, items, "films").figures()
    for suffix, normal_only in (("", False), ("_normal_films", True)):
        slow = slow_froc(found, truth, len(items), normal_only)
        ours = {name: figures[f"sensitivity_at_{name}_fp{suffix}"] for name in RATES}
        assert ours == pytest.approx({name: float(value) for name, value in slow.items()}, abs=1e-12)
        assert figures[f"froc_mean{suffix}"] == pytest.approx(float(sum(slow.values()) / 7), abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_froc_with_women_drawn_twice_or_never_equals_the_definition_on_the_copied_films(seed):
    found, truth, items = film_case(100 + seed)
    weights = np.random.default_rng(seed).integers(0, 3, len(items))
    weights[items["item"].isin(truth["item"])] += 1  # without a lesion both are undefined
    copies = [(item, f"{item}_{n}") for item, times in zip(items["item"], weights, strict=True) for n in range(times)]
    names = pd.DataFrame(copies, columns=["item", "copy"])

    def copied(table):
        return table.merge(names, on="item").drop(columns="item").rename(columns={"copy": "item"})

    figures = match_detections(found, truth, items, "films").figures(weights.astype(np.float64))
    slow = slow_froc(copied(found), copied(truth), int(weights.sum()))
    assert [figures[f"sensitivity_at_{name}_fp"] for name in RATES] == pytest.approx([*map(float, slow.values())])


@pytest.mark.parametrize("seed", range(10))
def test_auc_counts_every_pair_of_copies(seed):
    rng = np.random.default_rng(seed)
    scores, positive, weights = rng.integers(0, 5, 30) / 4, rng.random(30) < 0.4, rng.integers(0, 4, 30)
    wins, pairs = Fraction(0), 0
    for p in np.flatnonzero(positive):
        for n in np.flatnonzero(~positive):
            times = int(weights[p] * weights[n])
            pairs += times
            wins += times * (Fraction(int(scores[p] > scores[n])) + Fraction(int(scores[p] == scores[n]), 2))
    assert auc(scores, positive, weights.astype(np.float64)) == pytest.approx(float(wins / pairs), abs=1e-12)
