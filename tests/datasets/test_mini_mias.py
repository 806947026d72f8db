"""The two tables of mini-MIAS, on a folder of small films; the real films are in tests/faults/test_ingest_bars.py."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from mammo_ml.datasets import catalog
from mammo_ml.datasets.mini_mias import (
    account,
    build_tables,
    centre_from_info,
    chest_wall_of,
    laterality_of,
    number_of,
    patient_of,
)
from mammo_ml.datasets.mini_mias_info import parse_info
from mammo_ml.errors import BadInputError

INFO = """\
mdb001 G CIRC B 535 425 197
mdb002 G NORM
mdb003 D CALC M *NOTE 3*
mdb004 D MISC B 233 994 29
mdb004 D MISC M 313 540 27
mdb212 G CALC B 687 882 3
"""
FILMS = ("mdb001", "mdb002", "mdb003", "mdb004", "mdb212")
BREASTS = dict.fromkeys(FILMS, (10.0, 20.0, 500.0, 1000.0))


def make_folder(folder, info=INFO, films=FILMS):
    for film_id in films:
        (folder / f"{film_id}.pgm").write_bytes(film_id.encode())
    (folder / "Info.txt").write_text(info)
    return folder


def refusal(folder) -> BadInputError:
    with pytest.raises(BadInputError) as caught:
        build_tables(folder, "mini_mias", BREASTS)
    return caught.value


def test_odd_films_are_left_breasts_and_two_films_are_one_woman():
    assert [laterality_of(f"mdb{n:03d}") for n in (1, 2, 151, 322)] == ["L", "R", "L", "R"]
    assert [patient_of(f"mdb{n:03d}") for n in (1, 2, 3, 321, 322)] == ["p001", "p001", "p002", "p161", "p161"]


@pytest.mark.parametrize("name", ["mdb1", "mdb0001", "mdb001 ", "film", "mdb001\n"])
def test_another_name_is_no_film(name):
    with pytest.raises(ValueError, match="is no film of mini-MIAS"):
        number_of(name)


def test_the_origin_is_turned_from_the_bottom_left_to_the_top_left():
    # the bottom left pixel's centre is half a pixel from the left and the bottom edge
    assert centre_from_info(0, 0) == (0.5, 1023.5)
    assert centre_from_info(0, 1023) == (0.5, 0.5)
    # the first row of film 144: the disc of radius 29 just touches the top of the film
    assert centre_from_info(233, 994) == (233.5, 29.5)
    # a film that is not square: only the height counts
    assert centre_from_info(100, 10, height_px=300) == (100.5, 289.5)


def test_every_film_and_every_lesion_is_a_row_of_the_schema(tmp_path):
    films, lesions = build_tables(make_folder(tmp_path), "mini_mias", BREASTS)
    assert list(films.columns) == catalog.names(catalog.FILMS)
    assert list(lesions.columns) == catalog.names(catalog.LESIONS)
    assert list(films["film_id"]) == list(FILMS)
    assert list(films["label"]) == ["benign", "normal", "malignant", "malignant", "benign"]
    assert list(films["laterality"]) == ["L", "R", "L", "R", "R"]
    assert list(films["density"]) == ["G", "G", "D", "D", "G"]
    assert list(films["patient_id"]) == ["p001", "p001", "p002", "p002", "p106"]
    assert films["sha256"][0] == hashlib.sha256(b"mdb001").hexdigest()
    assert list(films.loc[0, catalog.BREAST_COLUMNS]) == [10.0, 20.0, 500.0, 1000.0]
    assert list(lesions["source"]) == ["Info.txt:1", "Info.txt:3", "Info.txt:4", "Info.txt:5", "Info.txt:6"]
    assert list(lesions["lesion_id"]) == ["mdb001_1", "mdb003_1", "mdb004_1", "mdb004_2", "mdb212_1"]


def test_tables_written_and_read_are_the_same(tmp_path):
    films, lesions = build_tables(make_folder(tmp_path), "mini_mias", BREASTS)
    for name, table, columns in (("films", films, catalog.FILMS), ("lesions", lesions, catalog.LESIONS)):
        catalog.write_table(table, tmp_path / f"{name}.csv")
        pd.testing.assert_frame_equal(catalog.read_table(tmp_path / f"{name}.csv", columns), table)


def test_boxes_enclose_their_circles_and_stay_on_the_film(tmp_path):
    _, lesions = build_tables(make_folder(tmp_path), "mini_mias", BREASTS)
    boxes = lesions.set_index("lesion_id")[catalog.BOX_COLUMNS]
    # mdb001: x 535.5, y 1023.5 - 425 = 598.5, radius 197
    np.testing.assert_array_equal(boxes.loc["mdb001_1"], [338.5, 401.5, 732.5, 795.5])
    np.testing.assert_array_equal(boxes.loc["mdb004_1"], [204.5, 0.5, 262.5, 58.5])
    clipped = make_folder(tmp_path, "mdb001 G CIRC B 5 1020 30\n" + "\n".join(INFO.splitlines()[1:]))
    _, lesions = build_tables(clipped, "mini_mias", BREASTS)
    np.testing.assert_array_equal(lesions.loc[0, catalog.BOX_COLUMNS].astype(float), [0, 0, 35.5, 33.5])
    assert (lesions["x_px"][0], lesions["y_px"][0], lesions["radius_px"][0]) == (5.5, 3.5, 30)


def test_a_lesion_without_location_keeps_its_label_and_has_no_box(tmp_path):
    _, lesions = build_tables(make_folder(tmp_path), "mini_mias", BREASTS)
    unlocated = lesions[~lesions["has_location"]]
    assert list(unlocated["film_id"]) == ["mdb003", "mdb212"]
    assert unlocated[["x_px", "y_px", "radius_px", *catalog.BOX_COLUMNS]].isna().all(axis=None)
    assert list(unlocated["severity"]) == ["malignant", "benign"]


def test_only_mini_mias_own_invented_locations_are_ignored(tmp_path):
    make_folder(tmp_path)
    _, phantoms = build_tables(tmp_path, "phantom", BREASTS)
    assert phantoms.set_index("film_id").loc["mdb212", "has_location"]
    info = INFO.replace("687 882 3", "500 500 30")
    _, other = build_tables(make_folder(tmp_path, info), "mini_mias", BREASTS)
    assert other.set_index("film_id").loc["mdb212", "has_location"]


def test_every_row_is_accounted_for_in_words():
    accounts = account(parse_info(INFO))
    assert [fate for _, fate, _ in accounts] == ["kept"] * 5 + ["ignored"]
    assert [why.split(";")[0] for _, _, why in accounts] == [
        "label and location",
        "a normal film",
        "label",
        "label and location",
        "label and location",
        "location off the breast and absent from MIAS v1.21",
    ]
    assert account(parse_info(INFO), "phantom")[-1][1] == "kept"


def test_a_data_set_of_normal_films_only_has_an_empty_lesions_table(tmp_path):
    folder = make_folder(tmp_path, "mdb001 G NORM\nmdb002 G NORM\n", FILMS[:2])
    films, lesions = build_tables(folder, "mini_mias", BREASTS)
    assert list(films["label"]) == ["normal", "normal"]
    assert list(lesions.columns) == catalog.names(catalog.LESIONS)
    assert len(lesions) == 0
    assert lesions["has_location"].dtype == bool


def test_bad_rows_and_films_that_do_not_match_are_told_in_one_error(tmp_path):
    info = INFO.replace("CIRC B 535", "CRIC B 535") + "mdb005 D NORM\n"
    error = refusal(make_folder(tmp_path, info, (*FILMS, "mdb006")))
    # mdb001's film has a row, a bad one: it is named once
    assert error.problems == [
        "line 1: class 'CRIC' is not one of NORM CALC CIRC SPIC MISC ARCH ASYM: 'mdb001 G CRIC B 535 425 197'",
        "line 7: mdb005 has a row but no film mdb005.pgm",
        "film mdb006.pgm has no row in Info.txt",
    ]
    assert str(tmp_path / "Info.txt") in str(error)


def test_a_missing_info_is_named(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "Info.txt").unlink()
    assert f"{tmp_path / 'Info.txt'}: 1 problem\n  - no such file" in str(refusal(tmp_path))


def test_a_byte_that_is_no_text_is_passed_in_the_prose_and_named_in_a_row(tmp_path):
    folder = make_folder(tmp_path)
    (folder / "Info.txt").write_bytes(b"Supported by the Universit\xe9\n" + INFO.encode())
    assert len(build_tables(folder, "mini_mias", BREASTS)[0]) == 5
    (folder / "Info.txt").write_bytes(INFO.encode().replace(b"425", b"4\xe95"))
    (problem,) = refusal(folder).problems
    assert problem.startswith("line 1: x, y and radius are whole numbers")


def test_a_left_breast_has_its_chest_wall_on_the_right_of_the_mirrored_film():
    assert [chest_wall_of(film_id) for film_id in ("mdb001", "mdb002")] == ["right", "left"]
