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

FACTS = "dataset.json"


@dataclass(frozen=True)
class DataSet:
    """Films and lesions (`mammo_ml.datasets.catalog`), the folder of the film files, and the facts of dataset.json."""

    films: pd.DataFrame
    lesions: pd.DataFrame
    films_folder: Path
    facts: Mapping[str, Any]


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
