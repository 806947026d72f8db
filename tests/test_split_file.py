"""A split file is read as meant, or refused with every fault named at once."""

import numpy as np
import pytest
from PIL import Image

from mammo_ml.datasets.catalog import FILMS, names
from mammo_ml.errors import BadInputError
from mammo_ml.split_file import TEMPLATE, mini_mias_film, read_split

GOOD = "item,role\na,train\nb,train\nc,test\nd,test\n"


def _file(folder, text, name="split.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _problems(folder, text, **options):
    with pytest.raises(BadInputError) as caught:
        read_split(_file(folder, text), **options)
    return caught.value.problems


def _pictures(folder, *file_names):
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(file_names):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("name", "film"),
    [
        ("mdb001.pgm", "mdb001"),
        ("mdb322_rot90.png", "mdb322"),
        ("benign/mdb015-3.jpg", "mdb015"),
        ("MDB007l.png", "mdb007"),
        ("mdb323.png", "mdb323"),
        ("mdb0011.png", None),
        ("my_mdb001.png", None),
        (None, None),
    ],
)
def test_a_mini_mias_film_is_told_from_the_start_of_a_name(name, film):
    assert mini_mias_film(name) == film


def test_women_of_mini_mias_follow_from_the_films_number(tmp_path):
    rows = "item,role\nmdb001_rot90.png,train\nmdb003.png,train\nmdb002.png,test\nother.png,test\n"
    split = read_split(_file(tmp_path, rows))
    assert list(split.items["patient_id"].fillna("?")) == ["p001", "p002", "p001", "?"]
    assert list(split.items["film_id"].fillna("?")) == ["mdb001", "mdb003", "mdb002", "?"]
    assert "women of 3 items follow from the film's number" in split.notes[0]
    assert not split.has_pictures


def test_other_names_say_nothing_of_women(tmp_path):
    split = read_split(_file(tmp_path, GOOD))
    assert split.items[["patient_id", "film_id"]].isna().all(axis=None)
    assert split.notes == ()


def test_folds_are_roles(tmp_path):
    rows = "film_id,fold\nx1,0\nx2,0\nx3,1\nx4,1\n"
    split = read_split(_file(tmp_path, rows))
    assert list(split.items["role"]) == ["fold 0", "fold 0", "fold 1", "fold 1"]
    assert list(split.items["film_id"]) == list(split.items["item"]) == ["x1", "x2", "x3", "x4"]


def test_columns_that_are_not_read_are_said(tmp_path):
    split = read_split(_file(tmp_path, "item,role,patient,width\na,train,x,1\nb,train,x,1\nc,test,x,1\nd,test,x,1\n"))
    assert split.notes == ("columns not read: patient, width",)
    assert not split.has_record


def test_films_that_mini_mias_does_not_have_are_named(tmp_path):
    rows = "item,role\nmdb000.png,train\nmdb003.png,train\nmdb323_rot90.png,test\nother.png,test\n"
    assert _problems(tmp_path, rows) == [
        "line 2: film 'mdb000' is none of mini-MIAS's mdb001 to mdb322",
        "line 4: film 'mdb323' is none of mini-MIAS's mdb001 to mdb322",
    ]


def test_two_files_are_two_sides(tmp_path):
    first = _file(tmp_path, "item\na\nb\n", "train.csv")
    split = read_split(first, against=_file(tmp_path, "item\nb\nc\n", "test.csv"))
    assert list(split.items["role"]) == [str(first)] * 2 + [str(tmp_path / "test.csv")] * 2
    with pytest.raises(BadInputError, match=r"column 'role': with --against each file is one side"):
        read_split(first, against=_file(tmp_path, GOOD, "other.csv"))


def _catalog(folder, women):
    """A catalog of these films and their women; every other film is benign."""
    rows = [
        dict.fromkeys(names(FILMS), "1") | {"film_id": film, "patient_id": women[film], "label": label}
        for film, label in zip(women, ["normal", "benign"] * 2, strict=False)
    ]
    lines = [",".join(row.values()) for row in rows]
    return _file(folder, "\n".join([",".join(names(FILMS)), *lines]) + "\n", "films.csv")


def test_a_catalog_tells_the_women(tmp_path):
    catalog = _catalog(tmp_path, dict.fromkeys("abc", "anna"))
    split = read_split(_file(tmp_path, GOOD.replace("d,", "a.png,")), catalog=catalog)
    assert set(split.items["patient_id"]) == {"anna"}
    assert _problems(tmp_path, GOOD, catalog=catalog) == ["line 5: film 'd' is not in the catalog"]


