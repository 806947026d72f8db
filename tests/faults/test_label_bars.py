"""Bars L3 and L5: coordinates that do not belong to the films, and checks that looked at nothing."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo_ml.data_quality import read_facts, validate
from mammo_ml.datasets.annotation_check import lesions_match_pixels
from mammo_ml.errors import BadInputError

SUITES = Path(__file__).parents[2] / "expectations"


def suite_of(table: str, *expectations: dict[str, object]) -> dict[str, object]:
    entries = [{"id": f"00000000-0000-4000-8000-{n:012d}", **entry} for n, entry in enumerate(expectations)]
    return {"name": table, "id": "00000000-0000-4000-8000-999999999999", "meta": {}, "expectations": entries}


def between(**kwargs: object) -> dict[str, object]:
    limits = {"column": "x_px", "min_value": 0, "max_value": 1024, **kwargs}
    return {"type": "expect_column_values_to_be_between", "description": "x is on the film", "kwargs": limits}


def verdict(tmp_path: Path, frame: pd.DataFrame, *expectations: dict[str, object]):
    (tmp_path / "points.json").write_text(json.dumps(suite_of("points", *expectations)))
    return validate({"points": frame}, tmp_path, tmp_path / "docs")


POINTS = pd.DataFrame({"film_id": [f"f{n}" for n in range(40)], "x_px": np.linspace(1, 1000, 40), "kind": "CIRC"})


@pytest.mark.bar("L5")
def test_l5_the_same_suite_passes_on_good_rows(tmp_path):
    condition = {"type": "comparison", "column": {"name": "kind"}, "operator": "==", "parameter": "CIRC"}
    report = verdict(tmp_path, POINTS, between(), between(mostly=0.95), between(row_condition=condition))
    assert report.failures == ()


@pytest.mark.bar("L5")
def test_l5_a_table_of_no_rows_fails(tmp_path, record_property):
    record_property("tried", "no rows")
    report = verdict(tmp_path, POINTS.iloc[:0], between())
    with pytest.raises(BadInputError, match="points: the table has rows: it has 0 rows"):
        report.raise_if_failed()


@pytest.mark.bar("L5")
def test_l5_a_column_of_nulls_fails(tmp_path, record_property):
    record_property("tried", "a column of nulls")
    report = verdict(tmp_path, POINTS.assign(x_px=np.nan), between())
    with pytest.raises(BadInputError, match="all 40 values are null, so nothing was checked"):
        report.raise_if_failed()


@pytest.mark.bar("L5")
def test_l5_an_empty_suite_fails(tmp_path, record_property):
    record_property("tried", "no expectations")
    with pytest.raises(BadInputError, match="the suite has expectations: it has none"):
        verdict(tmp_path, POINTS).raise_if_failed()


@pytest.mark.bar("L5")
def test_l5_mostly_cannot_hide_a_row(tmp_path, record_property):
    record_property("tried", "`mostly` hiding a row")
    frame = POINTS.copy()
    frame.loc[7, "x_px"] = 99999
    with pytest.raises(BadInputError, match=r"`mostly` would have let pass in rows f7"):
        verdict(tmp_path, frame, between(mostly=0.95)).raise_if_failed()


@pytest.mark.bar("L5")
def test_l5_a_row_condition_that_matches_nothing_fails(tmp_path, record_property):
    record_property("tried", "a condition that no row meets")
    condition = {"type": "comparison", "column": {"name": "kind"}, "operator": "==", "parameter": "CRIC"}
    with pytest.raises(BadInputError, match="no row matches the condition"):
        verdict(tmp_path, POINTS, between(row_condition=condition)).raise_if_failed()


@pytest.mark.bar("L5")
def test_l5_a_misspelt_expectation_fails(tmp_path, record_property):
    record_property("tried", "a misspelt expectation")
    entry = {"type": "expect_column_values_to_be_betwixt", "description": "misspelt", "kwargs": {"column": "x_px"}}
    report = verdict(tmp_path, POINTS, between(), entry)
    with pytest.raises(BadInputError, match="'expect_column_values_to_be_betwixt' was not evaluated"):
        report.raise_if_failed()
    assert report.evaluated["points"] == 1


@pytest.mark.bar("L5")
def test_l5_an_argument_that_makes_no_sense_is_named(tmp_path):
    with pytest.raises(BadInputError, match=r"suite 'points'(.|\n)*row_condition"):
        verdict(tmp_path, POINTS, between(row_condition={"type": "comparison", "column": {"name": "kind"}}))


@pytest.mark.bar("L5")
def test_l5_a_warning_that_looked_at_nothing_is_reported(tmp_path):
    report = verdict(tmp_path, POINTS.assign(x_px=np.nan), {**between(), "severity": "warning"})
    assert [failure.critical for failure in report.failures] == [False]


# --- L3 -------------------------------------------------------------------------------------------------------------


def phantom(seed: int = 3):
    """Twelve films 600 x 500 whose breast hangs in the upper half, with a bright disc each; they are not square."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:600, :500] + 0.5
    pictures, lesions = {}, []
    for n in range(12):
        breast = ((rows - 200) / 190) ** 2 + (columns / 400) ** 2 < 1
        x, y, radius = generator.uniform(60, 200), generator.uniform(60, 180), generator.uniform(12, 25)
        disc = np.hypot(columns - x, rows - y) <= radius
        pictures[f"f{n}"] = np.where(disc, 200, np.where(breast, 110, 5)).astype(np.uint8)
        lesions.append([f"f{n}_0", f"f{n}", True, x, y, radius])
    table = pd.DataFrame(lesions, columns=["lesion_id", "film_id", "has_location", "x_px", "y_px", "radius_px"])
    return pd.DataFrame({"film_id": list(pictures)}), table, pictures


