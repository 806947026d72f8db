"""Anyone's predictions on mini-MIAS, read from CSV or COCO JSON and checked against the benchmark (docs/benchmark.md).

Every fault is named with its line or entry, all of them in one error: a file is scored whole or not at all.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.benchmark import PROTOCOLS, Benchmark, Task
from mammo_ml.coco_results import PLACE, RawPredictions, read_coco
from mammo_ml.datasets.catalog import BOX_COLUMNS
from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.evaluation import PROBABILITY_COLUMNS

CLASS_SCORES = ["p_benign", "p_malignant"]
COLUMNS: dict[Task, list[str]] = {
    "detector": ["film_id", *BOX_COLUMNS, "score", *CLASS_SCORES, "fold", "patient_id", "item", "protocol", "unit"],
    "classifier": ["film_id", "item", *PROBABILITY_COLUMNS, "fold", "patient_id", "label", "protocol", "unit"],
}
TOLERANCE = 1e-3
"""How far rounded probabilities may be from the sum they should have."""
EVERY_FILM = "all"
REMEDY = "Nothing was scored. docs/benchmark.md describes the format and the rules."


@dataclass(frozen=True)
class Predictions:
    """Sound predictions.

    Attributes:
        task: what they are predictions of.
        rows: a detector's: film_id, x1 … y2 (px of the film file), p_benign, p_malignant. A classifier's: item (the
            film, where the whole film is meant), film_id, patient_id, fold, label, p_normal, p_benign, p_malignant.
        classes: False where detections have one score; the two probabilities are then its halves.
        notes: what a reader of the figures should know.
    """

    task: Task
    rows: pd.DataFrame
    classes: bool
    notes: tuple[str, ...] = ()

    @property
    def films(self) -> pd.DataFrame:
        """The classifier's rows about whole films."""
        return self.rows[self.rows["item"] == self.rows["film_id"]]

    @property
    def patches(self) -> pd.DataFrame:
        """The classifier's rows about patches."""
        return self.rows[self.rows["item"] != self.rows["film_id"]]


def read_predictions(
    path: Path, benchmark: Benchmark, task: Task | None = None, looked_at: str | None = None
) -> Predictions:
    """Read and check a file of predictions.

    Args:
        path: CSV, or COCO results where the name ends in .json.
        benchmark: what they are checked against.
        task: None: a file with boxes is a detector's, any other a classifier's.
        looked_at: `all`, or a file naming films that were looked at, one a line: a film of a detector without any
            detection has to be among them.

    Raises:
        BadInputError: naming every fault with its row.
    """
    raw = read_coco(path) if path.suffix.lower() == ".json" else _read_csv(path)
    task = task or ("detector" if {"x1", "score"} & set(raw.rows) else "classifier")
    raise_if_any(str(path), _column_problems(list(raw.rows.columns), task), REMEDY)
    rows, notes = _own_protocol(raw.rows, task, benchmark)
    known = rows["film_id"].isin(benchmark.films["film_id"])
    problems = raw.problems + [
        f"film {film!r} is none of mini-MIAS's mdb001 to mdb322: {_places(part)}"
        for film, part in rows[~known].groupby("film_id", sort=False)
    ]
    if task == "detector":
        looked, faults = _looked_at(looked_at, benchmark)
        checked, found = _check_detections(rows[known], looked | raw.films, benchmark)
        problems += faults
    else:
        checked, found = _check_probabilities(rows[known], benchmark)
    raise_if_any(str(path), problems + found, REMEDY)
    return Predictions(task, checked, task == "classifier" or CLASS_SCORES[0] in rows, (*raw.notes, *notes))


def _read_csv(path: Path) -> RawPredictions:
    """Rows as text, each with its line in the file."""
    rows: list[dict[str, str]] = []
    problems: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            for row in reader:
                place = f"line {reader.line_num}"
                fields = len(columns) + len(row.pop(None, [])) - sum(value is None for value in row.values())
                if fields != len(columns):
                    problems.append(f"{place} has {fields} fields, the header {len(columns)}")
                rows.append({name: (value or "").strip() for name, value in row.items()} | {PLACE: place})
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInputError(str(path), [f"not a CSV file: {error}"], REMEDY) from None
    twice = sorted({name for name in columns if columns.count(name) > 1})
    problems = [*(f"column '{name}' is there twice" for name in twice), *problems]
    return RawPredictions(pd.DataFrame(rows, columns=[*dict.fromkeys(columns), PLACE], dtype=object), problems)


