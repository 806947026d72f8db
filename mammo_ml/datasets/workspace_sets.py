"""A data set of the workspace: data/datasets/NAME with its films, its two tables and what is known of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table
from mammo_ml.errors import BadInputError
from mammo_ml.manifest import verify_manifest

SETS = Path("data") / "datasets"
FACTS = "dataset.json"
_REMEDY = (
    "`mammo-ml dataset add PATH` makes one of a folder of films; `dvc repro "
    "pipelines/studies/dvc.yaml:cbis_external_test` that of the CBIS-DDSM women no model has learned from."
)


@dataclass(frozen=True)
class DataSet:
    """Films and lesions (`mammo_ml.datasets.catalog`), the folder of the film files, and the facts of dataset.json."""

    films: pd.DataFrame
    lesions: pd.DataFrame
    films_folder: Path
    facts: Mapping[str, Any]


def known_sets(workspace: Path) -> list[str]:
    """Names of the data sets of a workspace."""
    return sorted(path.parent.name for path in (workspace / SETS).glob(f"[!.]*/{FACTS}"))


def set_folder(name: str, workspace: Path) -> Path:
    """The folder of a data set.

    Raises:
        BadInputError: when there is none of that name; naming those there are.
    """
    known = known_sets(workspace)
    if name in known:
        return workspace / SETS / name
    told = f"known: {', '.join(known)}" if known else f"{workspace / SETS} holds none"
    raise BadInputError("data sets", [f"there is no data set '{name}'; {told}"], _REMEDY)


def read_set(folder: Path) -> DataSet:
    """Read a data set of the workspace after its films were compared with their manifest.

    Raises:
        BadInputError: when a file is missing, changed or not what it should be.
    """
    verify_manifest(folder / "films")
    try:
        facts = json.loads((folder / FACTS).read_text("utf-8"))
        films = read_table(folder / "catalog" / "films.csv", FILMS)
        lesions = read_table(folder / "catalog" / "lesions.csv", LESIONS)
    except (OSError, ValueError) as error:
        raise BadInputError(str(folder), [str(error)], "Make the set again.") from None
    return DataSet(films, lesions, folder / "films", facts)
