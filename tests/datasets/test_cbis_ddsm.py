"""CBIS-DDSM's mass films: a small set made in the published form, every fault named in one run, and the real films."""

import csv
import os
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from mammo_ml.data_quality import validate
from mammo_ml.datasets import cbis_ddsm, cbis_ddsm_source
from mammo_ml.datasets.annotation_check import lesions_match_pixels
from mammo_ml.datasets.catalog import FILMS, LESIONS, dtypes, names
from mammo_ml.datasets.cbis_ddsm_split import make_split, read_split
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.breast import breast_box, breast_mask, chest_wall_side
from mammo_ml.imaging.readers import read_pgm
from tests.datasets.cbis_files import FILES, IMAGES_HEADER, JPEGS, write_cbis_jpegs

SUITES = Path(__file__).parents[2] / "expectations"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_cbis_jpegs(tmp_path / "cbis-ddsm-mass")


def _tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    boxes = {path.stem: (0.0, 0.0, 800.0, 1000.0) for path in folder.glob("*.pgm")}
    return cbis_ddsm.build_tables(folder, "cbis_ddsm", boxes, dict.fromkeys(boxes, "left"))


def _problems(source: Path) -> list[str]:
    out = source.parent / "films"
    with pytest.raises(BadInputError) as caught:
        cbis_ddsm.ingest(source, out)
    assert not out.exists(), "something was published in spite of faults"
    assert [path.name for path in source.parent.iterdir()] == [source.name], "a draft was left"
    return caught.value.problems


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert text.count(old) >= 1, old
    path.write_bytes(text.replace(old, new).encode())


def test_films_get_their_shape_back_and_keep_every_column(source, tmp_path):
    cbis_ddsm.ingest(source, tmp_path / "films")
    films, _ = _tables(tmp_path / "films")
    assert films["width_px"].tolist() == [800] * 4
    # 0.5, 0.6, none known: 0.59, and 0.3 taken as 0.45
    assert films["height_px"].tolist() == [1600, 1333, 1356, 1778]
    for film in films.itertuples():
        pixels = read_pgm(tmp_path / "films" / film.path).pixels
        assert pixels.shape == (film.height_px, film.width_px)
        assert sha256((tmp_path / "films" / film.path).read_bytes()).hexdigest() == film.sha256


def test_pixels_are_as_large_as_the_scanner_and_the_originals_height_say(source, tmp_path):
    cbis_ddsm.ingest(source, tmp_path / "films")
    films, _ = _tables(tmp_path / "films")
    # 4800 rows of 0.05 mm are 240 mm; 5500 and 6000 of 0.0435 mm are 239.25 and 261 mm; unknown: 232.5 mm
    millimetres = films["pixel_spacing_mm"] * films["height_px"]
    assert millimetres.tolist() == pytest.approx([240.0, 239.25, 232.5, 261.0])


def test_boxes_stretch_with_their_film_and_may_end_at_its_edge(source, tmp_path):
    cbis_ddsm.ingest(source, tmp_path / "films")
    _, lesions = _tables(tmp_path / "films")
    by_id = lesions.set_index("lesion_id")
    box = by_id.loc["P_00001_LEFT_CC_1"]
    assert box[["x1", "y1", "x2", "y2"]].tolist() == [100.0, 400.0, 180.0, 480.0]
    # 80 px wide and 80 px high once the film is 800 x 1600: the ellipse in the box is a circle of radius 40
    assert box[["x_px", "y_px", "radius_px"]].tolist() == [140.0, 440.0, 40.0]
    assert by_id.loc["P_00001_LEFT_MLO_2", ["x2", "y2"]].tolist() == [800.0, 1333.0]


