"""Protocols: how films go to folds. By patient is the honest one; the leaky ones exist only to be measured."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from mammo_ml.datasets.catalog import LABELS, label_of
from mammo_ml.errors import raise_if_any
from mammo_ml.parameters import Parameters

N_FOLDS = 5
INNER_SHARE = 4
"""One woman in four outside a fold is its inner part."""
ROLES = ("train", "inner", "test")


class SplitParameters(Parameters):
    """Which folds a pass uses.

    `benchmark` folds are those a data set commits, made once; a data set without committed folds gets them from
    `seed`. Procedures are developed on `development`, reported on `benchmark`.
    """

    folds: Literal["benchmark", "development"]
    seed: int = Field(ge=0, description="seed of folds that are not committed")


class RandomSplitParameters(Parameters):
    """A leaky stage's parameters; its recipe is the honest training's, untuned, but for `values`."""

    seed: int = Field(ge=0, description="seed of the random split")
    values: dict[str, float | int | str | dict[str, tuple[float, ...]]] = Field(
        default={},
        description="keys of the training section that differ here: what learns by heart differs from what generalises",
    )


def role_column(fold: int) -> str:
    """Name of the folds table's column that tells a woman's role when `fold` is the test fold."""
    return f"role_{fold}"


def women_of(films: pd.DataFrame) -> pd.DataFrame:
    """One row per woman: patient_id, label (the most severe of her films) and density (of her first film)."""
    by_woman = films.sort_values("film_id").groupby("patient_id")
    labels = by_woman["label"].agg(lambda values: label_of([value for value in values if value != LABELS[0]]))
    return pd.DataFrame({"label": labels, "density": by_woman["density"].first()}).reset_index()


def make_folds(films: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Deal the women to five folds, stratified by label and density, and give each fold its inner part.

    Returns:
        A row per woman: patient_id, fold (0 to 4) and role_0 … role_4 in train, inner, test. A seeded, stratified
        quarter of the women outside fold k is inner in role_k.

    Raises:
        BadInputError: when a label has fewer women than folds.
    """
    women = women_of(films)
    counts = women["label"].value_counts()
    raise_if_any(
        "films.csv",
        [f"only {n} women are '{label}', fewer than the {N_FOLDS} folds" for label, n in counts.items() if n < N_FOLDS],
        "Every fold needs every label: add films, or use fewer labels.",
    )
    fold = _deal(women, N_FOLDS, np.random.default_rng([seed, N_FOLDS]))
    folds = pd.DataFrame({"patient_id": women["patient_id"], "fold": fold})
    for k in range(N_FOLDS):
        outside = women[fold != k]
        inner = _deal(outside, INNER_SHARE, np.random.default_rng([seed, k])) == 0
        role = pd.Series("test", index=women.index)
        role[outside.index] = np.where(inner, "inner", "train")
        folds[role_column(k)] = role
    return folds


def _deal(women: pd.DataFrame, n_parts: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Part (W,) of each woman; labels are spread exactly evenly, densities within them as evenly as they go."""
    order = women.assign(chance=generator.random(len(women))).sort_values(["label", "density", "chance"]).index
    start = generator.permutation(n_parts)
    part = pd.Series(start[np.arange(len(order)) % n_parts], index=order)
    return part.loc[women.index].to_numpy()


def committed_folds(dataset: str) -> pd.DataFrame | None:
    """Benchmark folds committed for a data set, or None where there are none."""
    path = Path(str(files("mammo_ml.datasets") / f"{dataset}_folds.csv"))
    return read_folds(path) if path.exists() else None


def folds_for(films: pd.DataFrame, parameters: SplitParameters) -> pd.DataFrame:
    """Folds of one data set's films.

    Raises:
        BadInputError: when the committed benchmark folds name other women than the films do.
    """
    dataset = str(films["dataset"].iloc[0])
    committed = committed_folds(dataset) if parameters.folds == "benchmark" else None
    if committed is None:
        return make_folds(films, parameters.seed)
    women, known = set(films["patient_id"]), set(committed["patient_id"])
    raise_if_any(
        f"{dataset}_folds.csv (benchmark folds)",
        [f"woman {woman} has films but no fold" for woman in sorted(women - known)]
        + [f"woman {woman} has a fold but no films" for woman in sorted(known - women)],
    )
    return committed


def read_folds(path: Path) -> pd.DataFrame:
    """Read a folds table, and check that every woman stands on one side of every fold.

    Raises:
        BadInputError: naming every woman who has two rows, or a role that is none or not that of her fold.
    """
    folds = pd.read_csv(path, dtype={"patient_id": "str"})
    columns = ["patient_id", "fold", *map(role_column, range(N_FOLDS))]
    raise_if_any(str(path), [f"column '{name}' is missing" for name in columns if name not in folds])
    twice = folds["patient_id"][folds["patient_id"].duplicated()].unique()
    problems = [f"woman {woman} has several rows, so she could stand on both sides of a split" for woman in twice]
    for fold in range(N_FOLDS):
        roles = folds[role_column(fold)]
        wrong = ~roles.isin(ROLES) | ((roles == "test") != (folds["fold"] == fold))
        problems += [
            f"woman {woman} of fold {own} is '{role}' in {role_column(fold)}"
            for woman, own, role in folds.loc[wrong, ["patient_id", "fold", role_column(fold)]].itertuples(index=False)
        ]
    raise_if_any(
        str(path),
        problems,
        f"One row a woman; role_k is 'test' where fold is k, else 'train' or 'inner'. Roles: {', '.join(ROLES)}.",
    )
    return folds


def roles_of(folds: pd.DataFrame, patient_ids: pd.Series, fold: int) -> NDArray[np.str_]:
    """Role (N,) of each item when `fold` is the test fold, from the woman it belongs to.

    Raises:
        BadInputError: naming every woman who has no fold.
    """
    return _look_up(folds, patient_ids, role_column(fold)).to_numpy(dtype=np.str_)


def in_folds(folds: pd.DataFrame, patient_ids: pd.Series, which: Sequence[int]) -> NDArray[np.bool_]:
    """Whether each item (N,) belongs to a woman of one of these test folds.

    Raises:
        BadInputError: naming every woman who has no fold.
    """
    return _look_up(folds, patient_ids, "fold").isin(which).to_numpy()


def _look_up(folds: pd.DataFrame, patient_ids: pd.Series, column: str) -> pd.Series:
    found = patient_ids.map(folds.set_index("patient_id")[column])
    unknown = sorted(set(patient_ids[found.isna()]))
    raise_if_any("folds.csv", [f"woman {woman} has no fold" for woman in unknown])
    return found


def split_at_random_leaky(n_items: int, seed: int) -> NDArray[np.str_]:
    """Roles (N,) train, validation, test, 70/10/20, of augmented items drawn at random.

    What leaks: views of one lesion, and both films of one woman, fall on both sides. For measuring only.
    """
    order = np.random.default_rng(seed).permutation(n_items)
    roles = np.full(n_items, "train", dtype="<U10")
    n_test, n_validation = round(0.2 * n_items), round(0.1 * n_items)
    roles[order[:n_test]] = "test"
    roles[order[n_test : n_test + n_validation]] = "validation"
    return roles