def test_rows_that_are_women_stand_for_their_films(tmp_path):
    catalog = _catalog(tmp_path, {"a": "anna", "b": "anna", "c": "clara", "d": "clara"})
    rows = "patient_id,fold,role_0\nanna,0,test\nclara,1,train\n"
    split = read_split(_file(tmp_path, rows), catalog=catalog)
    assert list(split.items["item"]) == ["a", "b", "c", "d"]
    assert list(split.items["role"]) == ["fold 0"] * 2 + ["fold 1"] * 2
    problems = _problems(tmp_path, rows + "dora,1,train\n", catalog=catalog)
    assert problems[0] == "line 4: the catalog has no film of woman 'dora'"


def test_pictures_are_found_with_and_without_a_suffix_and_read_once_each(tmp_path):
    folder = _pictures(tmp_path / "films", "a.png", "b.jpg", "c.png", "d.png")
    read = []
    split = read_split(_file(tmp_path, GOOD.replace("a,", "a.png,")), films=folder, progress=read.append)
    assert [path.name for path in split.items["path"]] == ["a.png", "b.jpg", "c.png", "d.png"]
    assert set(split.items["height_px"]) == {40}
    assert split.items["pixel_key"].nunique() == len(read) == 4


def test_every_fault_of_rows_and_pictures_is_named_in_one_run(tmp_path):
    folder = _pictures(tmp_path / "films", "a.png", "b.png", "c.png")
    (folder / "bad.png").write_bytes((folder / "a.png").read_bytes()[:200])
    rows = (
        "item,role,label\na,train,benign\nb,train,benign\nb,train,benign\nbad.png,test,benign\ngone,test,\n"
        ",test,normal\nc,,normal\nc,val,normal,more\n"
    )
    *table, unreadable, missing = _problems(tmp_path, rows, films=folder)
    assert table == [
        "line 9: not as many fields as the header has, 3",
        "line 8: role or fold is empty",
        "line 7: item is empty",
        "b is there 2 times as train: line 3, line 4",
        "val has one item: c",
        "line 6: label is empty",
        "train has one class only: benign (3 items)",
    ]
    assert unreadable.startswith("line 5: bad.png: cut off: expected")
    assert missing == f"line 6: no picture 'gone' in {folder}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("item\na\nb\n", "one column 'role' (train, test …) or 'fold' (a number) is needed; neither is there"),
        ("item,role,fold\na,train,0\n", "one column 'role' (train, test …) or 'fold' (a number) is needed; both"),
        ("role\ntrain\n", "column 'item' (a picture file) or 'film_id' is missing"),
        ("item,role,role\na,b,c\n", "column 'role' is there twice"),
        ("patient_id,fold\np001,0\np003,1\n", "their films are not known: give --catalog films.csv"),
        ("item,role\n", "it lists no item"),
        ("item,role\na,train\nb,train\n", "every item is train: there is nothing to compare it with"),
        ("item,role\n\x00\xff", "not a CSV file"),
    ],
)
def test_a_file_that_is_no_split_is_refused(tmp_path, text, problem):
    path = tmp_path / "split.csv"
    path.write_bytes(text.encode("latin-1" if "\xff" in text else "utf-8"))
    with pytest.raises(BadInputError) as caught:
        read_split(path)
    assert any(found.startswith(problem) for found in caught.value.problems)


def test_women_that_the_file_keeps_apart_against_the_film_numbers_are_named(tmp_path):
    rows = "item,role,patient_id\nmdb001.png,train,a\nmdb005.png,train,c\nmdb002.png,test,b\nmdb009.png,test,d\n"
    assert _problems(tmp_path, rows) == [
        "patient_id: mdb001.png and mdb002.png are of one woman (p001), the file says 'a' and 'b'"
    ]


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(BadInputError, match="no such file"):
        read_split(tmp_path / "none.csv")
    assert _problems(tmp_path, GOOD, films=tmp_path / "none") == [f"--films {tmp_path / 'none'}: no such folder"]


def test_the_template_is_a_split(tmp_path):
    found = read_split(_file(tmp_path, TEMPLATE))
    assert set(found.items["role"]) == {"train", "test"}
