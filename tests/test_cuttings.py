import numpy as np
import pandas as pd
import pytest

from mammo_ml.cuttings import (
    LABEL_OF_LESIONS,
    CuttingComparison,
    CuttingParameters,
    cut,
    grid_windows,
    lesions_kept,
    named,
    shares_held,
)
from mammo_ml.cuttings_table import cuttings_table
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.breast import canonical_transform
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.parameters import parse_section

MATCHING = {
    "window_px": 256,
    "input_px": 128,
    "normals_per_lesion": 1,
    "min_breast_share": 0.9,
    "jittered_per_lesion": 0,
    "jitter_px": 0,
    "normal_cuts_per_film": 0,
    "min_visible_share": 0.3,
    "seed": 1,
}
ASKED = {
    "input_px": 128,
    "columns": {"grid_128": [2, 3, 4, 5], "grid_256": [1, 2]},
    "min_lesion_share": 0.25,
    "lesions": MATCHING,
}
PARAMETERS = parse_section(ASKED, CuttingParameters, "cut_patches")
LABELS = {"a": "normal", "b": "benign", "c": "malignant", "d": "benign"}
BOXES = {"b": (300.0, 300.0, 340.0, 340.0), "c": (364.0, 600.0, 404.0, 640.0)}
"""In cell (2, 2) of the grid of 128; across the edge at x 384 of the same grid; d's lesion has no place."""


def film(name: str, width: int = 1024, height: int = 1024) -> CanonicalFilm:
    pixels = np.full((height, width), 100, dtype=np.uint8)
    if name in BOXES:
        x1, y1, x2, y2 = map(int, BOXES[name])
        pixels[y1:y2, x1:x2] = 250
    mask = np.ones((height, width), dtype=np.bool_)
    return CanonicalFilm(name, pixels, mask, canonical_transform("left", width, height, 0.2))


FILMS = pd.DataFrame(
    {"film_id": list(LABELS), "patient_id": [f"w_{n}" for n in LABELS], "label": list(LABELS.values())}
)
LESIONS = pd.DataFrame(
    [
        {
            "lesion_id": f"{name}_1",
            "film_id": name,
            "severity": LABELS[name],
            "has_location": name in BOXES,
            **dict(zip(["x1", "y1", "x2", "y2"], BOXES.get(name, [np.nan] * 4), strict=True)),
        }
        for name in "bcd"
    ]
)
CANONICAL = {name: film(name) for name in LABELS}


def test_the_slides_keep_the_middle_four_of_eight_columns() -> None:
    windows = grid_windows("grid_128", (2, 3, 4, 5))
    assert windows.shape == (32, 4)
    assert (windows[0], windows[-1]) == (
        pytest.approx([256, 0, 384, 128]),
        pytest.approx([640, 896, 768, 1024]),
    )
    assert grid_windows("grid_256", (1, 2)).shape == (8, 4)


def test_a_patch_of_an_abnormal_film_is_called_as_the_film_or_as_what_it_shows() -> None:
    patches = cut("grid_128", FILMS, CANONICAL, LESIONS, PARAMETERS)
    by_film, by_lesion = named(patches, "film").patches, named(patches, "lesion_overlap").patches
    assert dict(by_film["label"].value_counts()) == {"benign": 64, "normal": 32, "malignant": 32}
    # d's lesion may lie anywhere, so none of its patches can be called normal
    assert set(by_lesion["film_id"]) == {"a", "b", "c"}
    shown = by_lesion[by_lesion["label"] != "normal"]
    assert [(row.film_id, row.x1, row.y1) for row in shown.itertuples()] == [
        ("b", 256.0, 256.0),
        ("c", 256.0, 512.0),
        ("c", 384.0, 512.0),
    ]


def test_a_picture_shows_its_window_brought_to_the_input() -> None:
    patches = cut("grid_256", FILMS, CANONICAL, LESIONS, PARAMETERS)
    own = patches.patches.reset_index().set_index(["film_id", "x1", "y1"]).loc[("b", 256.0, 256.0)]
    picture = patches.pictures[own["index"], 0]
    assert picture.shape == (128, 128)
    rows, columns = np.nonzero(picture > 200)
    # box 300 to 340 in a window from 256: 22 to 42 at half the size
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (22, 41, 22, 41)


