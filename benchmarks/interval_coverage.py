"""How often the 95 % intervals hold the true figure, on simulated studies of mini-MIAS's size whose truth is known.

A study draws 161 women from mini-MIAS's mix; scores are normal, with a share that both films of a woman have in common,
so the true figures follow from the normal distribution. Each study gets its figure and interval from the code that the
committed figures come from. Run as `python -m benchmarks.interval_coverage`; four minutes of one core.

`paired_…` are two classifiers on the same films: the figure is the difference of their AUCs, `found` the share of
studies whose paired interval leaves out 0.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from mammo_ml.metrics.classification import auc
from mammo_ml.metrics.froc import FP_RATES, froc, froc_figures
from mammo_ml.metrics.paired import paired_difference
from mammo_ml.metrics.resampling import intervals, resample_women

REPORT = Path("reports/benchmarks/interval_coverage.json")
N_WOMEN = 161
WOMEN = {(0, 0): 53, (0, 1): 91, (0, 2): 5, (0, 3): 1, (1, 1): 4, (1, 2): 1, (0,): 4, (1,): 2}
"""Women of mini-MIAS by the located lesions on each of their judged films: 316 films, 117 lesions."""
FALSE_POSITIVES_PER_FILM = 12.0
FOUND_SHARE = 0.9
"""Lesions that get a detection at all."""

Floats = NDArray[np.float64]
Figures = dict[str, float]
Statistic = Callable[[Floats], Figures]


@dataclass(frozen=True)
class Films:
    """Films of one simulated study: the woman of each, and its number of lesions, (N,)."""

    women: NDArray[np.int64]
    lesions: NDArray[np.int64]


@dataclass(frozen=True)
class Scenario:
    """A model: how far abnormal scores lie above normal ones, and the share of the variance women account for.

    `second_shift` makes it two models, whose scores are alike also within a film.
    """

    name: str
    shift: float
    within_woman: float
    second_shift: float = math.nan


AUCS = (
    Scenario("auc_chance", 0.0, 0.5),
    Scenario("auc_as_committed", 1.67, 0.5),
    Scenario("auc_high", 2.5, 0.5),
)
FROCS = (
    Scenario("froc_as_committed", 1.66, 0.3),
    Scenario("froc_high", 2.5, 0.3),
)
PAIRED = (
    Scenario("paired_equal", 1.67, 0.5, second_shift=1.67),
    Scenario("paired_better", 2.0, 0.5, second_shift=1.67),
)
ALIKE = 0.6
"""Share of what is a film's own in the scores of both models."""


def draw_films(generator: np.random.Generator) -> Films:
    """161 women from the mix."""
    kinds, shares = list(WOMEN), np.array(list(WOMEN.values())) / N_WOMEN
    chosen = [kinds[kind] for kind in generator.choice(len(kinds), size=N_WOMEN, p=shares)]
    women = np.repeat(np.arange(N_WOMEN), [len(films) for films in chosen])
    return Films(women, np.array([lesions for films in chosen for lesions in films], dtype=np.int64))


def scores_of(generator: np.random.Generator, women: NDArray[np.int64], scenario: Scenario) -> Floats:
    """Standard normal scores (N,), alike within a woman."""
    common = generator.normal(size=N_WOMEN)[women]
    own = generator.normal(size=len(women))
    scores: Floats = np.sqrt(scenario.within_woman) * common + np.sqrt(1 - scenario.within_woman) * own
    return scores


def auc_study(generator: np.random.Generator, scenario: Scenario) -> tuple[NDArray[np.int64], Statistic]:
    """Films' scores; the figure is the AUC of films with a lesion against films without."""
    films = draw_films(generator)
    abnormal = films.lesions > 0
    scores = scores_of(generator, films.women, scenario) + scenario.shift * abnormal
    return films.women, lambda weights: {"auc": auc(scores, abnormal, weights)}


def true_auc(scenario: Scenario) -> Figures:
    """Two films of different women: the difference of their scores is normal, of variance 2."""
    return {"auc": float(norm.cdf(scenario.shift / np.sqrt(2)))}


def froc_study(generator: np.random.Generator, scenario: Scenario) -> tuple[NDArray[np.int64], Statistic]:
    """Detections on films: those that hit lesions, and false positives of a Poisson number."""
    films = draw_films(generator)
    lesion_film = np.repeat(np.arange(len(films.lesions)), films.lesions)
    hit_film = lesion_film[generator.random(len(lesion_film)) < FOUND_SHARE]
    false = generator.poisson(FALSE_POSITIVES_PER_FILM, size=len(films.lesions))
    film = np.concatenate([hit_film, np.repeat(np.arange(len(films.lesions)), false)])
    hits = np.arange(len(film)) < len(hit_film)
    scores = scores_of(generator, films.women[film], scenario) + scenario.shift * hits
    # sorted once, each resample sorts faster
    order = np.argsort(-scores)
    film, hits, scores = film[order], hits[order], scores[order]

    def figures(weights: Floats) -> Figures:
        curve = froc(scores, hits, float(weights.sum()), float(weights @ films.lesions), weights[film])
        found = froc_figures(curve)
        return {name: found[name] for name in ("sensitivity_at_1_fp", "froc_mean")}

    return films.women, figures


