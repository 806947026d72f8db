"""The classifier's side of training and prediction: which patches, which loss, which probabilities."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mammo_ml.cutting import PatchSet
from mammo_ml.datasets.catalog import LABELS
from mammo_ml.devices import device_of
from mammo_ml.errors import MammoError
from mammo_ml.imaging.augmentation import AugmentationParameters, augment
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.parameters import Parameters
from mammo_ml.pretrained import Start, resolve
from mammo_ml.recipe import Recipe

PREDICTION_BATCH = 32
PROBABILITY_COLUMNS = [f"p_{label}" for label in LABELS]


class ObjectiveParameters(Parameters):
    """What a training makes small; the slides do not say, cross-entropy is inferred."""

    loss: Literal["cross_entropy", "binary_cross_entropy", "mean_squared_error"] = Field(
        default="cross_entropy",
        description="of the class probabilities; the last two are means over the three outputs. The inner loss, which "
        "stops a training and compares trials, is the cross-entropy whichever is chosen",
    )
    class_balance: Literal["draws", "weights", "none"] = Field(
        default="draws",
        description="draws: every class is drawn as often as any other; weights: patches are drawn as they come, and "
        "the loss of each weighted as rare as its class is; none: neither",
    )


class ClassifierRecipe(Recipe):
    """Section `train_classifier`."""

    network: ClassifierParameters
    pretrained: str = Field(
        description="starter (variants compact and exact), starter_if_any (none for the others), none, or a folder of "
        "weights"
    )
    objective: ObjectiveParameters = ObjectiveParameters()


class ClassifierTask:
    """The loss of batches of patches; satisfies `mammo_ml.training.Task`.

    Args:
        model: maps float32 (N, 1, H, W) in 0 to 1 to logits (N, 3).
        pictures: uint8 (M, H, W).
        labels: class index (M,), 0 normal, 1 benign, 2 malignant.
        names: name (M,) of each picture, for messages.
        train: indices of the training pictures.
        inner: indices of the inner part's pictures; may be empty.
        augmentation: random changes on top of the fixed views.
        objective: loss and balance of the classes.
    """

    def __init__(
        self,
        model: nn.Module,
        pictures: NDArray[np.uint8],
        labels: NDArray[np.int64],
        names: list[str],
        train: NDArray[np.int64],
        inner: NDArray[np.int64],
        augmentation: AugmentationParameters,
        objective: ObjectiveParameters,
    ) -> None:
        self.model, self._pictures, self._labels, self._names = model, pictures, labels, names
        self._train, self._inner, self._augmentation, self._objective = train, inner, augmentation, objective
        self._by_class = [train[labels[train] == label] for label in np.unique(labels[train])]
        weights = np.ones(len(LABELS), dtype=np.float32)
        if objective.class_balance == "weights":
            for own in self._by_class:
                weights[labels[own[0]]] = len(train) / (len(self._by_class) * len(own))
        self._weights = torch.from_numpy(weights)

    def draw(self, n: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Pictures at random: each class as often as any other, or as they come."""
        if self._objective.class_balance != "draws":
            return generator.choice(self._train, n)
        classes = generator.permutation(np.arange(n) % len(self._by_class))
        return np.array([generator.choice(self._by_class[label]) for label in classes], dtype=np.int64)

    def loss(self, samples: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Mean loss of a batch, each patch with the weight of its class."""
        images = augment(to_tensor(self._pictures[samples]), None, generator, self._augmentation).images
        labels, device = torch.from_numpy(self._labels[samples]), device_of(self.model)
        losses = losses_of(self.model(images.to(device)), labels.to(device), self._objective.loss)
        return (losses * self._weights[labels].to(device)).mean()

    def inner_loss(self) -> float:
        """Cross-entropy of the inner part, every class with the same weight."""
        if len(self._inner) == 0:
            return float("nan")
        probabilities = unchecked_probabilities(self.model, self._pictures[self._inner])
        labels = self._labels[self._inner]
        losses = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-7))
        return float(np.mean([losses[labels == label].mean() for label in np.unique(labels)]))

    def describe(self, samples: NDArray[np.int64]) -> str:
        """Names of the patches."""
        return "patches " + ", ".join(self._names[index] for index in samples)


def losses_of(logits: Tensor, labels: Tensor, loss: str) -> Tensor:
    """Loss (N,) of each item by the name it has in `ObjectiveParameters`.

    Args:
        logits: float (N, 3).
        labels: class index (N,), int64.
        loss: cross_entropy; binary_cross_entropy or mean_squared_error, of the softmax, the mean over the outputs.
    """
    if loss == "cross_entropy":
        return F.cross_entropy(logits.float(), labels, reduction="none")
    wanted = F.one_hot(labels, logits.shape[1]).float()
    if loss == "mean_squared_error":
        return (logits.float().softmax(1) - wanted).square().mean(1)
    # ln(1 - p) of the softmax is the logarithm of the others' sum: finite where 1 - p itself rounds to 0.
    others = logits.float()[:, None, :].masked_fill(
        torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device), -torch.inf
    )
    total = logits.float().logsumexp(1, keepdim=True)
    of_outputs = wanted * (logits.float() - total) + (1 - wanted) * (others.logsumexp(2) - total)
    return -of_outputs.mean(1)


def new_classifier(recipe: ClassifierRecipe) -> nn.Module:
    """A network to train: fresh weights, which the recipe's seed decides, with those it starts from put over them."""
    torch.manual_seed(recipe.training.seed)
    model = build_classifier(recipe.network)
    start_of(recipe).load_into(model)
    return model


def start_of(recipe: ClassifierRecipe) -> Start:
    """The weights a training with this recipe starts from."""
    return resolve(recipe.pretrained, "classifier", recipe.network.variant)


def task_on_patches(
    recipe: ClassifierRecipe, patches: PatchSet, train: NDArray[np.bool_], inner: NDArray[np.bool_]
) -> ClassifierTask:
    """A new network and its data: all views of the training patches, the identity of the inner ones.

    Args:
        recipe: network, augmentation, training; its seed also sets the first weights.
        patches: the patches.
        train: (N,) whether a patch is trained on.
        inner: (N,) whether a patch belongs to the inner part.
    """
    n_views = patches.pictures.shape[1]
    first = np.arange(len(patches.patches)) * n_views
    every_view = (first[train][:, None] + np.arange(n_views)).ravel()
    return task_on_pictures(recipe, patches, every_view, first[inner])


def task_on_pictures(
    recipe: ClassifierRecipe, patches: PatchSet, train: NDArray[np.int64], inner: NDArray[np.int64]
) -> ClassifierTask:
    """A new network and its data, given as indices into the pictures of all views, patch by patch."""
    n_views = patches.pictures.shape[1]
    return ClassifierTask(
        new_classifier(recipe),
        patches.every_picture,
        np.repeat(patches.labels, n_views),
        list(np.repeat(patches.patches["patch_id"], n_views)),
        train,
        inner,
        recipe.augmentation,
        recipe.objective,
    )


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures uint8 (N, H, W) as float32 (N, 1, H, W) in 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).unsqueeze(1).float() / 255


