"""Which films are shown, and that what is marked on them lies where it is on the film."""

import numpy as np
import pandas as pd

from mammo_ml import figures
from mammo_ml.film_pictures import MARGIN_PX, marked_film, panel_films, surest_false_positives

BOX = ["x1", "y1", "x2", "y2"]


def tables(women: int = 30) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two films a woman, a density a woman; each second woman has lesions on both films, of kinds that take turns."""
    films = pd.DataFrame({"film_id": [f"m{n:03d}" for n in range(2 * women)]})
    films["patient_id"] = [f"w{n // 2}" for n in range(2 * women)]
    films["density"] = ["FGD"[n // 2 % 3] for n in range(2 * women)]
    rows = [(f"m{n:03d}", "ABCDEF"[n // 4 % 6]) for n in range(2 * women) if n // 2 % 2]
    return films, pd.DataFrame(rows, columns=["film_id", "kind"])


def test_the_panel_has_every_density_every_kind_and_no_woman_twice():
    films, lesions = tables()
    chosen = panel_films(films, lesions)
    shown = films.set_index("film_id").loc[chosen]
    assert shown["density"].tolist() == ["D"] * 4 + ["F"] * 4 + ["G"] * 4
    assert shown["patient_id"].is_unique
    kinds = lesions.set_index("film_id")["kind"].reindex(chosen)
    assert kinds.isna().tolist() == [True, False, False, False] * 3
    assert set(kinds.dropna()) == set("ABCDEF")


def test_the_panel_is_the_same_whatever_the_order_of_the_tables():
    films, lesions = tables()
    mixed = films.sample(frac=1, random_state=1), lesions.sample(frac=1, random_state=2)
    assert panel_films(*mixed) == panel_films(films, lesions)


def test_a_small_data_set_has_a_small_panel():
    films, lesions = tables(women=2)
    assert panel_films(films, lesions) == ["m000", "m002"]
    assert panel_films(films, lesions[:0]) == ["m000", "m002"]


def test_films_with_false_positives_are_ranked_by_the_surest_one():
    boxes = pd.DataFrame({"film_id": list("aabcd"), "p_benign": [0.1, 0.9, 0.3, 0.2, 0.3], "p_malignant": 0.0})
    hits = np.array([False, True, False, False, False])
    assert surest_false_positives(boxes, hits, 3) == ["b", "d", "c"]
    assert surest_false_positives(boxes, hits, 9) == ["b", "d", "c", "a"]


def test_marks_lie_on_the_picture_where_they_lie_on_the_film():
    pixels = np.zeros((300, 200), dtype=np.uint8)
    pixels[120:140, 80:110] = 200
    lesion = pd.DataFrame([[80.0, 120, 110, 140]], columns=BOX)
    found = lesion.assign(p_benign=0.25, p_malignant=0.5)
    breast = np.array([50.0, 60, 150, 295])
    picture = marked_film(pixels, breast, lesion, found, np.array([True]), "m001")
    assert picture.pixels.shape == ((300 - 60 + MARGIN_PX) // 2, (150 - 50 + 2 * MARGIN_PX) // 2)
    x1, y1, x2, y2 = picture.lesions[0].astype(int)
    assert (picture.pixels[y1:y2, x1:x2] == 200).all()
    assert picture.pixels.sum() == 200 * 15 * 10
    np.testing.assert_array_equal(picture.boxes, picture.lesions)
    assert picture.scores.tolist() == [0.75]


def test_hits_are_drawn_whole_and_false_positives_broken():
    boxes = np.array([[1.0, 1, 5, 5], [3, 3, 9, 9]])
    picture = figures.MarkedPicture(
        np.zeros((20, 10), dtype=np.uint8), "a", boxes[:1], boxes, np.array([0.5, 0.25]), np.array([True, False])
    )
    figure = figures.marked_figure([picture, picture, picture], "three", columns=2)
    axes = figure.axes[0]
    assert [type(patch).__name__ for patch in axes.patches] == ["Ellipse", "Rectangle", "Rectangle"]
    assert [patch.get_linestyle() for patch in axes.patches[1:]] == ["-", (0, (3, 2))]
    assert [text.get_text() for text in axes.texts] == ["0.50", "0.25"]
