"""Reading what the web page exports: a ZIP of three tables, or COCO. Nothing is unpacked to disk, nothing is trusted.

Here is told what is not of its form: the file, the columns, the types. What the values mean is for
`mammo_ml.feedback.checks`.
"""

import csv
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from mammo_ml.datasets.catalog import SIDES, Column, names
from mammo_ml.feedback import tables
from mammo_ml.feedback.tables import TABLES

MAX_BYTES = 16 << 20
"""Of a file, and of each table in it: ten thousand findings need two megabytes."""
ROW = "row"
"""Column that says where a row stands: file, table and line."""
NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,20})?(e-?\d{1,2})?", re.IGNORECASE)
_BEFORE_LABEL = (
    Column("pixel_spacing_mm", "float64", "edge of a pixel, mm", nullable=True),
    Column("chest_wall", "str", "side of the film file where the chest wall is", SIDES, nullable=True),
)


def _exported(name: str) -> tuple[Column, ...]:
    """Columns of an exported table: the time is told of films alone, which also have what the catalog knows."""
    columns = TABLES[name]
    if name == "films":
        at = names(columns).index("label")
        return (*columns[:at], *_BEFORE_LABEL, *columns[at:])
    return tuple(column for column in columns if column.name != "read_at")


EXPORTED: Mapping[str, tuple[Column, ...]] = {name: _exported(name) for name in ("films", "lesions", "rejected")}

Rows = list[tuple[str, dict[str, str]]]
"""Where a row stands, and its cells."""


@dataclass(frozen=True)
class Export:
    """One file: its tables by name, with the column `row`, and what is wrong with their form.

    A cell that is not of its type is null, or empty where it is a text, and told as a problem.
    """

    tables: Mapping[str, pd.DataFrame]
    problems: tuple[str, ...]


def read_export(path: Path) -> Export:
    """Read a ZIP or JSON file of the web page."""
    problems: list[str] = []
    found: dict[str, Rows] = {}
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            problems.append(f"{path.name}: {size} bytes are more than the {MAX_BYTES} that corrections may have")
        else:
            data = path.read_bytes()
            read = _rows_of_zip if path.suffix.lower() == ".zip" else _rows_of_coco
            found = read(data, path.name, problems)
    except OSError as error:
        problems.append(f"{path.name}: cannot be read: {error.strerror}")
    return Export({name: _typed(found.get(name, []), columns, problems) for name, columns in EXPORTED.items()},
                  tuple(problems))  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------ ZIP


def _rows_of_zip(data: bytes, name: str, problems: list[str]) -> dict[str, Rows]:
    wanted = {f"{table}.csv": table for table in EXPORTED}
    found: dict[str, Rows] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.namelist()
            foreign = sorted({repr(member) for member in members if member not in wanted})
            if foreign or len(set(members)) != len(members):
                what = f"foreign members {', '.join(foreign[:5])}" if foreign else "a member twice"
                problems.append(
                    f"{name}: holds {what}; a ZIP of corrections holds {', '.join(wanted)} and nothing else"
                )
                return {}
            problems += [f"{name}: {member} is missing" for member in wanted if member not in members]
            for member in members:
                text = _text(archive, member, f"{name}: {member}", problems)
                if text is not None:
                    found[wanted[member]] = _rows_of_csv(text, wanted[member], f"{name}: {member}", problems)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        problems.append(f"{name}: is no ZIP as the page writes it, or broken: {error}")
    return found


def _text(archive: zipfile.ZipFile, member: str, where: str, problems: list[str]) -> str | None:
    # what the ZIP says of its sizes may be a lie: no more than the limit is ever unpacked
    with archive.open(member) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        problems.append(f"{where} unpacks to more than {MAX_BYTES} bytes: no table of corrections is as large")
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        problems.append(f"{where} is no text in UTF-8: {error.reason} at byte {error.start}")
        return None


