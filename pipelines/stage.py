"""What every stage script shares: its paths from the command line, its section of params.yaml, its run, its bar."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from mammo_ml import tracking
from mammo_ml.errors import MammoError
from mammo_ml.parameters import Parameters, read_section, read_yaml

PARAMS = Path("params.yaml")
STATE = Path(".state")
"""What must survive a kill: checkpoints and studies, keyed by all they depend on. Ignored by git, unknown to DVC."""
PHANTOM = "phantom"
P = TypeVar("P", bound=Parameters)


def arguments(description: str | None, *paths: str, fold: bool = False) -> argparse.Namespace:
    """Paths of the stage, one required option each, and `--fold` where the stage has folds."""
    parser = argparse.ArgumentParser(description=description)
    if fold:
        parser.add_argument("--fold", type=int, required=True, help="test fold, 0 to 4")
    for name in paths:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True)
    return parser.parse_args()


def section(name: str, kind: type[P]) -> P:
    """One section of params.yaml, checked."""
    return read_section(PARAMS, name, kind)


def dataset() -> str:
    """Name of the data set of this workspace."""
    return str(read_yaml(PARAMS)["dataset"])


def folds() -> list[int]:
    """Test folds this pass trains and predicts."""
    return [int(fold) for fold in read_yaml(PARAMS)["folds"]]


def run(
    stage: str, parameters: Parameters, data: list[Path], fold: int | None = None, protocol: str = "by_patient"
) -> AbstractContextManager[tracking.StageRun]:
    """Live MLflow run of the stage."""
    name = dataset()
    tags = {"dataset": name, "phantom": name == PHANTOM, "protocol": protocol}
    inputs = [tracking.TrackedData(path) for path in data]
    return tracking.stage_run(stage, fold, parameters.model_dump(mode="json"), tags, inputs)


@contextmanager
def bar(total: int, what: str, unit: str = "sample") -> Iterator[Callable[[int], None]]:
    """Progress bar over `total` units; yields the function that moves it."""
    with tqdm(total=total, desc=what, unit=unit, mininterval=1.0, dynamic_ncols=True) as progress:
        yield lambda n: (progress.update(n), None)[1]


def main(stage: Callable[[], None]) -> None:
    """Run a stage; an error made for people is printed without a traceback."""
    try:
        stage()
    except MammoError as error:
        sys.exit(f"{error}")
