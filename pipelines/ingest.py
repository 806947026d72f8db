"""Bring the films here, checked one by one: the archive named by MIAS_ARCHIVE, the official one, or phantoms."""

import os

from mammo_ml.datasets import mini_mias_archive, phantom
from pipelines import stage


def ingest() -> None:
    paths = stage.arguments(__doc__, "films")
    parameters = stage.section("ingest", phantom.PhantomParameters)
    if stage.dataset() == stage.PHANTOM:
        phantom.write_phantoms(paths.films, parameters)
        return
    with stage.bar(0, "mini-MIAS archive", "B") as advance:
        done = 0

        def report(received: int, total: int | None) -> None:
            nonlocal done
            advance(received - done)
            done = received

        archive = mini_mias_archive.obtain_archive(os.environ.get("MIAS_ARCHIVE"), stage.STATE / "download", report)
    mini_mias_archive.unpack(archive, paths.films, mini_mias_archive.official_manifest())


if __name__ == "__main__":
    stage.main(ingest)
