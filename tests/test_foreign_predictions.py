import json

import pandas as pd
import pytest

from mammo_ml.benchmark import Benchmark
from mammo_ml.errors import BadInputError
from mammo_ml.foreign_predictions import read_predictions

FILMS = pd.DataFrame(
    [
        ("mdb001", "p001", "benign"),
        ("mdb002", "p001", "normal"),
        ("mdb003", "p002", "malignant"),
        ("mdb004", "p002", "normal"),
        ("mdb059", "p003", "benign"),
    ],
    columns=["film_id", "patient_id", "label"],
).assign(width_px=1024, height_px=1024)
LESIONS = pd.DataFrame(
    {
        "lesion_id": ["mdb001_1", "mdb003_1", "mdb059_1"],
        "film_id": ["mdb001", "mdb003", "mdb059"],
        "has_location": [True, True, False],
    }
)
PATCHES = pd.DataFrame(
    {
        "patch_id": ["mdb001_1", "mdb003_1", "mdb002_like_mdb001_1_0"],
        "film_id": ["mdb001", "mdb003", "mdb002"],
        "label": ["benign", "malignant", "normal"],
    }
)
BENCHMARK = Benchmark(
    FILMS, LESIONS, PATCHES, pd.DataFrame({"patient_id": ["p001", "p002", "p003"], "fold": [0, 3, 1]})
)
DETECTOR = "film_id,x1,y1,x2,y2,score"
FOUR = [f"mdb00{n},10,20,30,40,0.{n}" for n in (1, 2, 3, 4)]
CLASSIFIER = "film_id,item,p_normal,p_benign,p_malignant"
FIVE = [f"{film},,0.5,0.3,0.2" for film in FILMS["film_id"]]


@pytest.fixture
def read(tmp_path):
    def read(*lines, name="predictions.csv", **options):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return read_predictions(path, BENCHMARK, **options)

    return read


@pytest.fixture
def problems(read):
    def problems(*lines, **options):
        with pytest.raises(BadInputError) as caught:
            read(*lines, **options)
        return caught.value.problems

    return problems


def test_one_score_is_halved_over_the_classes_so_that_their_sum_is_the_score(read):
    found = read(DETECTOR, *FOUR)
    assert (found.task, found.classes) == ("detector", False)
    assert (found.rows["p_benign"] + found.rows["p_malignant"]).tolist() == [0.1, 0.2, 0.3, 0.4]


def test_two_probabilities_stay_what_they_are_and_columns_may_stand_in_any_order(read):
    lines = [f"0.{n},0.1,{n},40,30,20,10,mdb00{n}" for n in (1, 2, 3, 4)]
    found = read(
        "p_malignant,p_benign,fold,y2,x2,y1,x1,film_id",
        *[
            line.replace(",0.1,1,", ",0.1,0,").replace(",0.1,2,", ",0.1,0,").replace(",0.1,4,", ",0.1,3,")
            for line in lines
        ],
    )
    assert found.classes
    assert found.rows.iloc[2].tolist() == ["mdb003", 10, 20, 30, 40, 0.1, 0.3]


def test_every_fault_of_detections_is_named_with_its_line_in_one_error(problems):
    found = problems(
        f"{DETECTOR},fold",
        "mdb001,10,20,30,40,1.5,0",
        "mdb001,10,20,30,40,0.5,0",
        "mdb002,10,20,10,40,nan,0",
        "mdb002,10,20,10,40,0.1,0",
        "mdb003,-1,20,30,1025,-0.5,2",
        "mdb999,10,20,30,40,0.5,0",
        "mdb999,1,2,3,4,0.5,0",
        "mdb059,10,20,30,40,0.5,1",
        "mdb002,ten,20,30,40,0.5,0,7",
        "mdb002",
    )
    expected = [
        "line 10 has 8 fields, the header 7",
        "line 11 has 1 fields, the header 7",
        "film 'mdb999' is none of mini-MIAS's mdb001 to mdb322: line 7, line 8",
        "film mdb059 has a lesion without location and is not judged, leave it out: line 9",
        "line 6: fold '2' of film mdb003 is not the benchmark's 3",
        "line 11: fold '' of film mdb002 is not the benchmark's 0",
        "line 10: x1 'ten' is not a number",
        "line 4: score 'nan' is not a number",
        "film mdb002 has detections, and a row that says it has none",
        "line 5: box [10.0, 20.0, 10.0, 40.0] has no area: x1 < x2 and y1 < y2 are needed",
        "line 6: box [-1.0, 20.0, 30.0, 1025.0] reaches outside the film of 1024 x 1024 px",
        "line 2: score is 1.5, outside 0 to 1",
        "line 6: score is -0.5, outside 0 to 1",
        "a box of film mdb001 is there 2 times: line 2, line 3",
    ]
    assert found[:-1] == expected
    assert found[-1].startswith("1 of 4 films have no row: mdb004. If the detector looked at them and found nothing")


