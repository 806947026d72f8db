"""Film after film: resumed, never stopped by a bad one, nothing half-written."""

import csv
import io
import json
from dataclasses import replace

import filelock
import numpy as np
import pytest
from PIL import Image

from mammo_ml.answering import film_run
from mammo_ml.answering.film_answers import Told, read_answer
from mammo_ml.answering.film_files import find_films
from mammo_ml.answering.film_models import OneModel
from mammo_ml.answering.film_reading import read_for_answer
from mammo_ml.answering.film_run import FORMATS, FilmRun
from mammo_ml.answering.tables import answers_coco, answers_csv
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.readers import read_film
from mammo_ml.locator_bundle import locator_of, open_bundle
from mammo_ml.manifest import file_sha256
from tests.imaging.dicom_files import PLANTED

TOLD = Told(spacing_mm=0.2, laterality="R")


def _run(model, films, out, told=TOLD, formats=FORMATS, again=False):
    run = FilmRun(OneModel(model), read_for_answer, told, frozenset(formats), again)
    return run.answer_films(find_films([films], out).films, out)


@pytest.fixture(scope="module")
def first(films, locator, tmp_path_factory):
    """Folder and report of a run over the three films, with every format. Only to be read."""
    out = tmp_path_factory.mktemp("first")
    return out, _run(locator, films, out)


def test_one_picture_as_pgm_png_and_dicom_gets_one_answer_in_every_form(first, films):
    out, report = first
    assert (report.failed, report.kept, report.without_report) == ({}, 0, 2)
    names = ["a.pgm", "deep/b.png", "deep/c.dcm"]
    assert [answer.film.file for answer in report.answers] == names
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    expected = [f"{name}{ending}" for name in names for ending in (".json", ".overlay.png")]
    assert written == sorted([".lock", "answers.csv", "answers.coco.json", "deep/c.dcm.sr.dcm", *expected])
    found = [answer.findings for answer in report.answers]
    assert found[0] == found[1] == found[2]
    assert found[0].boxes
    assert found[0].n_searched == found[0].n_tiles  # its threshold is 0
    told = [(a.film.pixel_spacing_from, a.film.laterality, a.film.view) for a in report.answers]
    assert told == [("--spacing", "R", None), ("--spacing", "R", None), ("the file", "L", "MLO")]


def test_the_answer_is_what_the_locator_says_of_the_film(first, films, bundles):
    film = read_film(films / "a.pgm")
    located = locator_of(open_bundle(bundles / "locator")).locate(type(film)(film.pixels, film.max_value, 0.2))
    answer = read_answer(first[0] / "a.pgm.json")
    assert answer.findings.p_abnormal == pytest.approx(located.p_abnormal, abs=1e-5)
    columns = ["x1", "y1", "x2", "y2", "score"]
    told = np.array([[getattr(box, name) for name in columns] for box in answer.findings.boxes])
    np.testing.assert_allclose(told[:, :4], located.boxes[columns[:4]], atol=0.051)
    np.testing.assert_allclose(told[:, 4], located.boxes["score"], atol=1e-5)


def test_every_output_says_research_use_only_and_what_the_scores_are_calibrated_on(first):
    out, _ = first
    content = json.loads((out / "a.pgm.json").read_text())
    assert content["notice"].startswith("Research use only")
    assert "calibrated on films of mini_mias" in content["scores"]
    assert "Research use only" in json.loads((out / "answers.coco.json").read_text())["info"]["description"]
    assert all(row["notice"].startswith("Research") for row in csv.DictReader((out / "answers.csv").open()))
    with Image.open(out / "a.pgm.overlay.png") as picture:
        assert "Research use only" in picture.info["Description"]


def test_csv_and_coco_hold_every_box_of_the_json(first):
    out, report = first
    rows = list(csv.DictReader((out / "answers.csv").open()))
    coco = json.loads((out / "answers.coco.json").read_text())
    boxes = [(answer.film.file, box) for answer in report.answers for box in answer.findings.boxes]
    assert [(row["file"], float(row["x1"]), float(row["score"])) for row in rows] == [
        (name, box.x1, box.score) for name, box in boxes
    ]
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    for entry, (name, box) in zip(coco["annotations"], boxes, strict=True):
        x, y, width, height = entry["bbox"]
        assert (names[entry["image_id"]], entry["score"]) == (name, box.score)
        np.testing.assert_allclose([x, y, x + width, y + height], [box.x1, box.y1, box.x2, box.y2], atol=1e-6)


