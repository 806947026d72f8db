"""The four ways to cut a film into patches, and what each does to lesions: the poster's question, measured.

The slides cut films of 1024 x 1024 px into a grid and keep the middle columns; a lesion may lie across an edge of it.
Or patches lie round lesions, with normal patches at matching places of normal films (`mammo_ml.cutting`);
`lesion_256_beside` has as many again from abnormal films, beside their lesions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mammo_ml.classifier import ClassifierRecipe
from mammo_ml.comparisons import listed
from mammo_ml.cutting import PatchSet, cut_patches, fixed_views
from mammo_ml.datasets.catalog import BOX_COLUMNS, LABELS, label_of, rows
from mammo_ml.errors import raise_if_any
from mammo_ml.imaging import boxes as bx
from mammo_ml.imaging import patches as pt
from mammo_ml.imaging.augmentation import CLASSIFIER_VIEWS
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.parameters import Parameters, parse_section

Cutting = Literal["grid_128", "grid_256", "lesion_128", "lesion_256", "lesion_256_beside"]
PatchLabel = Literal["film", "lesion_overlap"]
LABEL_OF_LESIONS = "label_of_lesions"
"""Column of a grid's patches: the class of what they show; missing where a lesion of the film has no location."""
GRID_EDGE_PX = 1024


class CuttingParameters(Parameters):
    """Section `cut_patches`."""

    input_px: int = Field(ge=32, description="edge of the network's input; patches of 256 px are brought to it")
    columns: dict[Literal["grid_128", "grid_256"], tuple[int, ...]] = Field(
        description="columns of a grid that are kept, counted from 0 at the left; the slides keep the middle four of 8"
    )
    min_lesion_share: float = Field(
        gt=0, le=1, description="a patch of a grid has a lesion's class when it holds this share of its box, or more"
    )
    lesions: pt.CutParameters = Field(description="of patches round lesions; their window_px is the cutting's")

    @model_validator(mode="after")
    def _columns_are_there(self) -> Self:
        for name, columns in self.columns.items():
            most = GRID_EDGE_PX // edge_px(name)
            if not columns or len(set(columns)) != len(columns) or not set(columns) <= set(range(most)):
                raise ValueError(f"columns of {name}: expected different numbers from 0 to {most - 1}, found {columns}")
        return self


class CuttingChoice(Parameters):
    """Which patches, under which names for those of a grid."""

    cutting: Cutting
    patch_label: PatchLabel = Field(
        "film",
        description="what a grid's patch of an abnormal film without its lesion is called: as the film, or normal",
    )


class CuttingComparison(Parameters):
    """Section `compare_cutting`: one recipe and one budget for every cutting and both protocols."""

    folds_seed: int = Field(ge=0, description="seed of the development folds")
    leaky_seed: int = Field(ge=0, description="seed of the leaky protocol's draw")
    resamples: int = Field(ge=100, description="resamples of the women behind each interval")
    recipe: dict[str, Any] = Field(description="as train_classifier of the project's params.yaml")
    configurations: dict[str, CuttingChoice] = Field(min_length=1)

    def choice(self, configuration: str) -> CuttingChoice:
        """What a configuration cuts.

        Raises:
            BadInputError: when it is not listed.
        """
        return listed("compare_cutting", self.configurations, configuration)

    def classifier(self) -> ClassifierRecipe:
        """The recipe, checked."""
        return parse_section(self.recipe, ClassifierRecipe, "compare_cutting, recipe")


def edge_px(cutting: Cutting) -> int:
    """Edge of a patch on the film, px of 0.2 mm."""
    return int(cutting.split("_")[1])


def cut(
    cutting: Cutting,
    films: pd.DataFrame,
    canonical: Mapping[str, CanonicalFilm],
    lesions: pd.DataFrame,
    parameters: CuttingParameters,
) -> PatchSet:
    """Patches of all films.

    Args:
        cutting: which of the four ways.
        films: films.csv.
        canonical: every film by name.
        lesions: lesions.csv.
        parameters: sizes, columns, matching.

    Raises:
        BadInputError: naming every film that is not 1024 x 1024 px, which a grid needs; or as `cut_patches`.
    """
    if not cutting.startswith("grid"):
        changed = {"window_px": edge_px(cutting), "input_px": parameters.input_px}
        if cutting == "lesion_256_beside":
            changed["lesion_free_per_lesion"] = parameters.lesions.normals_per_lesion
        patches = cut_patches(films, canonical, lesions, parameters.lesions.model_copy(update=changed))
        patches.patches[LABEL_OF_LESIONS] = patches.patches["label"]
        return patches
    wrong = {name: film.pixels.shape for name, film in canonical.items() if film.pixels.shape != (GRID_EDGE_PX,) * 2}
    raise_if_any(
        f"films to cut by {cutting}",
        [f"film {name}: {width} x {height} px at 0.2 mm" for name, (height, width) in wrong.items()],
        f"The slides' grid exists for films of {GRID_EDGE_PX} x {GRID_EDGE_PX} px alone: cut by lesion_256.",
    )
    windows = grid_windows(cutting, parameters.columns["grid_128" if cutting == "grid_128" else "grid_256"])
    found, pictures = [], []
    for row in rows(films):
        film, own = canonical[row.film_id], lesions[lesions["film_id"] == row.film_id]
        shown = _labels_of_windows(windows, film, own, parameters.min_lesion_share)
        shares = pt.breast_shares(film.mask, windows)
        for number, (window, label, share) in enumerate(zip(windows, shown, shares, strict=True)):
            where = dict(zip(BOX_COLUMNS, window.tolist(), strict=True))
            found.append(
                {
                    "patch_id": f"{row.film_id}_{number:02d}",
                    "film_id": row.film_id,
                    "patient_id": row.patient_id,
                    "kind": "grid",
                    "lesion_id": None,
                    **where,
                    "breast_share": round(float(share), 6),
                    "label": row.label,
                    LABEL_OF_LESIONS: label,
                }
            )
        pictures.append(pt.crop(film.pixels, windows, parameters.input_px))
    return PatchSet(pd.DataFrame(found), fixed_views(np.concatenate(pictures), CLASSIFIER_VIEWS))


