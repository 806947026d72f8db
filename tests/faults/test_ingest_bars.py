"""Bars D1 to D3 and L1 to L4: damaged films and damaged rows, each with the message that a person meets."""

import io
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo_ml.data_quality import read_facts, validate
from mammo_ml.datasets import mini_mias as adapter
from mammo_ml.datasets.annotation_check import lesions_match_pixels
from mammo_ml.datasets.catalog import label_of
from mammo_ml.datasets.mini_mias import account, build_tables
from mammo_ml.datasets.mini_mias_archive import official_manifest, unpack
from mammo_ml.datasets.mini_mias_info import parse_info
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.readers import format_pgm, read_pgm

ROOT = Path(__file__).parents[2]
SUITES = ROOT / "expectations"
N_BYTES = 1_048_593
"""A film of mini-MIAS: 17 bytes of header and 1024 x 1024 of pixels."""
HEADER = b"P5\n1024 1024\n255\n"
INFO = "\n".join(f"mdb{n:03d} G NORM" for n in range(1, 11)) + "\n"


def film(number: int) -> bytes:
    return format_pgm(np.full((1024, 1024), number, np.uint8))


GOOD = {f"mdb{n:03d}": film(n) for n in range(1, 11)}
MANIFEST = {film_id: sha256(content).hexdigest() for film_id, content in GOOD.items()}


def write_archive(path: Path, changes: dict[str, bytes | None]) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in [("Info", INFO.encode()), *(GOOD | changes).items()]:
            if content is not None:
                entry = tarfile.TarInfo(f"{name}.txt" if name == "Info" else f"{name}.pgm")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def refusal(tmp_path, changes: dict[str, bytes | None]) -> BadInputError:
    """The error on an archive of ten films, some of them changed or (None) left out; nothing may be published."""
    archive = write_archive(tmp_path / "all-mias.tar.gz", changes)
    with pytest.raises(BadInputError) as caught:
        unpack(archive, tmp_path / "films", MANIFEST)
    assert [path.name for path in tmp_path.iterdir()] == ["all-mias.tar.gz"], "something was published"
    assert str(archive) in str(caught.value)
    assert "Nothing was published" in str(caught.value)
    return caught.value


def test_the_archive_that_is_broken_below_is_accepted_whole(tmp_path):
    with pytest.raises(BadInputError, match=r"1 problem\n  - mdb010\.pgm is missing"):
        raise refusal(tmp_path, {"mdb010": None})


# --- D1: cut films ----------------------------------------------------------------------------------------------------