def _rows_of_csv(text: str, table: str, where: str, problems: list[str]) -> Rows:
    columns = names(EXPORTED[table])
    found: Rows = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if header != columns:
            missing, foreign = sorted(set(columns) - set(header)), sorted(set(header) - set(columns))
            told = f"missing {missing}, foreign {foreign}" if missing or foreign else "in another order, or twice"
            problems.append(f"{where}: columns are not those of the page's export: {told}")
            return []
        for cells in reader:
            place = f"{where} line {reader.line_num}"
            if len(cells) != len(columns):
                problems.append(f"{place}: {len(cells)} values for {len(columns)} columns")
            else:
                found.append((place, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        problems.append(f"{where} line {reader.line_num}: no CSV: {error}")
    return found


# ----------------------------------------------------------------------------------------------------------------- COCO


def _rows_of_coco(data: bytes, name: str, problems: list[str]) -> dict[str, Rows]:
    """The same cells from COCO, as texts; rejected boxes are not in it."""
    try:
        content = json.loads(data, parse_constant=_no_constant)
        info, images = dict(content["info"]), [dict(one) for one in content["images"]]
        annotations = [dict(one) for one in content["annotations"]]
        classes = {one["id"]: one["name"] for one in content["categories"]}
        by_id = {one["id"]: one for one in images}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problems.append(f"{name}: is no COCO file as the page writes it: {type(error).__name__} {error}")
        return {}
    if info.get("source") != tables.SOURCE:
        problems.append(f"{name}: info.source is {info.get('source')!r}, not 'feedback': no export of corrections")
    for what, every in (("images", images), ("annotations", annotations)):
        if len({str(one.get("id")) for one in every}) != len(every):
            problems.append(f"{name}: {what} have an id twice")
    films: Rows = [(f"{name}: image {one.get('id')}", _film_cells(one, info)) for one in images]
    lesions: Rows = []
    for one in annotations:
        place, image = f"{name}: annotation {one.get('id')}", by_id.get(_key(one.get("image_id")))
        if image is None:
            problems.append(f"{place}: image_id {one.get('image_id')!r} is none of the images")
        elif (box := _box(one.get("bbox"))) is None:
            problems.append(f"{place}: bbox {one.get('bbox')!r} is not four numbers: left, top, width, height")
        else:
            severity = classes.get(_key(one.get("category_id")), "")
            lesions.append((place, _lesion_cells(one, image, info, box, severity)))
    return {"films": films, "lesions": lesions}


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _key(value: object) -> Any:
    return value if isinstance(value, int | str) else None


def _box(value: object) -> list[float] | None:
    numbers = isinstance(value, list) and len(value) == 4 and all(isinstance(edge, int | float) for edge in value)
    return [float(edge) for edge in value] if numbers and isinstance(value, list) else None


def _film_cells(image: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, str]:
    return _cells(
        film_id=_stem(image),
        width_px=image.get("width"),
        height_px=image.get("height"),
        threshold=info.get("threshold"),
        author=info.get("contributor"),
        read_at=info.get("date_created"),
        **{name: image.get(name) for name in ("sha256", "complete", "model", "prediction_shown")},
    )


def _lesion_cells(
    one: Mapping[str, Any], image: Mapping[str, Any], info: Mapping[str, Any], box: list[float], severity: object
) -> dict[str, str]:
    x, y, width, height = box
    return _cells(
        lesion_id=f"{_stem(image)}_feedback_{one.get('id')}",
        film_id=_stem(image),
        severity=severity,
        has_location=True,
        x_px=round(x + width / 2, 2),
        y_px=round(y + height / 2, 2),
        radius_px=round(max(width, height) / 2, 2),
        x1=x,
        y1=y,
        x2=round(x + width, 2),
        y2=round(y + height, 2),
        source=info.get("source"),
        score=one.get("model_score"),
        author=info.get("contributor"),
        model=image.get("model"),
        **{name: one.get(name) for name in ("kind", "action", "prediction_shown")},
    )


def _stem(image: Mapping[str, Any]) -> str:
    return PurePosixPath(str(image.get("file_name") or "")).stem


def _cells(**values: object) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in values.items()}


# ---------------------------------------------------------------------------------------------------------------- types


def _typed(rows: Rows, columns: tuple[Column, ...], problems: list[str]) -> pd.DataFrame:
    """Cells as the schema's types; every one that is not is told, and null or empty in the table."""
    table: dict[str, Any] = {ROW: pd.Series([place for place, _ in rows], dtype="str")}
    for column in columns:
        values = []
        for place, cells in rows:
            value, fault = _value(cells.get(column.name, ""), column)
            values.append(value)
            if fault:
                problems.append(f"{place}: {column.name} {fault}")
        dtype = {"int64": "Int64", "bool": "boolean"}.get(column.dtype, column.dtype)
        table[column.name] = pd.Series(values, dtype=dtype)
    return pd.DataFrame(table)


def _value(text: str, column: Column) -> tuple[Any, str]:
    """A cell's value, and what is wrong with it."""
    if column.dtype == "str":
        return text, ""
    if not text:
        return None, "" if column.nullable else "is empty"
    kinds: dict[str, tuple[Callable[[str], Any], str]] = {
        "float64": (_number, "a number"),
        "int64": (lambda told: int(told) if re.fullmatch(r"\d{1,6}", told) else None, "a whole number"),
    }
    read, what = kinds.get(column.dtype, (lambda told: {"True": True, "False": False}.get(told), "True or False"))
    value = read(text)
    return value, "" if value is not None else f"{text[:40]!r} is not {what}"


def _number(text: str) -> float | None:
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def concatenated(exports: Iterable[Export]) -> dict[str, pd.DataFrame]:
    """The tables of several files, one below the other."""
    found = list(exports)
    return {name: pd.concat([one.tables[name] for one in found], ignore_index=True) for name in EXPORTED}
