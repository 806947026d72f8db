"""What of one collection helps on another: networks taught by several sets, at once or one set after the other.

A way of teaching is a list of phases, each naming the sets it learns from. The first phase starts from fresh weights,
every later one from the weights before it, in small steps. All ways are judged on the same women, whom none has seen.
"""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mammo_ml.comparisons import listed
from mammo_ml.datasets.catalog import UNKNOWN_SEVERITY
from mammo_ml.datasets.cbis_ddsm_split import PRETRAINING, women
from mammo_ml.imaging.augmentation import AugmentationParameters
from mammo_ml.models.ssd import SsdParameters
from mammo_ml.parameters import Parameters
from mammo_ml.recipe import Recipe
from mammo_ml.splits import N_FOLDS, roles_of
from mammo_ml.training import TrainingParameters
from mammo_ml.windows import WindowFilm, WindowParameters

MINI_MIAS, CBIS_DDSM, CDD_CESM = "mini_mias", "cbis_ddsm", "cdd_cesm"
SETS = (MINI_MIAS, CBIS_DDSM, CDD_CESM)
Phases = tuple[tuple[str, ...], ...]


class PhaseRecipe(Recipe):
    """One phase, and all that was learned before it: what a resumed training must have in common with its start."""

    network: SsdParameters
    windows: WindowParameters
    phases: Phases


class TransferParameters(Parameters):
    """Section `compare_transfer`."""

    seeds: tuple[int, ...] = Field(min_length=1, description="each way of teaching is gone once with each")
    folds_seed: int = Field(ge=0, description="seed of mini-MIAS's development folds")
    women_apart: dict[str, int] = Field(description="by other set: women it keeps to be judged on, never learned from")
    apart_seed: int = Field(ge=0, description="seed of the women kept apart")
    resamples: int = Field(ge=100, description="resamples of the women behind each interval")
    reference: str = Field(description="the way the others are compared with")
    network: SsdParameters
    windows: WindowParameters
    augmentation: AugmentationParameters
    training: TrainingParameters = Field(description="of the first phase; all its epochs, nothing stops early")
    later_learning_rate: float = Field(gt=0, description="of every later phase")
    later_samples: int = Field(ge=1, description="budget of every later phase")
    configurations: dict[str, Phases] = Field(min_length=1, description="by name: the sets of each phase")

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        if self.reference not in self.configurations:
            raise ValueError(f"reference {self.reference!r} is none of {', '.join(self.configurations)}")
        if set(self.women_apart) != set(SETS) - {MINI_MIAS}:
            raise ValueError(f"women_apart needs {CBIS_DDSM} and {CDD_CESM}, found {', '.join(self.women_apart)}")
        for name, phases in self.configurations.items():
            named = [one for phase in phases for one in phase]
            if not phases or not all(phases) or not set(named) <= set(SETS):
                raise ValueError(f"configuration {name!r}: each phase names sets out of {', '.join(SETS)}")
        return self

    def phases_of(self, configuration: str) -> Phases:
        """The phases of a way of teaching.

        Raises:
            BadInputError: when it is not listed.
        """
        return listed("compare_transfer", self.configurations, configuration)

    def recipe(self, phases: Phases, seed: int) -> PhaseRecipe:
        """The recipe of the last of these phases."""
        changed: dict[str, int | float] = {"seed": seed}
        if len(phases) > 1:
            changed |= {"learning_rate": self.later_learning_rate, "budget_samples": self.later_samples}
        return PhaseRecipe(
            network=self.network,
            windows=self.windows,
            augmentation=self.augmentation,
            training=self.training.model_copy(update=changed),
            phases=phases,
        )


def folds_taught(phases: Phases) -> range:
    """Folds a network must be taught for: all where mini-MIAS teaches, for its women take turns; else one."""
    return range(N_FOLDS if any(MINI_MIAS in phase for phase in phases) else 1)


def films_of_study(name: str, films: pd.DataFrame, lesions: pd.DataFrame, asked: TransferParameters) -> pd.DataFrame:
    """Films of a set that have a part in the study, with a column `apart`: whether they judge, and never teach.

    All films of mini-MIAS are judged on, its women take turns (`is_taught`). Of CBIS-DDSM only women of the list's
    pre-training part come in: those kept for external validation are neither learned from nor looked at. Films with a
    lesion of unknown severity are left out, as everywhere.
    """
    unknown = lesions.loc[lesions["severity"] == UNKNOWN_SEVERITY, "film_id"]
    kept = ~films["film_id"].isin(unknown)
    if name == CBIS_DDSM:
        kept &= films["patient_id"].isin(women(PRETRAINING))
    own = films[kept].reset_index(drop=True)
    if name == MINI_MIAS:
        return own.assign(apart=True)
    everyone = np.array(sorted(set(own["patient_id"])))
    chosen = np.random.default_rng(asked.apart_seed).permutation(everyone)[: asked.women_apart[name]]
    return own.assign(apart=own["patient_id"].isin(chosen))


def is_taught(films: pd.DataFrame, folds: pd.DataFrame, fold: int) -> NDArray[np.bool_]:
    """Whether each mini-MIAS film (N,) may teach when `fold` is tested; nothing is chosen, so the inner part does."""
    taught: NDArray[np.bool_] = roles_of(folds, films["patient_id"], fold) != "test"
    return taught


def balanced(by_set: Mapping[str, Sequence[WindowFilm]]) -> list[WindowFilm]:
    """Films of all sets, those of sets with fewer lesions repeated, so that each shows about as many.

    Without this a joint training on mini-MIAS and CBIS-DDSM would show nine masses of the larger for each of the other.
    """
    counts = {name: sum(len(film.boxes) for film in films) for name, films in by_set.items()}
    most = max(counts.values())
    return [film for name, films in by_set.items() for film in list(films) * round(most / max(1, counts[name]))]