def unflipped(lesions: pd.DataFrame, height: float) -> pd.DataFrame:
    return lesions.assign(y_px=height - lesions["y_px"])


def swapped(lesions: pd.DataFrame) -> pd.DataFrame:
    return lesions.assign(x_px=lesions["y_px"], y_px=lesions["x_px"])


@pytest.mark.bar("L3")
def test_l3_phantom_lesions_match_their_films():
    films, lesions, pictures = phantom()
    found = lesions_match_pixels(films, lesions, pictures.__getitem__)
    assert found["n_lesions"] == 12
    assert found["brighter_share"] == 1.0
    assert found["on_breast_min"] > 0.99


@pytest.mark.bar("L3")
def test_l3_phantom_lesions_of_another_origin_are_refused():
    films, lesions, pictures = phantom()
    for mutant in (unflipped(lesions, 600), swapped(lesions), lesions.assign(x_px=500 - lesions["x_px"])):
        with pytest.raises(BadInputError, match="Coordinates do not match the films"):
            lesions_match_pixels(films, mutant, pictures.__getitem__)


@pytest.mark.bar("L3")
def test_l3_a_sure_film_names_its_lesion():
    films, lesions, pictures = phantom()
    lesions.loc[4, "y_px"] = 580.0
    with pytest.raises(BadInputError, match=r"film f4, lesion f4_0: 0\.00 of the disc"):
        lesions_match_pixels(films, lesions, pictures.__getitem__, ["f4"])


@pytest.mark.bar("L3")
def test_l3_no_lesion_or_a_lesion_without_film_is_refused():
    films, lesions, pictures = phantom()
    with pytest.raises(BadInputError, match="nothing was compared"):
        lesions_match_pixels(films, lesions.assign(has_location=False), pictures.__getitem__)
    with pytest.raises(BadInputError, match=r"film f3 has a lesion but is not in films\.csv"):
        lesions_match_pixels(films[films["film_id"] != "f3"], lesions, pictures.__getitem__)


@pytest.fixture(scope="module")
def mini_mias():
    """The 117 located rows of Info.txt read independently of the adapter, and the films they are on."""
    archive = os.environ.get("MIAS_ARCHIVE")
    if not archive:
        pytest.skip("MIAS_ARCHIVE is not set: the real films are not here")
    with tarfile.open(archive) as files:
        data = {Path(entry.name).name: files.extractfile(entry).read() for entry in files if entry.isfile()}
    rows = []
    for line in io.StringIO(data["Info.txt"].decode("latin-1")):
        fields = line.split()
        if len(fields) == 7 and fields[0].startswith("mdb") and fields[4].isdigit():
            x, y, radius = map(float, fields[4:])
            rows.append([f"{fields[0]}_{len(rows)}", fields[0], True, x + 0.5, 1023.5 - y, radius])
    lesions = pd.DataFrame(rows, columns=["lesion_id", "film_id", "has_location", "x_px", "y_px", "radius_px"])
    lesions = lesions[~lesions["film_id"].isin(["mdb212", "mdb214"])].reset_index(drop=True)
    films = pd.DataFrame({"film_id": lesions["film_id"].unique()})
    pictures = {
        name: np.frombuffer(data[f"{name}.pgm"][17:], np.uint8).reshape(1024, 1024) for name in films["film_id"]
    }
    return films, lesions, pictures


@pytest.mark.bar("L3")
@pytest.mark.films
def test_l3_rows_read_without_the_adapter_match_their_films_too(mini_mias):
    films, lesions, pictures = mini_mias
    sure = read_facts(SUITES, "mini_mias")["annotation"]["surely_on_breast"]
    assert sure == ["mdb015", "mdb163", "mdb270"]
    found = lesions_match_pixels(films, lesions, pictures.__getitem__, sure)
    assert found["n_lesions"] == 117
    assert found["brighter_share"] >= 105 / 117


@pytest.mark.bar("L3")
@pytest.mark.films
def test_l3_real_films_that_are_mirrored_are_refused(mini_mias):
    films, lesions, pictures = mini_mias
    # without the named films: the shares alone tell
    with pytest.raises(BadInputError, match="brighter than their surroundings"):
        lesions_match_pixels(films, lesions.assign(x_px=1024.0 - lesions["x_px"]), pictures.__getitem__)