def _column_problems(found: list[str], task: Task) -> list[str]:
    """Columns that are missing, and columns nobody asked for, each with the nearest one that is meant."""
    scores = CLASS_SCORES if set(CLASS_SCORES) & set(found) else ["score"]
    needed = ["film_id", *BOX_COLUMNS, *scores] if task == "detector" else ["film_id", *PROBABILITY_COLUMNS]
    problems = [f"column '{name}' is missing" for name in needed if name not in found]
    for name in found:
        if name not in (*COLUMNS[task], PLACE):
            close = get_close_matches(name, [column for column in COLUMNS[task] if column not in found], n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known to a {task}: {', '.join(COLUMNS[task])}"
            problems.append(f"column {name!r} is unknown; {hint}")
    return problems


def _own_protocol(rows: pd.DataFrame, task: Task, benchmark: Benchmark) -> tuple[pd.DataFrame, list[str]]:
    """Of this project's own predictions.csv, which holds more than the benchmark judges, what it does judge."""
    if "protocol" not in rows:
        return rows, []
    own = rows["protocol"] == PROTOCOLS[task]
    if not own.any():
        found = ", ".join(sorted(set(rows["protocol"])))
        raise BadInputError("column 'protocol'", [f"no row is {PROTOCOLS[task]!r}; found: {found}"], REMEDY)
    if task == "detector":
        own &= ~rows["film_id"].isin(benchmark.unlocated)
    note = f"{len(rows) - own.sum():,} of {len(rows):,} rows left out: another protocol than {PROTOCOLS[task]}"
    return rows[own], [note + (", or films without a location" if task == "detector" else "")]


def _looked_at(looked_at: str | None, benchmark: Benchmark) -> tuple[set[str], list[str]]:
    """Films declared as looked at, and what is wrong with the declaration."""
    films = set(benchmark.films["film_id"])
    if looked_at is None:
        return set(), []
    if looked_at == EVERY_FILM:
        return films, []
    lines = Path(looked_at).read_text(encoding="utf-8-sig", errors="replace").splitlines()
    names = {line.strip(): number for number, line in enumerate(lines, start=1) if line.strip() not in ("", "film_id")}
    return set(names), [f"{looked_at}, line {names[name]}: no film {name!r}" for name in names if name not in films]


# -------------------------------------------------------------------------------------------------------- detector


def _check_detections(rows: pd.DataFrame, looked_at: set[str], benchmark: Benchmark) -> tuple[pd.DataFrame, list[str]]:
    """Detections as numbers, and every fault of theirs; a row with nothing but its film declares "nothing found"."""
    names = [name for name in (*BOX_COLUMNS, "score", *CLASS_SCORES) if name in rows]
    unlocated = rows["film_id"].isin(benchmark.unlocated)
    problems = [
        f"film {film} has a lesion without location and is not judged, leave it out: {_places(part)}"
        for film, part in rows[unlocated].groupby("film_id")
    ]
    problems += _differing(rows, benchmark.facts_of(rows["film_id"]).assign(item=rows["film_id"]))
    nothing = (rows[names] == "").all(axis=1)
    found, faults = _numbers(rows[~nothing], names)
    problems += faults
    both = sorted(set(rows.loc[nothing, "film_id"]) & set(found["film_id"]))
    problems += [f"film {film} has detections, and a row that says it has none" for film in both]
    problems += _box_problems(found, benchmark) + _score_problems(found)
    problems += _repeated(found, ["film_id", *BOX_COLUMNS], "a box")
    expected = set(benchmark.films["film_id"]) - benchmark.unlocated
    missing = expected - set(rows["film_id"]) - looked_at
    if missing:
        problems.append(
            f"{len(missing)} of {len(expected)} films have no row: {', '.join(sorted(missing))}. If the detector looked"
            f" at them and found nothing, say so: --looked-at {EVERY_FILM}, or --looked-at with a list of films"
        )
    if CLASS_SCORES[0] not in found:
        found = found.assign(**dict.fromkeys(CLASS_SCORES, found["score"] / 2))
    return found[["film_id", *BOX_COLUMNS, *CLASS_SCORES]].reset_index(drop=True), problems


def _box_problems(found: pd.DataFrame, benchmark: Benchmark) -> list[str]:
    boxes = found[BOX_COLUMNS].to_numpy(dtype=np.float64)
    sizes = benchmark.films.set_index("film_id").loc[found["film_id"], ["width_px", "height_px"]].to_numpy()
    flat = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    outside = (boxes < 0).any(axis=1) | (boxes[:, 2:] > sizes).any(axis=1)
    faults = [(flat, "has no area: x1 < x2 and y1 < y2 are needed"), (outside & ~flat, "reaches outside the film")]
    return [
        f"{place}: box {box.tolist()} {fault}" + (f" of {size[0]} x {size[1]} px" if "film" in fault else "")
        for mask, fault in faults
        for place, box, size in zip(found.loc[mask, PLACE], boxes[mask], sizes[mask], strict=True)
    ]


def _score_problems(found: pd.DataFrame) -> list[str]:
    names = [name for name in ("score", *CLASS_SCORES) if name in found]
    problems = _outside_0_to_1(found, names)
    if CLASS_SCORES[0] in found:
        total = found[CLASS_SCORES].sum(axis=1)
        over = (total > 1 + TOLERANCE) & (found[CLASS_SCORES] <= 1).all(axis=1)
        problems += [f"{row}: p_benign + p_malignant is {value:.4g}, above 1" for row, value in _at(found, total, over)]
        if "score" in found:
            differ = (found["score"] - total).abs() > TOLERANCE
            problems += [
                f"{row}: score is not p_benign + p_malignant, {value:.4g}" for row, value in _at(found, total, differ)
            ]
    return problems


# ------------------------------------------------------------------------------------------------------ classifier


def _check_probabilities(rows: pd.DataFrame, benchmark: Benchmark) -> tuple[pd.DataFrame, list[str]]:
    """Probabilities of films and patches, and every fault of theirs; of films, of patches or of both, all or none."""
    patches = benchmark.patches.set_index("patch_id")
    item = rows["item"].where(rows["item"] != "", rows["film_id"]) if "item" in rows else rows["film_id"]
    rows = rows.assign(item=item)
    whole = rows["item"] == rows["film_id"]
    unknown = ~whole & ~rows["item"].isin(patches.index)
    problems = [f"{row}: no patch {name!r}" for row, name in _at(rows, rows["item"], unknown)]
    elsewhere = ~whole & ~unknown & (rows["item"].map(patches["film_id"]) != rows["film_id"])
    problems += [f"{row}: patch {name!r} is not on that film" for row, name in _at(rows, rows["item"], elsewhere)]
    facts = benchmark.facts_of(rows["film_id"])
    facts["label"] = facts["label"].where(whole, rows["item"].map(patches["label"]))
    problems += _differing(rows[~unknown], facts[~unknown])
    found, faults = _numbers(rows, PROBABILITY_COLUMNS)
    problems += faults + _outside_0_to_1(found, PROBABILITY_COLUMNS)
    probabilities = found[PROBABILITY_COLUMNS]
    total = probabilities.sum(axis=1)
    # a value outside 0 to 1 is named already
    wrong = ((total - 1).abs() > TOLERANCE) & ((probabilities >= 0) & (probabilities <= 1)).all(axis=1)
    problems += [f"{row}: probabilities sum to {value:.4g}, not to 1" for row, value in _at(found, total, wrong)]
    problems += _repeated(found, ["item"], "an item")
    judged = {"films": set(benchmark.films["film_id"]), "patches": set(patches.index)}
    for what, expected in judged.items():
        missing = expected - set(rows["item"])
        if 0 < len(missing) < len(expected):
            problems.append(f"{len(missing)} of {len(expected)} {what} have no row: {', '.join(sorted(missing))}")
    if rows.empty:
        problems.append("no row that the benchmark judges")
    return found.assign(**facts)[["item", "film_id", *facts, *PROBABILITY_COLUMNS]].reset_index(drop=True), problems


# ------------------------------------------------------------------------------------------------------------ rows


def _numbers(rows: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The rows whose values in these columns are all finite numbers, as such; and each value that is none."""
    values, problems = {}, []
    for name in names:
        values[name] = [_number(value) for value in rows[name]]
        bad = np.isnan(np.array(values[name], dtype=np.float64))
        problems += [f"{row}: {name} {value!r} is not a number" for row, value in _at(rows, rows[name], bad)]
    numbers = pd.DataFrame(values, index=rows.index, dtype=np.float64)
    sound = numbers.notna().all(axis=1)
    return rows.assign(**{name: numbers[name] for name in names})[sound], problems


def _number(value: object) -> float:
    """NaN for what is no finite number."""
    try:
        number = float(str(value))
    except ValueError:
        return float("nan")
    return number if np.isfinite(number) else float("nan")


def _outside_0_to_1(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    return [
        f"{row}: {name} is {value:g}, outside 0 to 1"
        for name in names
        for row, value in _at(rows, rows[name], (rows[name] < 0) | (rows[name] > 1))
    ]


def _repeated(rows: pd.DataFrame, key: list[str], what: str) -> list[str]:
    """Rows that say again what an earlier one said."""
    twice = rows[rows.duplicated(key, keep=False)]
    return [
        f"{what} of film {part['film_id'].iloc[0]} is there {len(part)} times: {_places(part)}"
        for _, part in twice.groupby(key, sort=False)
    ]


def _differing(rows: pd.DataFrame, facts: pd.DataFrame) -> list[str]:
    """Values in a file's optional columns that are not those of the benchmark."""
    problems = []
    for name in facts.columns.intersection(rows.columns):
        pairs = zip(rows[PLACE], rows["film_id"], rows[name], facts[name], strict=True)
        problems += [
            f"{place}: {name} {own!r} of film {film} is not the benchmark's {ours}"
            for place, film, own, ours in pairs
            if (own != ours if name != "fold" else _number(own) != ours)
        ]
    return problems


def _at(rows: pd.DataFrame, values: pd.Series, mask: NDArray[np.bool_] | pd.Series) -> Iterable[tuple[str, object]]:
    """Place and value of the rows that are marked."""
    marked = np.asarray(mask, dtype=np.bool_)
    return zip(rows[PLACE][marked], values[marked], strict=True)


def _places(rows: pd.DataFrame) -> str:
    return ", ".join(rows[PLACE])
