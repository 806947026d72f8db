import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from mammo_ml.data_quality import validate
from mammo_ml.datasets import catalog, mini_mias
from mammo_ml.datasets.mini_mias_archive import unpack
from mammo_ml.errors import BadInputError

SUITES = Path(__file__).parents[1] / "expectations"


def catalog_tables() -> dict[str, pd.DataFrame]:
    """Three films of two women: one normal, one with a located lesion, one whose lesion is not located."""
    films = pd.DataFrame(
        [
            [
                "f1",
                "toy",
                "f1.pgm",
                "a" * 64,
                "w1",
                "L",
                "right",
                "MLO",
                "F",
                "normal",
                800,
                1000,
                0.2,
                10.0,
                0.0,
                500.0,
                1000.0,
            ],
            [
                "f2",
                "toy",
                "f2.pgm",
                "b" * 64,
                "w1",
                "R",
                "left",
                "MLO",
                "F",
                "malignant",
                800,
                1000,
                0.2,
                10.0,
                0.0,
                500.0,
                900.0,
            ],
            [
                "f3",
                "toy",
                "f3.pgm",
                "c" * 64,
                "w2",
                "L",
                "left",
                "CC",
                "D",
                "benign",
                800,
                1000,
                0.2,
                10.0,
                0.0,
                500.0,
                900.0,
            ],
        ],
        columns=catalog.names(catalog.FILMS),
    ).astype(catalog.dtypes(catalog.FILMS))
    nothing = [None] * 7
    lesions = pd.DataFrame(
        [
            ["f2_0", "f2", "CIRC", "malignant", True, 100.0, 200.0, 20.0, 80.0, 180.0, 120.0, 220.0, "line 1"],
            ["f3_0", "f3", "CALC", "benign", False, *nothing, "line 2"],
        ],
        columns=catalog.names(catalog.LESIONS),
    ).astype(catalog.dtypes(catalog.LESIONS))
    return {"films": films, "lesions": lesions}


def folds_table() -> pd.DataFrame:
    """Three women per fold: in another fold's view one of them is inner, so that every role occurs."""
    rows = []
    for fold in range(5):
        for n in range(3):
            roles = ["test" if k == fold else ("inner" if n == 0 else "train") for k in range(5)]
            rows.append([f"w{fold}{n}", fold, *roles])
    return pd.DataFrame(rows, columns=["patient_id", "fold", *(f"role_{k}" for k in range(5))])


def cut_tables() -> dict[str, pd.DataFrame]:
    patches = pd.DataFrame(
        [
            ["p1", "f1", "w1", "normal", None, 0.0, 0.0, 256.0, 256.0, 0.9, "normal"],
            ["p2", "f2", "w1", "lesion", "f2_0", 0.0, 10.0, 256.0, 266.0, 0.7, "malignant"],
            ["p3", "f3", "w2", "lesion", "f3_0", 0.0, 10.0, 256.0, 266.0, 1.0, "benign"],
        ],
        columns=[
            "patch_id",
            "film_id",
            "patient_id",
            "kind",
            "lesion_id",
            "x1",
            "y1",
            "x2",
            "y2",
            "breast_share",
            "label",
        ],
    )
    boxes = pd.DataFrame(
        [["c1", "f2", "w1", "f2_0", "malignant", 0.0, 10.0, 128.0, 60.0]],
        columns=["cut_id", "film_id", "patient_id", "lesion_id", "severity", "x1", "y1", "x2", "y2"],
    )
    return {"patches": patches, "boxes": boxes}


def all_tables() -> dict[str, pd.DataFrame]:
    return {**catalog_tables(), "folds": folds_table(), **cut_tables()}


def failures_of(tables: dict[str, pd.DataFrame], folder: Path, suites: Path = SUITES) -> str:
    return "\n".join(str(failure) for failure in validate(tables, suites, folder / "docs").failures)


def test_good_tables_pass_and_every_expectation_was_evaluated(tmp_path):
    report = validate(all_tables(), SUITES, tmp_path, "toy")
    assert report.failures == ()
    report.raise_if_failed()
    # those of corrections are evaluated when some come in: tests/feedback/test_importing.py
    of_stages = [path for path in SUITES.glob("*.json") if not path.stem.startswith("feedback_")]
    written = {path.stem: len(json.loads(path.read_text())["expectations"]) for path in of_stages}
    assert dict(report.evaluated) == written
    metrics = report.to_metrics()
    assert metrics["expectations_evaluated"] == sum(written.values())
    assert metrics["expectations_failed"] == 0
    assert metrics["rows_films"] == 3
    assert all(isinstance(value, float) for value in metrics.values())


FAULTS = {
    "films": [
        ("film_id", 0, "f2", "no film_id stands in two rows"),
        ("sha256", 0, "xyz", "hexadecimal"),
        ("path", 0, "../f1.pgm", "stays inside"),
        ("laterality", 0, "left", "laterality is one of"),
        ("breast_x2", 0, 801.0, "ends on the film"),
        ("patient_id", 0, None, "every row has a patient_id"),
        ("label", 0, "malignant", "most severe of its lesions"),
        ("label", 1, "benign", "most severe of its lesions"),
    ],
    "lesions": [
        ("film_id", 0, "f9", "film of the catalog"),
        ("severity", 0, "M", "severity is one of"),
        ("has_location", 0, False, "known exactly where"),
        ("x_px", 0, None, "known exactly where"),
        ("radius_px", 0, -3.0, "greater than 0"),
        ("x2", 0, 801.0, "lie on their film"),
    ],
    "folds": [
        ("patient_id", 0, "w01", "no patient_id stands in two rows"),
        ("role_0", 0, "train", "test in the role of her own fold"),
        ("role_1", 0, "validation", "role_1 is one of"),
    ],
    "patches": [
        ("breast_share", 0, 1.5, "share of breast"),
        ("lesion_id", 1, None, "lesion patches name their lesion"),
    ],
    "boxes": [
        ("x2", 0, 129.0, "0 to 128 px"),
        ("y2", 0, 10.0, "y1 < y2"),
    ],
}


