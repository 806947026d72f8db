"""Which women of CBIS-DDSM models may learn from before they see mini-MIAS, and which are kept for external validation.

The list is committed and never made again: a woman who changed sides would spoil every figure on the other one.
"""

from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.splits import women_of

PRETRAINING, EXTERNAL_TEST = "pretraining", "external_test"
PARTS = (PRETRAINING, EXTERNAL_TEST)
SPLIT_SEED = 2026
EXTERNAL_SHARE = 5
"""One woman in five is kept for external validation."""
COMMITTED = Path(str(files("mammo_ml.datasets") / "cbis_ddsm_split.csv"))


def make_split(films: pd.DataFrame, seed: int = SPLIT_SEED) -> pd.DataFrame:
    """Deal the women of a films table to the two parts, stratified by label and density: columns patient_id, part."""
    women = women_of(films)
    generator = np.random.default_rng(seed)
    order = women.assign(chance=generator.random(len(women))).sort_values(["label", "density", "chance"]).index
    start = int(generator.integers(EXTERNAL_SHARE))
    is_external = pd.Series((np.arange(len(order)) + start) % EXTERNAL_SHARE == 0, index=order)
    part = is_external.map({True: EXTERNAL_TEST, False: PRETRAINING})
    return pd.DataFrame({"patient_id": women["patient_id"], "part": part}).sort_values("patient_id", ignore_index=True)


def read_split(path: Path = COMMITTED) -> pd.DataFrame:
    """Read the list, a row per woman: patient_id, part.

    Raises:
        BadInputError: naming every woman with several rows or a part that is none.
    """
    split = pd.read_csv(path, dtype="str", keep_default_na=False)
    if list(split.columns) != ["patient_id", "part"]:
        raise BadInputError(str(path), [f"columns {list(split.columns)}, expected patient_id, part"])
    twice = split["patient_id"][split["patient_id"].duplicated()].unique()
    problems = [f"woman {woman} has several rows, so she could stand on both sides" for woman in twice]
    problems += [
        f"line {index + 2}: woman {row.patient_id}: part '{row.part}' is not one of {', '.join(PARTS)}"
        for index, row in enumerate(split.itertuples())
        if row.part not in PARTS
    ]
    raise_if_any(str(path), problems, "Restore the committed list from git; it is made once.")
    return split


@cache
def women(part: str) -> frozenset[str]:
    """patient_ids of the women of a part, "pretraining" or "external_test"."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, found {part!r}")
    split = read_split()
    return frozenset(split["patient_id"][split["part"] == part])


def pretraining_films(films: pd.DataFrame) -> pd.DataFrame:
    """Return the films unchanged when pre-training may use every one of them; it calls this before it learns.

    Args:
        films: columns film_id, dataset, patient_id.

    Raises:
        BadInputError: naming every film of a woman who is kept for external validation, or is on no list (mini-MIAS's
            women are in every fold), and every film that carries the name of another woman.
    """
    allowed, kept = women(PRETRAINING), women(EXTERNAL_TEST)
    problems = []
    for film in films.itertuples():
        film_id, woman = str(film.film_id), str(film.patient_id)
        if film.dataset != "cbis_ddsm" or woman not in allowed | kept:
            problems.append(f"film {film_id}: woman {woman} of {film.dataset} is not on the list for pre-training")
        elif not film_id.startswith(f"{woman}_"):
            problems.append(f"film {film_id}: its name is not that of woman {woman}")
        elif woman in kept:
            problems.append(f"film {film_id}: woman {woman} is kept for external validation ({EXTERNAL_TEST})")
    raise_if_any(
        "films for pre-training",
        problems or (["there are none"] if films.empty else []),
        f"Take the films of women('{PRETRAINING}') in {COMMITTED.name} only.",
    )
    return films
