"""Intervals against simulated studies whose truth is known; the full run: `python -m benchmarks.interval_coverage`."""

import json
from pathlib import Path

import pytest

from benchmarks.interval_coverage import AUCS, FROCS, N_WOMEN, PAIRED, WOMEN, coverage, paired_coverage

REPORT = Path(__file__).resolve().parents[2] / "reports" / "benchmarks" / "interval_coverage.json"


def test_the_mix_of_women_is_mini_mias():
    assert sum(WOMEN.values()) == N_WOMEN == 161
    assert sum(len(films) * count for films, count in WOMEN.items()) == 316
    assert sum(sum(films) * count for films, count in WOMEN.items()) == 117


# Bounds are what so few studies can tell; the seed is fixed.
@pytest.mark.parametrize(("scenario", "figure"), [(AUCS[1], "auc"), (PAIRED[1], "auc_difference")])
def test_intervals_of_auc_and_of_paired_differences_hold_the_truth_about_as_often_as_they_say(scenario, figure):
    measure = paired_coverage if scenario in PAIRED else coverage
    found = measure(scenario, studies=100, resamples=150, seed=7)[figure]
    assert found["mean"] == pytest.approx(found["truth"], abs=0.01)
    assert 0.88 <= found["coverage"] <= 0.99


def test_intervals_of_froc_figures_hold_the_truth_about_as_often_as_they_say():
    for found in coverage(FROCS[0], studies=60, resamples=150, seed=7).values():
        assert found["mean"] == pytest.approx(found["truth"], abs=0.02)
        assert 0.85 <= found["coverage"] <= 1


def test_two_equal_models_are_told_apart_about_as_rarely_as_the_interval_says():
    assert paired_coverage(PAIRED[0], studies=80, resamples=150, seed=3)["auc_difference"]["found"] <= 0.12


def test_the_full_run_is_committed_and_within_what_the_documents_say():
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    assert report["studies"] >= 1000
    found = {
        f"{name} {figure}": values["coverage"]
        for name, part in report.items()
        if isinstance(part, dict)
        for figure, values in part.items()
    }
    assert len(found) == 9
    assert min(found.values()) >= 0.9