def test_the_tables_have_the_schema_and_pass_the_common_suites(source, tmp_path):
    cbis_ddsm.ingest(source, tmp_path / "films")
    films, lesions = _tables(tmp_path / "films")
    assert list(films.columns) == names(FILMS)
    assert films.dtypes.astype(str).to_dict() == dtypes(FILMS)
    assert lesions.dtypes.astype(str).to_dict() == dtypes(LESIONS)
    assert films["density"].tolist() == ["C", "C", "A", "D"]
    assert films["laterality"].tolist() == ["L", "L", "R", "R"]
    tall = films.assign(breast_y2=films["height_px"].astype("float64"))
    report = validate({"films": tall, "lesions": lesions}, SUITES, tmp_path / "docs")
    assert [str(failure) for failure in report.failures] == []
    normal = tall.assign(label=tall["label"].where(tall["film_id"] != "P_00001_LEFT_MLO", "normal"))
    report = validate({"films": normal, "lesions": lesions}, SUITES, tmp_path / "docs")
    assert [failure.rows for failure in report.failures] == [("P_00001_LEFT_MLO",)]


def test_masses_of_a_film_with_both_kinds_teach_where_and_not_of_which_class(source, tmp_path):
    cbis_ddsm.ingest(source, tmp_path / "films")
    films, lesions = _tables(tmp_path / "films")
    mixed = lesions[lesions["film_id"] == "P_00001_LEFT_MLO"]
    assert mixed["severity"].tolist() == ["unknown", "unknown"]
    assert mixed["has_location"].all()
    assert films.set_index("film_id").loc["P_00001_LEFT_MLO", "label"] == "malignant"


def test_benign_without_callback_is_benign(source, tmp_path):
    cbis_ddsm.ingest(source, tmp_path / "films")
    films, lesions = _tables(tmp_path / "films")
    assert films.set_index("film_id").loc["P_00002_RIGHT_MLO", "label"] == "benign"
    assert lesions.set_index("lesion_id").loc["P_00002_RIGHT_MLO_1", "severity"] == "benign"


def test_a_calcification_on_a_mass_film_is_an_unlocated_lesion_and_makes_the_film_malignant(source, tmp_path):
    cbis_ddsm.ingest(source, tmp_path / "films")
    films, lesions = _tables(tmp_path / "films")
    assert lesions["kind"].tolist() == ["MASS"] * 5 + ["CALC"]
    calcification = lesions.iloc[-1]
    assert calcification["lesion_id"] == "P_00003_RIGHT_CC_calc_2"
    assert not calcification["has_location"]
    assert calcification["source"] == "calc_case_description_train_set.csv:2"
    assert films["label"].tolist() == ["malignant", "malignant", "benign", "malignant"]
    assert lesions.loc[lesions["film_id"] == "P_00003_RIGHT_CC", "severity"].tolist() == ["benign", "malignant"]


def test_sources_name_the_line_a_row_begins_on_whatever_line_breaks_its_quotes_hold(source):
    masses = cbis_ddsm_source.read_source(source).masses
    # every row but the header takes two lines
    assert [case.line for case in masses] == [2, 4, 6, 8, 10]


def test_each_film_is_traced_to_its_jpeg(source, tmp_path):
    cbis_ddsm.ingest(source, tmp_path / "films")
    origins = pd.read_csv(tmp_path / "films" / "origins.csv")
    assert origins["film_id"].tolist() == [f"P_{name}" for name in JPEGS]
    for origin in origins.itertuples():
        assert sha256((source / "train" / origin.file).read_bytes()).hexdigest() == origin.sha256


def test_ingesting_twice_gives_the_same_bytes(source, tmp_path):
    for name in ("first", "second"):
        cbis_ddsm.ingest(source, tmp_path / name)
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("first", "second"))
    assert first == second


def test_a_byte_order_mark_and_unix_line_ends_make_no_difference(source):
    before = cbis_ddsm_source.read_source(source)
    for name in FILES:
        path = source / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n"))
    assert before.problems == ()
    assert cbis_ddsm_source.read_source(source) == before