def predict_patches(model: nn.Module, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Class probabilities (N, 3) of patches, the mean over the views of each: uint8 (N, V, H, W)."""
    of_views = [predict_probabilities(model, pictures[:, view]) for view in range(pictures.shape[1])]
    mean: NDArray[np.float64] = np.mean(of_views, axis=0)
    return mean


def predict_probabilities(
    model: nn.Module, pictures: NDArray[np.uint8], names: Sequence[str] | None = None
) -> NDArray[np.float64]:
    """Class probabilities (N, 3) of pictures uint8 (N, H, W).

    Args:
        model: the classifier.
        pictures: the pictures.
        names: what they (N,) are called in messages; else by number.

    Raises:
        MammoError: naming the pictures for which the network gives numbers that are not finite.
    """
    found = unchecked_probabilities(model, pictures)
    bad = np.flatnonzero(~np.isfinite(found).all(1))
    if len(bad):
        told = ", ".join(f"picture {n}" if names is None else names[n] for n in bad.tolist())
        raise MammoError(f"the classifier's output is not finite for {told}: look at the pixels and the weights")
    return found


@torch.inference_mode()
def unchecked_probabilities(model: nn.Module, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """As `predict_probabilities`, for a loss: NaN is for the training loop to refuse, which knows the epoch."""
    model.eval()
    device = device_of(model)
    batches = [pictures[start : start + PREDICTION_BATCH] for start in range(0, len(pictures), PREDICTION_BATCH)]
    logits = [model(to_tensor(batch).to(device)).cpu().double() for batch in batches]
    return np.concatenate([np.empty((0, len(LABELS))), *(of_batch.softmax(1).numpy() for of_batch in logits)])
