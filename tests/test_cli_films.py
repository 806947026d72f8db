"""`mammo-ml locate` and `mammo-ml classify` as a user meets them."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mammo_ml import registry
from mammo_ml.answering import film_models
from mammo_ml.cli import app
from mammo_ml.datasets.phantom import PhantomParameters, draw, plan
from mammo_ml.imaging.readers import write_pgm
from mammo_ml.models.bundle import read_bundle
from mammo_ml.registry.gate import GateParameters
from tests.served_models import METRICS, small_bundle


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "a.pgm"
    write_pgm(path, draw(plan(PhantomParameters(women=20, seed=1))[0], seed=1))
    return path


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {kind: small_bundle(folder / kind, kind) for kind in ("classifier", "detector")}


@pytest.fixture
def champions(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles in the place of what the registry gives, which the last tests ask in earnest."""
    monkeypatch.setattr(film_models, "was_promoted", lambda name, workspace: name == film_models.DETECTOR)
    monkeypatch.setattr(registry, "bundle_of", lambda name, workspace, which: (1, bundles[name.removeprefix("mammo-")]))


def ask(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.usefixtures("champions")
def test_locate_answers_the_good_film_names_the_bad_one_and_ends_with_1(film: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pgm").write_bytes(b"P5\nnot a film")
    code, told = ask("locate", film, tmp_path / "bad.pgm", "--out", tmp_path / "out", "-w", tmp_path)
    assert code == 1
    for words in (
        "No mammo-locator was promoted yet, so the champion of mammo-detector answers",
        "1 of 2 films answered by mammo-detector version 1",
        "a detector alone is not calibrated",
        "Research use only",
        "1 film without an answer",
        "Export the film again",
    ):
        assert words in told
    assert (tmp_path / "out" / "a.pgm.overlay.png").exists()
    code, told = ask("locate", film, "--out", tmp_path / "out", "-w", tmp_path)
    assert (code, "1 of them by an earlier run" in told) == (0, True)


@pytest.mark.usefixtures("champions")
def test_classify_tells_the_three_probabilities_of_each_film(film: Path, tmp_path: Path) -> None:
    code, told = ask("classify", film, "--out", tmp_path / "out", "--format", "json,csv", "-w", tmp_path)
    assert code == 0, told
    found = json.loads((tmp_path / "out" / "a.pgm.json").read_text())["findings"]
    assert sum(found.values()) == pytest.approx(1, abs=2e-5)
    assert f"{found['p_malignant']:.3f}" in told
    header = (tmp_path / "out" / "answers.csv").read_text().splitlines()[0]
    assert "p_normal,p_benign,p_malignant" in header


@pytest.mark.usefixtures("champions")
def test_a_model_of_the_other_kind_is_refused_with_the_command_that_asks_it(film: Path, tmp_path: Path) -> None:
    code, told = ask("locate", film, "--model", "mammo-classifier@champion", "--out", tmp_path / "out")
    assert (code, "`mammo-ml classify` asks a classifier" in told) == (1, True)
    code, told = ask("classify", film, "--model", "mammo-detector/1", "--out", tmp_path / "out")
    assert (code, "`mammo-ml locate` asks a detector" in told) == (1, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["locate", "FILM", "--format", "json,jpg"], "'jpg' is none of json, csv, coco, overlay, sr"),
        (["classify", "FILM", "--format", "overlay"], "'overlay' is none of json, csv"),
        (["locate", "FILM", "--format", ","], "nothing is asked for"),
        (["locate", "FILM", "--spacing", "50"], "--spacing 50: pixels of films have edges of 0.01 to 1 mm"),
        (["locate", "FILM", "--laterality", "left"], "--laterality 'left' is neither L nor R"),
        (["locate", "EMPTY"], "no film in this folder; it is empty"),
        (["locate", "gone.pgm"], "gone.pgm: no such file or folder"),
        (["locate", "FILM", "--out-of-fold", "-w", "EMPTY"], "params.yaml is missing"),
        (["locate", "FILM", "--out-of-fold", "--model", "mammo-classifier@champion"], "finds no lesions"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_loaded(
    words: list[str], reason: str, film: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"FILM": str(film), "EMPTY": str(tmp_path / "empty")}
    code, told = ask(*[places.get(word, word) for word in words], "--out", tmp_path / "out")
    assert (code, reason in told) == (1, True), told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["locate", "classify"])
def test_help_teaches_with_examples(command: str) -> None:
    code, told = ask(command, "--help")
    assert code == 0
    assert f"mammo-ml {command} film.pgm" in told
    assert "Research use only" in told


@pytest.mark.slow
def test_only_a_champion_of_the_registry_answers_and_a_film_it_learned_from_is_marked(
    film: Path, bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"dataset": "mini_mias"}), encoding="utf-8")
    words = ("locate", film, "--out", tmp_path / "out", "-w", tmp_path)
    code, told = ask(*words)
    assert (code, "neither mammo-locator nor mammo-detector has a champion" in told) == (1, True)
    name = registry.NAMES["detector"]
    registry.register(bundles["detector"], name, METRICS["detector"], tmp_path, leak_free=True, data_valid=True)
    assert (ask(*words)[0], "champion" in ask(*words)[1]) == (1, True)
    assert registry.promote(name, tmp_path, GateParameters(seconds_per_film=600)).allowed
    code, told = ask(*words)
    assert code == 0, told
    answer = json.loads((tmp_path / "out" / "a.pgm.json").read_text())
    content = read_bundle(bundles["detector"]).content_sha256
    assert (answer["model"]["version"], answer["model"]["content_sha256"]) == (1, content)
