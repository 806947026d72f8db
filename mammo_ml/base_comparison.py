"""The detector's three bases under its three protocols: what each is asked, and the table of what each gave.

A base sees images of its own size, so cuts and tiles are made for it. The budget of each is what time allows, and
stands in its row: rows of unlike budgets do not say which base is better.
"""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from mammo_ml.comparisons import listed, merged
from mammo_ml.detector import DetectorRecipe
from mammo_ml.evaluation import Figures
from mammo_ml.imaging.patches import CutParameters
from mammo_ml.parameters import Parameters, parse_section
from mammo_ml.splits import N_FOLDS

FILMS, CUTS, LEAKY = "films_by_patient", "cuts_by_patient", "cuts_at_random_leaky"
PROTOCOLS = (FILMS, CUTS, LEAKY)
SHOWN = {
    FILMS: {"froc_mean": "`froc_mean`, films", "sensitivity_at_1_fp": "sensitivity at 1 false positive per film"},
    CUTS: {"map_50": "mAP 50, cuts by patient"},
    LEAKY: {"map_50": "mAP 50, leaky, test cuts", "map_50_all_sets": "leaky, all sets"},
}


class BaseChoice(Parameters):
    """One row: what differs from `common`, and how far it is taken."""

    folds: tuple[int, ...] = Field(
        min_length=1, description="development folds that are tested; women of the others are not judged"
    )
    recipe: dict[str, Any] = Field(description="keys of the recipe that differ from `common`")
    leaky: dict[str, Any] = Field(description="keys of the recipe that differ under the leaky protocol besides")

    @model_validator(mode="after")
    def _folds_are_there(self) -> Self:
        if len(set(self.folds)) != len(self.folds) or not set(self.folds) <= set(range(N_FOLDS)):
            raise ValueError(f"folds: expected different numbers from 0 to {N_FOLDS - 1}, found {list(self.folds)}")
        return self


class BaseComparison(Parameters):
    """Section `compare_base`."""

    folds_seed: int = Field(ge=0, description="seed of the development folds")
    leaky_seed: int = Field(ge=0, description="seed of the leaky protocol's draw")
    resamples: int = Field(ge=100, description="resamples of the women behind each interval")
    cut: CutParameters = Field(description="as cut of the project's params.yaml; input_px is the base's own")
    common: dict[str, Any] = Field(description="the recipe, as train_detector of the project's params.yaml")
    configurations: dict[str, BaseChoice] = Field(min_length=1)

    def choice(self, configuration: str) -> BaseChoice:
        """What a configuration asks.

        Raises:
            BadInputError: when it is not listed.
        """
        return listed("compare_base", self.configurations, configuration)

    def recipe(self, configuration: str, *, leaky: bool) -> DetectorRecipe:
        """The recipe of a training by patient, or of the leaky one.

        Raises:
            BadInputError: when the configuration is not listed, or one of its keys is wrong.
        """
        choice = self.choice(configuration)
        values = merged(self.common, choice.recipe)
        where = f"compare_base, configuration {configuration!r}"
        return parse_section(merged(values, choice.leaky) if leaky else values, DetectorRecipe, where)

    def cutting(self, configuration: str) -> CutParameters:
        """How films are cut for its base."""
        edge = self.recipe(configuration, leaky=False).network.input_px
        return self.cut.model_copy(update={"input_px": edge})


def bases_table(asked: BaseComparison, found: Mapping[str, Mapping[str, Figures]]) -> str:
    """Markdown table, a row for each configuration, its budgets first, what a detector that knows nothing gives beside.

    Args:
        asked: the section.
        found: figures by configuration, then by protocol.
    """
    head = ["base", "samples: each fold, leaky", "women judged"]
    for of_protocol in SHOWN.values():
        for title in of_protocol.values():
            head += [f"{title} [95 %]", "knows nothing"]
    lines = [head, ["---"] * len(head)]
    for name, own in found.items():
        budgets = [asked.recipe(name, leaky=leaky).training.budget_samples for leaky in (False, True)]
        cells = [f"`{name}`", ", ".join(f"{n:,}" for n in budgets), f"{own[FILMS]['n_women']:.0f}"]
        for protocol, of_protocol in SHOWN.items():
            figures = own[protocol]
            for figure in of_protocol:
                low, high = figures[f"{figure}_lo"], figures[f"{figure}_hi"]
                cells += [f"{figures[figure]:.3f} [{low:.3f}, {high:.3f}]", f"{figures[f'{figure}_baseline']:.3f}"]
        lines.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
