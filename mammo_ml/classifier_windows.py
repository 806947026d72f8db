"""The classifier's side of pre-training: windows of whole films, each named by the lesion it lies round."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mammo_ml.classifier import to_tensor, unchecked_probabilities
from mammo_ml.devices import device_of
from mammo_ml.imaging.augmentation import augment
from mammo_ml.models.classifiers import ClassifierParameters, Variant
from mammo_ml.models.cnni_bcc import PATCH_PX
from mammo_ml.recipe import Recipe, Values
from mammo_ml.windows import WindowFilm, WindowParameters, WindowSource


class ClassifierPretrainingRecipe(Recipe):
    """Section `pretrain_classifier`."""

    network: ClassifierParameters
    backbone: str = Field(
        description="what the base of the compact network starts from, a small detector: starter, none, or a folder"
    )
    windows: WindowParameters
    label_smoothing: float = Field(ge=0, lt=1, description="share of each label that is spread over all classes")
    inner_women: int = Field(ge=1, description="women kept apart to choose the best epoch by")
    by_variant: dict[Variant, Values] = Field(
        default={}, description="single keys that differ for a variant; also the variant it is taught as"
    )

    def of_variant(self, variant: Variant) -> Self:
        """The same recipe for this variant."""
        return self.with_values({"variant": variant, **self.by_variant.get(variant, {})})


class ClassifierWindowTask:
    """Cross-entropy on windows of films; satisfies `mammo_ml.training.Task`.

    A window has the class of the lesion it lies round; one laid anywhere has that of the first lesion seen in it.

    Args:
        model: maps float32 (N, 1, 128, 128) in 0 to 1 to logits (N, 3).
        train: films to learn from.
        inner: films the inner loss is taken on.
        recipe: how windows are drawn and changed; its seed also decides the inner windows.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Sequence[WindowFilm],
        inner: Sequence[WindowFilm],
        recipe: ClassifierPretrainingRecipe,
    ) -> None:
        self.model, self._augmentation, self._smoothing = model, recipe.augmentation, recipe.label_smoothing
        self._source = WindowSource(train, recipe.windows, PATCH_PX)
        self.inner_pictures, self.inner_labels, self.inner_films = centred_windows(
            inner, recipe.windows, recipe.training.seed
        )

    def draw(self, n: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Each lesion as often as any other and each film as often as any other."""
        return self._source.draw(n, generator)

    def loss(self, samples: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Mean cross-entropy of a batch."""
        pictures, _, seen = self._source.pictures(samples, generator)
        images = augment(to_tensor(pictures), None, generator, self._augmentation).images
        labels = torch.from_numpy(_classes(self._source, samples, seen))
        device = device_of(self.model)
        return F.cross_entropy(self.model(images.to(device)), labels.to(device), label_smoothing=self._smoothing)

    def inner_loss(self) -> float:
        """Cross-entropy of the inner windows, every class with the same weight."""
        probabilities = unchecked_probabilities(self.model, self.inner_pictures)
        of_truth = probabilities[np.arange(len(probabilities)), self.inner_labels]
        losses = -np.log(np.maximum(of_truth, 1e-7))
        return float(np.mean([losses[self.inner_labels == label].mean() for label in np.unique(self.inner_labels)]))

    def describe(self, samples: NDArray[np.int64]) -> str:
        """Names of the films."""
        return "windows of films " + ", ".join(self._source.film_of(int(sample)).film_id for sample in samples)


def centred_windows(
    films: Sequence[WindowFilm], parameters: WindowParameters, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """A window of unchanged size in the middle of each lesion, and half as many anywhere on the breast.

    Returns:
        Pictures uint8 (N, 128, 128), their classes (N,) and the names (N,) of their films.
    """
    source = WindowSource(films, parameters.model_copy(update={"max_offset": 0.0, "max_scale": 1.0}), PATCH_PX)
    n_anywhere = source.n_lesions // 2 if source.n_grounds else 0
    anywhere = np.random.default_rng(seed).integers(max(1, source.n_grounds), size=n_anywhere)
    samples = np.concatenate([np.arange(source.n_lesions), source.n_lesions + anywhere])
    pictures, _, seen = source.pictures(samples, torch.Generator().manual_seed(seed))
    return pictures, _classes(source, samples, seen), [source.film_of(int(sample)).film_id for sample in samples]


def _classes(source: WindowSource, samples: NDArray[np.int64], seen: Sequence[Tensor]) -> NDArray[np.int64]:
    """Class (N,) of each window, from its sample and the lesions seen in it."""
    laid_round = [source.lesion_class(int(sample)) if sample < source.n_lesions else None for sample in samples]
    shown = [int(labels[0]) if len(labels) else 0 for labels in seen]
    return np.array([one if known is None else known for known, one in zip(laid_round, shown, strict=True)], np.int64)
