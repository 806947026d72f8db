"""The slides' experiment at its full size: every patch of the grid, named by its film, told by the exact network.

322 films in 32 patches of five views each are 51,520 pictures. Split at random, a test picture was learned from in
another view; split by patient, none of its woman's films was. The network is trained with batch normalisation, which
is folded into its convolutions before it is tested: what is tested is the slides' table, 309,731 parameters.
"""

from typing import Any, Literal

from pydantic import Field

from mammo_ml.classifier import ClassifierRecipe
from mammo_ml.cutting import PatchSet
from mammo_ml.cuttings import CuttingChoice, named
from mammo_ml.errors import raise_if_any
from mammo_ml.imaging.augmentation import same_way_up
from mammo_ml.parameters import Parameters, parse_section
from mammo_ml.splits import N_FOLDS

SplitName = Literal["patches_at_random_leaky", "by_patient"]


class SlidesProtocolParameters(Parameters):
    """Section `slides_protocol`: one recipe, one budget, two ways to split."""

    folds_seed: int = Field(ge=0, description="seed of the development folds")
    test_fold: int = Field(ge=0, lt=N_FOLDS, description="whose women are tested by patient")
    leaky_seed: int = Field(ge=0, description="seed of the draw of pictures")
    resamples: int = Field(ge=100, description="resamples of the women behind each interval")
    patches: CuttingChoice = Field(description="which patches, and what they are called")
    same_way_up: bool = Field(
        description="turn every picture, to learn from or to test, so that its quarters are brightest in order: the "
        "views of a patch become one picture, which a network knows again sooner"
    )
    recipe: dict[str, Any] = Field(description="as train_classifier of the project's params.yaml")
    samples_by_patient: int = Field(ge=1, description="budget by patient: what is known by heart helps no other woman")

    def classifier(self, split: SplitName) -> ClassifierRecipe:
        """The recipe, checked, with the budget of a split.

        Raises:
            BadInputError: naming what is wrong with it, also when its network is not the slides'.
        """
        where = "slides_protocol, recipe"
        recipe = parse_section(self.recipe, ClassifierRecipe, where)
        network = recipe.network
        problems = []
        if network.variant not in ("exact", "normalised"):
            problems.append(f"variant {network.variant} is not the slides' network: take exact or normalised")
        raise_if_any(where, problems)
        return recipe.with_budget(self.samples_by_patient) if split == "by_patient" else recipe

    def shown(self, patches: PatchSet) -> PatchSet:
        """The patches under the names that were asked for, as the network sees them.

        Raises:
            BadInputError: when no patch of a class is left.
        """
        called = named(patches, self.patches.patch_label)
        if not self.same_way_up:
            return called
        return PatchSet(called.patches, same_way_up(called.every_picture).reshape(called.pictures.shape))
