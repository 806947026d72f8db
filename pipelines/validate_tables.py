"""Check films and lesions against suites, known counts and pixels; a failure stops the run."""

from mammo_ml.data_quality import read_facts, validate
from mammo_ml.datasets.annotation_check import lesions_match_pixels
from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table
from mammo_ml.evaluation import write_metrics
from mammo_ml.imaging.canonical import check_films, eight_bits
from mammo_ml.imaging.readers import read_film
from pipelines import stage


def validate_tables() -> None:
    paths = stage.arguments(__doc__, "films", "catalog", "suites", "docs", "out")
    films = read_table(paths.catalog / "films.csv", FILMS)
    lesions = read_table(paths.catalog / "lesions.csv", LESIONS)
    report = validate({"films": films, "lesions": lesions}, paths.suites, paths.docs, stage.dataset())
    print(f"Data Docs: {report.index.resolve().as_uri()}")
    report.raise_if_failed()
    check_films(paths.films, films)
    known = read_facts(paths.suites, stage.dataset()).get("annotation", {}).get("surely_on_breast", ())
    files = films.set_index("film_id")["path"]
    on_pixels = lesions_match_pixels(
        films, lesions, lambda film_id: eight_bits(read_film(paths.films / files[film_id])), known
    )
    write_metrics({"validation": {"valid": 1.0, **report.to_metrics()}, "annotation_check": on_pixels}, paths.out)


if __name__ == "__main__":
    stage.main(validate_tables)
