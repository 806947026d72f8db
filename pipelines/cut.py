"""Cut classifier patches and detector cuts from the films, each in its fixed views, and what corrections teach."""

import sys
from typing import cast

import pandas as pd

from mammo_ml.cutting import cut_detector_cuts, cut_patches
from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table
from mammo_ml.detector_bases import INPUT_PX, Base
from mammo_ml.errors import raise_if_any
from mammo_ml.feedback.tables import check_films, check_readings, read_tables
from mammo_ml.feedback.teaching import cut_feedback, save_feedback
from mammo_ml.imaging.patches import CutParameters
from pipelines import stage
from pipelines.film_stage import canonical_by_name


def cut() -> None:
    paths = stage.arguments(__doc__, "base", "films", "catalog", "corrections", "patches", "cuts", "feedback")
    parameters = stage.section("cut", CutParameters)
    of_cuts = parameters.model_copy(update={"input_px": INPUT_PX[_base_named(str(paths.base))]})
    films = read_table(paths.catalog / "films.csv", FILMS)
    lesions = read_table(paths.catalog / "lesions.csv", LESIONS)
    corrections = read_tables(paths.corrections)
    check_readings(corrections, paths.corrections)
    check_films(corrections, films, paths.corrections)
    canonical = canonical_by_name(paths.films, films)
    patches = cut_patches(films, canonical, lesions, parameters)
    tell_what_holds_too_little_breast(patches.patches, parameters.min_breast_share)
    patches.save(paths.patches)
    cuts = cut_detector_cuts(films, canonical, lesions, of_cuts)
    cuts.save(paths.cuts)
    save_feedback(*cut_feedback(films, canonical, lesions, corrections, cuts, of_cuts), paths.feedback)


def tell_what_holds_too_little_breast(patches: pd.DataFrame, least: float) -> None:
    """Name lesions that no window shows whole with as much breast as normal patches hold: it can tell their class."""
    lesions = patches[patches["kind"] == "lesion"]
    short = lesions[lesions["breast_share"] < least]
    if len(short):
        told = ", ".join(f"{row.patch_id} {row.breast_share:.0%}" for row in short.itertuples())
        problem = (
            f"{len(short)} of {len(lesions)} patches of lesions hold less breast than the {least:.0%} of normal ones"
        )
        print(f"{problem}: {told}", file=sys.stderr)


def _base_named(name: str) -> Base:
    raise_if_any("--base", [] if name in INPUT_PX else [f"{name!r} is none of {', '.join(INPUT_PX)}"])
    return cast(Base, name)


if __name__ == "__main__":
    stage.main(cut)
