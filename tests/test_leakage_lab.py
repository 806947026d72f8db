"""The lab on films of noise, and what chart and table make of its figures."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mammo_ml.errors import BadInputError
from mammo_ml.evaluation import EvaluateParameters
from mammo_ml.imaging.breast import CanonicalTransform
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.leakage_figures import (
    NOT_REACHED,
    LabFigures,
    chart_rows,
    leakage_figure,
    leakage_table,
    protocol_figures,
    write_lab_metrics,
)
from mammo_ml.leakage_lab import LabItems, LeakageLabParameters, make_items, predict_items, task_for, windows_for
from mammo_ml.leaky_protocols import PROTOCOLS, exposure, roles_under
from mammo_ml.parameters import read_section
from mammo_ml.splits import make_folds
from mammo_ml.training import fit

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "pipelines" / "studies" / "params.yaml"
COMMITTED = read_section(PARAMS, "leakage_lab", LeakageLabParameters)
EVALUATE = EvaluateParameters(resamples=100, seed=1)
N_WOMEN, EDGE, WINDOW_PX, INPUT_PX = 24, 400, 256, 128


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Patches and lesions: a film a woman, a lesion near its corner, benign and malignant in turn."""
    names = [f"{n:02d}" for n in range(N_WOMEN)]
    low = (EDGE - WINDOW_PX) / 2
    ids = {"film_id": [f"f{n}" for n in names], "lesion_id": [f"l{n}" for n in names]}
    severity = ["benign", "malignant"] * (N_WOMEN // 2)
    corners = {"x1": low, "y1": low, "x2": low + WINDOW_PX, "y2": low + WINDOW_PX}
    patches = pd.DataFrame({"patch_id": ids["lesion_id"], **ids, "patient_id": [f"w{n}" for n in names]})
    lesions = pd.DataFrame({**ids, "severity": severity, "has_location": True})
    return patches.assign(label=severity, **corners), lesions.assign(x_px=117.5, y_px=118.5, radius_px=30.0)


def films() -> list[CanonicalFilm]:
    """Films of noise: nothing but the film itself tells the class."""
    generator = np.random.default_rng(1)
    transform = CanonicalTransform(EDGE, EDGE, flipped=False, factor=1.0)
    mask = np.ones((EDGE, EDGE), dtype=np.bool_)
    coarse = [generator.integers(0, 256, (EDGE // 40, EDGE // 40), dtype=np.uint8) for _ in range(N_WOMEN)]
    pixels = [np.kron(one, np.ones((40, 40), dtype=np.uint8)) for one in coarse]
    return [CanonicalFilm(f"f{n:02d}", one, mask, transform) for n, one in enumerate(pixels)]


def items_under(name: str) -> tuple[LabItems, np.ndarray]:
    patches, lesions = tables()
    protocol = PROTOCOLS[name]
    items = make_items(protocol, windows_for(protocol.task, patches), films(), lesions, INPUT_PX, COMMITTED)
    folds = make_folds(patches.assign(density="F"), seed=20)
    (roles,) = roles_under(protocol, items.table, folds, (0,), seed=1).values()
    return items, roles


def figures_under(name: str, budget: int) -> dict[str, float]:
    """Train with this budget, and judge, as the stage does."""
    items, roles = items_under(name)
    protocol = PROTOCOLS[name]
    recipe = (COMMITTED.classifier if protocol.model == "classifier" else COMMITTED.detector).with_values(
        {"budget_samples": budget, "epoch_samples": budget, "threads": 1}
    )
    task = task_for(items, roles, recipe)
    fit(task, recipe.training, epochs=recipe.training.epochs)
    numbers = np.flatnonzero(roles == "test")
    own = items.table.iloc[numbers]
    tested = own.join(exposure(own, items.table[roles == "train"]))
    truth = items.truth(numbers) if protocol.model == "detector" else None
    found = predict_items(task, items, numbers, COMMITTED)
    return protocol_figures(protocol, tested, found, truth, INPUT_PX, EVALUATE)


def test_what_is_learned_and_what_is_tested_are_the_same_boxes_exact_under_every_turn() -> None:
    items, roles = items_under("copies_90_10_leaky")
    numbers = np.flatnonzero(roles == "test")

    truth = items.truth(numbers).set_index("item")
    targets = items.targets()

    assert len(truth) == len(numbers)
    for n in numbers:
        boxes, classes = targets[n]
        row = truth.loc[items.table["item"].iloc[n]]
        np.testing.assert_array_equal(boxes[0], row[["x1", "y1", "x2", "y2"]].to_numpy(dtype=float))
        assert (classes[0], row["severity"]) in [(1, "benign"), (2, "malignant")]
        assert boxes[0, 2] - boxes[0, 0] == pytest.approx(30.0)  # radius 30 px at half the scale
        centre = (boxes[0, :2] + boxes[0, 2:]) / 2 - INPUT_PX / 2
        assert np.hypot(*centre) == pytest.approx(np.hypot(5.25, 4.75))


def test_a_tiny_run_gives_every_figure_and_says_that_every_copy_was_seen() -> None:
    figures = figures_under("copies_90_10_leaky", budget=16)
    assert {figures[f"{kind}_in_training"] for kind in ("pixels", "film", "lesion", "woman")} == {1.0}
    assert figures["claimed"] == 0.987
    assert figures["n_cuts"] == 0.1 * 20 * N_WOMEN
    assert 0 <= figures["map_50_lo"] <= figures["map_50"] <= figures["map_50_hi"] <= 1
    assert figures["map_50_baseline"] > 0.5, "boxes of one size in the middle: half of them of the right class"


def test_a_tiny_run_by_patient_gives_every_figure_and_says_that_nothing_was_seen() -> None:
    figures = figures_under("patches_by_patient", budget=16)
    assert {figures[f"{kind}_in_training"] for kind in ("pixels", "film", "lesion", "woman")} == {0.0}
    assert "claimed" not in figures
    assert figures["n_patches"] == figures["n_women"]
    assert figures["accuracy_lo"] <= figures["accuracy"] <= figures["accuracy_hi"]


def test_windows_without_lesions_are_for_the_patches_alone_and_none_at_all_is_an_error() -> None:
    patches, _ = tables()
    patches.loc[:3, "label"] = "normal"
    assert len(windows_for("patches", patches)) == N_WOMEN
    assert len(windows_for("crops", patches)) == len(windows_for("cuts", patches)) == N_WOMEN - 4
    with pytest.raises(BadInputError, match="no window for the protocols on cuts"):
        windows_for("cuts", patches.assign(label="normal"))


def test_normal_tissue_of_abnormal_films_is_no_window_of_the_lab() -> None:
    patches, _ = tables()
    beside = patches.iloc[:3].assign(patch_id=["b0", "b1", "b2"], label="normal", lesion_id=None)
    assert windows_for("patches", pd.concat([patches, beside]))["patch_id"].tolist() == patches["patch_id"].tolist()


def test_cuts_are_centred_on_their_lesions_wherever_the_patches_lie() -> None:
    patches, lesions = tables()
    lesions = lesions.assign(x_px=210.5, y_px=190.5)  # elsewhere they lie near the film's edge, and so off the middle
    moved = patches.assign(x1=patches["x1"] + 40, x2=patches["x2"] + 40)
    protocol = PROTOCOLS["cuts_by_patient"]
    boxes = [
        make_items(protocol, windows, films(), lesions, INPUT_PX, COMMITTED).targets()[0][0]
        for windows in (patches, moved)
    ]
    np.testing.assert_array_equal(*boxes)
    np.testing.assert_allclose((boxes[0][0, :2] + boxes[0][0, 2:]) / 2, INPUT_PX / 2, atol=0.5)


def test_a_film_that_is_missing_is_named() -> None:
    patches, lesions = tables()
    with pytest.raises(BadInputError, match="film f07 is not there"):
        make_items(PROTOCOLS["cuts_by_patient"], patches, films()[:7], lesions, INPUT_PX, COMMITTED)


def test_only_the_protocol_changes_between_two_runs_of_a_model() -> None:
    study = yaml.safe_load((ROOT / "pipelines" / "studies" / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert study["leakage_lab"]["matrix"]["protocol"] == list(PROTOCOLS)
    for recipe in (COMMITTED.classifier, COMMITTED.detector):
        assert recipe.training.budget_samples % recipe.training.epoch_samples == 0
        assert recipe.augmentation.strength == 0
    assert COMMITTED.detector.pretrained == "none"


def lab_figures() -> LabFigures:
    def figures(name: str, value: float, **more: float) -> dict[str, float]:
        shares = {f"{kind}_in_training": 0.25 for kind in ("pixels", "film", "lesion", "woman")}
        bounds = {name: value, f"{name}_lo": value - 0.1, f"{name}_hi": value + 0.1, f"{name}_baseline": 0.2}
        return bounds | shares | {"n_women": 9.0, "n_cuts": 10.0, "n_patches": 11.0} | more

    return {
        "classifier": {
            "patches_by_patient": figures("accuracy", 0.6),
            "patches_at_random_leaky": figures("accuracy", 0.8, claimed=0.7325),
        },
        "detector": {
            "cuts_by_patient": figures("map_50", 0.15, claimed=math.nan),
            "cuts_at_random_leaky": figures("map_50", 0.5, claimed=0.803),
        },
    }


def test_a_claim_above_the_upper_bound_is_marked_not_reached_and_by_patient_stands_last() -> None:
    rows = chart_rows(lab_figures())
    assert {task: [row.protocol.name for row in own] for task, own in rows.items()} == {
        "patches": ["patches_at_random_leaky", "patches_by_patient"],
        "cuts": ["cuts_at_random_leaky", "cuts_by_patient"],
    }
    assert [row.note for own in rows.values() for row in own] == ["", "", NOT_REACHED, ""]
    table = leakage_table(lab_figures())
    assert (
        "| `cuts_at_random_leaky` | map_50 | 0.803 (the reference poster) | 0.500 [0.400, 0.600], not reached" in table
    )
    assert "| 9 / 11 | 25% | 25% | 25% | 25% |" in table


def test_the_chart_tells_claim_reproduction_honest_figure_and_what_knows_nothing() -> None:
    figure = leakage_figure(chart_rows(lab_figures()))
    told = " ".join(text.get_text() for legend in figure.legends for text in legend.get_texts())
    assert all(word in told for word in ("claimed", "reproduced", "by patient", "knows nothing"))
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "0.50, the reference poster claimed 0.80: not reached in this budget" in texts


def test_metrics_are_nested_by_model_and_protocol_and_undefined_ones_are_null(tmp_path: Path) -> None:
    write_lab_metrics(lab_figures(), tmp_path / "lab" / "metrics.json")
    found = json.loads((tmp_path / "lab" / "metrics.json").read_text(encoding="utf-8"))
    assert found["detector"]["cuts_at_random_leaky"]["map_50_lo"] == 0.4
    assert found["detector"]["cuts_by_patient"]["claimed"] is None
