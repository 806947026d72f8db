"""Which files are taken for films, and what is said of those that are not."""

import pytest

from mammo_ml.answering.film_files import find_films
from mammo_ml.errors import BadInputError

PGM = b"P5\n1 1\n255\n\x00"


def _write(folder, *names, content=PGM):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_a_folder_is_searched_to_its_depths_and_answers_are_called_after_the_way_to_each_film(tmp_path):
    _write(tmp_path, "b.pgm", "deep/er/a.pgm", ".hidden/c.pgm", "1.2.840.7")
    _write(tmp_path, "DICOM/I0001", content=bytes(128) + b"DICM")
    _write(tmp_path, "DICOMDIR", content=bytes(128) + b"DICM")
    _write(tmp_path, "Info.txt", content=b"about the films")
    _write(tmp_path, "torn.dcm", content=b"")
    found = find_films([tmp_path], tmp_path / "out")
    assert [film.name for film in found.films] == ["1.2.840.7", "DICOM/I0001", "b.pgm", "deep/er/a.pgm", "torn.dcm"]
    assert found.passed_over_line() == "Passed over, no film by name or first bytes: DICOMDIR, Info.txt."


def test_earlier_answers_within_the_folder_are_not_taken_for_films(tmp_path):
    _write(tmp_path, "a.pgm", "a.pgm.overlay.png", "a.pgm.sr.dcm", "out/b.pgm")
    assert [film.name for film in find_films([tmp_path], tmp_path / "out").films] == ["a.pgm"]
    with pytest.raises(BadInputError, match="the answers would be written among the films"):
        find_films([tmp_path], tmp_path)


def test_a_film_given_twice_is_answered_once(tmp_path):
    _write(tmp_path, "a.pgm")
    found = find_films([tmp_path / "a.pgm", tmp_path, tmp_path / "a.pgm"], tmp_path / "out")
    assert [film.name for film in found.films] == ["a.pgm"]


def test_what_does_not_exist_and_folders_without_a_film_are_named_together(tmp_path):
    (tmp_path / "empty").mkdir()
    _write(tmp_path, "texts/notes.txt", content=b"words")
    with pytest.raises(BadInputError) as caught:
        find_films([tmp_path / name for name in ("empty", "texts", "gone.pgm")], tmp_path / "out")
    assert caught.value.problems == [
        f"{tmp_path}/empty: no film in this folder; it is empty",
        f"{tmp_path}/texts: no film in this folder; it holds notes.txt",
        f"{tmp_path}/gone.pgm: no such file or folder",
    ]
    assert "PGM, PNG, TIFF, JPEG or DICOM" in str(caught.value)


def test_films_of_one_name_in_two_folders_are_refused_with_the_folder_to_give_instead(tmp_path):
    _write(tmp_path, "one/a.pgm", "other/a.pgm")
    with pytest.raises(BadInputError) as caught:
        find_films([tmp_path / "one", tmp_path / "other" / "a.pgm"], tmp_path / "out")
    assert caught.value.problems == [f"a.pgm is in {tmp_path}/one and in {tmp_path}/other"]
    assert f"Give the folder above them ({tmp_path})" in str(caught.value)
    found = find_films([tmp_path], tmp_path / "out")
    assert [film.name for film in found.films] == ["one/a.pgm", "other/a.pgm"]