@pytest.mark.parametrize(
    ("table", "column", "row", "value", "words"),
    [(table, *fault) for table, faults in FAULTS.items() for fault in faults],
)
def test_a_fault_is_found_and_its_row_named(table, column, row, value, words, tmp_path):
    tables = catalog_tables() if table in ("films", "lesions") else {table: all_tables()[table]}
    frame = tables[table].astype({column: object})
    frame.loc[row, column] = value
    tables[table] = frame.infer_objects()
    report = validate(tables, SUITES, tmp_path)
    found = [failure for failure in report.failures if words in failure.expectation]
    assert found, [str(failure) for failure in report.failures]
    assert not report.passed
    key = {"films": "f", "lesions": "f", "folds": "w", "patches": " p", "boxes": " c"}[table]
    assert any(key in name for failure in found for name in failure.rows)


def test_every_fault_is_in_one_error_with_the_way_to_the_pages(tmp_path):
    tables = catalog_tables()
    tables["films"].loc[0, "density"] = "X"
    tables["lesions"].loc[0, "radius_px"] = -1.0
    report = validate(tables, SUITES, tmp_path)
    with pytest.raises(
        BadInputError, match=r"films: density(.|\n)*f1(.|\n)*lesions: radii(.|\n)*f2_0(.|\n)*index\.html"
    ):
        report.raise_if_failed()


def test_a_box_off_the_breast_warns_and_does_not_stop(tmp_path):
    tables = catalog_tables()
    tables["films"].loc[1, "breast_y1"] = 400.0
    report = validate(tables, SUITES, tmp_path)
    assert [failure.critical for failure in report.failures] == [False]
    assert report.passed
    assert report.to_metrics()["expectations_warned"] == 1
    assert "Warnings" in report.index.read_text()


def test_a_missing_column_fails_and_is_named(tmp_path):
    tables = catalog_tables()
    tables["films"] = tables["films"].drop(columns="density")
    assert "every row has a density: could not be evaluated" in failures_of(tables, tmp_path)


def test_facts_of_a_data_set_count_its_tables(tmp_path):
    report = validate(catalog_tables(), SUITES, tmp_path, "mini_mias")
    assert "films_in_mini_mias: mini-MIAS has 322 films: found 3" in "\n".join(map(str, report.failures))


def test_a_table_without_suite_is_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"table 'unknown' has no suite"):
        validate({"unknown": pd.DataFrame({"a": [1]})}, SUITES, tmp_path)


def test_suites_stay_as_they_are_and_pages_are_equal_offline_and_new(tmp_path):
    before = {path: path.read_bytes() for path in sorted(SUITES.rglob("*")) if path.is_file()}
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "old.html").write_text("page of a table that is gone")
    pages = []
    for name in ("first", "second"):
        validate(all_tables(), SUITES, tmp_path / name)
        folder = tmp_path / name
        pages.append({str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.html")})
    assert pages[0] == pages[1]
    assert "old.html" not in pages[0]
    assert before == {path: path.read_bytes() for path in sorted(SUITES.rglob("*")) if path.is_file()}
    for name, page in pages[0].items():
        assert not re.search(r"<script|<link|<img|https?://|url\(", page), name
        for link in re.findall(r'href="([^"#]+)"', page):
            assert (tmp_path / "first" / name).parent.joinpath(link).resolve().is_file(), (name, link)


def test_importing_the_module_does_not_import_great_expectations():
    code = "import mammo_ml.data_quality, sys; sys.exit('great_expectations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ids_of_expectations_are_unique_and_each_is_described():
    suites = [json.loads(path.read_text()) for path in SUITES.glob("*.json")]
    for path in (SUITES / "facts").glob("*.json"):
        suites += json.loads(path.read_text())["suites"].values()
    expectations = [entry for suite in suites for entry in suite["expectations"]]
    assert len({entry["id"] for entry in expectations}) == len(expectations)
    assert all(entry["description"] for entry in expectations)


@pytest.mark.films
def test_the_real_tables_hold_what_is_known_of_mini_mias(tmp_path):
    archive = os.environ.get("MIAS_ARCHIVE")
    if not archive:
        pytest.skip("MIAS_ARCHIVE is not set: the real films are not here")
    unpack(Path(archive), tmp_path / "mias", None)
    whole_film = {f"mdb{number:03d}": (0.0, 0.0, 1024.0, 1024.0) for number in range(1, 323)}
    films, lesions = mini_mias.build_tables(tmp_path / "mias", "mini_mias", whole_film)
    assert validate({"films": films, "lesions": lesions}, SUITES, tmp_path / "docs", "mini_mias").failures == ()
    first_row_only = lesions.drop_duplicates("film_id")
    report = validate({"films": films, "lesions": first_row_only}, SUITES, tmp_path / "docs", "mini_mias")
    # keeping a film's first row only loses the malignant one of film 144
    assert any("mdb144" in row for failure in report.failures for row in failure.rows)
