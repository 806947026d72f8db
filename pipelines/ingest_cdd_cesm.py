"""Bring CDD-CESM's malignant films here from the folder MAMMO_EXTERNAL names, as films and tables."""

import os
from pathlib import Path

from mammo_ml.datasets.catalog import write_table
from mammo_ml.datasets.from_cesm import Cesm
from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.manifest import write_manifest
from pipelines import stage

FOLDER = "cdd-cesm-malignant"


def ingest_cdd_cesm() -> None:
    paths = stage.arguments(__doc__, "films", "catalog")
    folder = os.environ.get("MAMMO_EXTERNAL")
    if not folder or not (Path(folder) / FOLDER).is_dir():
        raise BadInputError(
            "CDD-CESM",
            [f"MAMMO_EXTERNAL is {folder or 'not set'}, and holds no folder {FOLDER}"],
            "Set it to the folder that holds the set (docs/datasets.md).",
        )
    source, adapter, done = Path(folder) / FOLDER, Cesm(), 0
    paths.films.mkdir(parents=True, exist_ok=True)
    with stage.bar(len(list((source / "images").iterdir())), "CDD-CESM", "film") as advance:

        def report(films: int, _total: int) -> None:
            nonlocal done
            advance(films - done)
            done = films

        read = adapter.read(source, paths.films, adapter.collection, None, report)
    raise_if_any(str(source), read.problems)
    write_manifest(paths.films)
    write_table(read.films, paths.catalog / "films.csv")
    write_table(read.lesions, paths.catalog / "lesions.csv")


if __name__ == "__main__":
    stage.main(ingest_cdd_cesm)