def test_the_overlay_is_the_film_with_marks_on_boxes_alone(first, films, phantom):
    shown = np.asarray(Image.open(first[0] / "deep" / "b.png.overlay.png"))
    height, width = phantom.shape
    assert (shown.shape[1], shown.shape[0] > height) == (width, True)  # the caption stands below, not on the film
    box = read_answer(first[0] / "deep" / "b.png.json").findings.boxes[0]
    x1, y1 = max(0, round(box.x1)), max(0, round(box.y1))
    assert tuple(shown[min(y1 + 30, height - 1), x1 + 1]) == (0xFF, 0x8C, 0x1A)
    unmarked = np.all(shown[:height] == phantom[..., None], axis=2)
    assert unmarked.mean() > 0.9


def test_nothing_of_a_patients_name_is_in_any_output(first):
    assert not [path for path in first[0].rglob("*") if path.is_file() and PLANTED.encode() in path.read_bytes()]


def test_a_second_run_looks_at_nothing_again_and_leaves_the_same_bytes(films, locator, tmp_path):
    def never(film, name):
        raise AssertionError("looked again")

    _run(locator, films, tmp_path, formats=["json", "csv"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    report = _run(replace(locator, look=never), films, tmp_path, formats=["json", "csv"])
    assert (report.kept, report.failed) == (3, {})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    # what the first run was not asked for is made without looking again
    report = _run(replace(locator, look=never), films, tmp_path, formats=["json", "overlay", "sr"])
    assert (report.kept, report.failed) == (3, {})
    assert (tmp_path / "deep" / "c.dcm.sr.dcm").exists()


def test_another_model_version_another_file_or_another_word_of_the_user_is_looked_at_anew(films, locator, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    picture = folder / "a.pgm"
    picture.write_bytes((films / "a.pgm").read_bytes())
    out = tmp_path / "out"
    looked = []

    def look(film, name):
        looked.append(name)
        return kept

    kept = locator.look(read_for_answer(picture, "a.pgm", TOLD).film, "a.pgm")
    quick = replace(locator, look=look)
    _run(quick, folder, out)
    newer = replace(quick, facts=quick.facts.model_copy(update={"version": 8}))
    _run(newer, folder, out)
    _run(newer, folder, out, told=Told())
    _run(newer, folder, out, told=Told(), again=True)
    picture.write_bytes(picture.read_bytes()[:-1] + b"\x00")
    _run(newer, folder, out, told=Told())
    assert len(looked) == 4 + (file_sha256(picture) != file_sha256(films / "a.pgm"))
    # of an earlier answer nothing is left that the new one was not asked for
    _run(quick, folder, out, told=Told(), formats=["json"])
    assert not (out / "a.pgm.overlay.png").exists()


def test_bad_files_are_told_with_reason_and_remedy_and_stop_nothing(films, locator, phantom, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "good.pgm").write_bytes((films / "a.pgm").read_bytes())
    (folder / "cut.pgm").write_bytes((films / "a.pgm").read_bytes()[:5000])
    (folder / "no_spacing.png").write_bytes((films / "deep" / "b.png").read_bytes())
    (folder / "video.dcm").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(100))
    Image.fromarray(np.zeros((600, 500), np.uint8)).save(folder / "black.tif")
    colours = np.random.default_rng(1).integers(0, 255, (600, 500, 3), dtype=np.uint8)
    Image.fromarray(colours).save(folder / "photo.png")
    (folder / "dangling.pgm").symlink_to(tmp_path / "gone")

    def look(film, name):
        if film.pixels.shape == phantom.shape and name == "good.pgm":
            return locator.look(film, name)
        raise RuntimeError("Erika Mustermann")

    out = tmp_path / "out"
    report = _run(replace(locator, look=look), folder, out, told=Told(), formats=["json", "overlay"])
    assert [answer.film.file for answer in report.answers] == ["good.pgm"]
    reasons = {name: text.replace("\n", " ") for name, text in report.failed.items()}
    assert set(reasons) == {"cut.pgm", "no_spacing.png", "video.dcm", "black.tif", "photo.png", "dangling.pgm"}
    assert "missing" in reasons["cut.pgm"]
    assert "does not say" in reasons["no_spacing.png"]
    assert "--spacing 0.05" in reasons["no_spacing.png"]
    assert "an MP4 or QuickTime video" in reasons["video.dcm"]
    assert "colour" in reasons["photo.png"]
    assert "cannot be read: No such file" in reasons["dangling.pgm"]
    assert sorted(path.name for path in out.iterdir()) == [".lock", "good.pgm.json", "good.pgm.overlay.png"]
    black = _run(replace(locator, look=look), folder, out, formats=["json"]).failed["black.tif"]
    assert "looks like no mammogram" in black


def test_names_that_no_answer_can_be_called_after_stop_nothing_and_do_not_steer_the_terminal(films, locator, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for name in (b"a" * 240 + b".pgm", b"\xff.pgm", b"\x1b[2J.pgm"):
        with open(bytes(folder) + b"/" + name, "wb") as file:  # noqa: PTH123
            file.write(b"P5\n")
    (folder / "good.pgm").symlink_to(films / "a.pgm")
    report = _run(locator, folder, tmp_path / "out", formats=["json"])
    assert [answer.film.file for answer in report.answers] == ["good.pgm"]
    assert {name for name in report.failed if len(name) < 20} == {"\\udcff.pgm", "\\x1b[2J.pgm"}
    reasons = " ".join(report.failed.values())
    assert "longer than 235 bytes" in reasons
    assert "no valid text" in reasons
    assert "\x1b" not in reasons


def test_an_unforeseen_error_is_told_by_its_type_for_its_text_may_quote_a_header(films, locator, tmp_path):
    def look(film, name):
        raise RuntimeError(PLANTED)

    report = _run(replace(locator, look=look), films / "deep" / "c.dcm", tmp_path)
    assert "RuntimeError" in report.failed["c.dcm"]
    assert PLANTED not in report.failed["c.dcm"]


def test_a_film_of_the_training_manifest_is_answered_with_a_warning(films, locator, tmp_path):
    seen = replace(locator, learned_from=frozenset({file_sha256(films / "a.pgm")}))
    _run(seen, films / "a.pgm", tmp_path, formats=["json", "overlay"])
    answer = read_answer(tmp_path / "a.pgm.json")
    assert answer.seen_in_training
    assert answer.warnings[0].startswith("SEEN IN TRAINING")


def test_a_run_that_ends_while_it_writes_leaves_no_answer_and_the_next_one_makes_it(
    films, locator, tmp_path, monkeypatch
):
    def full(path, content):
        if path.name.endswith(".overlay.png"):
            raise OSError(28, "No space left on device")
        whole(path, content)

    whole = film_run.write_whole
    monkeypatch.setattr(film_run, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        _run(locator, films / "a.pgm", tmp_path, formats=["json", "overlay"])
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    monkeypatch.setattr(film_run, "write_whole", whole)
    (tmp_path / "a.pgm.json").write_text('{"schema": "mammo-ml/film-answer/1", ')  # torn by another program
    assert _run(locator, films / "a.pgm", tmp_path, formats=["json"]).kept == 0


def test_a_folder_that_cannot_be_written_or_is_being_written_to_is_refused(films, locator, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BadInputError, match="cannot write to"):
        _run(locator, films / "a.pgm", tmp_path / "file" / "out")
    (tmp_path / "out").mkdir()
    with (
        filelock.FileLock(tmp_path / "out" / film_run.LOCK),
        pytest.raises(BadInputError, match="another run writes to"),
    ):
        _run(locator, films / "a.pgm", tmp_path / "out")


def test_a_film_without_a_box_has_a_row_and_an_image_of_its_own(first):
    answer = first[1].answers[0]
    empty = answer.model_copy(update={"findings": answer.findings.model_copy(update={"boxes": []})})
    (row,) = csv.DictReader(io.StringIO(answers_csv([empty]).decode()))
    assert (row["file"], row["box"], row["x1"]) == ("a.pgm", "0", "")
    coco = json.loads(answers_coco([empty]))
    assert (len(coco["images"]), coco["annotations"]) == (1, [])
