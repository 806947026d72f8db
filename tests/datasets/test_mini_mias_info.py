import pytest

from mammo_ml.datasets.mini_mias_info import InfoRow, parse_info
from mammo_ml.errors import BadInputError

PROSE = """\
By popular request, see http://skye.icr.ac.uk/miasdb/miasdb.html
2nd column: Character of background tissue:
                F - Fatty
                CALC - Calcification
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(BadInputError) as caught:
        parse_info(text)
    return caught.value.problems


def test_every_form_of_row_is_read_and_the_prose_is_not():
    text = PROSE + "mdb001 G CIRC B 535 425 197\nmdb003 D NORM \nmdb059 F CIRC B\nmdb216 D CALC M *NOTE 3* \n====\n"
    assert parse_info(text) == [
        InfoRow(5, "mdb001", "G", "CIRC", "benign", 535, 425, 197),
        InfoRow(6, "mdb003", "D", "NORM"),
        InfoRow(7, "mdb059", "F", "CIRC", "benign"),
        InfoRow(8, "mdb216", "D", "CALC", "malignant"),
    ]


def test_a_note_is_no_coordinate():
    (row,) = parse_info("mdb216 D CALC M *NOTE 3*")
    assert (row.x, row.y, row.radius) == (None, None, None)


def test_only_a_film_of_class_norm_is_normal():
    normal, unlocated = parse_info("mdb003 D NORM\nmdb059 F CIRC B\n")
    assert normal.is_normal
    assert not unlocated.is_normal


@pytest.mark.parametrize("corner", ["0 0 1", "1023 1023 1", "0 1023 512"])
def test_the_corners_of_the_film_are_on_it(corner):
    (row,) = parse_info(f"mdb001 G CIRC B {corner}")
    assert [row.x, row.y, row.radius] == [int(value) for value in corner.split()]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("mdb001 G CIRC B 1024 425 197", "x 1024, y 425 lie outside the film of 1024 x 1024 px"),
        ("mdb001 G CIRC B 535 -1 197", "x 535, y -1 lie outside"),
        ("mdb001 G CIRC B 535 425 0", "radius 0 is not above 0"),
        ("mdb001 G CIRC B 535.5 425 30", "whole numbers, found '535.5 425 30'"),
        ("mdb001 G CIRC B 535 425", "6 fields; a location is x, y and radius"),
        ("mdb001 G CIRC B 535 425 30 7", "8 fields"),
        ("mdb001 G CIRC b 535 425 30", "severity 'b' is not B or M"),
        ("mdb001 G CIRC", "severity '' is not B or M"),
        ("mdb001 X NORM", "tissue 'X' is not one of F G D"),
        ("mdb001 G", "2 fields, expected at least film, tissue and class"),
        ("mdb001 G NORM 535 425 197", "a normal film with 3 more fields"),
        ("mdb001 G CALC M *NOTE 3* 535 425 197", "a note that there is no location, and a location"),
        ("mdb1 G NORM", "film 'mdb1' is not mdb and three digits"),
        ("MDB001 G NORM", "film 'MDB001' is not"),
    ],
)
def test_a_row_that_does_not_fit_is_named_with_line_and_words(row, words):
    (problem,) = problems_of(PROSE + row + "\nmdb002 G NORM\n")
    assert problem.startswith("line 5: ")
    assert words in problem
    assert problem.endswith(f"'{row}'")


@pytest.mark.parametrize("row", ["mbd005 F CIRC B 500 168 26", "# mdb005 F CIRC B 500 168 26", "5 F CIRC B 500 168 26"])
def test_a_row_of_a_mistyped_film_is_not_passed_over_as_prose(row):
    (problem,) = problems_of("mdb005 F CIRC B 477 133 30\n" + row)
    assert problem.startswith("line 2: film ")


def test_rows_that_contradict_each_other_are_named_with_both_lines():
    text = "mdb001 G CIRC B 1 2 3\nmdb001 G CIRC B 1 2 3\nmdb001 D CIRC M 5 6 7\nmdb001 G NORM\n"
    assert problems_of(text) == [
        "line 2: repeats an earlier row of mdb001",
        "line 3: mdb001 has tissue D, line 1 G",
        "line 4: mdb001 is normal and abnormal (see line 1)",
    ]


def test_two_lesions_of_one_film_are_two_rows_also_of_both_severities():
    rows = parse_info("mdb144 F MISC B 233 994 29\nmdb144 F MISC M 313 540 27\n")
    assert [row.severity for row in rows] == ["benign", "malignant"]


@pytest.mark.parametrize("text", ["", PROSE], ids=["empty", "prose only"])
def test_a_file_without_rows_is_refused(text):
    assert problems_of(text) == ["no row found; expected lines such as 'mdb001 G CIRC B 535 425 197'"]


def test_the_message_names_the_file_and_the_way_out():
    with pytest.raises(BadInputError, match=r"films/Info\.txt: 1 problem(.|\n)*official archive"):
        parse_info("mdb001 X NORM", "films/Info.txt")
