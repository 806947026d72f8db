"""What the classifier's training makes small: losses by hand, balance of classes, and choices that are refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mammo_ml.classifier import ClassifierRecipe, ClassifierTask, ObjectiveParameters, losses_of
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.augmentation import AugmentationParameters
from mammo_ml.parameters import parse_section

LABELS = np.array([0] * 12 + [1] * 6 + [2] * 2)
RECIPE = {
    "network": {"variant": "exact"},
    "pretrained": "none",
    "augmentation": {"strength": 0.0},
    "training": {
        "budget_samples": 8,
        "epoch_samples": 4,
        "batch_size": 4,
        "learning_rate": 0.001,
        "weight_decay": 0.0,
        "patience": 1,
        "threads": 1,
        "seed": 1,
    },
}


class Constant(nn.Module):
    """Gives every picture the same logits."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.log(torch.tensor([0.5, 0.3, 0.2])))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), 3)


def task(**objective: str) -> ClassifierTask:
    pictures = np.zeros((len(LABELS), 16, 16), dtype=np.uint8)
    every = np.arange(len(LABELS))
    unchanged = AugmentationParameters(strength=0.0)
    chosen = ObjectiveParameters.model_validate(objective)
    return ClassifierTask(Constant(), pictures, LABELS, [str(n) for n in every], every, every[:0], unchanged, chosen)


@pytest.mark.parametrize(
    ("loss", "of_the_second"),
    [
        ("cross_entropy", -math.log(0.3)),
        ("binary_cross_entropy", -(math.log(0.5) + math.log(0.3) + math.log(0.8)) / 3),
        ("mean_squared_error", (0.5**2 + 0.7**2 + 0.2**2) / 3),
    ],
)
def test_losses_are_those_worked_by_hand(loss: str, of_the_second: float) -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    found = losses_of(logits, torch.tensor([1]), loss)
    torch.testing.assert_close(found, torch.tensor([of_the_second]))


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mean_squared_error"])
def test_losses_and_gradients_stay_finite_where_a_probability_rounds_to_one(loss: str) -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0], [-90.0, 90.0, 0.0]], requires_grad=True)
    found = losses_of(logits, torch.tensor([1, 1]), loss)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("balance", "shares"), [("draws", [1 / 3, 1 / 3, 1 / 3]), ("weights", [0.6, 0.3, 0.1]), ("none", [0.6, 0.3, 0.1])]
)
def test_classes_are_drawn_as_asked(balance: str, shares: list[float]) -> None:
    drawn = task(class_balance=balance).draw(6000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(LABELS[drawn]) / 6000, shares, atol=0.02)


def test_weights_give_every_class_the_same_say() -> None:
    every, generator = np.arange(len(LABELS)), torch.Generator()
    weighted = float(task(class_balance="weights").loss(every, generator).detach())
    assert weighted == pytest.approx(-np.mean(np.log([0.5, 0.3, 0.2])), rel=1e-5)
    as_they_come = float(task(class_balance="none").loss(every, generator).detach())
    assert as_they_come == pytest.approx(-np.log([0.5, 0.3, 0.2])[LABELS].mean(), rel=1e-5)


def test_a_recipe_says_nothing_of_the_objective_and_gets_the_inferred_one() -> None:
    recipe = parse_section(RECIPE, ClassifierRecipe, "train_classifier")
    assert (recipe.objective.loss, recipe.objective.class_balance) == ("cross_entropy", "draws")
    tried = recipe.with_values({"loss": "mean_squared_error", "optimiser": "sgd", "variant": "compact"})
    assert (tried.objective.loss, tried.training.optimiser) == ("mean_squared_error", "sgd")


@pytest.mark.parametrize(("key", "value"), [("loss", "hinge"), ("class_balance", "focal")])
def test_an_objective_that_does_not_exist_is_named(key: str, value: str) -> None:
    with pytest.raises(BadInputError, match=rf"objective\.{key}"):
        parse_section(RECIPE | {"objective": {key: value}}, ClassifierRecipe, "train_classifier")
