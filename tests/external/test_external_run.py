import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mammo_ml.answering.film_models import LoadedModel, model_of
from mammo_ml.cli import app
from mammo_ml.datasets.workspace_sets import DataSet
from mammo_ml.errors import BadInputError
from mammo_ml.evaluation import EvaluateParameters
from mammo_ml.external import audit as external_audit
from mammo_ml.external import looking as external_looking
from mammo_ml.external import run as external_run
from mammo_ml.external.figures import domain_shift_figure, film_traits, shift_figures
from mammo_ml.external.looking import FilmRecord, boxes_of, look_at_set
from mammo_ml.imaging.readers import read_film, write_pgm
from mammo_ml.manifest import file_sha256
from mammo_ml.models.bundle import Bundle, read_bundle
from tests.external.external_sets import phantom_set
from tests.served_models import small_bundle

HOW = EvaluateParameters(resamples=100, seed=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(small_bundle(tmp_path_factory.mktemp("bundle") / "detector", "detector"))


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> LoadedModel:
    return model_of(bundle, "mammo-detector", 1, ("detector",))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    phantom_set(tmp_path / "data" / "datasets" / "other")
    return tmp_path


def no_bars(step: str, total: int, unit: str) -> Callable[[int], object]:
    return lambda n: None


@pytest.fixture
def registered(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle as version 1, without a store."""
    version = SimpleNamespace(name="mammo-detector", number=1, bundle=bundle, run_id="run")
    client = SimpleNamespace(get_model_version=lambda name, number: version)

    def no_evidence(store: Any, found: Any) -> None:
        raise BadInputError("version", ["it was registered without predictions.csv"])

    monkeypatch.setattr(external_run, "open_version", lambda reference, workspace: version)
    monkeypatch.setattr(external_run, "Store", lambda workspace: SimpleNamespace(client=client))
    monkeypatch.setattr(external_run, "figures_of", lambda store, found: {"films_by_patient.froc_mean": 0.5})
    monkeypatch.setattr(external_run, "evidence_of", no_evidence)
    monkeypatch.setattr(external_run, "log_validation", lambda *given: "run of it")


def validate(workspace: Path) -> external_run.Validated:
    return external_run.validate_external("mammo-detector/1", "other", workspace, HOW, no_bars, "2026-11-23")


@pytest.mark.usefixtures("registered")
def test_a_validation_writes_figures_predictions_and_subgroups(workspace: Path) -> None:
    done = validate(workspace)
    assert done.folder == workspace / "reports" / "external" / "other" / "mammo-detector-v1"
    assert {path.name for path in done.folder.iterdir()} == {
        "metrics.json", "predictions.csv", "subgroups.csv", "froc.csv",
    }  # fmt: skip
    metrics = json.loads((done.folder / "metrics.json").read_text("utf-8"))
    assert metrics["external"]["n_films"] == 3
    assert metrics["internal"] == {"froc_mean": 0.5}
    assert metrics["domain_shift"] is None  # the films that it was trained on are not here
    assert "Spacing is a guess." in metrics["notes"]
    assert "Pictures of 1 seen films of mini_mias were not compared" in " ".join(metrics["notes"])
    assert set(pd.read_csv(done.folder / "predictions.csv")["film_id"]) == {"film0", "film1", "film2"}


@pytest.mark.usefixtures("registered")
def test_the_command_shows_figures_side_by_side_and_what_does_not_exist(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("gate: {resamples: 100}\n", encoding="utf-8")
    asked = ["validate-external", "mammo-detector/1", "other", "--workspace", str(workspace)]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "mammo-detector/1 on other: 3 women, 3 films, 3 lesions" in shown.output
    [row] = [line.split() for line in shown.output.splitlines() if line.strip().startswith("froc_mean ")]
    assert row[:2] == ["froc_mean", "0.500"]
    assert "sensitivity_at_*_fp_normal_films, froc_mean_normal_films: the set has no normal films" in shown.output
    (workspace / "data" / "datasets" / "other" / "films" / "film0.pgm").unlink()
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 1
    assert "film0.pgm is missing" in refused.output


@pytest.mark.usefixtures("registered")
def test_a_set_that_the_model_has_seen_is_refused_by_name(
    workspace: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ("a", "1" * 64, "other", "woman1", "pretraining")
    seen = pd.DataFrame([row], columns=list(bundle.training_films.columns))
    monkeypatch.setattr(external_run, "look_at_set", lambda *given: pytest.fail("it was looked at"))
    planted = SimpleNamespace(**{**vars(bundle), "training_films": seen})
    version = SimpleNamespace(name="mammo-detector", number=1, bundle=planted, run_id="run")
    monkeypatch.setattr(external_run, "open_version", lambda reference, workspace: version)
    with pytest.raises(BadInputError, match=r"woman woman1 of other is on both sides: film1 \(tested\), a \(pretrain"):
        validate(workspace)
    told = (workspace / "reports/external/other/mammo-detector-v1/seen_before.txt").read_text("utf-8")
    assert "woman1" in told


def test_the_collection_tells_whose_women_a_set_has_whatever_its_name(workspace: Path) -> None:
    folder = workspace / "data" / "datasets" / "other"
    data = external_run.open_set("other", workspace)
    renamed = DataSet(data.films.assign(dataset="my_own"), data.lesions, folder / "films", {"collection": "cbis-ddsm"})
    seen = pd.DataFrame(
        [("x", "2" * 64, "cbis_ddsm", "woman2", "pretraining")],
        columns=["film_id", "sha256", "dataset", "patient_id", "step"],
    )
    assert "woman woman2 of cbis_ddsm" in external_audit.audit_names(seen, renamed, "my_own").problems[0]
    assert external_audit.audit_names(seen.assign(dataset="third"), renamed, "my_own").leak_free
    told = external_audit.same_collection(seen.assign(patient_id="another"), renamed)
    assert told.startswith("NOT ANOTHER COLLECTION: the model or its ancestors learned from 1 films of 1 other women")
    assert external_audit.same_collection(seen.assign(dataset="third"), renamed) == ""


def test_a_film_seen_before_is_found_by_its_picture(workspace: Path) -> None:
    data = external_run.open_set("other", workspace)
    tested = data.films.assign(folder=str(data.films_folder))
    film = read_film(data.films_folder / "film1.pgm")
    (workspace / "seen").mkdir()
    relit = np.clip(film.pixels[:, ::-1] * 0.8 + 20, 0, 255).astype(np.uint8)
    write_pgm(workspace / "seen" / "b.pgm", relit)
    own = tested.iloc[[1]].assign(film_id="b", path="b.pgm", folder=str(workspace / "seen"), step="pretraining")
    own["sha256"] = file_sha256(workspace / "seen" / "b.pgm")
    [problem] = external_audit.audit_pictures(own.reset_index(drop=True), tested, "other").problems
    assert problem.startswith("other: film film1 is the picture of film b of other (pretraining)")


def test_a_second_start_goes_on_where_the_first_was_stopped(
    workspace: Path, bundle: Bundle, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = external_run.open_set("other", workspace)
    whole = look_at_set(model, bundle, data, workspace / "whole.jsonl")
    asked: list[str] = []

    def killed(film: Any, name: str) -> Any:
        asked.append(name)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return model.look(film, name)

    stopped = LoadedModel(model.facts, model.scores, model.learned_from, killed)
    with pytest.raises(KeyboardInterrupt):
        look_at_set(stopped, bundle, data, workspace / "kept.jsonl")
    kept = workspace / "kept.jsonl"
    kept.write_bytes(kept.read_bytes()[:-40])  # the second film's line was cut off
    assert look_at_set(stopped, bundle, data, kept) == whole
    assert asked == ["film0", "film1", "film2", "film1", "film2"]
    assert kept.read_bytes() == (workspace / "whole.jsonl").read_bytes()
    monkeypatch.setattr(external_looking, "_look", lambda *given: pytest.fail("asked again"))
    assert look_at_set(model, bundle, data, kept) == whole


def test_a_film_that_cannot_be_answered_counts_as_one_without_a_finding(workspace: Path) -> None:
    data = external_run.open_set("other", workspace)
    record = FilmRecord(film_id="film0", findings=None, patches=[], grey=[], failed="film film0: no breast was found")
    assert boxes_of([record], data.films)[["film_id", "box"]].to_numpy().tolist() == [["film0", 0]]
    [note] = external_run._failed_notes("detector", [record])
    assert note == "Film film0 could not be answered, nothing counts as found on it: film film0: no breast was found"


@pytest.mark.usefixtures("registered")
def test_phantoms_and_real_models_are_kept_apart(tmp_path: Path) -> None:
    phantom_set(tmp_path / "data" / "datasets" / "other", "phantom")
    with pytest.raises(BadInputError, match="other is made of synthetic films, mammo-detector/1 is made of real films"):
        validate(tmp_path)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "dataset.json").unlink(), "there is no data set 'other'; .*holds none"),
        (lambda folder: (folder / "films" / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "films" / "film1.pgm").write_bytes(b"P5"), "film1.pgm was changed"),
        (
            lambda folder: (folder / "catalog" / "films.csv").write_text(
                (folder / "catalog" / "films.csv").read_text().partition("\n")[0] + "\n"
            ),
            "it lists no film",
        ),
        (
            lambda folder: (folder / "catalog" / "lesions.csv").write_text(
                (folder / "catalog" / "lesions.csv").read_text().replace("True", "False")
            ),
            "none of its films has a located lesion",
        ),
    ],
)
def test_a_set_that_is_none_is_refused(workspace: Path, damage: Callable[[Path], object], told: str) -> None:
    damage(workspace / "data" / "datasets" / "other")
    with pytest.raises(BadInputError, match=told):
        validate(workspace)


def test_an_unknown_set_is_told_with_those_there_are(workspace: Path) -> None:
    with pytest.raises(BadInputError, match="there is no data set 'anohter'; known: other"):
        external_run.open_set("anohter", workspace)


def test_the_shift_of_domain_is_measured_on_both_sides(workspace: Path) -> None:
    data = external_run.open_set("other", workspace)
    dark, bright = np.zeros((3, 64), dtype=np.int64), np.zeros((3, 64), dtype=np.int64)
    dark[:, 10], bright[:, [10, 40]] = 100, 50
    sides = [film_traits(name, grey, data.films, data.lesions) for name, grey in (("a", dark), ("b", bright))]
    figures = shift_figures(sides[0], sides[1])
    assert figures["overlap"]["grey"] == 0.5
    assert figures["internal"]["grey_q50"] == 42.0
    assert figures["external"]["radius_mm_q50"] == pytest.approx(6.2)
    assert len(domain_shift_figure(sides[0], sides[1], "both").axes) == 3
