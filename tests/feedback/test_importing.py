"""Exported corrections become rows of the project's tables: all or none, and every fault is told at once."""

import re
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from mammo_ml.cli import app
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.feedback.importing import import_feedback
from mammo_ml.feedback.tables import check_readings, read_tables
from mammo_ml.pipeline_run import only_run
from tests.feedback.exports import ROOT, coco, film, lesion, rejected, tables, workspace, write_coco, write_zip
from tests.small_project import write


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return workspace(tmp_path)


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((place / "feedback").iterdir())}


def refusal(place: Path, *files: Path) -> list[str]:
    before = contents(place)
    with pytest.raises(BadInputError) as refused:
        import_feedback(files, place)
    assert contents(place) == before
    assert "Nothing was imported" in str(refused.value)
    return refused.value.problems


def test_tables_and_coco_come_in_and_the_command_says_what_to_do_next(place: Path) -> None:
    # a renamed copy of f3: its bytes tell it
    films = [film(), film("patient Smith", sha256="c" * 64, seen_in_training="", label="", complete=False)]
    drawn = lesion("patient Smith", 1, (10, 10, 60, 40), action="drawn", score="", prediction_shown=False)
    given = tables(films, [lesion(), lesion(n=2, box=(300, 300, 340, 350), action="accepted"), drawn], [rejected()])
    files = [write_zip(place / "a.zip", given), write_coco(place / "b.json", coco())]

    done = CliRunner().invoke(app, ["feedback", "import", *map(str, files), "--workspace", str(place)])

    assert done.exit_code == 0, done.output
    lines = [re.split(r"\s{2,}", line.strip()) for line in done.output.splitlines()]
    assert ["film", "accepted", "moved", "relabelled", "drawn", "rejected", "author", "shown"] in lines
    assert ["f1", "1", "1", "0", "0", "1", "Roe, Jane", "yes"] in lines
    assert ["f3", "0", "0", "0", "1", "0", "Roe, Jane", "yes"] in lines
    assert ["f2", "1", "0", "0", "1", "0", "Roe, Jane", "yes"] in lines
    assert "holds 3 readings, 5 findings, 1 rejected boxes" in done.output
    assert re.search(r"Data version: md5 [0-9a-f]{32}\.dir, in dvc\.lock", done.output)
    assert "make repro" in done.output
    held = read_tables(place / "feedback")
    assert held["films"]["film_id"].tolist() == ["f1", "f2", "f3"]
    assert held["films"]["read_at"].unique().tolist() == ["2026-05-04T12:30:15.123Z"]
    assert held["lesions"]["lesion_id"].is_unique
    assert held["lesions"]["kind"].isna().tolist() == [False, False, False, True, False]
    assert held["lesions"].loc[3, ["x1", "y1", "x2", "y2"]].tolist() == [300, 300, 350.25, 320]
    check_readings(held, place / "feedback")
    assert b"Smith" not in b"".join(contents(place).values())


def test_importing_twice_says_so_and_changes_nothing(place: Path) -> None:
    file = write_zip(place / "a.zip", tables([film()], [lesion()], [rejected()]))
    assert import_feedback([file], place, dry_run=True).version == ""
    assert read_tables(place / "feedback")["films"].empty
    import_feedback([file], place)
    assert refusal(place, file) == [
        "a.zip: films.csv line 2: film f1, read by Roe, Jane at 2026-05-04T12:30:15.123Z, was imported already; "
        "leave it out"
    ]
    assert sorted(path.name for path in (place / ".state").iterdir()) == ["repro.lock"]


def test_one_order_of_imports_gives_the_bytes_of_another(tmp_path: Path) -> None:
    files = [
        write_zip(tmp_path / "a.zip", tables([film()], [lesion()])),
        write_coco(tmp_path / "b.json", coco()),
    ]
    found = []
    for name, order in (("one", files), ("two", files[::-1])):
        (tmp_path / name).mkdir()
        place = workspace(tmp_path / name)
        for file in order:
            import_feedback([file], place)
        found.append(contents(place))
    assert found[0] == found[1]


def test_an_import_that_was_killed_half_way_is_finished_by_its_file(place: Path) -> None:
    file = write_zip(place / "a.zip", tables([film()], [lesion()], [rejected()]))
    header = contents(place)["films.csv"]
    import_feedback([file], place)
    whole = contents(place)
    (place / "feedback" / "films.csv").write_bytes(header)

    torn = read_tables(place / "feedback")
    with pytest.raises(BadInputError, match=r"film f1, read by Roe, Jane at .* has no row in films.csv"):
        check_readings(torn, place / "feedback")
    import_feedback([file], place)

    assert contents(place) == whole


