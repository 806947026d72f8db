"""Find lesions on the cuts and whole films of one test fold."""

from collections.abc import Iterator

import pandas as pd

from mammo_ml.cutting import CutSet
from mammo_ml.datasets.catalog import FILMS, read_table, write_table
from mammo_ml.detector import DetectorRecipe
from mammo_ml.imaging.canonical import CanonicalFilm, canonical_films
from mammo_ml.models.ssd import build_detector
from mammo_ml.prediction import FilmDetectionParameters, detect_on_cuts, detect_on_films
from mammo_ml.recipe import load_best
from mammo_ml.splits import read_folds, roles_of
from mammo_ml.training import load_weights
from pipelines import stage


def predict_detector() -> None:
    paths = stage.arguments(__doc__, "films", "films_table", "cuts", "folds", "best", "weights", "out", fold=True)
    looking = stage.section("predict_detector", FilmDetectionParameters)
    recipe = stage.section("train_detector", DetectorRecipe).with_values(load_best(paths.best))
    folds, films = read_folds(paths.folds), read_table(paths.films_table, FILMS)
    model = build_detector(recipe.network)
    load_weights(model, paths.weights)

    cuts = CutSet.load(paths.cuts)
    tested = (roles_of(folds, cuts.cuts["patient_id"], paths.fold) == "test") & (cuts.cuts["kind"] == "centred")
    own = cuts.cuts[tested].assign(item=cuts.cuts["cut_id"], view="identity")
    write_table(
        _tagged(detect_on_cuts(model, cuts.pictures[tested, 0], own, films, looking.merge), paths.fold, "cut"),
        paths.out / "cuts.csv",
    )

    own_films = films[roles_of(folds, films["patient_id"], paths.fold) == "test"]
    with stage.bar(len(own_films), f"predict detector, fold {paths.fold}", "film") as advance:

        def counted() -> Iterator[CanonicalFilm]:
            for film in canonical_films(paths.films, own_films):
                yield film
                advance(1)

        found = detect_on_films(model, counted(), looking)
    found = found.assign(
        item=found["film_id"], patient_id=found["film_id"].map(films.set_index("film_id")["patient_id"])
    )
    write_table(_tagged(found, paths.fold, "film"), paths.out / "films.csv")
    write_table(own_films[["film_id"]], paths.out / "films_seen.csv")


def _tagged(found: pd.DataFrame, fold: int, unit: str) -> pd.DataFrame:
    columns = ["fold", "unit", "item", "film_id", "patient_id", "x1", "y1", "x2", "y2", "p_benign", "p_malignant"]
    return found.assign(fold=fold, unit=unit)[columns]


if __name__ == "__main__":
    stage.main(predict_detector)