def true_froc(scenario: Scenario) -> Figures:
    """The threshold that so many false positives exceed on average, and the share of lesions above it."""
    found = [
        FOUND_SHARE * norm.sf(norm.isf(rate / FALSE_POSITIVES_PER_FILM) - scenario.shift) for rate in FP_RATES.values()
    ]
    at_one = FOUND_SHARE * norm.sf(norm.isf(1 / FALSE_POSITIVES_PER_FILM) - scenario.shift)
    return {"sensitivity_at_1_fp": float(at_one), "froc_mean": float(np.mean(found))}


def coverage(scenario: Scenario, studies: int, resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """By figure: the truth, the mean over studies, the share of intervals that hold the truth, lie above it and below.

    Args:
        scenario: one of `AUCS` or `FROCS`.
        studies: how many are drawn.
        resamples: of the women of each.
        seed: of everything.
    """
    study, truth = (auc_study, true_auc(scenario)) if scenario in AUCS else (froc_study, true_froc(scenario))
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in truth}
    for number in range(studies):
        women, figures = study(np.random.default_rng([seed, number]), scenario)
        bounds = intervals(figures, resample_women(_names(women), resamples, number))
        points = figures(np.ones(len(women)))
        for name in truth:
            found[name].append((points[name], *bounds[name]))
    return {name: _summary(np.array(rows), truth[name]) for name, rows in found.items()}


def paired_study(generator: np.random.Generator, scenario: Scenario) -> tuple[NDArray[np.int64], Statistic, Statistic]:
    """Scores of two models on the same films, alike within a woman and within a film."""
    films = draw_films(generator)
    abnormal = films.lesions > 0
    common = generator.normal(size=N_WOMEN)[films.women]
    of_film, *own = generator.normal(size=(3, len(abnormal)))
    within, models = scenario.within_woman, []
    for shift, noise in zip((scenario.shift, scenario.second_shift), own, strict=True):
        alike = np.sqrt(ALIKE) * of_film + np.sqrt(1 - ALIKE) * noise
        models.append(np.sqrt(within) * common + np.sqrt(1 - within) * alike + shift * abnormal)
    first, second = models
    return (
        films.women,
        lambda weights: {"auc": auc(first, abnormal, weights)},
        lambda weights: {"auc": auc(second, abnormal, weights)},
    )


def paired_coverage(scenario: Scenario, studies: int, resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """The same of the difference of two models' AUCs, and how often it leaves out 0 (`found`); one of `PAIRED`."""
    truth = float(norm.cdf(scenario.shift / np.sqrt(2)) - norm.cdf(scenario.second_shift / np.sqrt(2)))
    rows = []
    for number in range(studies):
        women, first, second = paired_study(np.random.default_rng([seed, number]), scenario)
        difference = paired_difference(first, second, _names(women), resamples, number)["auc"]
        rows.append((difference.point, difference.lo, difference.hi))
    table = np.array(rows)
    found = float(((table[:, 1] > 0) | (table[:, 2] < 0)).mean())
    return {"auc_difference": _summary(table, truth) | {"found": round(found, 4)}}


def _names(women: NDArray[np.int64]) -> list[str]:
    return [f"w{woman}" for woman in women]


def _summary(found: Floats, truth: float) -> dict[str, float]:
    points, lows, highs = found.T
    return {
        "truth": round(truth, 4),
        "mean": round(float(points.mean()), 4),
        "coverage": round(float(((lows <= truth) & (truth <= highs)).mean()), 4),
        "interval_above_truth": round(float((lows > truth).mean()), 4),
        "interval_below_truth": round(float((highs < truth).mean()), 4),
        "mean_width": round(float((highs - lows).mean()), 4),
    }


def main() -> None:
    """Run every scenario and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=500)
    arguments = parser.parse_args()
    report: dict[str, object] = {"nominal": 0.95, "women": N_WOMEN, **vars(arguments)}
    for scenario in (*AUCS, *FROCS, *PAIRED):
        measure = paired_coverage if scenario in PAIRED else coverage
        report[scenario.name] = measure(scenario, arguments.studies, arguments.resamples, seed=1)
        print(scenario.name, report[scenario.name], flush=True)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