def test_lesions_are_counted_whole_broken_and_lost() -> None:
    def kept(cutting: str, columns: dict[str, list[int]]) -> dict[str, float]:
        parameters = parse_section(ASKED | {"columns": columns}, CuttingParameters, "cut_patches")
        patches = cut(cutting, FILMS, CANONICAL, LESIONS, parameters)  # type: ignore[arg-type]
        return lesions_kept(cutting, CANONICAL, LESIONS, patches.patches)  # type: ignore[arg-type]

    found = kept("grid_128", ASKED["columns"])  # type: ignore[arg-type]
    assert [found[f"lesions_{what}"] for what in ("whole", "broken", "lost")] == [1, 1, 0]
    assert found["lesion_share_in_best_patch"] == 0.75
    assert (found["n_patches_cut"], found["n_pictures"]) == (128, 640)
    lost = kept("grid_128", {"grid_128": [3], "grid_256": [1]})
    assert [lost[f"lesions_{what}"] for what in ("whole", "broken", "lost")] == [0, 1, 1]
    assert kept("lesion_256", ASKED["columns"])["lesions_whole"] == 2  # type: ignore[arg-type]


def test_patches_round_lesions_are_as_the_pipeline_cuts_them() -> None:
    patches = cut("lesion_128", FILMS, CANONICAL, LESIONS, PARAMETERS)
    edges = patches.patches["x2"] - patches.patches["x1"]
    assert set(edges) == {128.0}
    assert dict(patches.patches["label"].value_counts()) == {"normal": 2, "benign": 1, "malignant": 1}
    assert (patches.patches["label"] == patches.patches[LABEL_OF_LESIONS]).all()


def test_a_share_is_of_the_lesion_not_of_the_window() -> None:
    window, box = np.array([[0.0, 0.0, 10.0, 10.0]]), np.array([[5.0, 0.0, 15.0, 40.0], [2.0, 2.0, 3.0, 3.0]])
    assert shares_held(window, box)[0] == pytest.approx([0.125, 1.0])


@pytest.mark.parametrize(("width", "height"), [(900, 900), (900, 1024), (1024, 900)])
def test_a_film_the_grid_does_not_exist_for_is_named(width: int, height: int) -> None:
    films = CANONICAL | {"b": film("b", width, height)}
    with pytest.raises(BadInputError, match=rf"film b: {width} x {height} px at 0\.2 mm") as caught:
        cut("grid_128", FILMS, films, LESIONS, PARAMETERS)
    assert "cut by lesion_256" in str(caught.value)


def test_names_that_leave_a_class_without_patches_are_refused() -> None:
    patches = cut("grid_128", FILMS, CANONICAL, LESIONS[LESIONS["film_id"] != "c"], PARAMETERS)
    with pytest.raises(BadInputError, match="there is no malignant patch"):
        named(patches, "lesion_overlap")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"grid_128": [2, 8], "grid_256": [1]}, "columns of grid_128: expected different numbers from 0 to 7"),
        ({"grid_128": [2], "grid_256": [1, 1]}, "columns of grid_256: expected different numbers from 0 to 3"),
        ({"grid_128": [], "grid_256": [1]}, "columns of grid_128"),
    ],
)
def test_columns_that_are_not_there_are_named(columns: dict[str, list[int]], message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_section(ASKED | {"columns": columns}, CuttingParameters, "cut_patches")
    assert message in str(caught.value)


def test_a_configuration_that_is_not_listed_is_named() -> None:
    asked = {
        "folds_seed": 20,
        "leaky_seed": 1,
        "resamples": 100,
        "recipe": {},
        "configurations": {"one": {"cutting": "grid_128"}},
    }
    comparison = parse_section(asked, CuttingComparison, "compare_cutting")
    assert comparison.choice("one").patch_label == "film"
    with pytest.raises(BadInputError, match="configuration 'two' is none of one"):
        comparison.choice("two")
    with pytest.raises(BadInputError, match="compare_cutting, recipe"):
        comparison.classifier()


def test_the_table_has_a_row_for_each_configuration() -> None:
    names = ("balanced_accuracy", "auc_normal_vs_abnormal_patch", "auc_benign_vs_malignant", "accuracy")
    figures = {f"{name}{end}": 0.5 for name in names for end in ("", "_lo", "_hi")} | {"n_patches": 1234}
    kept = {"lesions_whole": 10, "lesions_broken": 5, "lesions_lost": 1}
    own = dict.fromkeys(("by_patient", "patches_at_random_leaky", "logistic_baseline"), figures) | {"lesions": kept}
    head, line, row = cuttings_table({"grid_128_film": own}).splitlines()
    assert row.startswith("| `grid_128_film` | 1,234 | 10 / 5 / 1 | 0.500 [0.500, 0.500] | 0.500 |")
    assert head.count("|") == line.count("|") == row.count("|")