def test_every_fault_of_every_file_is_named_in_one_run_with_its_line(source):
    images, boxes = source / "images.csv", source / "boxes.csv"
    masses, calcs = (source / name for name in list(FILES)[2:])
    _replace(boxes, "100,200,80,40,MALIGNANT", "760,200,80,40,MALIGN")
    _replace(boxes, "300,400,59,100", "x,400,0,100")
    _replace(
        boxes, "10.5,20.25,30,40,BENIGN", "10.5,20.25,30,40,BENIGN\r\ntrain,00003_RIGHT_CC.jpg,10.5,20.25,30,40,BENIGN"
    )
    with boxes.open("a") as file:
        file.write("train,00077_LEFT_CC.jpg,1,1,9,9,BENIGN\n")
    _replace(images, "P_00003,RIGHT,CC,4", "P_00003,RIGHT,CC,5")
    with images.open("a") as file:
        file.write("train,00001_LEFT_CC.jpg,P_00001,LEFT,CC,3,1,MALIGNANT,0,4,2400,4800,0.5\n")
        file.write("train,00005_LEFT_CC.jpg,P_00004,LEFT,CC,3,1,BENIGN,0,4,-1,,\n")
        file.write("train,00006_LEFT_CC.jpg,P_00006,LEFT,CC,3,1,BENIGN,0,4,2400,4800,0.5\n")
    _replace(masses, "P_00002,1,RIGHT", "P_00002,2,RIGHT")
    _replace(masses, ",BENIGN_WITHOUT_CALLBACK,", ",BENIGN_MAYBE,")
    _replace(calcs, "P_00009,2,LEFT,CC,1", "P_00009,2,LEFT,XCC,1")
    (source / "train" / "00001_LEFT_MLO.jpg").unlink()
    (source / "train" / "00002_RIGHT_MLO.jpg").write_bytes(b"\xff\xd8\xff half a film")
    Image.new("L", (640, 800)).save(source / "train" / "00099_LEFT_CC.jpg")
    text = "\n".join(_problems(source))
    for words in (
        "boxes.csv line 2: pathology 'MALIGN' is not one of MALIGNANT, BENIGN, MIXED",
        "boxes.csv line 2: the box on 00001_LEFT_CC.jpg ends at 840, 240, outside the film of 800 x 800 px",
        "boxes.csv line 5: x 'x' is not a number of 0 or more",
        "boxes.csv line 5: the box on 00002_RIGHT_MLO.jpg has no area",
        "boxes.csv line 7: the box of line 6 again",
        "boxes.csv line 8: film 00077_LEFT_CC.jpg has no row in images.csv",
        "images.csv line 5: breast_density '5' is not one of 1, 2, 3, 4",
        "images.csv line 6: the film of line 2 again: P_00001_LEFT_CC",
        "images.csv line 7: file '00005_LEFT_CC.jpg' is not that of its woman, side and view, 00004_LEFT_CC.jpg",
        "images.csv line 7: est_orig_width '-1' is not a number of 0 or more",
        "images.csv line 8: film 00006_LEFT_CC.jpg: 1 abnormalities, but 0 boxes and 0 rows in mass_case",
        "mass_case_description_train_set.csv line 8: pathology 'BENIGN_MAYBE' is not one of",
        "calc_case_description_train_set.csv line 4: image_view 'XCC' is not one of CC, MLO",
        "images.csv line 3: no film 00001_LEFT_MLO.jpg",
        "00002_RIGHT_MLO.jpg: ",
        "film 00099_LEFT_CC.jpg has no row in images.csv",
    ):
        assert words in text, f"{words}\n--- not in ---\n{text}"


