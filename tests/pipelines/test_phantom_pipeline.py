"""One small pass of the whole pipeline on phantom films; what it left behind is looked at from many sides."""

import base64
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.pipelines.phantom_run import PhantomRun, run_in

CLASSIFIER_FIGURES = [
    *("accuracy", "cross_entropy", "balanced_accuracy", "auc_macro", "auc_normal_vs_abnormal_patch"),
    *("auc_benign_vs_malignant", "sensitivity_at_specificity_90", "ece", "brier"),
    *("binary_cross_entropy", "mean_squared_error"),
]
FILM_FIGURES = [
    "film_balanced_accuracy",
    "film_balanced_accuracy_by_share",
    "film_auc_normal_vs_abnormal",
    "film_auc_macro",
]
DETECTOR_FIGURES = ["ap_50_benign", "ap_50_malignant", "map_50", "ap_50_any", "ap_10_any", "map_50_95"]
FALSE_POSITIVES = ("0_125", "0_25", "0_5", "1", "2", "4", "8")
FROC_FIGURES = [*(f"sensitivity_at_{rate}_fp" for rate in FALSE_POSITIVES), "froc_mean"]


@pytest.fixture
def parameters(run: PhantomRun) -> Iterator[Callable[[str, object], None]]:
    """Changes one key of the workspace's params.yaml for the length of a test."""
    path = run.workspace / "params.yaml"
    before = path.read_bytes()

    def change(key: str, value: object) -> None:
        params = yaml.safe_load(before)
        *sections, last = key.split(".")
        place = params
        for section in sections:
            place = place[section]
        assert place[last] != value
        place[last] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    yield change
    path.write_bytes(before)


@pytest.fixture(scope="module")
def stages(run: PhantomRun) -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load((run.workspace / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


@pytest.fixture
def client(run: PhantomRun, monkeypatch: pytest.MonkeyPatch) -> Any:
    from mammo_ml.tracking import Store

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Store(run.workspace).client


def declared_outputs(stages: dict[str, dict[str, Any]]) -> list[str]:
    found = []
    for stage in stages.values():
        for entry in (entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])):
            path = entry if isinstance(entry, str) else next(iter(entry))
            found += [path.replace("${item.fold}", str(fold)) for fold in ((0, 1) if "matrix" in stage else (0,))]
    return found


# ------------------------------------------------------------------------------------------------ what it said and made


def test_it_says_loudly_that_the_films_are_phantoms(run: PhantomRun) -> None:
    assert "PHANTOM FILMS" in run.said
    assert "No figure below says anything about real mammograms" in run.said
    assert str(run.workspace) in run.said


def test_it_prints_neither_traceback_nor_warning(run: PhantomRun) -> None:
    lines = [line for line in run.said.splitlines() if re.search(r"Traceback|WARNING|Warning:|Failed to", line)]
    assert lines == []


def test_its_closing_words_lead_to_files_that_are_there(run: PhantomRun) -> None:
    closing = run.said[run.said.index("Done. To look at:") :]
    links = re.findall(r"file://(\S+)", closing)
    assert len(links) == 5  # Data Docs, three models' figures, and the report
    assert [link for link in links if not Path(link).is_file()] == []
    assert f"make promote WORKSPACE={run.workspace}" in closing


def test_every_stage_made_its_outputs(run: PhantomRun, stages: dict[str, dict[str, Any]]) -> None:
    missing = [out for out in declared_outputs(stages) if not (run.workspace / out).exists()]
    assert missing == []


def test_no_stage_wrote_what_dvc_does_not_know(run: PhantomRun, stages: dict[str, dict[str, Any]]) -> None:
    declared = [Path(out) for out in declared_outputs(stages)]
    files = [
        path.relative_to(run.workspace) for top in ("data", "reports") for path in (run.workspace / top).rglob("*")
    ]
    unknown = [
        file
        for file in files
        if (run.workspace / file).is_file()
        and file.name != ".gitignore"
        and not any(file == out or out in file.parents for out in declared)
    ]
    assert unknown == []


def test_the_project_itself_is_untouched(run: PhantomRun) -> None:
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    assert subprocess.run(command, cwd=run.project, check=True, capture_output=True, text=True).stdout == ""
    assert not (run.project / "data").exists()
    assert not (run.project / "reports").exists()


# ---------------------------------------------------------------------------------------------------------- the figures