def grid_windows(cutting: Cutting, columns: Sequence[int]) -> bx.Boxes:
    """Windows (N, 4) of the grid, row by row, of the columns that are kept."""
    edge = edge_px(cutting)
    places = [(x * edge, y * edge) for y in range(GRID_EDGE_PX // edge) for x in sorted(columns)]
    return np.array([[x, y, x + edge, y + edge] for x, y in places], dtype=np.float64)


def _labels_of_windows(
    windows: bx.Boxes, film: CanonicalFilm, lesions: pd.DataFrame, min_share: float
) -> list[str | None]:
    """Class of what each window (N, 4) shows, the most severe; None for all when a lesion could lie anywhere."""
    if not lesions["has_location"].all():
        return [None] * len(windows)
    held = shares_held(windows, _canonical_boxes(film, lesions))
    severities = lesions["severity"].to_numpy()
    return [label_of(list(severities[shares >= min_share])) for shares in held]


def shares_held(windows: bx.Boxes, boxes: bx.Boxes) -> NDArray[np.float64]:
    """Share (N, L) of each lesion's box (L, 4) that lies in each window (N, 4)."""
    low = np.maximum(windows[:, None, :2], boxes[None, :, :2])
    high = np.minimum(windows[:, None, 2:], boxes[None, :, 2:])
    inside = np.prod(np.maximum(high - low, 0), axis=2)
    shares: NDArray[np.float64] = inside / bx.area(boxes)
    return shares


def lesions_kept(
    cutting: Cutting,
    canonical: Mapping[str, CanonicalFilm],
    lesions: pd.DataFrame,
    patches: pd.DataFrame,
) -> dict[str, float]:
    """What a cutting does to the located lesions: whole in one patch, broken by an edge, or on no patch at all.

    Returns:
        n_lesions; lesions_whole, lesions_broken and lesions_lost, which add up to it; and
        `lesion_share_in_best_patch`, the mean of the largest share of each that one patch holds.
    """
    located = lesions[lesions["has_location"]]
    best, seen = [], []
    for lesion in rows(located):
        windows = patches.loc[patches["film_id"] == lesion.film_id, BOX_COLUMNS].to_numpy(dtype=np.float64)
        film = canonical[lesion.film_id]
        box = _canonical_boxes(film, located[located["lesion_id"] == lesion.lesion_id])
        shares = shares_held(windows, box)[:, 0]
        best.append(shares.max(initial=0.0))
        seen.append(shares.sum())
    whole = np.array(best) > 1 - 1e-9
    lost = np.array(seen) == 0
    return {
        "n_lesions": float(len(located)),
        "lesions_whole": float(whole.sum()),
        "lesions_broken": float((~whole & ~lost).sum()),
        "lesions_lost": float(lost.sum()),
        "lesion_share_in_best_patch": float(np.mean(best)),
        "n_patches_cut": float(len(patches)),
        "n_pictures": float(len(patches) * len(CLASSIFIER_VIEWS)),
    }


def _canonical_boxes(film: CanonicalFilm, lesions: pd.DataFrame) -> bx.Boxes:
    return film.transform.boxes_to_canonical(lesions[BOX_COLUMNS].to_numpy(dtype=np.float64).reshape(-1, 4))


def named(patches: PatchSet, patch_label: PatchLabel) -> PatchSet:
    """The patches under the names that were asked for; those that can have none are left out.

    Raises:
        BadInputError: when no patch of a class is left.
    """
    column = "label" if patch_label == "film" else LABEL_OF_LESIONS
    known = patches.patches[column].notna().to_numpy()
    table = patches.patches[known].reset_index(drop=True)
    table["label"] = table[column]
    missing = [label for label in LABELS if label not in set(table["label"])]
    raise_if_any(f"patches named by {patch_label}", [f"there is no {label} patch" for label in missing])
    return PatchSet(table, patches.pictures if known.all() else patches.pictures[known])
