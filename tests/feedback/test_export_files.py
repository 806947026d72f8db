"""Files that are no export of the page: told by what is wrong, never unpacked to disk, never believed."""

import zipfile
from pathlib import Path

import pytest

from mammo_ml.feedback import export as module
from mammo_ml.feedback.export import EXPORTED, read_export
from tests.feedback.exports import COLUMNS, coco, film, lesion, rejected, tables, write_coco, write_zip

GOOD = tables([film()], [lesion()], [rejected()])


def problems(path: Path) -> str:
    return "\n".join(read_export(path).problems)


def test_our_columns_are_those_the_page_writes() -> None:
    assert {f"{name}.csv": [column.name for column in columns] for name, columns in EXPORTED.items()} == COLUMNS


def test_a_good_file_has_no_problems(tmp_path: Path) -> None:
    assert problems(write_zip(tmp_path / "a.zip", GOOD)) == ""
    assert problems(write_coco(tmp_path / "a.json", coco())) == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"../../etc/passwd": "x"}, "holds foreign members '../../etc/passwd'; a ZIP of corrections holds films.csv"),
        ({"films.csv": b"\xff\xfe"}, "films.csv is no text in UTF-8"),
        ({"films.csv": ""}, "films.csv: columns are not those of the page's export: missing"),
        ({"films.csv": GOOD["films.csv"].replace("author", "patient_name")}, "foreign ['patient_name']"),
        ({"lesions.csv": GOOD["lesions.csv"] + "a,b\n"}, "lesions.csv line 3: 2 values for 18 columns"),
        ({"lesions.csv": GOOD["lesions.csv"] + '"a\n'}, "no CSV: unexpected end of data"),
        ({"films.csv": GOOD["films.csv"].replace("800", "8e2")}, "line 2: width_px '8e2' is not a whole number"),
        ({"films.csv": GOOD["films.csv"].replace("0.2,Roe", ",Roe").replace(',0.2,"Roe', ',,"Roe')},
         "line 2: threshold is empty"),
        ({"lesions.csv": GOOD["lesions.csv"].replace("100", "nan")}, "line 2: x1 'nan' is not a number"),
        ({"lesions.csv": GOOD["lesions.csv"].replace("True", "yes")}, "has_location 'yes' is not True or False"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_zip_is_told(tmp_path: Path, change: dict, told: str) -> None:
    assert told in problems(write_zip(tmp_path / "a.zip", GOOD | change))


def test_a_broken_incomplete_or_huge_zip_is_told_and_never_fully_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_zip(tmp_path / "whole.zip", GOOD).read_bytes()
    (tmp_path / "torn.zip").write_bytes(whole[: len(whole) // 2])
    assert "is no ZIP as the page writes it, or broken" in problems(tmp_path / "torn.zip")
    flipped = bytearray(whole)
    flipped[60] ^= 0xFF
    (tmp_path / "flipped.zip").write_bytes(flipped)
    assert "broken" in problems(tmp_path / "flipped.zip")
    del_one = {name: text for name, text in GOOD.items() if name != "films.csv"}
    assert "films.csv is missing" in problems(write_zip(tmp_path / "b.zip", del_one))
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("films.csv", "")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("films.csv", "")
    assert "holds a member twice" in problems(tmp_path / "twice.zip")
    bomb = write_zip(tmp_path / "bomb.zip", GOOD | {"films.csv": b"a" * (module.MAX_BYTES + 2)})
    assert bomb.stat().st_size < 100_000
    assert "films.csv unpacks to more than 16777216 bytes" in problems(bomb)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    assert "bytes are more than the 100 that corrections may have" in problems(tmp_path / "whole.zip")
    assert "cannot be read: No such file" in problems(tmp_path / "none.zip")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"images": 3}, "is no COCO file as the page writes it"),
        ({"info": {}}, "info.source is None, not 'feedback': no export of corrections"),
        (
            {"annotations": [coco()["annotations"][0] | {"image_id": 9}]},
            "annotation 1: image_id 9 is none of",
        ),
        ({"annotations": [coco()["annotations"][0] | {"image_id": [9]}]}, "annotation 1: image_id [9] is none"),
        ({"annotations": [coco()["annotations"][0] | {"bbox": [1, 2, 3]}]}, "annotation 1: bbox [1, 2, 3] is not four"),
        ({"images": coco()["images"] * 2}, "images have an id twice"),
        ({"images": [coco()["images"][0] | {"width": {}}]}, "image 1: width_px '{}' is not a whole number"),
    ],
)
def test_what_is_wrong_with_coco_is_told(tmp_path: Path, change: dict, told: str) -> None:
    assert told in problems(write_coco(tmp_path / "a.json", coco() | change))


def test_json_that_is_none_or_holds_no_numbers_is_told(tmp_path: Path) -> None:
    for text in ("{", "[" * 100_000, '{"info": NaN}', "7"):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        assert "a.json: is no COCO file as the page writes it" in problems(tmp_path / "a.json")
