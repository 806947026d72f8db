"""Cut classifier patches and detector cuts from the films, each in its fixed views, and what corrections teach."""

from typing import cast

from mammo_ml.cutting import cut_detector_cuts, cut_patches
from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table
from mammo_ml.detector_bases import INPUT_PX, Base
from mammo_ml.errors import raise_if_any
from mammo_ml.feedback.tables import check_films, check_readings, read_tables
from mammo_ml.feedback.teaching import cut_feedback, save_feedback
from mammo_ml.imaging.canonical import canonical_films
from mammo_ml.imaging.patches import CutParameters
from pipelines import stage


def cut() -> None:
    paths = stage.arguments(__doc__, "base", "films", "catalog", "corrections", "patches", "cuts", "feedback")
    parameters = stage.section("cut", CutParameters)
    of_cuts = parameters.model_copy(update={"input_px": INPUT_PX[_base_named(str(paths.base))]})
    films = read_table(paths.catalog / "films.csv", FILMS)
    lesions = read_table(paths.catalog / "lesions.csv", LESIONS)
    corrections = read_tables(paths.corrections)
    check_readings(corrections, paths.corrections)
    check_films(corrections, films, paths.corrections)
    canonical = {}
    with stage.bar(len(films), "canonical films", "film") as advance:
        for film in canonical_films(paths.films, films):
            canonical[film.film_id] = film
            advance(1)
    cut_patches(films, canonical, lesions, parameters).save(paths.patches)
    cuts = cut_detector_cuts(films, canonical, lesions, of_cuts)
    cuts.save(paths.cuts)
    save_feedback(*cut_feedback(films, canonical, lesions, corrections, cuts, of_cuts), paths.feedback)


def _base_named(name: str) -> Base:
    raise_if_any("--base", [] if name in INPUT_PX else [f"{name!r} is none of {', '.join(INPUT_PX)}"])
    return cast(Base, name)


if __name__ == "__main__":
    stage.main(cut)
