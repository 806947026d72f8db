"""Cut all films one of the four ways, each patch in its fixed views, and count what that does to lesions."""

from typing import get_args

from mammo_ml.cuttings import Cutting, CuttingParameters, cut, lesions_kept
from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table
from mammo_ml.errors import raise_if_any
from mammo_ml.evaluation import write_metrics
from pipelines import stage
from pipelines.film_stage import canonical_by_name


def cut_patches() -> None:
    paths = stage.arguments(__doc__, "cutting", "films", "catalog", "patches", "report")
    parameters = stage.section("cut_patches", CuttingParameters)
    known: dict[str, Cutting] = {name: name for name in get_args(Cutting)}
    # Read as a path, as every option of a stage; it is a name.
    asked = str(paths.cutting)
    raise_if_any("--cutting", [] if asked in known else [f"'{asked}' is none of {', '.join(known)}"])
    films, lesions = read_table(paths.catalog / "films.csv", FILMS), read_table(paths.catalog / "lesions.csv", LESIONS)
    canonical = canonical_by_name(paths.films, films)
    patches = cut(known[asked], films, canonical, lesions, parameters)
    patches.save(paths.patches)
    write_metrics({"lesions": lesions_kept(known[asked], canonical, lesions, patches.patches)}, paths.report)


if __name__ == "__main__":
    stage.main(cut_patches)
