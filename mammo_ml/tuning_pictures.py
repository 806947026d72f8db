"""Pictures of a finished tuning study, drawn by Optuna: its history, what mattered, and the values side by side."""

import sys
import warnings
from collections.abc import Callable

import matplotlib.pyplot as plt
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.visualization import matplotlib as pictures

LEAST_FOR_IMPORTANCE = 4
"""Finished trials below which nothing can be said about what mattered."""

INCHES_OF_A_KEY = 1.6
"""Width that the names of one key's choices need between two axes."""


def study_figures(study: optuna.Study, figure: str) -> dict[str, Figure]:
    """Figures by file name: history, and where enough trials ended with a figure importance and parallel_coordinate.

    One that Optuna cannot draw is told and left out: what was tuned is worth more than its picture.

    Args:
        study: all trials; pruned ones have no figure and are not drawn.
        figure: name of what was maximised.
    """
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    drawn: dict[str, Callable[..., Axes]] = {"history": pictures.plot_optimization_history}
    if len(complete) >= LEAST_FOR_IMPORTANCE:
        if len({trial.value for trial in complete}) > 1:
            drawn["importance"] = pictures.plot_param_importances
        drawn["parallel_coordinate"] = pictures.plot_parallel_coordinate
    found = {}
    for name, draw in drawn.items():
        try:
            found[name] = _drawn(draw, study, figure)
        except (ValueError, RuntimeError, ArithmeticError) as error:
            print(f"WARNING: {study.study_name}: no picture of {name}: {error}", file=sys.stderr)
    return found


def _drawn(draw: Callable[..., Axes], study: optuna.Study, figure: str) -> Figure:
    with warnings.catch_warnings(), plt.style.context("default"):
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        axes = draw(study, target_name=figure)
    found = axes.figure
    assert isinstance(found, Figure)
    plt.close(found)
    found.set_size_inches(max(9, INCHES_OF_A_KEY * len(study.best_params)), 5)
    found.set_layout_engine("tight")
    return found
