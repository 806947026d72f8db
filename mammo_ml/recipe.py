"""What a training is made from: network, augmentation and training parameters, and the keys tuning may set."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import pandas as pd

from mammo_ml.errors import MammoError, raise_if_any
from mammo_ml.imaging.augmentation import AugmentationParameters
from mammo_ml.parameters import Parameters, parse_section
from mammo_ml.training import TrainingParameters

Values = dict[str, float | int | str]
OF_TRIALS = ("trial", "value", "pruned")
"""Columns of trials.csv beside the searched keys; the last is there where a study prunes."""


class Recipe(Parameters):
    """Base of each model's recipe; a recipe adds its `network`."""

    augmentation: AugmentationParameters
    training: TrainingParameters

    def values(self, keys: Mapping[str, object]) -> Values:
        """The recipe's own values of these keys, wherever in it they stand.

        Raises:
            BadInputError: naming every key the recipe does not have.
        """
        homes = self._homes(keys)
        return {key: getattr(getattr(self, homes[key]), key) for key in keys}

    def with_values(self, values: Mapping[str, object]) -> Self:
        """The same recipe with these keys set, checked like any other value.

        Raises:
            BadInputError: naming every key the recipe does not have, or every value out of range.
        """
        sections, homes = self.model_dump(), self._homes(values)
        for key, value in values.items():
            sections[homes[key]][key] = value
        return parse_section(sections, type(self), "recipe with the chosen values")

    def with_budget(self, samples: int, seed: int | None = None) -> Self:
        """The same recipe with another budget of training samples."""
        changed = {"budget_samples": samples} | ({} if seed is None else {"seed": seed})
        return self.model_copy(update={"training": self.training.model_copy(update=changed)})

    def _homes(self, keys: Iterable[str]) -> dict[str, str]:
        """Section of each key."""
        sections = [name for name in type(self).model_fields if isinstance(getattr(self, name), Parameters)]
        home = {key: section for section in reversed(sections) for key in type(getattr(self, section)).model_fields}
        unknown = [f"'{key}' is no key of {', '.join(sections)}" for key in keys if key not in home]
        raise_if_any("values for a training", unknown, f"Known: {', '.join(sorted(home))}.")
        return home


def save_best(values: Values, path: Path) -> None:
    """Write the chosen values as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_best(path: Path) -> Values:
    """Read the chosen values."""
    values: Values = json.loads(path.read_text(encoding="utf-8"))
    return values


def best_on_average(trials: Sequence[pd.DataFrame]) -> Values:
    """Values tried in every fold's study whose mean figure is best; trial 0, the defaults, always is one of them.

    Args:
        trials: per fold, the study's table: `OF_TRIALS`, and a column per searched key.

    Raises:
        MammoError: when no values have a finite figure in every fold.
    """
    every = pd.concat(trials, ignore_index=True)
    keys = [str(column) for column in every.columns if column not in OF_TRIALS]
    means = every.groupby(keys, sort=False)["value"].agg(["mean", "count"]).reset_index()
    complete = means[means["count"] == len(trials)]
    if complete.empty:
        raise MammoError("tuning: no values have a finite figure in every fold, not even the defaults")
    # By column, not by row: a row of several columns would turn whole numbers into floats.
    best = int(complete["mean"].argmax())
    return {key: complete[key].tolist()[best] for key in keys}