def test_scores_of_classes_must_add_up(problems):
    header = "film_id,x1,y1,x2,y2,score,p_benign,p_malignant"
    lines = [
        "mdb001,1,2,3,4,0.5,0.2,0.2",
        "mdb002,1,2,3,4,1,0.6,0.7",
        *[f"mdb00{n},1,2,3,4,0.3,0.1,0.2" for n in (3, 4)],
    ]
    assert problems(header, *lines) == [
        "line 3: p_benign + p_malignant is 1.3, above 1",
        "line 2: score is not p_benign + p_malignant, 0.4",
        "line 3: score is not p_benign + p_malignant, 1.3",
    ]


def test_wrong_columns_are_named_with_the_ones_that_are_meant(problems):
    assert problems("film,x1,y1,x2,y2,scor", "mdb001,1,2,3,4,0.5") == [
        "column 'film_id' is missing",
        "column 'score' is missing",
        "column 'film' is unknown; did you mean 'film_id'?",
        "column 'scor' is unknown; did you mean 'score'?",
    ]
    found = problems("film_id,p_normal,p_bening,p_malignant", "mdb001,1,0,0")
    assert found == ["column 'p_benign' is missing", "column 'p_bening' is unknown; did you mean 'p_benign'?"]
    assert problems(f"{DETECTOR},score", *FOUR)[0] == "column 'score' is there twice"


def test_a_film_without_detection_must_be_declared_in_one_of_three_ways(read, problems, tmp_path):
    three = FOUR[:3]
    assert len(problems(DETECTOR, *three)) == 1
    assert len(read(DETECTOR, *three, looked_at="all").rows) == 3
    listed = tmp_path / "looked_at.txt"
    listed.write_text("film_id\nmdb004\n", encoding="utf-8")
    assert len(read(DETECTOR, *three, looked_at=str(listed)).rows) == 3
    assert len(read(DETECTOR, *three, "mdb004,,,,,").rows) == 3
    listed.write_text("mdb04\nmdb003\n", encoding="utf-8")
    found = problems(DETECTOR, *three, looked_at=str(listed))
    assert found[0] == f"{listed}, line 1: no film 'mdb04'"
    assert found[1].startswith("1 of 4 films have no row: mdb004")


def test_a_detector_that_finds_nothing_anywhere_is_no_fault_where_that_is_declared(read):
    assert read(DETECTOR, looked_at="all").rows.empty


def test_films_and_patches_are_told_apart_by_their_item_and_get_their_own_labels(read):
    patches = [f"{film},{item},0.1,0.2,0.7" for item, film, _ in PATCHES.itertuples(index=False)]
    found = read(CLASSIFIER, *FIVE, *patches)
    assert found.films["label"].tolist() == FILMS["label"].tolist()
    assert found.patches["label"].tolist() == ["benign", "malignant", "normal"]
    assert found.patches["fold"].tolist() == [0, 3, 0]
    assert read(CLASSIFIER, *patches).films.empty
    assert read("film_id,p_normal,p_benign,p_malignant", *[line.replace(",,", ",") for line in FIVE]).patches.empty


def test_every_fault_of_probabilities_is_named_with_its_line_in_one_error(problems):
    found = problems(
        f"{CLASSIFIER},label",
        "mdb001,,0.5,0.3,0.2,benign",
        "mdb001,mdb001,0.5,0.3,0.2,benign",
        "mdb002,,0.5,0.3,0.3,normal",
        "mdb003,,1.5,-0.3,-0.2,benign",
        "mdb004,,inf,0,0,normal",
        "mdb002,mdb001_1,1,0,0,benign",
        "mdb002,mdb002_7,1,0,0,normal",
        "mdb323,,1,0,0,normal",
    )
    assert found == [
        "film 'mdb323' is none of mini-MIAS's mdb001 to mdb322: line 9",
        "line 8: no patch 'mdb002_7'",
        "line 7: patch 'mdb001_1' is not on that film",
        "line 5: label 'benign' of film mdb003 is not the benchmark's malignant",
        "line 6: p_normal 'inf' is not a number",
        "line 5: p_normal is 1.5, outside 0 to 1",
        "line 5: p_benign is -0.3, outside 0 to 1",
        "line 5: p_malignant is -0.2, outside 0 to 1",
        "line 4: probabilities sum to 1.1, not to 1",
        "an item of film mdb001 is there 2 times: line 2, line 3",
        "1 of 5 films have no row: mdb059",
        "2 of 3 patches have no row: mdb002_like_mdb001_1_0, mdb003_1",
    ]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "column 'film_id' is missing"),
        (CLASSIFIER, "no row that the benchmark judges"),
        (f'{CLASSIFIER}\n"mdb001', "not a CSV file"),
        ("film_id;p_normal;p_benign;p_malignant\nmdb001;1;0;0", "column 'film_id;p_normal;p_benign;p_malignant' is"),
    ],
)
def test_a_file_that_is_no_table_is_refused(problems, content, fault):
    assert any(fault in problem for problem in problems(content))


