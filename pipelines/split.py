"""Deal the women to folds; everything after looks up a woman's role here."""

from mammo_ml.datasets.catalog import FILMS, read_table, write_table
from mammo_ml.splits import SplitParameters, folds_for
from pipelines import stage


def split() -> None:
    paths = stage.arguments(__doc__, "films_table", "out")
    parameters = stage.section("split", SplitParameters)
    write_table(folds_for(read_table(paths.films_table, FILMS), parameters), paths.out)


if __name__ == "__main__":
    stage.main(split)
