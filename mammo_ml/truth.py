"""What an evaluation was judged against, as two tables: items.csv and lesions.csv, below data/ and never committed.

With predictions.csv they are all that a later comparison of two models needs: no film, no catalogue, no data folder.
"""

from pathlib import Path

import pandas as pd

from mammo_ml.datasets.catalog import BOX_COLUMNS, DENSITIES, KINDS, LABELS, MASS, SEVERITIES, Column, dtypes, names
from mammo_ml.errors import BadInputError

ITEMS_FILE, LESIONS_FILE = "items.csv", "lesions.csv"
CIRCLE = ["x_px", "y_px", "radius_px"]
ITEMS = (
    Column("protocol", "str", "as in metrics.json"),
    Column("unit", "str", "what is judged", ("patch", "film", "cut")),
    Column("item", "str", "name of what is judged, as in predictions.csv"),
    Column("film_id", "str", "the film it is on"),
    Column("patient_id", "str", "the woman"),
    Column("label", "str", "of the item", LABELS),
    Column("density", "str", "of the breast", DENSITIES),
)
LESIONS = (
    Column("protocol", "str", "as in metrics.json"),
    Column("item", "str", "film or cut it is seen on"),
    Column("lesion_id", "str", "name of the lesion"),
    Column("kind", "str", "class of abnormality", (*KINDS, MASS)),
    Column("severity", "str", "benign or malignant", SEVERITIES),
    Column("diameter_mm", "float64", "of its circle"),
    *(Column(name, "float64", "box, px of the film file") for name in BOX_COLUMNS),
    *(Column(name, "float64", "circle, px of the film file", nullable=True) for name in CIRCLE),
)


def judged_items(protocol: str, unit: str, items: pd.DataFrame, films: pd.DataFrame) -> pd.DataFrame:
    """Rows of items.csv for one protocol and unit.

    Args:
        protocol: as in metrics.json.
        unit: patch, film or cut.
        items: item, film_id, patient_id, and label where the item has one of its own; else it has its film's.
        films: films.csv.
    """
    known = films.set_index("film_id")
    own = items["label"] if "label" in items else items["film_id"].map(known["label"])
    density = items["film_id"].map(known["density"])
    return items.assign(protocol=protocol, unit=unit, label=own, density=density)[names(ITEMS)]


def judged_lesions(protocol: str, truth: pd.DataFrame, lesions: pd.DataFrame, films: pd.DataFrame) -> pd.DataFrame:
    """Rows of lesions.csv for one protocol.

    Args:
        protocol: as in metrics.json.
        truth: item, lesion_id, severity, x1 … y2, and the circles where hits are judged by them.
        lesions: lesions.csv of the catalogue.
        films: films.csv.
    """
    catalogue = lesions.set_index("lesion_id")
    spacing = catalogue["film_id"].map(films.set_index("film_id")["pixel_spacing_mm"])
    known = {"kind": catalogue["kind"], "diameter_mm": (2 * catalogue["radius_px"] * spacing).round(2)}
    added = {column: truth["lesion_id"].map(values) for column, values in known.items()}
    return truth.assign(protocol=protocol, **added).reindex(columns=names(LESIONS))


def read_truth(path: Path, columns: tuple[Column, ...]) -> pd.DataFrame:
    """Read items.csv or lesions.csv with the schema's types.

    Raises:
        BadInputError: when it is no table of these columns.
    """
    try:
        # a name may be "NA"; empty numbers are NaN
        text = {name: "str" for name, dtype in dtypes(columns).items() if dtype == "str"}
        table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values={name: [""] for name in CIRCLE})
        return table[names(columns)]
    except (ValueError, KeyError) as error:
        raise BadInputError(str(path), [f"not a table of {', '.join(names(columns))}: {error}"]) from None
