import numpy as np
import pytest
import torch

from mammo_ml.errors import BadInputError
from mammo_ml.imaging.augmentation import (
    CLASSIFIER_VIEWS,
    DETECTOR_VIEWS,
    VIEWS,
    AugmentationParameters,
    augment,
    in_all_symmetries,
    same_way_up,
    view_of_boxes,
    view_of_image,
)

WIDTH, HEIGHT = 7, 4
IMAGE = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
BOXES = np.array([[1.0, 0.0, 3.0, 1.0], [4.0, 2.0, 7.0, 4.0]])
FULL = AugmentationParameters(strength=1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cut_out(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = box.astype(int)
    return image[y1:y2, x1:x2]


def disc(side: int, x: float, y: float, radius: float) -> torch.Tensor:
    centres = torch.arange(side) + 0.5
    inside = (centres[None, :] - x) ** 2 + (centres[:, None] - y) ** 2 <= radius**2
    return 0.2 + 0.6 * inside.float()


def bounds(image: torch.Tensor) -> list[float]:
    """The box of what is brighter than the middle of the image's range."""
    bright = image > (image.min() + image.max()) / 2
    rows, columns = torch.where(bright)
    return [float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1]


@pytest.mark.parametrize("view", VIEWS)
def test_a_box_holds_the_same_pixels_in_every_view(view):
    seen, boxes = view_of_image(IMAGE, view), view_of_boxes(BOXES, WIDTH, HEIGHT, view)
    for before, after in zip(BOXES, boxes, strict=True):
        # The lesion cut out and then viewed is the lesion cut out of the view.
        np.testing.assert_array_equal(cut_out(seen, after), view_of_image(cut_out(IMAGE, before), view))


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_keeps_every_pixel_once(view):
    seen = view_of_image(IMAGE, view)
    assert seen.dtype == IMAGE.dtype
    assert seen.flags.c_contiguous
    np.testing.assert_array_equal(np.sort(seen, axis=None), IMAGE.ravel())


def test_the_views_of_an_image_are_all_different():
    square = np.arange(9).reshape(3, 3)
    assert len({view_of_image(square, view).tobytes() for view in VIEWS}) == len(VIEWS) == 6


def test_views_undo_each_other_on_images_that_are_not_square():
    for view, inverse in {
        "identity": "identity",
        "rotate_90": "rotate_270",
        "rotate_180": "rotate_180",
        "rotate_270": "rotate_90",
        "flip_vertical": "flip_vertical",
        "flip_horizontal": "flip_horizontal",
    }.items():
        seen = view_of_image(IMAGE, view)
        np.testing.assert_array_equal(view_of_image(seen, inverse), IMAGE)
        boxes = view_of_boxes(BOXES, WIDTH, HEIGHT, view)
        np.testing.assert_array_equal(view_of_boxes(boxes, seen.shape[1], seen.shape[0], inverse), BOXES)


def test_four_rotations_are_the_identity():
    image, boxes = IMAGE, BOXES
    for _ in range(4):
        boxes = view_of_boxes(boxes, image.shape[1], image.shape[0], "rotate_90")
        image = view_of_image(image, "rotate_90")
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(boxes, BOXES)


def test_a_view_shares_no_memory_with_its_image():
    boxes = BOXES.copy()
    view_of_image(IMAGE, "identity")[:] = 0
    view_of_boxes(boxes, WIDTH, HEIGHT, "identity")[:] = 0
    assert IMAGE.any()
    np.testing.assert_array_equal(boxes, BOXES)


def test_only_the_detector_sees_the_horizontal_flip():
    assert set(DETECTOR_VIEWS) - set(CLASSIFIER_VIEWS) == {"flip_horizontal"}


def test_an_unknown_view_is_refused_by_name():
    with pytest.raises(BadInputError, match="'mirror' is not a view"):
        view_of_image(IMAGE, "mirror")
    with pytest.raises(BadInputError, match="'mirror' is not a view"):
        view_of_boxes(BOXES, WIDTH, HEIGHT, "mirror")


def test_boxes_follow_the_lesion_when_the_image_moves_and_scales():
    x, y, radius = 60.0, 55.0, 14.0
    images = disc(128, x, y, radius)[None, None].repeat(12, 1, 1, 1)
    box = torch.tensor([[x - radius, y - radius, x + radius, y + radius]])
    changed, boxes, _ = augment(images, [box] * 12, generator(), FULL)
    assert boxes is not None
    for image, moved in zip(changed, boxes, strict=True):
        # The edge of a disc on pixels is known to a pixel.
        np.testing.assert_allclose(bounds(image[0]), moved[0].numpy(), atol=1.0)
    sides = torch.stack([b[0, 2] - b[0, 0] for b in boxes])
    assert sides.min() < 0.95 * 2 * radius  # some are smaller,
    assert sides.max() > 1.05 * 2 * radius  # some larger,
    assert sides.min() >= 0.9 * 2 * radius - 1e-3  # within 0.9 ...
    assert sides.max() <= 1.1 * 2 * radius + 1e-3  # ... to 1.1


def test_boxes_follow_the_lesion_on_images_that_are_not_square():
    images = disc(128, 100.0, 40.0, 12.0)[None, None, :80].repeat(6, 1, 1, 1)
    changed, boxes, _ = augment(images, [torch.tensor([[88.0, 28.0, 112.0, 52.0]])] * 6, generator(), FULL)
    assert boxes is not None
    assert changed.shape == (6, 1, 80, 128)
    for image, moved in zip(changed, boxes, strict=True):
        np.testing.assert_allclose(bounds(image[0]), moved[0].numpy(), atol=1.0)


def test_the_same_generator_state_gives_the_same_bits_and_leaves_torch_alone():
    images = torch.rand(3, 1, 32, 32, generator=generator(5))
    before = torch.get_rng_state()
    first = augment(images, None, generator(1), FULL).images
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    torch.manual_seed(99)
    torch.testing.assert_close(augment(images, None, generator(1), FULL).images, first, rtol=0, atol=0)
    assert (augment(images, None, generator(2), FULL).images - first).abs().max() > 0.01


def test_boxes_do_not_change_what_happens_to_the_images():
    images = torch.rand(2, 1, 32, 32, generator=generator(5))
    boxes = [torch.tensor([[3.0, 3.0, 20.0, 20.0]]), torch.zeros(0, 4)]
    with_boxes = augment(images, boxes, generator(1), FULL).images
    torch.testing.assert_close(with_boxes, augment(images, None, generator(1), FULL).images, rtol=0, atol=0)


def test_strength_0_changes_nothing():
    images = torch.rand(2, 1, 32, 24)
    box = torch.tensor([[3.0, 3.0, 20.0, 20.0]])
    changed, boxes, kept = augment(images, [box, box], generator(), AugmentationParameters(strength=0.0))
    assert boxes is not None
    assert kept is not None
    torch.testing.assert_close(changed, images, rtol=0, atol=0)
    torch.testing.assert_close(boxes[1], box, rtol=0, atol=0)
    assert kept[0].tolist() == [True]


def test_images_stay_in_0_to_1_and_bring_in_no_black_border():
    images = torch.full((16, 1, 64, 64), 0.9)
    changed = augment(images, None, generator(), FULL).images
    assert changed.max() <= 1.0
    # 0.9 darkened by at most 20 %; zero padding would leave black corners.
    assert changed.min() >= 0.9 * 0.8 - 1e-6


def test_a_lesion_that_leaves_the_image_is_dropped_and_the_others_keep_their_labels():
    images = torch.rand(40, 1, 64, 64)
    at_the_edge, inside = [60.5, 20.0, 64.0, 24.0], [20.0, 20.0, 40.0, 40.0]
    both = torch.tensor([at_the_edge, inside])
    _, boxes, kept = augment(images, [both] * 20 + [both[:1]] * 20, generator(), FULL)
    assert boxes is not None
    assert kept is not None
    vanished = [i for i in range(20) if kept[i].tolist() == [False, True]]
    assert vanished  # moved to the right by more than 1.5 px in about a third of the images
    assert all(torch.tensor([1, 2])[kept[i]].tolist() == [2] for i in vanished)
    assert any(boxes[i].shape == (0, 4) for i in range(20, 40))
    for left in boxes:
        assert left.shape[1] == 4
        assert ((left >= 0) & (left <= 64)).all()
        assert (left[:, 2:] - left[:, :2] >= 2.0).all()


def test_an_image_without_boxes_keeps_an_empty_array_of_boxes():
    _, boxes, kept = augment(torch.rand(1, 1, 32, 32), [torch.zeros(0, 4)], generator(), FULL)
    assert boxes is not None
    assert kept is not None
    assert boxes[0].shape == (0, 4)
    assert kept[0].shape == (0,)


def test_wrong_images_and_boxes_are_refused():
    with pytest.raises(BadInputError, match="uint8"):
        augment(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), None, generator(), FULL)
    with pytest.raises(BadInputError, match="2 images with 1 lists of boxes"):
        augment(torch.zeros(2, 1, 8, 8), [torch.zeros(0, 4)], generator(), FULL)
    with pytest.raises(BadInputError, match="image 1: boxes of shape"):
        augment(torch.zeros(2, 1, 8, 8), [torch.zeros(0, 4), torch.zeros(0)], generator(), FULL)


def test_symmetries_show_each_image_in_all_eight_ways_and_the_boxes_follow():
    spot = torch.zeros(1, 16, 16)
    spot[0, 2:5, 1:8] = 1.0
    box = torch.tensor([[1.0, 2.0, 8.0, 5.0]])
    parameters = AugmentationParameters(strength=0.0, symmetries=True)
    images, boxes, kept = augment(spot.expand(64, 1, 16, 16), [box] * 64, generator(), parameters)
    assert boxes is not None
    assert kept is not None
    assert len({image.numpy().tobytes() for image in images}) == 8
    for image, moved, left in zip(images, boxes, kept, strict=True):
        rows, columns = torch.where(image[0] > 0)
        found = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        assert moved.tolist() == [found]
        assert left.tolist() == [True]


def test_images_that_are_not_square_are_not_turned():
    with pytest.raises(BadInputError, match="16 x 8 px cannot be turned"):
        augment(torch.rand(1, 1, 8, 16), None, generator(), AugmentationParameters(symmetries=True))


def test_all_symmetries_are_the_fixed_views_and_two_more():
    images = np.random.default_rng(0).integers(0, 255, (3, 5, 5), dtype=np.uint8)
    found = in_all_symmetries(images)
    assert found.shape == (3, 8, 5, 5)
    for image, own in zip(images, found, strict=True):
        ways = [way.tobytes() for way in own]
        assert len(set(ways)) == 8
        assert {view_of_image(image, view).tobytes() for view in VIEWS} < set(ways)
        assert ways[0] == image.tobytes()


def test_however_an_image_was_turned_it_comes_out_the_same_way_up():
    images = np.random.default_rng(1).integers(0, 255, (20, 6, 6), dtype=np.uint8)
    upright = same_way_up(images)
    for way in range(8):
        np.testing.assert_array_equal(same_way_up(np.ascontiguousarray(in_all_symmetries(images)[:, way])), upright)
    for image, own in zip(images, upright, strict=True):
        assert own.tobytes() in {turned.tobytes() for turned in in_all_symmetries(image[None])[0]}
    quarters = upright[:, :3, :3], upright[:, :3, 3:], upright[:, 3:, :3]
    first, right, below = (quarter.sum((1, 2), dtype=np.int64) for quarter in quarters)
    assert (first >= right).all()
    assert (right >= below).all()


def test_an_even_image_stays_as_it_is():
    even = np.full((2, 4, 4), 7, dtype=np.uint8)
    np.testing.assert_array_equal(same_way_up(even), even)


def test_a_training_in_bfloat16_sees_the_same_pictures_and_boxes():
    images = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    boxes = [torch.tensor([[10.3, 20.7, 40.1, 50.9]])] * 4
    parameters = AugmentationParameters(strength=1.0, symmetries=True)
    plain = augment(images, boxes, torch.Generator().manual_seed(2), parameters)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = augment(images, boxes, torch.Generator().manual_seed(2), parameters)
    assert torch.equal(narrow.images, plain.images)
    assert all(torch.equal(found, wanted) for found, wanted in zip(narrow.boxes, plain.boxes, strict=True))