CUT = {
    "mdb001": b"",
    "mdb002": HEADER,
    "mdb003": film(3)[: N_BYTES // 2],
    "mdb004": film(4)[:-1],
    "mdb005": film(5)[:10],
}


@pytest.mark.bar("D1")
def test_d1_every_cut_film_is_named_in_one_run_with_expected_and_actual_bytes(tmp_path, record_property):
    record_property("tried", f"films of {', '.join(f'{len(content):,}' for content in CUT.values())} bytes in one run")
    error = refusal(tmp_path, CUT)
    assert len(error.problems) == len(CUT)
    for problem, (film_id, content) in zip(error.problems, CUT.items(), strict=True):
        assert problem.startswith(f"{film_id}.pgm: expected ")
        assert "1,048,593 bytes" in problem
        assert f"{len(content):,}" in problem
    assert "found 0 bytes: the file is empty" in error.problems[0]
    assert error.problems[3].endswith("found 1,048,592: 1 missing")
    assert "5 problems" in str(error)


@pytest.mark.bar("D1")
def test_d1_the_stage_stops_with_an_exit_status_names_them_and_publishes_nothing(tmp_path, record_property):
    record_property("tried", "the same through the stage")
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    archive = write_archive(tmp_path / "all-mias.tar.gz", CUT)
    finished = subprocess.run(
        [sys.executable, "-m", "pipelines.ingest", "--films", "data/ingest"],
        cwd=tmp_path,
        env=os.environ | {"MIAS_ARCHIVE": str(archive), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert [film_id for film_id in CUT if f"  - {film_id}.pgm: expected " not in finished.stderr] == []
    assert "Traceback" not in finished.stderr
    assert not list(tmp_path.rglob("*.pgm"))


# --- D2: films that another reader takes -----------------------------------------------------------------------------

PIXELS = film(1)[17:]
D2 = {
    "trailing byte": (film(1) + b"\n", "expected 1,048,593 bytes, found 1,048,594: 1 too many"),
    "CRLF header": (b"P5\r\n1024 1024\r\n255\r\n" + PIXELS, "a header with Windows line ends"),
    "maximum of 100": (b"P5\n1024 1024\n100\n" + PIXELS, "found 'P5\\n1024 1024\\n100' and 1,048,593 bytes"),
    "P2": (b"P2\n1024 1024\n255\n" + b"1 " * 9, "a text grey map (P2) by its first bytes"),
    "P4": (b"P4\n1024 1024\n" + PIXELS[: 1 << 17], "a bitmap (P4) by its first bytes"),
    "P6": (b"P6\n1024 1024\n255\n" + PIXELS * 3, "a colour map (P6) by its first bytes"),
    "512 x 512": (b"P5\n512 512\n255\n" + PIXELS[: 1 << 18], "found 512 x 512 px (262,159 bytes)"),
    "PNG": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(99), "a PNG file by its first bytes"),
}


@pytest.mark.bar("D2")
def test_d2_every_film_in_another_form_is_refused_by_name_in_one_run(tmp_path, record_property):
    record_property("tried", f"{', '.join(D2)} in one run")
    changes = {f"mdb{n:03d}": content for n, (content, _) in enumerate(D2.values(), start=1)}
    error = refusal(tmp_path, changes)
    assert len(error.problems) == 8
    for problem, film_id, (_, words) in zip(error.problems, changes, D2.values(), strict=True):
        assert problem.startswith(f"{film_id}.pgm: expected ")
        assert words in problem
        assert "1,048,593 bytes" in problem


# --- D3: films and names that do not belong together -----------------------------------------------------------------


@pytest.mark.bar("D3")
def test_d3_two_swapped_films_are_both_named(tmp_path, record_property):
    record_property("tried", "two films swapped")
    error = refusal(tmp_path, {"mdb003": film(4), "mdb004": film(3)})
    assert error.problems == [
        "mdb003.pgm holds the film mdb004: were two files swapped?",
        "mdb004.pgm holds the film mdb003: were two files swapped?",
    ]


@pytest.mark.bar("D3")
@pytest.mark.parametrize(("wrong", "right"), [("mdb005", "mdb002"), ("mdb002", "mdb005")])
def test_d3_one_film_under_two_names_is_named_with_both_and_the_wrong_one(wrong, right, tmp_path, record_property):
    record_property("tried", f"the film {right} under the name {wrong} too")
    error = refusal(tmp_path, {wrong: GOOD[right]})
    assert error.problems == ["mdb002.pgm and mdb005.pgm hold the same bytes", f"{wrong}.pgm holds the film {right}"]


@pytest.mark.bar("D3")
def test_d3_a_changed_film_a_missing_one_and_an_unknown_one_are_named(tmp_path, record_property):
    record_property("tried", "a film changed in its last byte, one missing, one unknown")
    changed = film(6)[:-1] + b"\x07"
    error = refusal(tmp_path, {"mdb006": changed, "mdb007": None, "mdb900": film(90)})
    assert error.problems == [
        "mdb007.pgm is missing",
        "mdb900.pgm is no film of mini-MIAS",
        f"mdb006.pgm differs from the official film: sha256 {sha256(changed).hexdigest()[:12]}…",
    ]


@pytest.mark.bar("D3")
def test_d3_a_film_without_row_and_a_row_without_film_are_both_named(tmp_path, record_property):
    record_property("tried", "a film without row, a row without film")
    for film_id in ("mdb001", "mdb003"):
        (tmp_path / f"{film_id}.pgm").write_bytes(GOOD[film_id])
    (tmp_path / "Info.txt").write_text("mdb001 G NORM\nmdb002 G NORM\n")
    with pytest.raises(BadInputError) as caught:
        build_tables(tmp_path, "mini_mias", dict.fromkeys(("mdb001", "mdb003"), (0.0, 0.0, 9.0, 9.0)))
    assert caught.value.problems == [
        "line 2: mdb002 has a row but no film mdb002.pgm",
        "film mdb003.pgm has no row in Info.txt",
    ]


# --- L1 to L3: the real list ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini_mias(tmp_path_factory):
    """The official films, unpacked and checked against the manifest."""
    archive = os.environ.get("MIAS_ARCHIVE")
    if not archive:
        pytest.skip("MIAS_ARCHIVE is not set: the real films are not here")
    folder = tmp_path_factory.mktemp("mias") / "films"
    unpack(archive, folder, official_manifest())
    return folder


def whole_films():
    """Boxes of breasts that fill their films."""
    return dict.fromkeys(official_manifest(), (0.0, 0.0, 1024.0, 1024.0))


@pytest.fixture(scope="module")
def real_tables(mini_mias):
    return build_tables(mini_mias, "mini_mias", whole_films())


def film_labels(rows) -> Counter[str]:
    severities: dict[str, list[str]] = {}
    for row in rows:
        severities.setdefault(row.film_id, []).extend([row.severity] if row.severity else [])
    return Counter(label_of(found) for found in severities.values())


@pytest.mark.bar("L1")
@pytest.mark.films
def test_l1_every_one_of_the_330_rows_is_accounted_for(mini_mias, record_property):
    rows = parse_info((mini_mias / "Info.txt").read_text())
    accounts = account(rows)
    record_property("tried", f"{len(accounts)} rows of the real list, each with its fate and why")
    assert [row for row, _, _ in accounts] == rows
    assert len(accounts) == 330
    # independently of the grammar: lines that begin with mdb
    lines = (mini_mias / "Info.txt").read_text().splitlines()
    assert [row.line for row in rows] == [n for n, line in enumerate(lines, 1) if line.startswith("mdb")]
    assert Counter((fate, why.split(";")[0]) for _, fate, why in accounts) == {
        ("kept", "a normal film"): 207,
        ("kept", "label and location"): 117,
        ("kept", "label"): 4,
        ("ignored", "location off the breast and absent from MIAS v1.21"): 2,
    }


@pytest.mark.bar("L1")
@pytest.mark.films
def test_l1_there_are_322_films_and_film_144_is_malignant(mini_mias, real_tables):
    films, _ = real_tables
    expected = {"normal": 207, "benign": 63, "malignant": 52}
    assert films["label"].value_counts().to_dict() == expected
    assert films.set_index("film_id").loc["mdb144", "label"] == "malignant"
    assert films["patient_id"].nunique() == 161
    assert film_labels(parse_info((mini_mias / "Info.txt").read_text())) == expected


def verdict_on(folder, films, lesions):
    return validate({"films": films, "lesions": lesions}, SUITES, folder / "docs", "mini_mias")


@pytest.mark.bar("L1")
@pytest.mark.films
def test_l1_a_reader_that_keeps_a_films_first_row_does_not_pass_the_data_checks(
    mini_mias, real_tables, tmp_path, record_property
):
    verdict_on(tmp_path, *real_tables).raise_if_failed()
    mutant = tmp_path / "films"
    mutant.mkdir()
    for path in mini_mias.glob("*.pgm"):
        (mutant / path.name).symlink_to(path)
    seen: set[str] = set()
    lines = (mini_mias / "Info.txt").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not ((line[:3] == "mdb" and line[:6] in seen) or seen.add(line[:6]))]
    record_property("tried", f"{len(lines) - len(kept)} rows left out by a reader that keeps the first of a film")
    (mutant / "Info.txt").write_text("".join(kept))
    films, lesions = build_tables(mutant, "mini_mias", whole_films())
    assert films["label"].value_counts().to_dict() == {"normal": 207, "benign": 64, "malignant": 51}
    with pytest.raises(BadInputError) as caught:
        verdict_on(tmp_path, films, lesions).raise_if_failed()
    assert "films_in_mini_mias: 63 are benign" in str(caught.value)
    assert "films_in_mini_mias: 52 are malignant" in str(caught.value)


@pytest.mark.bar("L2")
@pytest.mark.films
def test_l2_exactly_six_films_have_no_location_and_are_still_positive(real_tables, record_property):
    films, lesions = real_tables
    unlocated = lesions[~lesions["has_location"]]
    record_property("tried", f"{len(lesions)} lesions of the real list, {len(unlocated)} without location")
    names = ["mdb059", "mdb212", "mdb214", "mdb216", "mdb233", "mdb245"]
    assert list(unlocated["film_id"]) == names
    assert not films.set_index("film_id").loc[names, "label"].eq("normal").any()
    located = lesions[lesions["has_location"]]
    assert located["severity"].value_counts().to_dict() == {"benign": 66, "malignant": 51}
    assert (len(located), located["film_id"].nunique()) == (117, 109)


@pytest.mark.bar("L2")
@pytest.mark.films
def test_l2_the_first_lesion_of_film_144_just_touches_the_top(real_tables):
    _, lesions = real_tables
    row = lesions.set_index("lesion_id").loc["mdb144_1"]
    assert (row["x_px"], row["y_px"], row["radius_px"], row["y1"]) == (233.5, 29.5, 29.0, 0.5)
    located = lesions[lesions["has_location"]]
    # no circle of mini-MIAS leaves the film, so clipping changed none
    pd.testing.assert_series_equal(located["x2"] - located["x1"], 2 * located["radius_px"], check_names=False)
    pd.testing.assert_series_equal(located["y2"] - located["y1"], 2 * located["radius_px"], check_names=False)


MUTANTS = {
    "no flip": lambda x, y: (x + 0.5, y + 0.5),
    "x and y swapped": lambda x, y: (1023.5 - y, x + 0.5),
    "flipped twice": lambda x, y: (x + 0.5, 1024 - (1023.5 - y)),
}


def check_pixels(folder, films, lesions):
    sure = read_facts(SUITES, "mini_mias")["annotation"]["surely_on_breast"]
    assert sure == ["mdb015", "mdb163", "mdb270"]
    return lesions_match_pixels(films, lesions, lambda name: read_pgm(folder / f"{name}.pgm").pixels, sure)


@pytest.mark.bar("L3")
@pytest.mark.films
def test_l3_the_real_lesions_match_the_pixels_of_their_films(mini_mias, real_tables, record_property):
    found = check_pixels(mini_mias, *real_tables)
    n_brighter = round(found["brighter_share"] * found["n_lesions"])
    record_property("tried", f"as it is: {n_brighter} of {found['n_lesions']:.0f} lesions brighter than their ring")
    assert found["n_lesions"] == 117
    assert n_brighter >= 105


@pytest.mark.bar("L3")
@pytest.mark.films
@pytest.mark.parametrize("name", MUTANTS)
def test_l3_an_adapter_of_another_origin_is_refused(name, mini_mias, monkeypatch, record_property):
    monkeypatch.setattr(adapter, "centre_from_info", MUTANTS[name])
    tables = build_tables(mini_mias, "mini_mias", whole_films())
    with pytest.raises(BadInputError, match="Coordinates do not match the films") as caught:
        check_pixels(mini_mias, *tables)
    (brighter,) = re.findall(r"only (\d+ of 117) lesions are brighter", str(caught.value))
    record_property("tried", f"{name}: {brighter}")
    assert re.search(r"film mdb(015|163|270), lesion", str(caught.value))


# --- L4: bad rows -----------------------------------------------------------------------------------------------------

BAD_ROWS = [
    ("mdb001 G CIRC B 2000 425 30", "x 2000, y 425 lie outside the film of 1024 x 1024 px"),
    ("mdb002 G CIRC B 522 280 0", "radius 0 is not above 0"),
    ("mdb003 G CIRC B 522 280 -3", "radius -3 is not above 0"),
    ("mdb004 G CRIC B 522 280 30", "class 'CRIC' is not one of"),
    ("mdb005 G CIRC X 522 280 30", "severity 'X' is not B or M"),
    ("mdb006 G CIRC B 522 280", "6 fields"),
    ("mdb007 G CIRC B five 280 30", "whole numbers, found 'five 280 30'"),
    ("mdb008 G CIRC B 522 280 30", "repeats an earlier row of mdb008"),
    ("mdb999 G NORM", "mdb999 has a row but no film mdb999.pgm"),
    ("mdb009 Q NORM", "tissue 'Q' is not one of"),
    ("mdb010 G NORM 522 280 30", "a normal film with 3 more fields"),
]
FORMS = {"as published": b"", "byte-order mark": b"\xef\xbb\xbf", "CRLF": b"", "both": b"\xef\xbb\xbf"}


def written_as(form: str, text: str) -> bytes:
    ended = text.replace("\n", "\r\n") if form in ("CRLF", "both") else text
    return FORMS[form] + ended.encode("ascii")


def make_folder(folder, form: str, text: str):
    for film_id in GOOD:
        (folder / f"{film_id}.pgm").write_bytes(film_id.encode())
    (folder / "Info.txt").write_bytes(written_as(form, text))
    return folder, "mini_mias", dict.fromkeys(GOOD, (0.0, 0.0, 9.0, 9.0))


@pytest.mark.bar("L4")
@pytest.mark.parametrize("form", FORMS)
def test_l4_every_bad_row_is_named_with_its_line_in_one_run(form, tmp_path, record_property):
    record_property("tried", f"{len(BAD_ROWS)} bad rows at once, in {len(FORMS)} forms of text file")
    text = "mdb008 G CIRC B 522 280 30\n" + "".join(f"{row}\n" for row, _ in BAD_ROWS)
    with pytest.raises(BadInputError) as caught:
        build_tables(*make_folder(tmp_path, form, text))
    assert len(caught.value.problems) == len(BAD_ROWS) == 11
    for line, (_, words) in enumerate(BAD_ROWS, start=2):
        (problem,) = [found for found in caught.value.problems if found.startswith(f"line {line}: ")]
        assert words in problem
    message = str(caught.value)
    assert str(tmp_path / "Info.txt") in message
    assert "11 problems" in message
    assert "Correct these rows" in message


@pytest.mark.bar("L4")
@pytest.mark.parametrize("form", FORMS)
def test_l4_a_list_with_byte_order_mark_or_windows_line_ends_is_read_in_full(form, tmp_path):
    films, lesions = build_tables(*make_folder(tmp_path, form, INFO.replace("mdb001 G NORM", "mdb001 G CIRC B 9 8 7")))
    assert list(films["film_id"]) == list(GOOD)
    assert list(films["label"]) == ["benign"] + ["normal"] * 9
    assert list(lesions["source"]) == ["Info.txt:1"]
    assert parse_info(written_as(form, INFO).decode("utf-8")) == parse_info(INFO)


@pytest.mark.bar("L4")
@pytest.mark.films
@pytest.mark.parametrize("form", ["byte-order mark", "CRLF", "both"])
def test_l4_the_real_list_in_another_form_holds_the_same_rows(form, mini_mias):
    text = (mini_mias / "Info.txt").read_text()
    rows = parse_info(written_as(form, text).decode("utf-8"))
    assert rows == parse_info(text)
    assert len(rows) == 330


@pytest.mark.bar("L4")
@pytest.mark.films
@pytest.mark.parametrize("form", FORMS)
def test_l4_bad_rows_behind_the_real_ones_are_named_and_no_real_one_is(form, mini_mias, tmp_path, record_property):
    record_property("tried", "the same behind the 330 real rows")
    text = (mini_mias / "Info.txt").read_text()
    for path in mini_mias.glob("*.pgm"):
        (tmp_path / path.name).symlink_to(path)
    end = text.rstrip().splitlines()
    (tmp_path / "Info.txt").write_bytes(written_as(form, "\n".join([*end, *(row for row, _ in BAD_ROWS)]) + "\n"))
    with pytest.raises(BadInputError) as caught:
        build_tables(tmp_path, "mini_mias", whole_films())
    lines = {int(found) for problem in caught.value.problems for found in re.findall(r"^line (\d+): ", problem)}
    assert lines == {len(end) + n for n in range(1, len(BAD_ROWS) + 1)}
