"""Cut classifier patches and detector cuts from the films, each in its fixed views, and what corrections teach."""

from mammo_ml.cutting import cut_detector_cuts, cut_patches
from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table
from mammo_ml.feedback.tables import check_films, check_readings, read_tables
from mammo_ml.feedback.teaching import cut_feedback, save_feedback
from mammo_ml.imaging.canonical import canonical_films
from mammo_ml.imaging.patches import CutParameters
from pipelines import stage


def cut() -> None:
    paths = stage.arguments(__doc__, "films", "catalog", "corrections", "patches", "cuts", "feedback")
    parameters = stage.section("cut", CutParameters)
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
    cuts = cut_detector_cuts(films, canonical, lesions, parameters)
    cuts.save(paths.cuts)
    save_feedback(*cut_feedback(films, canonical, lesions, corrections, cuts, parameters), paths.feedback)


if __name__ == "__main__":
    stage.main(cut)
