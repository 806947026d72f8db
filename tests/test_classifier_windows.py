import numpy as np
import pytest
import torch

from mammo_ml.classifier_windows import ClassifierPretrainingRecipe, ClassifierWindowTask, centred_windows
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.augmentation import AugmentationParameters
from mammo_ml.models.classifiers import ClassifierParameters, CompactClassifier
from mammo_ml.training import TrainingParameters, fit
from mammo_ml.windows import WindowParameters, window_films
from tests.test_windows import BOX, film, lesions

WINDOWS = WindowParameters(window_px=256, lesion_share=0.67, max_offset=0.15, max_scale=1.25, min_visible_share=0.3)
TRAINING = {"epoch_samples": 32, "batch_size": 8, "learning_rate": 0.001, "weight_decay": 0.0, "patience": 9}
RECIPE = ClassifierPretrainingRecipe(
    network=ClassifierParameters(variant="compact"), backbone="none", windows=WINDOWS, label_smoothing=0.0,
    inner_women=1,
    augmentation=AugmentationParameters(strength=0.0),
    training=TrainingParameters(budget_samples=384, threads=1, seed=1, **TRAINING),
)  # fmt: skip
SMALL = (340, 300, 370, 330)
TABLE = lesions(("a", "malignant", BOX), ("a", "benign", None), ("b", "benign", BOX))


def test_a_variant_has_the_recipe_but_for_its_own_keys():
    assert RECIPE.of_variant("exact").network == ClassifierParameters(variant="exact")
    own = RECIPE.model_copy(update={"by_variant": {"exact": {"variant": "normalised", "learning_rate": 0.01}}})
    found = own.of_variant("exact")
    assert (found.network.variant, found.training.learning_rate) == ("normalised", 0.01)
    assert own.of_variant("compact").training == RECIPE.training
    with pytest.raises(BadInputError, match="'rate' is no key of augmentation, training"):
        RECIPE.model_copy(update={"by_variant": {"exact": {"rate": 1.0}}}).of_variant("exact")


def films():
    found = [film("a", BOX), film("b", BOX), film("c"), film("d")]
    return window_films(found, TABLE, WINDOWS, 128)


def test_a_window_has_the_class_of_the_lesion_it_lies_round():
    pictures, classes, names = centred_windows(films(), WINDOWS, seed=1)
    assert list(zip(names, classes.tolist(), strict=True))[:2] == [("a", 2), ("b", 1)]
    # 60 px of the film are 30 of the picture, in its middle
    assert (pictures[:2, 52:76, 52:76] > 200).all()
    assert len(names) == 3
    assert names[2] in ("b", "c", "d")


def test_a_window_laid_anywhere_has_the_class_of_what_it_shows():
    seen = {"b": set(), "c": set(), "d": set()}
    for seed in range(60):
        pictures, classes, names = centred_windows(films(), WINDOWS, seed)
        seen[names[2]].add((int(classes[2]), bool((pictures[2] > 200).sum() > 300)))
    assert seen["c"] == seen["d"] == {(0, False)}
    assert (1, True) in seen["b"]
    assert (0, True) not in seen["b"]


def test_windows_without_any_lesion_free_film_lie_round_lesions_alone():
    table = lesions(("a", "malignant", BOX), ("a", "benign", None))
    pictures, classes, names = centred_windows(window_films([film("a", BOX)], table, WINDOWS, 128), WINDOWS, seed=1)
    assert (len(pictures), classes.tolist(), names) == (1, [2], ["a"])


def test_training_learns_which_windows_show_a_lesion():
    torch.manual_seed(1)
    task = ClassifierWindowTask(CompactClassifier(), films(), films(), RECIPE)
    assert task.describe(np.array([0, 1])) == "windows of films a, b"
    before = task.inner_loss()
    fitted = fit(task, RECIPE.training)
    assert min(epoch.inner_loss for epoch in fitted.history) < before - 0.1