def test_the_classifier_has_the_figures_of_the_architecture_with_bounds_and_baseline(run: PhantomRun) -> None:
    metrics = run.metrics("evaluate_classifier")
    gains, leaky_gains = metrics.pop("by_patient_minus_logistic"), metrics.pop("leaky_minus_logistic")
    by_negatives = metrics.pop("by_patient_by_negatives")
    of_patches = {"logistic_baseline", "logistic_baseline_leaky", "patches_at_random_leaky"}
    assert set(metrics) == {"by_patient", *of_patches}
    check_figures(by_negatives, ["auc_against_normal_films", "auc_against_abnormal_films"])
    check_figures(metrics["by_patient"], [*CLASSIFIER_FIGURES, *FILM_FIGURES])
    for protocol in of_patches:
        check_figures(metrics[protocol], CLASSIFIER_FIGURES)
    for figures in metrics.values():
        assert {"n_women", "n_films", "n_patches"} <= set(figures)
    for name in ("auc_macro", "auc_normal_vs_abnormal_patch", "auc_benign_vs_malignant"):
        for found, ours, nothing in (
            (gains, "by_patient", "logistic_baseline"),
            (leaky_gains, "patches_at_random_leaky", "logistic_baseline_leaky"),
        ):
            np.testing.assert_allclose(found[name], metrics[ours][name] - metrics[nothing][name], atol=1e-6)
            assert found[f"{name}_lo"] <= found[name] <= found[f"{name}_hi"]


def test_normal_patches_hold_the_breast_asked_for_and_are_of_normal_and_of_abnormal_films(run: PhantomRun) -> None:
    patches = pd.read_csv(run.workspace / "data/cut/patches/patches.csv")
    normal = patches[patches["kind"] == "normal"]
    assert (normal["breast_share"] >= 0.9).all()
    labels = pd.read_csv(run.workspace / "data/catalog/films.csv").set_index("film_id")["label"]
    of_normal_film = normal["film_id"].map(labels) == "normal"
    n_lesions = (patches["kind"] == "lesion").sum()
    assert (of_normal_film.sum(), (~of_normal_film).sum()) == (2 * n_lesions, n_lesions)


def test_the_classifiers_subgroups_are_there_under_both_protocols(run: PhantomRun) -> None:
    table = pd.read_csv(run.workspace / "reports/evaluate_classifier/subgroups.csv")
    assert set(table["protocol"]) == {"by_patient", "patches_at_random_leaky"}
    n_lesions = len(pd.read_csv(run.workspace / "data/catalog/lesions.csv"))
    assert table["n_lesions"].between(1, n_lesions).all()
    severities = table[table["subgroup"] == "severity"].groupby(["protocol", "figure"])["n_lesions"].sum()
    assert (severities <= n_lesions).all()


def test_the_detector_has_the_figures_of_the_architecture_with_bounds_and_baseline(run: PhantomRun) -> None:
    metrics = run.metrics("evaluate_detector")
    assert set(metrics) == {"cuts_at_random_leaky", "cuts_by_patient", "films_by_patient"}
    check_figures(metrics["films_by_patient"], [*DETECTOR_FIGURES, *FROC_FIGURES])
    check_figures(metrics["cuts_by_patient"], DETECTOR_FIGURES)
    check_figures(metrics["cuts_at_random_leaky"], [*DETECTOR_FIGURES, "map_50_all_sets"])


def test_the_locator_has_the_figures_of_the_architecture_with_bounds_and_baseline(run: PhantomRun) -> None:
    metrics = run.metrics("evaluate_locator")
    assert set(metrics) == {"films_by_patient"}
    saved = ["sensitivity_lost", "compute_saved_ratio", "seconds_saved_ratio", "film_auc_normal_vs_abnormal"]
    check_figures(metrics["films_by_patient"], [*FROC_FIGURES, *saved])
    assert 0 <= metrics["films_by_patient"]["threshold"] <= 1


def check_figures(figures: dict[str, float], names: list[str]) -> None:
    wanted = [f"{name}{suffix}" for name in names for suffix in ("", "_lo", "_hi", "_baseline")]
    assert [name for name in wanted if name not in figures] == []
    assert [name for name, value in figures.items() if not np.isfinite(value)] == []
    for name in names:
        assert figures[f"{name}_lo"] <= figures[f"{name}_hi"], name


