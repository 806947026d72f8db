"""Bring CBIS-DDSM's mass films here from the folder MAMMO_EXTERNAL names, each in its own shape."""

import os
from pathlib import Path

from mammo_ml.datasets import cbis_ddsm
from mammo_ml.errors import BadInputError
from mammo_ml.manifest import write_manifest
from pipelines import stage


def ingest_cbis_ddsm() -> None:
    paths = stage.arguments(__doc__, "films")
    folder = os.environ.get("MAMMO_EXTERNAL")
    if not folder or not (Path(folder) / cbis_ddsm.FOLDER).is_dir():
        raise BadInputError(
            "CBIS-DDSM",
            [f"MAMMO_EXTERNAL is {folder or 'not set'}, and holds no folder {cbis_ddsm.FOLDER}"],
            "Set it to the folder that holds the set (docs/cbis-ddsm.md).",
        )
    source, done = Path(folder) / cbis_ddsm.FOLDER, 0
    with stage.bar(len(list((source / cbis_ddsm.JPEGS).glob("*.jp*g"))), "CBIS-DDSM", "film") as advance:

        def report(films: int, _total: int) -> None:
            nonlocal done
            advance(films - done)
            done = films

        cbis_ddsm.ingest(source, paths.films, report)
    write_manifest(paths.films)


if __name__ == "__main__":
    stage.main(ingest_cbis_ddsm)
