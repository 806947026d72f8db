"""Phantom films: the truth that they were drawn from is told again by Info.txt, the tables and the pixels."""

from hashlib import sha256

import numpy as np
import pytest
from pydantic import ValidationError

from mammo_ml.datasets.annotation_check import lesions_match_pixels
from mammo_ml.datasets.mini_mias import build_tables, centre_from_info
from mammo_ml.datasets.mini_mias_archive import check_folder
from mammo_ml.datasets.mini_mias_info import parse_info
from mammo_ml.datasets.phantom import (
    FILM_WIDTH_PX,
    SIDE_PX,
    PhantomFilm,
    PhantomLesion,
    PhantomParameters,
    draw,
    info_text,
    plan,
    write_phantoms,
)
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.breast import breast_box, breast_mask, chest_wall_side
from mammo_ml.imaging.canonical import to_canonical
from mammo_ml.imaging.readers import Film, read_pgm
from mammo_ml.splits import make_folds, roles_of

TWENTY = PhantomParameters(women=20, seed=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder and truth of 20 women's 40 films; drawn once."""
    folder = tmp_path_factory.mktemp("phantoms")
    return folder, write_phantoms(folder, TWENTY)


@pytest.fixture(scope="module")
def read(written):
    """Pixels and breast mask of every film, by film_id."""
    folder, truth = written
    pixels = {film.film_id: read_pgm(folder / f"{film.film_id}.pgm").pixels for film in truth}
    return {film_id: (values, breast_mask(values)) for film_id, values in pixels.items()}


@pytest.fixture(scope="module")
def tables(written, read):
    folder, _ = written
    return build_tables(folder, "phantom", {film_id: breast_box(mask) for film_id, (_, mask) in read.items()})


def disc(lesion: PhantomLesion) -> np.ndarray:
    y, x = np.ogrid[:SIDE_PX, :SIDE_PX]
    return np.hypot(x - lesion.x, y - lesion.y) <= lesion.radius


def planned_tables(parameters, tmp_path):
    """Tables of planned films that were never drawn: their labels need no pixels."""
    films = plan(parameters)
    for film in films:
        (tmp_path / f"{film.film_id}.pgm").write_bytes(film.film_id.encode())
    (tmp_path / "Info.txt").write_text(info_text(films))
    boxes = dict.fromkeys([film.film_id for film in films], (0.0, 0.0, 9.0, 9.0))
    return build_tables(tmp_path, "phantom", boxes)


def test_same_parameters_same_bytes_and_another_seed_other_films(written):
    folder, truth = written
    assert plan(TWENTY) == truth
    assert (folder / "Info.txt").read_bytes() == info_text(plan(TWENTY)).encode("ascii")
    hashes = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.pgm")}
    assert len(hashes) == len(set(hashes.values())) == 40
    film = next(film for film in truth if film.lesions)
    np.testing.assert_array_equal(draw(film, 1), read_pgm(folder / f"{film.film_id}.pgm").pixels)
    assert not np.array_equal(draw(film, 2), draw(film, 1))
    assert plan(PhantomParameters(women=20, seed=2)) != truth


def test_the_films_pass_the_checks_of_real_ones(written):
    folder, _ = written
    check_folder(folder, None, "phantoms")


@pytest.mark.parametrize("women", [20, 21, 40, 400])
def test_every_odd_kind_of_row_is_there(women):
    films = plan(PhantomParameters(women=women, seed=1))
    rows = [line for line in info_text(films).splitlines() if line.startswith("mdb")]
    assert sum(line.endswith("NORM ") for line in rows) == sum(not film.lesions for film in films)
    assert sum(line.endswith("*NOTE 3* ") for line in rows) == 1
    assert sum(len(line.split()) == 4 for line in rows) == 1  # a lesion without numbers, such as mdb059
    several = [film.lesions for film in films if len(film.lesions) > 1]
    assert sorted(tuple(lesion.severity for lesion in lesions) for lesions in several) == [
        ("benign", "benign"),
        ("benign", "malignant"),
    ]
    edge = (SIDE_PX - FILM_WIDTH_PX) // 2
    cut_off = [
        lesion
        for film in films
        for lesion in film.lesions
        if lesion.x - lesion.radius < edge or lesion.x + lesion.radius >= SIDE_PX - edge
    ]
    assert len(cut_off) == 1
    assert {film.tissue for film in films} == {"F", "G", "D"}


def test_info_tells_the_truth_in_its_own_coordinates():
    for film in plan(TWENTY):
        rows = parse_info(info_text([film]))
        assert [(row.film_id, row.tissue) for row in rows] == [(film.film_id, film.tissue)] * max(1, len(film.lesions))
        for row, lesion in zip(rows, film.lesions, strict=False):
            assert (row.kind, row.severity) == (lesion.kind, lesion.severity)
            if lesion.row == "located":
                # a pixel index is half a pixel before its centre
                assert centre_from_info(row.x, row.y) == (lesion.x + 0.5, lesion.y + 0.5)
                assert row.radius == lesion.radius
            else:
                assert row.x is None


@pytest.mark.parametrize("women", [20, 40])
def test_every_fold_has_every_label_in_every_role(women, tmp_path):
    films, _ = planned_tables(PhantomParameters(women=women, seed=1), tmp_path)
    assert len(films) == 2 * women
    folds = make_folds(films, seed=1)
    for k in range(5):
        roles = roles_of(folds, films["patient_id"], k)
        for role in ("train", "inner", "test"):
            assert set(films["label"][roles == role]) == {"normal", "benign", "malignant"}, (k, role)


def test_a_woman_has_one_abnormal_film_at_most(tables):
    films, _ = tables
    assert films.groupby("patient_id")["label"].agg(lambda labels: (labels != "normal").sum()).max() == 1
    assert films["label"].value_counts().to_dict() == {"normal": 25, "benign": 8, "malignant": 7}


def test_fewer_women_than_the_folds_need_are_refused():
    with pytest.raises(ValidationError, match="women"):
        PhantomParameters(women=19)


def test_located_lesions_lie_on_the_breast_but_for_the_one_at_the_edge(written, read):
    _, truth = written
    shares = []
    for film in truth:
        _, mask = read[film.film_id]
        shares += [mask[disc(lesion)].mean() for lesion in film.lesions if lesion.row == "located"]
    shares.sort()
    assert len(shares) == 15  # 15 abnormal women, two with a second lesion, two without location
    assert shares[0] < 0.8  # cut off by the edge of the film, as mdb110 and mdb126 are
    assert shares[1] >= 0.95


def test_the_tables_coordinates_match_the_pixels_and_a_wrong_origin_does_not(tables, read):
    films, lesions = tables
    found = lesions_match_pixels(films, lesions, lambda film_id: read[film_id][0])
    assert found["n_lesions"] == 15
    assert found["brighter_share"] == 1.0
    assert found["on_breast_mean"] > 0.95
    for wrong in (
        lesions.assign(y_px=SIDE_PX - lesions["y_px"]),
        lesions.assign(x_px=SIDE_PX - lesions["x_px"]),
    ):
        with pytest.raises(BadInputError, match="Coordinates do not match the films"):
            lesions_match_pixels(films, wrong, lambda film_id: read[film_id][0])


def test_the_chest_wall_is_where_mini_mias_has_it_and_on_the_left_of_canonical_films(tables, read):
    films, _ = tables
    for film in films.itertuples():
        _, mask = read[film.film_id]
        assert chest_wall_side(mask) == film.chest_wall
    for film in films.iloc[:2].itertuples():
        canonical = to_canonical(film.film_id, Film(read[film.film_id][0], 255), film.chest_wall, 0.2)
        assert chest_wall_side(canonical.mask) == "left"
        # the breast begins where the film does, after the black padding
        assert canonical.breast_box[0] == pytest.approx((SIDE_PX - FILM_WIDTH_PX) / 2, abs=8)


def test_films_have_padding_a_wrapped_line_and_a_bright_label_off_the_breast(read):
    for pixels, mask in read.values():
        edge = (SIDE_PX - FILM_WIDTH_PX) // 2
        assert not pixels[1:, :edge].any()
        assert not pixels[:, -edge:].any()
        assert pixels[0, :edge].all()
        assert (pixels[~mask] == 200).sum() >= 60 * 40
        assert not (mask & (pixels == 0)).any()


@pytest.mark.parametrize("severity", ["benign", "malignant"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_lesion_changes_its_film_at_its_place_only(severity, number):
    lesion = PhantomLesion("CIRC", severity, 480 if number == 2 else 543, 400, 40)
    without = draw(PhantomFilm(number, "G", ()), 1).astype(int)
    # a malignant lesion draws on the generator that places the label afterwards: rows above 100 px are left out
    difference = (draw(PhantomFilm(number, "G", (lesion,)), 1) - without)[110:]
    y, x = np.ogrid[110:SIDE_PX, :SIDE_PX]
    away = np.hypot(x - lesion.x, y - lesion.y)
    assert difference[away <= 10].mean() > 20
    assert np.abs(difference[away > 60]).max() <= 1