def test_only_women_of_the_tested_folds_are_in_the_honest_predictions(run: PhantomRun) -> None:
    folds = pd.read_csv(run.workspace / "data" / "split" / "folds.csv", dtype={"patient_id": "str"})
    fold_of = dict(zip(folds["patient_id"], folds["fold"], strict=True))
    table = pd.read_csv(run.workspace / "reports" / "evaluate_classifier" / "predictions.csv", dtype="str")
    honest = table[table["protocol"] == "by_patient"]

    assert len(honest)
    assert [fold_of[woman] for woman in honest["patient_id"]] == honest["fold"].astype(int).tolist()
    assert set(honest["fold"]) == {"0", "1"}


# --------------------------------------------------------------------------------------------------- what would re-run


def test_a_second_pass_runs_nothing(run: PhantomRun) -> None:
    finished = run.command("dvc", "repro")
    assert finished.returncode == 0, finished.stderr
    assert "Running stage" not in finished.stdout + finished.stderr
    assert "Data and pipelines are up to date." in finished.stdout + finished.stderr


def test_a_new_seed_of_the_intervals_runs_the_evaluation_alone(
    run: PhantomRun, parameters: Callable[[str, object], None]
) -> None:
    parameters("evaluate_classifier.seed", 2)
    assert run.changed_stages() == ["evaluate_classifier"]


def test_a_new_seed_of_the_detectors_training_runs_no_stage_of_the_classifier(
    run: PhantomRun, parameters: Callable[[str, object], None]
) -> None:
    parameters("train_detector.training.seed", 2)
    changed = run.changed_stages()
    trained = ["finalize_detector", "leaky_detector", "predict_detector", "train_detector", "tune_detector"]
    # which looks with the detector; and which audits what it starts from, in seconds
    assert changed == sorted([*trained, "predict_locator", "validate_cuts"])


def test_editing_the_figures_module_reruns_the_stages_that_draw_alone(run: PhantomRun) -> None:
    module = run.workspace / "mammo_ml" / "figures.py"
    before = module.read_bytes()
    try:
        module.write_bytes(before + b"\n# another comment\n")
        drawing = ["evaluate_classifier", "evaluate_detector", "evaluate_locator", "explain_classifier"]
        assert run.changed_stages() == drawing
    finally:
        module.write_bytes(before)


# ------------------------------------------------------------------------------------------------------ runs and models


def test_the_store_holds_one_pass_with_its_stages_and_their_trials_all_marked_phantom(
    run: PhantomRun, client: Any
) -> None:
    (experiment,) = (found for found in client.search_experiments() if found.name != "Default")
    runs = list(client.search_runs([experiment.experiment_id], max_results=500))
    level = {one.info.run_id: one.data.tags["mammo.level"] for one in runs}
    parents = {one.info.run_id: one.data.tags.get("mlflow.parentRunId") for one in runs}

    assert experiment.name == "phantom"
    assert [one.info.run_name for one in runs if one.data.tags.get("phantom") != "true"] == []
    assert [one.info.run_name for one in runs if one.info.status != "FINISHED"] == []
    (top,) = (run_id for run_id, kind in level.items() if kind == "pass")
    assert parents[top] is None
    assert all(parents[run_id] == top for run_id, kind in level.items() if kind in ("stage", "register"))
    trials = [run_id for run_id, kind in level.items() if kind == "trial"]
    assert len(trials) == 4  # two models, two folds, one trial each
    assert all(level[parents[run_id] or ""] == "stage" for run_id in trials)
    names = {f"{one.data.tags['stage']}@{one.data.tags.get('fold', '')}" for one in runs if "stage" in one.data.tags}
    for model in ("classifier", "detector"):
        expected = {f"{kind}_{model}@{fold}" for kind in ("tune", "train") for fold in (0, 1)}
        expected |= {f"{kind}_{model}@" for kind in ("leaky", "finalize", "evaluate")}
        assert expected <= names


def test_the_recorded_figures_are_those_of_the_reports(run: PhantomRun, client: Any) -> None:
    version = client.get_model_version_by_alias("mammo-detector", "challenger")
    recorded = client.get_run(version.run_id).data.metrics
    reported = run.metrics("evaluate_detector")["films_by_patient"]["froc_mean"]
    assert recorded["films_by_patient.froc_mean"] == reported