def test_faults_between_the_files_are_named(source):
    _replace(source / "mass_case_description_train_set.csv", "P_00002,1,RIGHT", "P_00002,2,RIGHT")
    _replace(source / "boxes.csv", "300,400,59,100,BENIGN", "300,400,59,100,MALIGNANT")
    _replace(source / "images.csv", "CC,3,1,MALIGNANT", "CC,3,1,BENIGN")
    assert _problems(source) == [
        "mass_case_description_train_set.csv line 8: density B, images.csv line 4 says A",
        "images.csv line 2: film 00001_LEFT_CC.jpg: benign, but its most severe row in "
        "mass_case_description_train_set.csv is malignant",
        "images.csv line 4: film 00002_RIGHT_MLO.jpg: its boxes are malignant, its rows in "
        "mass_case_description_train_set.csv benign",
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"b/000000.dcm\n"', '"b/000000.dcm\n', "cannot be read as CSV"),
        ('"b/000000.dcm\n"', "b/0000\n00.dcm", "line 5: 1 fields, the header has 8"),
        (",pathology,", ",patology,", "line 1: columns missing or there twice: pathology"),
        ("image view", "pathology", "columns missing or there twice: image_view, pathology"),
    ],
)
def test_a_broken_table_is_refused_by_name(source, old, new, words):
    name = "mass_case_description_train_set.csv"
    _replace(source / name, old, new)
    (found,) = [problem for problem in _problems(source) if words in problem]
    assert found.startswith(name)


def test_an_empty_or_missing_table_is_refused_by_name(source):
    (source / "boxes.csv").unlink()
    (source / "images.csv").write_text(IMAGES_HEADER + "\n")
    (source / "calc_case_description_train_set.csv").write_bytes(b"")
    problems = _problems(source)
    assert "boxes.csv: no such file" in problems
    assert "images.csv: no rows" in problems
    assert any(problem.startswith("calc_case_description_train_set.csv") for problem in problems)


def test_a_film_of_another_size_and_one_film_under_two_names_are_refused(source):
    Image.new("L", (640, 800)).save(source / "train" / "00001_LEFT_CC.jpg")
    jpegs = source / "train"
    (jpegs / "00002_RIGHT_MLO.jpg").write_bytes((jpegs / "00003_RIGHT_CC.jpg").read_bytes())
    assert _problems(source) == [
        "00001_LEFT_CC.jpg: 640 x 800 px, uint8; expected 800 x 800 px, 8 bits",
        "00002_RIGHT_MLO.jpg and 00003_RIGHT_CC.jpg hold the same bytes",
    ]