def test_our_own_files_rows_that_the_benchmark_does_not_judge_are_left_out_and_that_is_said(read, problems):
    rows = [f"films_by_patient,{line}" for line in [*FOUR, "mdb059,1,2,3,4,0.5"]]
    found = read(f"protocol,{DETECTOR}", *rows, "cuts_by_patient,mdb001,1,2,3,4,0.5")
    assert len(found.rows) == 4
    expected = "2 of 6 rows left out: another protocol than films_by_patient, or films without a location"
    assert found.notes == (expected,)
    assert problems(f"protocol,{DETECTOR}", f"mine,{FOUR[0]}") == ["no row is 'films_by_patient'; found: mine"]


def results(*rows):
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in rows
    ]


def test_coco_results_are_boxes_by_corner_and_size_and_two_classes_of_one_box_are_one_detection(read):
    box = [10, 20, 20, 20]
    entries = results((1, 1, box, 0.2), (1, 2, box, 0.5), ("mdb003", 2, [0, 0, 5, 6], 0.25))
    found = read(json.dumps(entries), name="results.json", looked_at="all")
    assert found.classes
    assert found.rows.to_numpy().tolist() == [
        ["mdb001", 10, 20, 30, 40, 0.2, 0.5],
        ["mdb003", 0, 0, 5, 6, 0.0, 0.25],
    ]


def test_coco_images_name_the_films_and_declare_them_looked_at_and_one_category_is_no_class(read):
    images = [{"id": 10 + n, "file_name": f"films/mdb00{n}.pgm"} for n in (1, 2, 3, 4)]
    content = {
        "images": images,
        "categories": [{"id": 7, "name": "Malignant"}],
        "annotations": results((13, 7, [0, 0, 5, 6], 0.5)),
    }
    found = read(json.dumps(content), name="results.json")
    assert found.rows.to_numpy().tolist() == [["mdb003", 0, 0, 5, 6, 0.25, 0.25]]
    assert not found.classes
    assert found.notes == ("One category only: its detections are taken as lesions without a class.",)


def test_every_fault_of_coco_results_is_named_with_its_entry(problems):
    entries = [
        *results((1, 1, [0, 0, 5, 6], 0.5), (1, 1, [0, 0, 5, 6], 0.4), (2, 2, [1020, 0, 5, 6], float("nan"))),
        *results((400, 3, [0, 0, 5, 6], 0.5), (500, 2, [0, 0, 0, 6], 0.5), (2, 2, [0, 0, 0, 6], 2)),
        {"image_id": 1, "bbox": [1, 2, 3], "score": 0.5},
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3], "score": 0.5},
        7,
    ]
    assert problems(json.dumps(entries), name="results.json", looked_at="all") == [
        "entry 7: category_id missing",
        "entry 8: bbox [1, 2, 3] is not [x, y, width, height]",
        "entry 9: not a result",
        "entry 4: category_id 3 is neither benign nor malignant; known: 1 benign, 2 malignant",
        "film 'mdb500' is none of mini-MIAS's mdb001 to mdb322: entry 5",
        "entry 3: p_malignant nan is not a number",
        "entry 6: box [0.0, 0.0, 0.0, 6.0] has no area: x1 < x2 and y1 < y2 are needed",
        "entry 6: p_malignant is 2, outside 0 to 1",
        "a box of film mdb001 is there 2 times: entry 1, entry 2",
    ]


@pytest.mark.parametrize("content", ["{", '{"images": []}', '{"images": [1], "annotations": []}'])
def test_json_that_holds_no_results_is_refused(problems, content):
    assert len(problems(content, name="results.json")) == 1