def test_the_detectors_run_shows_the_panel_of_films_and_its_curves(run: PhantomRun, client: Any) -> None:
    (experiment,) = (found for found in client.search_experiments() if found.name != "Default")
    (judged,) = client.search_runs([experiment.experiment_id], "tags.stage = 'evaluate_detector'")
    files = {file.path for file in client.list_artifacts(judged.info.run_id)}
    assert {"panel.png", "gallery.png", "froc.png", "pr.png"} <= files


@pytest.mark.parametrize("name", ["mammo-classifier", "mammo-detector", "mammo-locator"])
def test_each_model_is_registered_once_as_challenger_and_as_phantom(client: Any, name: str) -> None:
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert client.get_model_version_by_alias(name, "challenger").version == version.version
    assert "champion" not in client.get_registered_model(name).aliases
    assert version.tags["phantom"] == "true"
    assert version.tags["leak_free"] == "true"
    assert version.tags["data_valid"] == "true"


@pytest.mark.parametrize("name", ["mammo-classifier", "mammo-detector", "mammo-locator"])
def test_the_gate_explains_every_condition_and_ends_with_its_answer(run: PhantomRun, name: str) -> None:
    finished = run_in(run.project, "mammo_ml.cli", "promote", name, "--dry-run", "--workspace", str(run.workspace))

    conditions = re.findall(r"^  \[(pass|FAIL)\]  (.+)$", finished.stdout, re.MULTILINE)
    assert len(conditions) == 10
    assert any(answer == "pass" and told.startswith("files are intact") for answer, told in conditions)
    allowed = all(answer == "pass" for answer, _ in conditions)
    assert ("ALLOWED" if allowed else "REFUSED") in finished.stdout
    assert finished.returncode == (0 if allowed else 1)


def test_phantom_models_are_refused_where_real_films_are_at_home(
    run: PhantomRun, parameters: Callable[[str, object], None]
) -> None:
    parameters("dataset", "mini_mias")
    promote = ("mammo_ml.cli", "promote", "mammo-classifier", "--workspace", str(run.workspace))
    finished = run_in(run.project, *promote, "--dry-run")
    assert finished.returncode == 1
    assert re.search(r"\[FAIL\]  data set belongs here +model from phantom \(phantom\)", finished.stdout)


def test_the_locator_names_the_versions_it_was_put_together_from(client: Any) -> None:
    version = client.get_model_version_by_alias("mammo-locator", "challenger")
    assert version.tags["parents"] == "mammo-classifier/1, mammo-detector/1"


@pytest.mark.parametrize("kind", ["classifier", "detector", "locator"])
def test_the_registered_model_answers_a_film_as_the_bundle_on_disk_does(
    run: PhantomRun, client: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import mlflow

    from mammo_ml.locator_bundle import answer as answer_with
    from mammo_ml.locator_bundle import open_bundle
    from mammo_ml.tracking import store_address

    monkeypatch.setattr(sys, "path", list(sys.path))  # loading a model puts its code first
    content = (run.workspace / "data" / "ingest" / "mdb001.pgm").read_bytes()
    films = pd.DataFrame({"film_id": ["mdb001"], "image": [base64.b64encode(content).decode()]})
    address = store_address(run.workspace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)  # mlflow writes this variable; now it is put back
    mlflow.set_tracking_uri(address)
    mlflow.set_registry_uri(address)
    try:
        answer = mlflow.pyfunc.load_model(f"models:/mammo-{kind}@challenger").predict(films)
    finally:
        mlflow.set_registry_uri(None)
        mlflow.set_tracking_uri(None)

    expected = answer_with(open_bundle(run.workspace / "data" / f"finalize_{kind}"), films)
    pd.testing.assert_frame_equal(answer, expected)
    assert len(answer) or kind == "locator"  # a classifier that learned nothing may let no tile through
    assert answer["seen_in_training"].dtype == bool


# ------------------------------------------------------------------------------------------------------------ Data Docs


@pytest.mark.parametrize("stage", ["validate_tables", "validate_cuts"])
def test_the_data_docs_open_without_a_network(run: PhantomRun, stage: str) -> None:
    docs = run.workspace / "data" / stage
    assert (docs / "index.html").is_file()
    loads = re.compile(
        r"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(\s*["']?http"""
    )
    pages = sorted(docs.rglob("*.html"))
    assert len(pages) > 3
    assert [page.name for page in pages if loads.search(page.read_text(encoding="utf-8"))] == []