def test_every_bad_row_is_told_at_once_with_what_to_do(place: Path) -> None:
    films = [
        film(),
        film("stranger"),
        film("f2", sha256="c" * 64),
        film("f3", width_px=400, author="", model="the best", threshold=2, label="cancer", read_at="yesterday"),
        film(sha256="b" * 64),
    ]
    lesions = [
        lesion(),
        lesion(n=2, box=(-5, 0, 20, 30)),
        lesion(n=3, box=(700, 900, 100000, 950)),
        lesion(n=4, box=(50, 60, 40, 80)),
        lesion(n=5, box=(500, 500, 540, 520), radius_px=90),
        lesion(n=6, box=(510, 500, 540, 520), kind="LUMP", severity="awful", action="guessed"),
        lesion(n=7, box=(520, 500, 540, 520), action="drawn"),
        lesion(n=8, author="Doe, John"),
        lesion("nowhere", 9),
        lesion(n=10, box=(530, 500, 540, 520), score=7, has_location=False, source="Info.txt:3"),
    ]
    boxes = [rejected(), rejected(), rejected(box=(1, 2, 801, 4)), rejected(box=(1, 2, 5, 9), score="high")]
    found = refusal(place, write_zip(place / "bad.zip", tables(films, lesions, boxes)))

    where = "bad.zip: "
    for expected in [
        r"rejected.csv line 5: score 'high' is not a number",
        r"films.csv line 3: film stranger \(sha256 9999.*\) is not of this data set; only its films can be corrected",
        r"films.csv line 4: film f2 has the bytes of film f3 .*; find out which of the two was read",
        r"films.csv line 5: the film is told to have 400 x 1000 px, film f3 has 800 x 1000 px",
        r"films.csv line 5 f3: the author is told",
        r"films.csv line 5 f3: the model is told as name/version",
        r"films.csv line 5 f3: the threshold is a score, from 0 to 1",
        r"films.csv line 5 f3: label is one of normal, benign, malignant, or empty",
        r"films.csv line 5: read_at 'yesterday' is no time with a zone, as in 2026",
        r"films.csv line 6: a film with this film_id stands in an earlier row",
        r"lesions.csv line 3 f1: boxes start on the film",
        r"lesions.csv line 4 f1: boxes lie on their film",
        r"lesions.csv line 5 f1: boxes have a width: x1 < x2",
        r"lesions.csv line 6 f1: centre and radius are those of the box",
        r"lesions.csv line 7 f1: kind is one of CALC, CIRC, .*LUMP",
        r"lesions.csv line 7 f1: severity is one of benign, malignant, unknown",
        r"lesions.csv line 7 f1: action is one of accepted, moved",
        r"lesions.csv line 8 f1: a finding has the model's score exactly where it was not drawn",
        r"lesions.csv line 9: author is 'Doe, John', that of its film is 'Roe, Jane'",
        r"lesions.csv line 9: the same finding stands in an earlier row",
        r"lesions.csv line 10: film 'nowhere' has no row in films.csv",
        r"lesions.csv line 11 f1: scores are from 0 to 1",
        r"lesions.csv line 11 f1: every finding has a place",
        r"lesions.csv line 11 f1: source is feedback",
        r"rejected.csv line 3: the same box stands in an earlier row",
        r"rejected.csv line 4 f1: boxes lie on their film",
    ]:
        assert [line for line in found if re.match(where + expected, line)], f"{expected}\n" + "\n".join(found)


def test_without_a_catalog_or_while_a_run_goes_on_nothing_is_imported(tmp_path: Path) -> None:
    file = write_zip(tmp_path / "a.zip", tables([film()]))
    with pytest.raises(BadInputError, match="which films can be corrected is not known"):
        import_feedback([file], tmp_path)
    place = workspace(tmp_path)
    with only_run(place), pytest.raises(MammoError, match="a run is going on"):
        import_feedback([file], place)
    assert read_tables(place / "feedback")["films"].empty


def test_the_project_holds_the_three_tables_and_new_phantoms_begin_without_corrections(tmp_path: Path) -> None:
    from mammo_ml.repro import make_phantom_workspace

    read_tables(ROOT / "feedback")
    make_phantom_workspace(ROOT, tmp_path / "phantom")
    assert all(table.empty for table in read_tables(tmp_path / "phantom" / "feedback").values())
    own = tmp_path / "phantom" / "feedback" / "films.csv"
    write(own, own.read_text(encoding="utf-8") + "kept\n")
    make_phantom_workspace(ROOT, tmp_path / "phantom")
    assert own.read_text(encoding="utf-8").endswith("kept\n")


def test_corrections_of_films_that_the_catalog_has_not_stop_the_pipeline(place: Path) -> None:
    from mammo_ml.feedback.tables import check_films

    import_feedback([write_zip(place / "a.zip", tables([film()], [lesion()]))], place)
    other = pd.DataFrame({"film_id": ["f1"], "sha256": ["d" * 64]})
    with pytest.raises(BadInputError, match="film f1 has other bytes in the catalog"):
        check_films(read_tables(place / "feedback"), other, place / "feedback")
    with pytest.raises(BadInputError, match="film f1 is not in the catalog"):
        check_films(read_tables(place / "feedback"), other.iloc[:0], place / "feedback")
