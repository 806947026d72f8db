import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from mammo_ml import benchmark, benchmark_scores
from mammo_ml.cli import app
from mammo_ml.cutting import cut_patches, windows_on_film
from mammo_ml.datasets import mini_mias_archive
from mammo_ml.datasets.catalog import BOX_COLUMNS, FILMS, LESIONS, names, read_table, write_table
from mammo_ml.datasets.mini_mias_archive import official_manifest
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.foreign_predictions import Predictions, read_predictions
from mammo_ml.imaging.canonical import canonical_films
from mammo_ml.imaging.patches import CutParameters
from mammo_ml.parameters import parse_section
from mammo_ml.reporting.results_table import committed_metrics, results_table, update_readme

ROOT = Path(__file__).resolve().parents[1]
OURS = {task: ROOT / "reports" / f"evaluate_{task}" for task in benchmark.PROTOCOLS}
NO_FILMS = pytest.mark.skipif("MIAS_ARCHIVE" not in os.environ, reason="MIAS_ARCHIVE is not set: no real films here")


@pytest.mark.films
@NO_FILMS
def test_the_patches_are_those_of_the_committed_predictions(truth):
    committed = pd.read_csv(OURS["classifier"] / "predictions.csv")
    judged = committed[(committed["protocol"] == "by_patient") & (committed["unit"] == "patch")]
    patches = benchmark.load_benchmark(truth, None).patches
    assert set(patches[["patch_id", "film_id", "label"]].itertuples(index=False, name=None)) == set(
        judged[["item", "film_id", "label"]].itertuples(index=False, name=None)
    )
    windows = patches[BOX_COLUMNS]
    assert windows.min().min() >= 0
    assert windows.max().max() <= 1024


@pytest.mark.films
@pytest.mark.slow
@NO_FILMS
def test_the_committed_places_are_those_that_are_cut(truth, tmp_path):
    films, lesions = read_table(truth / "films.csv", FILMS), read_table(truth / "lesions.csv", LESIONS)
    mini_mias_archive.unpack(Path(os.environ["MIAS_ARCHIVE"]), tmp_path, official_manifest())
    asked = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["cut"]
    canonical = {film.film_id: film for film in canonical_films(tmp_path, films)}
    cut = cut_patches(films, canonical, lesions, parse_section(asked, CutParameters, "cut")).patches
    committed = benchmark.load_benchmark(truth, None).patches
    assert committed[["patch_id", "film_id", "label"]].equals(cut[["patch_id", "film_id", "label"]])
    np.testing.assert_array_equal(committed[BOX_COLUMNS], windows_on_film(cut, films))
    least = cut.set_index("patch_id")["breast_share"].sort_values().head(2)
    assert least.index[0] == "mdb110_1"  # the only lesion that no window shows whole with 90 % of breast
    assert least.iloc[1] >= asked["min_breast_share"]


def test_without_tables_and_archive_the_remedy_is_told(tmp_path):
    with pytest.raises(MammoError, match=r"(?s)truth is not here.*Set MIAS_ARCHIVE.*mammo-ml repro catalog"):
        benchmark.load_benchmark(tmp_path, None)


def test_tables_of_other_films_or_with_an_edited_lesion_are_refused(tmp_path):
    films = pd.DataFrame({"film_id": list(official_manifest())}).assign(sha256="0" * 64)
    films = films.reindex(columns=names(FILMS)).assign(dataset="phantom", width_px=1, height_px=1).fillna("0")
    lesion = dict.fromkeys(names(LESIONS), "0") | {"has_location": True}
    write_table(films, tmp_path / "films.csv")
    write_table(pd.DataFrame([lesion]), tmp_path / "lesions.csv")
    with pytest.raises(BadInputError) as caught:
        benchmark.load_benchmark(tmp_path, None)
    assert caught.value.problems == [
        "films.csv does not list the 322 films of mini-MIAS (its data set: phantom)",
        "lesions.csv is not what this version makes of the official Info.txt",
    ]


def invented() -> benchmark.Benchmark:
    """Six women, each with a lesion on the first of her two films."""
    films = pd.DataFrame({"film_id": [f"mdb{n:03d}" for n in range(1, 13)]})
    films["patient_id"] = [f"p{n // 2:03d}" for n in range(12)]
    films["label"] = ["benign", "normal", "malignant", "normal"] * 3
    films = films.assign(breast_x1=0, breast_y1=0, breast_x2=1024, breast_y2=1024, width_px=1024, height_px=1024)
    lesions = films[films["label"] != "normal"].rename(columns={"label": "severity"})
    lesions = lesions.assign(has_location=True, x1=100.0, y1=100.0, x2=200.0, y2=200.0, x_px=150.0, y_px=150.0)
    folds = pd.DataFrame({"patient_id": films["patient_id"].unique(), "fold": range(6)})
    patches = pd.DataFrame(columns=["patch_id", "film_id", "label", *BOX_COLUMNS])
    return benchmark.Benchmark(films, lesions.assign(radius_px=50.0), patches, folds)


def test_a_detector_without_classes_gets_no_figures_of_classes_and_is_told_so():
    known = invented()
    boxes = known.lesions[["film_id", *BOX_COLUMNS]].assign(p_benign=0.25, p_malignant=0.25)
    found = Predictions("detector", boxes, classes=False)
    figures = benchmark_scores.score(found, known)
    assert (figures["sensitivity_at_1_fp"], figures["ap_50_any"]) == (1, 1)
    assert not [name for name in figures if name.startswith(benchmark_scores.OF_CLASSES)]
    lines = benchmark_scores.how_to_read(found, known)
    assert "6 women resampled 1,000 times" in lines[0]
    assert "cannot be checked" in lines[1]
    assert lines[-1] == benchmark_scores.CLASS_BLIND