def test_a_refused_set_leaves_the_films_of_the_last_run_as_they_were(source, tmp_path):
    out = tmp_path / "films"
    cbis_ddsm.ingest(source, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (source / "train" / "00001_LEFT_CC.jpg").unlink()
    with pytest.raises(BadInputError, match="Nothing was published"):
        cbis_ddsm.ingest(source, out)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_written_film_that_is_missing_cut_or_foreign_is_refused_when_tables_are_built(source, tmp_path):
    out = tmp_path / "films"
    cbis_ddsm.ingest(source, out)
    (out / "P_00001_LEFT_CC.pgm").unlink()
    cut = out / "P_00002_RIGHT_MLO.pgm"
    cut.write_bytes(cut.read_bytes()[:-1])
    (out / "P_00088_LEFT_CC.pgm").write_bytes(cut.read_bytes())
    with pytest.raises(BadInputError) as caught:
        _tables(out)
    assert len(caught.value.problems) == 3
    for name in ("P_00001_LEFT_CC.pgm", "P_00002_RIGHT_MLO.pgm", "P_00088_LEFT_CC.pgm"):
        assert name in str(caught.value)


# --- the real films -------------------------------------------------------------------------------------------------

needs_films = pytest.mark.skipif(not os.environ.get("MAMMO_EXTERNAL"), reason="MAMMO_EXTERNAL is not set")


@pytest.mark.external
@needs_films
def test_the_known_counts_are_those_of_the_published_files_counted_another_way():
    """The facts count tables this package made; this counts lines of the files it was given."""
    source = Path(os.environ["MAMMO_EXTERNAL"]) / cbis_ddsm.FOLDER
    read = cbis_ddsm_source.read_source(source)
    assert read.problems == ()
    with (source / "mass_case_description_train_set.csv").open(newline="", encoding="utf-8") as file:
        cases = list(csv.DictReader(file))
    found = [(case["patient_id"], case["left or right breast"], case["image view"]) for case in cases]
    assert len(cases) == len(read.masses) == len(read.boxes) == 1318
    assert len(set(found)) == len(read.films) == len(list((source / "train").glob("*.jpg"))) == 1231
    assert len({case["patient_id"] for case in cases}) == len({film.patient_id for film in read.films}) == 691
    by_film: dict[tuple[str, str, str], set[str]] = {}
    for film, case in zip(found, cases, strict=True):
        by_film.setdefault(film, set()).add(case["pathology"].removesuffix("_WITHOUT_CALLBACK"))
    assert sum(len(pathologies) == 2 for pathologies in by_film.values()) == 6
    assert sum("MALIGNANT" in pathologies for pathologies in by_film.values()) == 602
    assert sum(film[1] == "LEFT" for film in by_film) == 591
    assert sum(film[2] == "CC" for film in by_film) == 573
    boxes = [line.split(",")[-1] for line in (source / "boxes.csv").read_text(encoding="utf-8").split()[1:]]
    assert [boxes.count(word) for word in ("BENIGN", "MALIGNANT", "MIXED")] == [675, 629, 14]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cbis") / "films"
    source = Path(os.environ["MAMMO_EXTERNAL"]) / cbis_ddsm.FOLDER
    cbis_ddsm.ingest(source, folder)
    masks = {path.stem: breast_mask(read_pgm(path).pixels) for path in folder.glob("*.pgm")}
    boxes = {film_id: breast_box(mask) for film_id, mask in masks.items()}
    sides = {film_id: chest_wall_side(mask) for film_id, mask in masks.items()}
    return source, folder, *cbis_ddsm.build_tables(folder, "cbis_ddsm", boxes, sides)


@pytest.mark.external
@needs_films
@pytest.mark.slow
def test_the_real_films_are_what_is_known_of_them_and_every_check_looked_at_something(real, tmp_path):
    _, _, films, lesions = real
    report = validate({"films": films, "lesions": lesions}, SUITES, tmp_path, "cbis_ddsm")
    assert [str(failure) for failure in report.failures] == []
    assert report.evaluated["films_in_cbis_ddsm"] == 15
    assert report.evaluated["lesions_in_cbis_ddsm"] == 11


@pytest.mark.external
@needs_films
@pytest.mark.slow
def test_masses_are_as_wide_as_high_once_the_aspect_is_restored(real):
    """Masses grow no wider than high: their boxes say whether the films have their shape back (0.59 before)."""
    _, _, _, lesions = real
    masses = lesions[lesions["has_location"]]
    aspects = (masses["x2"] - masses["x1"]) / (masses["y2"] - masses["y1"])
    assert aspects.median() == pytest.approx(1.0, abs=0.05)


@pytest.mark.external
@needs_films
@pytest.mark.slow
def test_sizes_in_millimetres_are_those_of_breasts_and_masses(real):
    _, _, films, lesions = real
    height_mm = films["height_px"] * films["pixel_spacing_mm"]
    assert height_mm.median() == pytest.approx(cbis_ddsm.MEDIAN_HEIGHT_MM, abs=1.0)
    assert height_mm.max() < 301, "no film is longer than the 30 cm of the larger cassette"
    spacing = lesions["film_id"].map(films.set_index("film_id")["pixel_spacing_mm"])
    assert 12 < ((lesions["x2"] - lesions["x1"]) * spacing).median() < 17


@pytest.mark.external
@needs_films
@pytest.mark.slow
def test_boxes_lie_on_bright_tissue_of_the_real_films(real):
    _, folder, films, lesions = real
    found = lesions_match_pixels(films, lesions, lambda film_id: read_pgm(folder / f"{film_id}.pgm").pixels)
    assert found["n_lesions"] == 1318
    assert found["brighter_share"] > 0.95


@pytest.mark.external
@needs_films
@pytest.mark.slow
def test_the_committed_list_is_the_one_the_real_films_give(real):
    _, _, films, _ = real
    pd.testing.assert_frame_equal(make_split(films), read_split())
