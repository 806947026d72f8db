"""Bring the films here, checked one by one: the archive named by MIAS_ARCHIVE, the official one, or phantoms."""

import os

from tqdm import tqdm

from mammo_ml.datasets import mini_mias_archive, phantom
from mammo_ml.manifest import write_manifest
from pipelines import stage


def ingest() -> None:
    paths = stage.arguments(__doc__, "films")
    parameters = stage.section("ingest", phantom.PhantomParameters)
    if stage.dataset() == stage.PHANTOM:
        phantom.write_phantoms(paths.films, parameters)
        write_manifest(paths.films)
        return
    # an archive that is here already shows no bar
    with tqdm(desc="mini-MIAS archive", unit="B", unit_scale=True, delay=0.5, dynamic_ncols=True) as progress:

        def report(received: int, total: int | None) -> None:
            progress.total = total
            progress.update(received - progress.n)

        archive = mini_mias_archive.obtain_archive(os.environ.get("MIAS_ARCHIVE"), stage.STATE / "download", report)
    mini_mias_archive.unpack(archive, paths.films, mini_mias_archive.official_manifest())
    write_manifest(paths.films)


if __name__ == "__main__":
    stage.main(ingest)