def test_nothing_found_anywhere_is_a_sensitivity_of_0():
    known = invented()
    nothing = Predictions("detector", pd.DataFrame(columns=["film_id", *BOX_COLUMNS, "p_benign", "p_malignant"]), True)
    figures = benchmark_scores.score(nothing, known)
    assert (figures["froc_mean"], figures["map_50"]) == (0, 0)


def test_two_detectors_are_compared_on_the_figures_that_both_have():
    known = invented()
    boxes = known.lesions[["film_id", *BOX_COLUMNS]].assign(p_benign=0.25, p_malignant=0.25)
    all_found = Predictions("detector", boxes, classes=True)
    half_found = Predictions("detector", boxes[::2], classes=False)
    found = benchmark_scores.differences(all_found, half_found, known)
    assert list(found) == ["sensitivity_at_1_fp", "froc_mean", "ap_50_any"]
    assert found["froc_mean"][:3] == (1, 0.5, 0.5)
    assert found["froc_mean"].lo < 0.5 < found["froc_mean"].hi
    same = benchmark_scores.differences(all_found, all_found, known)
    assert {difference[2:] for difference in same.values()} == {(0, 0, 0)}


def test_two_classifiers_are_compared_on_films_where_only_one_has_patches():
    known = invented()
    rows = known.films.assign(item=known.films["film_id"], fold=0, p_normal=[0.1, 0.8] * 6, p_benign=0.1)
    rows["p_malignant"] = 1 - rows["p_normal"] - rows["p_benign"]
    guess = rows.assign(p_normal=0.5, p_benign=0.3, p_malignant=0.2)
    patches = rows.assign(item=[f"{film}_1" for film in rows["film_id"]])
    both = Predictions("classifier", pd.concat([rows, patches]), classes=True)
    found = benchmark_scores.differences(both, Predictions("classifier", guess, classes=True), known)
    assert list(found) == ["film_auc_normal_vs_abnormal", "film_balanced_accuracy"]
    assert found["film_auc_normal_vs_abnormal"] == (1, 0.5, 0.5, 0.5, 0.5)
    with pytest.raises(BadInputError, match="a classifier and a detector have no figure in common"):
        benchmark_scores.differences(both, Predictions("detector", rows, classes=True), known)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Tables made from the archive, as where no pipeline ever ran."""
    found = benchmark.load_benchmark(tmp_path_factory.mktemp("empty"), os.environ["MIAS_ARCHIVE"])
    folder = tmp_path_factory.mktemp("truth")
    write_table(found.films, folder / "films.csv")
    write_table(found.lesions, folder / "lesions.csv")
    return folder


@pytest.mark.films
@NO_FILMS
@pytest.mark.parametrize("task", benchmark.PROTOCOLS)
def test_our_own_predictions_get_our_own_committed_figures(truth, task, tmp_path):
    file, report = OURS[task] / "predictions.csv", tmp_path / "scores.json"
    arguments = ["evaluate", "--predictions", str(file), "--truth", str(truth), "--json", str(report), "-w", str(ROOT)]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    assert "cannot be checked from a file" in answer.output
    found = json.loads(report.read_text(encoding="utf-8"))["figures"]
    committed = json.loads((OURS[task] / "metrics.json").read_text(encoding="utf-8"))
    assert found == committed[benchmark.PROTOCOLS[task]]


@pytest.mark.films
@NO_FILMS
def test_our_own_detections_as_coco_results_get_the_same_figures(truth, tmp_path):
    known = benchmark.load_benchmark(truth, None)
    ours = read_predictions(OURS["detector"] / "predictions.csv", known)
    entries = [
        {"image_id": int(row.film_id[3:]), "category_id": n, "bbox": [row.x1, row.y1, row.x2 - row.x1, row.y2 - row.y1]}
        | {"score": score}
        for row in ours.rows.itertuples()
        for n, score in ((1, row.p_benign), (2, row.p_malignant))
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    theirs = read_predictions(path, known)
    pd.testing.assert_frame_equal(theirs.rows, ours.rows, check_exact=False, atol=1e-9)


@pytest.mark.films
@NO_FILMS
def test_a_fault_ends_the_command_with_1_and_leaves_no_figures(truth, tmp_path):
    file, report = tmp_path / "predictions.csv", tmp_path / "scores.json"
    file.write_text("film_id,x1,y1,x2,y2,score\nmdb001,1,2,3,4,1.5\nmdb400,1,2,3,4,0.5\n", encoding="utf-8")
    arguments = ["evaluate", "--predictions", str(file), "--truth", str(truth), "--json", str(report)]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 1
    assert "3 problems" in answer.output
    assert "line 2: score is 1.5, outside 0 to 1" in answer.output
    assert "315 of 316 films have no row" in answer.output
    assert not report.exists()


def test_the_document_names_the_tables_by_their_hashes_and_holds_the_committed_figures():
    text = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    hashes = [benchmark.sha256_of(benchmark.committed_file(name)) for name in ("folds", "patches")]
    assert [found for found in (*hashes, benchmark.LESIONS_SHA256) if found not in text] == []
    assert update_readme(text, results_table(committed_metrics(ROOT))) == text
