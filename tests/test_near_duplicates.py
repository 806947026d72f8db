"""Every planted copy of a picture is found; pictures that only look alike are not."""

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from mammo_ml.imaging.readers import parse_pgm
from mammo_ml.near_duplicates import GRIDS, near_duplicates


def _film(seed: int, side: int = 256) -> np.ndarray:
    """A smooth shape, the same for every seed as breasts are alike, with a texture of its own."""
    own = np.random.default_rng(seed).normal(size=(side, side))
    texture = ndimage.gaussian_filter(own, 1.0) * 20 + ndimage.gaussian_filter(own, 6.0) * 60
    y, x = np.mgrid[-1 : 1 : side * 1j, 0 : 1.4 : side * 1j]
    return np.clip((180 - 120 * np.hypot(x, y) + texture), 0, 255).astype(np.uint8) * (np.hypot(x, y) < 1)


def _jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _crop(pixels: np.ndarray, share: float) -> np.ndarray:
    """A crop with this share of the area, off the middle and of another shape."""
    height, width = pixels.shape
    rows, columns = round(height * (share + 0.1)), round(width * share / (share + 0.1))
    return pixels[height - rows - height // 20 :][:rows, :columns]


def _noisy(pixels: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(9).normal(0, sigma, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def _gamma(pixels: np.ndarray, power: float) -> np.ndarray:
    return (255 * (pixels / 255) ** power).astype(np.uint8)


COPIES = {
    **{f"rotated {90 * turn}": lambda film, turn=turn: np.rot90(film, turn) for turn in range(4)},
    **{f"mirrored, rotated {90 * turn}": lambda film, turn=turn: np.rot90(film[:, ::-1], turn) for turn in range(4)},
    "crop of 60 %": lambda film: _crop(film, 0.6),
    "half, cut at the middle": lambda film: film[: film.shape[0] // 2 + film.shape[0] // 10],
    "gamma 0.7": lambda film: _gamma(film, 0.7),
    "gamma 1.4": lambda film: _gamma(film, 1.4),
    "contrast halved": lambda film: (film * 0.5).astype(np.uint8),
    "brighter by 20, contrast x1.2": lambda film: np.clip(film * 1.2 + 20, 0, 255).astype(np.uint8),
    "noise of 5 grey levels": lambda film: _noisy(film, 5),
    "noise of 10 grey levels": lambda film: _noisy(film, 10),
    "JPEG at quality 70": lambda film: _jpeg(film, 70),
    "turned by 1 degree": lambda film: np.asarray(Image.fromarray(film).rotate(1, Image.Resampling.BILINEAR)),
    "all at once": lambda film: np.rot90(_jpeg(_noisy(_gamma(_crop(film, 0.7)[:, ::-1], 1.2), 3), 80)),
}


def _compare(pictures: list[np.ndarray], roles: list[str]):
    return near_duplicates([picture.shape for picture in pictures], pictures.__getitem__, np.array(roles))


def _places(found) -> set[tuple[int, int]]:
    return {(pair.first, pair.second) for pair in found.pairs}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_film_is_found_and_no_other(name):
    films = [_film(seed) for seed in range(4)]
    copy = np.ascontiguousarray(COPIES[name](films[2]))
    found = _compare([*films, copy], ["train"] * 4 + ["test"])
    assert _places(found) == {(2, 4)}
    assert (found.n_compared, found.n_too_plain) == (4, 0)


@pytest.mark.parametrize("side", [48, 100, 200, 330])
def test_patches_of_any_size_are_compared(side):
    patches = [_film(seed, 400)[20 : 20 + side, 20 : 20 + side] for seed in range(4)]
    copy = np.rot90(_jpeg(patches[1], 90))
    assert _places(_compare([*patches, copy], ["train"] * 4 + ["test"])) == {(1, 4)}


def test_a_crop_is_found_where_it_falls_in_a_smaller_size_of_picture():
    film = _film(0, 400)
    assert max(film.shape) > GRIDS[1].longest_px > 310
    assert _places(_compare([film, film[50:360, 40:350]], ["train", "test"])) == {(0, 1)}


def test_pictures_of_one_role_are_not_compared():
    film = _film(0)
    found = _compare([film, film, _film(1)], ["train", "train", "test"])
    assert not found.pairs
    assert found.n_compared == 2


def test_every_two_folds_are_compared():
    film = _film(0)
    found = _compare([film, np.rot90(film), film[::-1], _film(1)], ["0", "1", "2", "3"])
    assert _places(found) == {(0, 1), (0, 2), (1, 2)}
    assert found.n_compared == 6


def test_pictures_without_texture_are_counted_and_not_alike():
    flat = np.full((128, 128), 90, dtype=np.uint8)
    ramp = np.tile(np.arange(128, dtype=np.uint8), (128, 1))
    found = _compare([flat, ramp, _film(0)[:20, :20], _film(0)], ["a", "b", "c", "d"])
    assert not found.pairs
    assert (found.n_compared, found.n_too_plain) == (0, 6)


def test_the_same_padding_round_two_pictures_makes_no_copies_of_them():
    pictures = [
        np.pad(_film(seed, 400)[20:100, 20:100], (10, 30), constant_values=value)
        for seed, value in [(1, 0), (2, 0), (3, 255), (4, 255)]
    ]
    assert not _compare(pictures, ["a", "b", "c", "d"]).pairs


def test_a_straight_edge_in_every_picture_makes_no_copies_of_them():
    pictures = [_film(seed, 400)[20:116, 20:116] for seed in range(12)]
    for picture in pictures:
        picture[:, :30] = picture[:, :30] // 2
    assert not _compare(pictures, [str(n) for n in range(12)]).pairs


def test_more_copies_than_candidates_are_all_found():
    film = _film(0)
    copies = [_noisy(film, 1 + n / 10) for n in range(30)]
    assert len(_compare([*copies, film], ["train"] * 30 + ["test"]).pairs) == 30


@pytest.fixture(scope="module")
def films():
    """All 322 films of mini-MIAS."""
    archive = os.environ.get("MIAS_ARCHIVE")
    if archive is None:
        pytest.skip("MIAS_ARCHIVE is not set: the real films are not here")
    with tarfile.open(archive) as tar:
        members = sorted((m for m in tar.getmembers() if m.name.endswith(".pgm")), key=lambda m: m.name[-10:])
        return [parse_pgm(tar.extractfile(m).read(), m.name[-10:]).pixels for m in members]


@pytest.mark.films
@pytest.mark.slow
def test_no_two_of_the_322_films_are_taken_for_copies(films, record_property):
    """About 40 s on one core: every pair, the two breasts of each woman among them."""
    found = _compare(films, [f"{n:03d}" for n in range(322)])
    record_property("tried", f"{found.n_compared:,} pairs of films")
    assert not found.pairs
    assert (found.n_compared, found.n_too_plain) == (51681, 0)


@pytest.mark.films
@pytest.mark.slow
def test_every_planted_copy_of_a_film_is_found_and_leads_to_its_film_alone(films, record_property):
    """About 30 s on one core."""
    chosen = list(range(0, 322, 46))
    copies = [(n, np.ascontiguousarray(make(films[n]))) for n in chosen for make in COPIES.values()]
    pictures = [*(films[n] for n in chosen), *films[1::8]]
    found = _compare([*pictures, *(copy for _, copy in copies)], ["train"] * len(pictures) + ["test"] * len(copies))
    least = min(found.pairs, key=lambda pair: pair.similarity)
    worst = list(COPIES)[(max(least.first, least.second) - len(pictures)) % len(COPIES)]
    record_property(
        "tried",
        f"{len(copies)} copies of {len(chosen)} films, {len(COPIES)} kinds; the least alike: {least.similarity:.2f} "
        f"({worst})",
    )
    assert _places(found) == {(chosen.index(n), len(pictures) + k) for k, (n, _) in enumerate(copies)}
