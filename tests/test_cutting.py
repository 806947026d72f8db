"""Cuts of small made-up films: complete, saved as they are, and every box leads back to its place on the film file."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mammo_ml.cutting import (
    CutSet,
    PatchSet,
    cut_boxes_on_film,
    cut_detector_cuts,
    cut_patches,
    targets_of_views,
    truth_of_cuts,
    windows_on_film,
)
from mammo_ml.datasets.catalog import BOX_COLUMNS, rows
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.augmentation import CLASSIFIER_VIEWS, DETECTOR_VIEWS, view_of_boxes
from mammo_ml.imaging.breast import canonical_transform
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.imaging.patches import CutParameters
from mammo_ml.manifest import write_manifest

WIDTH, HEIGHT = 90, 120
PARAMETERS = CutParameters(
    window_px=40,
    input_px=32,
    normals_per_lesion=2,
    min_breast_share=0.9,
    jittered_per_lesion=3,
    jitter_px=6,
    normal_cuts_per_film=2,
    min_visible_share=0.3,
    seed=1,
)
# 001 to 003 are normal, 004 (left, so flipped) has two lesions, 005 one at the film's corner, 006 one without place.
FILMS = pd.DataFrame(
    {
        "film_id": ["001", "002", "003", "004", "005", "006"],
        "patient_id": ["1", "1", "2", "2", "3", "3"],
        "laterality": ["L", "R", "L", "L", "R", "L"],
        "chest_wall": ["right", "left", "right", "right", "left", "right"],
        "label": ["normal"] * 3 + ["malignant", "benign", "benign"],
        "width_px": WIDTH,
        "height_px": HEIGHT,
        "pixel_spacing_mm": [0.2, 0.2, 0.2, 0.2, 0.2, 0.2],
    }
)
LESIONS = pd.DataFrame(
    {
        "lesion_id": ["004_1", "004_2", "005_1", "006_1"],
        "film_id": ["004", "004", "005", "006"],
        "severity": ["benign", "malignant", "benign", "benign"],
        "has_location": [True, True, True, False],
        "x1": [50.0, 60.0, 0.0, np.nan],
        "y1": [40.0, 55.0, 0.0, np.nan],
        "x2": [60.0, 68.0, 10.0, np.nan],
        "y2": [54.0, 63.0, 10.0, np.nan],
    }
)


def canonical_of(films: pd.DataFrame, pixels: dict[str, np.ndarray] | None = None) -> dict[str, CanonicalFilm]:
    made = {}
    for number, row in enumerate(rows(films)):
        drawn = np.random.default_rng(number).integers(20, 255, (row.height_px, row.width_px)).astype(np.uint8)
        on_file = (pixels or {}).get(row.film_id, drawn)
        transform = canonical_transform(row.chest_wall, row.width_px, row.height_px, row.pixel_spacing_mm)
        image = transform.image(on_file)
        made[row.film_id] = CanonicalFilm(row.film_id, image, np.ones(image.shape, dtype=np.bool_), transform)
    return made


@pytest.fixture(scope="module")
def patches() -> PatchSet:
    return cut_patches(FILMS, canonical_of(FILMS), LESIONS, PARAMETERS)


@pytest.fixture(scope="module")
def cuts() -> CutSet:
    return cut_detector_cuts(FILMS, canonical_of(FILMS), LESIONS, PARAMETERS)


# --------------------------------------------------------------------------------------------------------- patches


def test_every_located_lesion_gives_one_patch_and_its_normal_ones(patches):
    table = patches.patches
    lesions = table[table["kind"] == "lesion"]
    assert lesions["patch_id"].tolist() == ["004_1", "004_2", "005_1"]
    assert lesions["label"].tolist() == ["benign", "malignant", "benign"]
    assert (table["kind"] == "normal").sum() == 3 * PARAMETERS.normals_per_lesion
    assert table["patch_id"].is_unique
    assert patches.pictures.shape == (9, len(CLASSIFIER_VIEWS), 32, 32)
    assert patches.labels.tolist() == [1, 0, 0, 2, 0, 0, 1, 0, 0]


def test_normal_patches_come_from_normal_films_each_as_often_as_any_other(patches):
    counts = patches.patches.loc[patches.patches["kind"] == "normal", "film_id"].value_counts()
    # Six patches dealt out over three films.
    assert counts.to_dict() == {"001": 2, "002": 2, "003": 2}


def test_an_abnormal_film_without_location_gives_neither_patch_nor_cut(patches, cuts):
    assert "006" not in set(patches.patches["film_id"])
    assert "006" not in set(cuts.cuts["film_id"])


def test_a_patch_belongs_to_the_woman_of_its_film(patches, cuts):
    women = FILMS.set_index("film_id")["patient_id"]
    for table in (patches.patches, cuts.cuts, cuts.boxes):
        assert (table["patient_id"] == table["film_id"].map(women)).all()


def test_a_patch_shows_the_pixels_of_its_window(patches):
    row = patches.patches.iloc[0]
    x1, y1, x2, y2 = row[BOX_COLUMNS].astype(int)
    window = canonical_of(FILMS)["004"].pixels[y1:y2, x1:x2]
    # Averaging areas keeps the mean of the grey values but for rounding.
    assert abs(patches.pictures[0, 0].mean() - window.mean()) < 0.6


def test_lesion_free_patches_of_abnormal_films_keep_a_radius_off_every_lesion():
    asked = PARAMETERS.model_copy(update={"window_px": 32, "lesion_free_per_lesion": 2})
    found = cut_patches(FILMS, canonical_of(FILMS), LESIONS, asked).patches
    beside = found[found["patch_id"].str.contains("_beside_")]
    assert len(beside) == 6
    assert set(beside["label"]) == set(beside["kind"]) == {"normal"}
    assert beside["lesion_id"].isna().all()
    assert set(beside["film_id"]) <= {"004", "005"}  # 006 has a lesion without place
    films = canonical_of(FILMS)
    for row in rows(beside):
        lesions = LESIONS[(LESIONS["film_id"] == row.film_id)][BOX_COLUMNS].to_numpy(dtype=np.float64)
        boxes = films[row.film_id].transform.boxes_to_canonical(lesions)
        for x1, y1, x2, y2 in boxes:
            reach_x, reach_y = (x2 - x1) / 2, (y2 - y1) / 2
            apart = row.x2 <= x1 - reach_x or row.x1 >= x2 + reach_x or row.y2 <= y1 - reach_y or row.y1 >= y2 + reach_y
            assert apart, (row.patch_id, x1, y1, x2, y2)


def _with_breast(canonical: dict[str, CanonicalFilm], columns: dict[str, int]) -> dict[str, CanonicalFilm]:
    """The films named with breast in so many columns beside the chest wall alone."""
    masks = {name: np.arange(WIDTH)[None].repeat(HEIGHT, axis=0) < n for name, n in columns.items()}
    return canonical | {name: replace(canonical[name], mask=mask) for name, mask in masks.items()}


def test_every_normal_patch_holds_the_breast_asked_for_and_a_film_that_has_none_is_passed_over():
    canonical = _with_breast(canonical_of(FILMS), {"001": 60, "002": 30})
    found = cut_patches(FILMS, canonical, LESIONS, PARAMETERS).patches
    normal = found[found["kind"] == "normal"]
    assert (normal["breast_share"] >= 0.9).all()
    assert normal["film_id"].value_counts().to_dict() == {"001": 3, "003": 3}


@pytest.mark.parametrize("seed", range(10))
def test_the_only_film_that_has_a_window_gives_every_patch_wherever_it_lies_in_the_deck(seed):
    canonical = _with_breast(canonical_of(FILMS), {"002": 30, "003": 30})
    found = cut_patches(FILMS, canonical, LESIONS, PARAMETERS.model_copy(update={"seed": seed})).patches
    assert set(found.loc[found["kind"] == "normal", "film_id"]) == {"001"}


def test_normal_films_that_all_hold_too_little_breast_are_refused_with_what_was_asked_for():
    canonical = _with_breast(canonical_of(FILMS), dict.fromkeys(["001", "002", "003"], 30))
    with pytest.raises(BadInputError) as caught:
        cut_patches(FILMS, canonical, LESIONS, PARAMETERS)
    assert caught.value.problems == ["no normal film has a window of 40 px with 90% of breast"]
    assert "min_breast_share" in str(caught.value)


def test_films_that_are_all_lesion_are_named_where_lesion_free_tissue_is_asked_for():
    asked = PARAMETERS.model_copy(update={"window_px": 80, "lesion_free_per_lesion": 1})
    with pytest.raises(BadInputError, match=r"no abnormal film has a window of 80 px with 90% of breast away from its"):
        cut_patches(FILMS, canonical_of(FILMS), LESIONS[LESIONS["film_id"] == "004"], asked)


def test_cutting_without_lesions_or_without_normal_films_is_refused():
    with pytest.raises(BadInputError) as caught:
        cut_patches(FILMS[3:], canonical_of(FILMS), LESIONS[3:], PARAMETERS)
    assert caught.value.problems == ["there is no located lesion", "there is no normal film"]


def test_cutting_twice_gives_the_same(patches, cuts):
    again = cut_patches(FILMS, canonical_of(FILMS), LESIONS, PARAMETERS)
    pd.testing.assert_frame_equal(again.patches, patches.patches)
    np.testing.assert_array_equal(again.pictures, patches.pictures)
    other = cut_detector_cuts(FILMS, canonical_of(FILMS), LESIONS, PARAMETERS)
    pd.testing.assert_frame_equal(other.cuts, cuts.cuts)
    pd.testing.assert_frame_equal(other.boxes, cuts.boxes)
    np.testing.assert_array_equal(other.pictures, cuts.pictures)


# ------------------------------------------------------------------------------------------------------------ cuts


def test_every_located_lesion_gives_its_cuts_and_every_normal_film_its_own(cuts):
    counts = pd.crosstab(cuts.cuts["film_id"], cuts.cuts["kind"])
    assert counts["centred"].to_dict() == {"001": 0, "002": 0, "003": 0, "004": 2, "005": 1}
    assert counts["jittered"].to_dict() == {"001": 0, "002": 0, "003": 0, "004": 6, "005": 3}
    assert counts["normal"].to_dict() == {"001": 2, "002": 2, "003": 2, "004": 0, "005": 0}
    assert cuts.cuts["cut_id"].is_unique
    assert cuts.pictures.shape == (len(cuts.cuts), len(DETECTOR_VIEWS), 32, 32)


def test_every_centred_cut_holds_the_box_of_its_lesion(cuts):
    centred = cuts.cuts[cuts.cuts["kind"] == "centred"]
    boxes = cuts.boxes.set_index(["cut_id", "lesion_id"])
    for cut in rows(centred):
        assert (cut.cut_id, cut.lesion_id) in boxes.index


@pytest.mark.parametrize("window_px", [128, 256])
def test_a_lesion_lies_in_the_middle_of_its_cut_at_the_scale_of_the_window(window_px):
    films = FILMS.assign(width_px=600, height_px=700)
    lesions = LESIONS[2:3].assign(x1=280.0, y1=330.0, x2=320.0, y2=370.0)
    parameters = PARAMETERS.model_copy(update={"window_px": window_px, "input_px": 128})
    cuts = cut_detector_cuts(films, canonical_of(films), lesions, parameters)
    box = cuts.boxes.set_index("cut_id").loc["005_1_centred_0", BOX_COLUMNS].to_numpy(dtype=float)
    half = 20 * 128 / window_px
    np.testing.assert_allclose(box, [64 - half, 64 - half, 64 + half, 64 + half], atol=1e-9)


def test_both_lesions_of_a_film_are_marked_in_a_cut_that_shows_both(cuts):
    # The lesions' centres are 11 px apart, the windows 40 px wide.
    seen = cuts.boxes.loc[cuts.boxes["cut_id"] == "004_1_centred_0", "lesion_id"]
    assert seen.tolist() == ["004_1", "004_2"]


def test_normal_cuts_have_no_boxes(cuts):
    by_cut = dict(zip(cuts.cuts["cut_id"], cuts.targets(), strict=True))
    for cut in rows(cuts.cuts):
        boxes, classes = by_cut[cut.cut_id]
        assert boxes.shape == (len(classes), 4)
        assert (len(classes) == 0) == (cut.kind == "normal")
    assert by_cut["004_1_centred_0"][1].tolist() == [1, 2]


def test_films_without_any_located_lesion_give_cuts_that_can_be_saved_and_read(tmp_path):
    cuts = cut_detector_cuts(FILMS[:3], canonical_of(FILMS), LESIONS[3:], PARAMETERS)
    cuts.save(tmp_path)
    loaded = CutSet.load(tmp_path)
    assert len(loaded.cuts) == 6
    assert all(len(classes) == 0 for _, classes in loaded.targets())


def test_targets_follow_the_picture_through_every_view():
    # A film black but for its lesion: in each view the brightest pixels must fill the box of that view.
    lesion = LESIONS.iloc[[0]]
    x1, y1, x2, y2 = lesion[BOX_COLUMNS].iloc[0].astype(int)
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    pixels[y1:y2, x1:x2] = 255
    films = FILMS[FILMS["film_id"].isin(["001", "004"])]
    cuts = cut_detector_cuts(films, canonical_of(films, {"004": pixels}), lesion, PARAMETERS)
    views = targets_of_views(cuts.targets(), 32)
    for view in range(len(DETECTOR_VIEWS)):
        (box,), _ = views[view]
        lit_y, lit_x = np.nonzero(cuts.pictures[0, view] > 127)
        lit = [lit_x.min(), lit_y.min(), lit_x.max() + 1, lit_y.max() + 1]
        np.testing.assert_allclose(box, lit, atol=0.51, err_msg=DETECTOR_VIEWS[view])


# ------------------------------------------------------------------------------------------------ back to the film


@pytest.mark.parametrize("film_id", ["004", "005"])  # flipped and not
@pytest.mark.parametrize("view", DETECTOR_VIEWS)
@pytest.mark.parametrize("spacing", [0.2, 0.05])
def test_a_box_of_a_film_seen_in_any_view_of_a_cut_leads_back_to_itself(film_id, view, spacing):
    films = FILMS.assign(pixel_spacing_mm=spacing)
    film = films.set_index("film_id").loc[film_id]
    transform = canonical_transform(film["chest_wall"], WIDTH, HEIGHT, spacing)
    box = np.array([[12.0, 30, 25, 37]])
    window = np.array([5.0, 20, 45, 60])
    in_cut = (transform.boxes_to_canonical(box) - window[[0, 1, 0, 1]]) * (32 / 40)
    seen = view_of_boxes(in_cut, 32, 32, view)
    cut = {"film_id": film_id, "view": view, **dict(zip(BOX_COLUMNS, window, strict=True))}
    np.testing.assert_allclose(cut_boxes_on_film(seen, cut, films, 32), box, atol=1e-9)


def test_the_truth_of_every_view_of_every_cut_is_the_lesion_on_the_film_file(cuts):
    items = cuts.items_of_views()
    truth = truth_of_cuts(cuts, items, FILMS)
    assert len(truth) == len(cuts.boxes) * len(DETECTOR_VIEWS)
    on_file = LESIONS.set_index("lesion_id")[BOX_COLUMNS]
    windows = pd.DataFrame(windows_on_film(items, FILMS), columns=BOX_COLUMNS, index=items["item"])
    for row in rows(truth):
        box, window = on_file.loc[row.lesion_id].to_numpy(), windows.loc[row.item].to_numpy()
        expected = np.concatenate([np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])])
        np.testing.assert_allclose([row.x1, row.y1, row.x2, row.y2], expected, atol=1e-9)


def test_truth_is_given_for_the_items_asked_for_alone(cuts):
    centred = cuts.only((cuts.cuts["kind"] == "centred").to_numpy())
    items = centred.cuts.assign(item=centred.cuts["cut_id"])
    truth = truth_of_cuts(centred, items[items["film_id"] == "005"], FILMS)
    assert truth["item"].tolist() == ["005_1_centred_0"]
    np.testing.assert_allclose(truth[BOX_COLUMNS].to_numpy(), [[0, 0, 10, 10]], atol=1e-9)


def test_a_window_at_the_chest_wall_of_a_left_breast_lies_at_the_right_edge_of_its_file():
    cut = pd.DataFrame({"film_id": ["004"], "x1": [0.0], "y1": [0.0], "x2": [40.0], "y2": [40.0]})
    np.testing.assert_array_equal(windows_on_film(cut, FILMS), [[WIDTH - 40, 0, WIDTH, 40]])
    assert windows_on_film(cut[:0], FILMS).shape == (0, 4)


# ----------------------------------------------------------------------------------------------------------- files


def test_patches_come_back_as_they_were_saved_names_of_digits_included(patches, tmp_path):
    patches.save(tmp_path)
    loaded = PatchSet.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.patches, patches.patches, check_dtype=False)
    np.testing.assert_array_equal(loaded.pictures, patches.pictures)
    index = pd.read_csv(tmp_path / "views.csv", dtype="str")
    assert (index["source_item"] + ":" + index["view"]).tolist() == loaded.items_of_views()["item"].tolist()


def test_cuts_come_back_as_they_were_saved_to_the_last_bit(cuts, tmp_path):
    # Thirds are no short decimals: a reader that rounds would change them.
    odd = cuts.boxes.assign(x1=cuts.boxes["x1"] / 3, x2=cuts.boxes["x2"] / 3)
    CutSet(cuts.cuts, odd, cuts.pictures).save(tmp_path)
    loaded = CutSet.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.cuts, cuts.cuts, check_dtype=False)
    pd.testing.assert_frame_equal(loaded.boxes, odd, check_dtype=False, check_exact=True)


def test_saving_twice_gives_the_same_bytes(patches, tmp_path):
    for name in "ab":
        patches.save(tmp_path / name)
    for file in ("patches.csv", "views.csv", "pictures.npy", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_pictures_that_do_not_match_their_table_are_refused(patches, tmp_path):
    patches.save(tmp_path)
    np.save(tmp_path / "pictures.npy", patches.pictures[:-1])
    write_manifest(tmp_path)
    with pytest.raises(BadInputError, match=r"holds 8 x 5 pictures, patches\.csv lists 9 x 5"):
        PatchSet.load(tmp_path)
    np.save(tmp_path / "pictures.npy", patches.pictures[:, :-1])
    write_manifest(tmp_path)
    with pytest.raises(BadInputError, match="dvc repro cut"):
        PatchSet.load(tmp_path)


def test_every_changed_or_missing_file_of_a_saved_folder_is_named_before_any_is_used(patches, cuts, tmp_path):
    for kind, made, table in ((PatchSet, patches, "patches.csv"), (CutSet, cuts, "boxes.csv")):
        folder = tmp_path / table
        made.save(folder)
        kind.load(folder)
        for name in (table, "pictures.npy"):
            content = bytearray((folder / name).read_bytes())
            content[-2] ^= 1  # one bit
            (folder / name).write_bytes(content)
        (folder / "views.csv").unlink()
        with pytest.raises(BadInputError) as caught:
            kind.load(folder)
        assert [problem.split(":")[0] for problem in caught.value.problems] == [
            f"{table} was changed",
            "pictures.npy was changed",
            "views.csv is missing",
        ]
        assert "dvc checkout --force" in str(caught.value)


def test_a_folder_that_was_saved_in_part_is_refused(patches, tmp_path):
    patches.save(tmp_path)
    (tmp_path / "manifest.json").unlink()  # written last
    with pytest.raises(BadInputError, match=r"manifest\.json is missing"):
        PatchSet.load(tmp_path)


def test_pictures_are_numbered_as_their_items_are(patches):
    items = patches.items_of_views()
    number = items.index[items["item"] == "004_2:rotate_180"][0]
    np.testing.assert_array_equal(patches.every_picture[number], np.rot90(patches.pictures[3, 0], 2))


@pytest.mark.parametrize("cut", [cut_patches, cut_detector_cuts])
@pytest.mark.parametrize(("film_id", "what"), [("004", "a window"), ("001", "a tile")])
def test_a_film_smaller_than_a_window_is_named(cut, film_id, what):
    small = canonical_of(FILMS.assign(height_px=FILMS["height_px"].where(FILMS["film_id"] != film_id, 39)))
    with pytest.raises(BadInputError) as caught:
        cut(FILMS, small, LESIONS, PARAMETERS)
    assert str(caught.value).startswith(f"film {film_id}: ")
    assert caught.value.problems == [f"90x39 px is smaller than {what} of 40 px"]
    assert str(caught.value).endswith("Choose a smaller window_px.")
