"""The classifier's side of training and prediction: which patches, which loss, which probabilities."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mammo_ml.cutting import PatchSet
from mammo_ml.datasets.catalog import LABELS
from mammo_ml.imaging.augmentation import AugmentationParameters, augment
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.pretrained import Start, resolve
from mammo_ml.recipe import Recipe

PREDICTION_BATCH = 32
PROBABILITY_COLUMNS = [f"p_{label}" for label in LABELS]


class ClassifierRecipe(Recipe):
    """Section `train_classifier`."""

    network: ClassifierParameters
    pretrained: str = Field(description="starter (variant compact), none, or a folder of weights")


class ClassifierTask:
    """Cross-entropy on class-balanced batches of patches; satisfies `mammo_ml.training.Task`.

    Args:
        model: maps float32 (N, 1, H, W) in 0 to 1 to logits (N, 3).
        pictures: uint8 (M, H, W).
        labels: class index (M,), 0 normal, 1 benign, 2 malignant.
        names: name (M,) of each picture, for messages.
        train: indices of the training pictures.
        inner: indices of the inner part's pictures; may be empty.
        augmentation: random changes on top of the fixed views.
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
    ) -> None:
        self.model, self._pictures, self._labels, self._names = model, pictures, labels, names
        self._inner, self._augmentation = inner, augmentation
        self._by_class = [train[labels[train] == label] for label in np.unique(labels[train])]

    def draw(self, n: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Each class as often as any other, its pictures at random."""
        classes = generator.permutation(np.arange(n) % len(self._by_class))
        return np.array([generator.choice(self._by_class[label]) for label in classes], dtype=np.int64)

    def loss(self, samples: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Mean cross-entropy of a batch."""
        images = augment(to_tensor(self._pictures[samples]), None, generator, self._augmentation).images
        return F.cross_entropy(self.model(images), torch.from_numpy(self._labels[samples]))

    def inner_loss(self) -> float:
        """Cross-entropy of the inner part, every class with the same weight."""
        if len(self._inner) == 0:
            return float("nan")
        probabilities = predict_probabilities(self.model, self._pictures[self._inner])
        labels = self._labels[self._inner]
        losses = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-7))
        return float(np.mean([losses[labels == label].mean() for label in np.unique(labels)]))

    def describe(self, samples: NDArray[np.int64]) -> str:
        """Names of the patches."""
        return "patches " + ", ".join(self._names[index] for index in samples)


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
    )


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures uint8 (N, H, W) as float32 (N, 1, H, W) in 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).unsqueeze(1).float() / 255


def predict_patches(model: nn.Module, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Class probabilities (N, 3) of patches, the mean over the views of each: uint8 (N, V, H, W)."""
    of_views = [predict_probabilities(model, pictures[:, view]) for view in range(pictures.shape[1])]
    mean: NDArray[np.float64] = np.mean(of_views, axis=0)
    return mean


@torch.inference_mode()
def predict_probabilities(model: nn.Module, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Class probabilities (N, 3) of pictures uint8 (N, H, W)."""
    model.eval()
    batches = [pictures[start : start + PREDICTION_BATCH] for start in range(0, len(pictures), PREDICTION_BATCH)]
    found = [torch.softmax(model(to_tensor(batch)).double(), dim=1).numpy() for batch in batches]
    return np.concatenate([np.empty((0, len(LABELS))), *found])
