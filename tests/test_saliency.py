import numpy as np
import pytest
import torch
from torch import nn

from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.saliency import RULES, grad_cam, pointing_game, strongest

BOXES = np.array([[10.0, 20.0, 30.0, 40.0], [0.0, 0.0, 20.0, 20.0], [54.0, 54.0, 74.0, 74.0]])


def with_spot(at: tuple[int, int], side: int = 128, size: int = 9) -> np.ndarray:
    picture = np.full((side, side), 60, dtype=np.uint8)
    picture[at[1] - size : at[1] + size, at[0] - size : at[0] + size] = 250
    return picture


@pytest.mark.parametrize("variant", ["exact", "normalised", "wide", "compact"])
def test_every_classifier_has_a_map_as_large_as_its_picture_and_keeps_its_weights(variant: str) -> None:
    torch.manual_seed(0)
    model = build_classifier(ClassifierParameters(variant=variant))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pictures = np.random.default_rng(0).integers(0, 256, (3, 128, 128), dtype=np.uint8)
    maps = grad_cam(model, pictures)
    assert maps.shape == (3, 128, 128)
    assert (maps >= 0).all()
    assert np.isfinite(maps).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    np.testing.assert_allclose(grad_cam(model, pictures[1:2]), maps[1:2], rtol=1e-3, atol=1e-3 * maps.max())


def test_a_network_that_was_taught_a_bright_spot_points_at_it() -> None:
    torch.manual_seed(0)
    model = build_classifier(ClassifierParameters(variant="compact"))
    generator = np.random.default_rng(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(40):
        places = generator.integers(20, 108, (8, 2))
        pictures = np.stack([with_spot(tuple(at)) if n % 2 else np.full((128, 128), 60) for n, at in enumerate(places)])
        images = torch.from_numpy(pictures).unsqueeze(1).float() / 255
        loss = nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 0, 2, 0, 1, 0, 2]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    places = [(30, 30), (96, 40), (64, 100)]
    maps = grad_cam(model, np.stack([with_spot(at) for at in places]))
    assert np.abs(strongest(maps) - places).max() < 24


def test_nothing_that_speaks_for_a_lesion_points_nowhere() -> None:
    assert np.isnan(strongest(np.zeros((1, 8, 8)))).all()
    np.testing.assert_array_equal(strongest(np.eye(8)[None] * np.arange(8)), [[7.5, 7.5]])


def test_a_hit_lies_in_the_lesions_ellipse_and_not_in_the_corner_of_its_box() -> None:
    maps = np.zeros((3, 128, 128))
    maps[0, 30, 20] = maps[1, 1, 1] = 1.0  # the middle of the first, the corner of the second, nothing for the third
    pictures = np.stack([with_spot((20, 30)), with_spot((100, 100)), with_spot((64, 64))])
    found = pointing_game(maps, pictures, BOXES)
    assert found["pointing_game"].tolist() == [1, 0, 0]
    assert found["pointing_game_centre"].tolist() == [0, 0, 1]
    assert found["pointing_game_brightest"].tolist() == [1, 0, 1]
    np.testing.assert_allclose(found["pointing_game_chance"], np.pi * 100 / 128**2)
    assert set(RULES) < set(found.columns)


def test_another_network_is_refused() -> None:
    with pytest.raises(TypeError, match="Linear is no classifier"):
        grad_cam(nn.Linear(2, 2), np.zeros((1, 128, 128), dtype=np.uint8))
