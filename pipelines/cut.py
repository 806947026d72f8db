"""Cut classifier patches and detector cuts from the films, each in its fixed views."""

from mammo_ml.cutting import cut_detector_cuts, cut_patches
from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table
from mammo_ml.imaging.canonical import canonical_films
from mammo_ml.imaging.patches import CutParameters
from pipelines import stage


def cut() -> None:
    paths = stage.arguments(__doc__, "films", "catalog", "patches", "cuts")
    parameters = stage.section("cut", CutParameters)
    films = read_table(paths.catalog / "films.csv", FILMS)
    lesions = read_table(paths.catalog / "lesions.csv", LESIONS)
    canonical = {}
    with stage.bar(len(films), "canonical films", "film") as advance:
        for film in canonical_films(paths.films, films):
            canonical[film.film_id] = film
            advance(1)
    cut_patches(films, canonical, lesions, parameters).save(paths.patches)
    cut_detector_cuts(films, canonical, lesions, parameters).save(paths.cuts)


if __name__ == "__main__":
    stage.main(cut)
