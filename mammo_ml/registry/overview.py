"""What is shown of the registry: its models, the history of their champions, two versions side by side."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.metrics.paired import Difference
from mammo_ml.registry import audit
from mammo_ml.registry.audit import CHAMPION
from mammo_ml.registry.comparison import LOWER_IS_BETTER, core_differences, unlike_items
from mammo_ml.registry.facts import evidence_of
from mammo_ml.registry.gate import EVALUATE_AGAIN, GateParameters
from mammo_ml.registry.promotion import champion, champion_fault, registered_model, version_of
from mammo_ml.tracking import Store

HISTORY = ("number", "when", "who", "action", "outcome", "from", "to", "reason", "overridden", "failed", "figures")
"""Columns of the history, as the audit's lines have them; `record` follows: sound, or what is wrong with the line."""
HOW_TO_READ = (
    "Difference: {first} minus {second}, out-of-fold, with its 95 % interval: women resampled, the same for both. An "
    "interval that holds 0 shows no difference. Figures marked (low) are better when lower."
)


def models(workspace: Path) -> tuple[pd.DataFrame, list[str]]:
    """List every version of every registered model, newest first, and say what is wrong with the champions.

    Returns:
        A table model, version, aliases, primary (figure), value, data, folds, registered; and a line per model.
    """
    store = Store(workspace)
    rows, lines = [], []
    for model in sorted(store.client.search_registered_models(), key=lambda found: str(found.name)):
        for found in store.client.search_model_versions(f"name = '{model.name}'"):
            rows.append(_row(found, model.aliases))
        lines.append(_champion_line(model))
    columns = ["model", "version", "aliases", "primary", "value", "data", "folds", "registered"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["model", "version"], ascending=[True, False], ignore_index=True), lines


def _row(found: Any, aliases: Mapping[str, str]) -> dict[str, Any]:
    tags = found.tags
    own = sorted(alias for alias, number in aliases.items() if int(number) == int(found.version))
    bounds = f" [{_short(tags.get('primary_lo'))}, {_short(tags.get('primary_hi'))}]"
    return {
        "model": found.name,
        "version": int(found.version),
        "aliases": ", ".join(own),
        "primary": tags.get("primary_figure", ""),
        "value": _short(tags.get("primary")) + bounds,
        "data": tags.get("dataset", "") + (" (phantom)" if tags.get("phantom") == "true" else ""),
        "folds": tags.get("folds_sha256", "")[:12],
        "registered": datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
    }


def _short(number: str | None) -> str:
    return "?" if number is None else f"{float(number):.3f}"


def _champion_line(model: Any) -> str:
    known = audit.read_audit(model.name, model.tags)
    fault = champion_fault(model)
    told = [f"audit, {one}" for one in known.faults]
    if fault:
        return "; ".join([f"{model.name}: {fault}", *told])
    moves = [line.content for line in (*known.lines, *([known.pending] if known.pending else [])) if line.moved_to]
    last = moves[-1]
    by = f"{last['outcome']} {last['when']} by {last['who']}" + (", by override" if last["overridden"] else "")
    return "; ".join([f"{model.name}: champion is version {model.aliases[CHAMPION]}, {by}", *told])


def history(name: str, workspace: Path, *, brief: bool = False) -> pd.DataFrame:
    """Audit of a registered model, a row per attempt, oldest first; columns `HISTORY` and record.

    Args:
        name: registered model.
        workspace: the project's folder.
        brief: for a screen: of the conditions that failed only their names, and no figures.

    Raises:
        BadInputError: when there is no such model.
    """
    known = audit.read_audit(name, registered_model(Store(workspace), name).tags)
    rows = []
    for line in known.lines:
        content = {**dict.fromkeys(HISTORY), **line.content, "number": line.number, "record": line.fault or "sound"}
        for key in ("failed", "overridden", "figures"):
            values = content[key] or {}
            content[key] = ", ".join(values) if brief else "; ".join(f"{one}: {told}" for one, told in values.items())
        rows.append(content)
    table = pd.DataFrame(rows, columns=[*HISTORY, "record"]).astype({"from": "Int64", "to": "Int64"})
    return table.drop(columns=["action", "figures"]) if brief else table


def compare(
    first: str, second: str, workspace: Path, gate: GateParameters, name: str = ""
) -> tuple[tuple[str, str], dict[str, Difference], list[str]]:
    """Paired differences first minus second of the core figures of two versions, from what both have stored.

    Args:
        first: NAME/VERSION, NAME@alias, or with `name` the version or alias alone.
        second: likewise.
        workspace: the project's folder.
        gate: says how often the women are resampled.
        name: registered model.

    Returns:
        The two as NAME/VERSION; the differences by figure; what was judged that differs between them, in words.

    Raises:
        BadInputError: when one is not there, has not stored what it is compared by, or both cannot be compared.
    """
    store = Store(workspace)
    sides = [_named(store, text, name, workspace) for text in (first, second)]
    problems, found = [], []
    for side in sides:
        try:
            found.append(evidence_of(store, side))
        except BadInputError as error:
            problems += [f"{side.name}/{side.version}: {problem}" for problem in error.problems]
    raise_if_any("compare", problems, f"To compare a version, {EVALUATE_AGAIN}.")
    labels = tuple(f"{side.name}/{side.version}" for side in sides)
    differences = core_differences(found[0], found[1], gate)
    protocols = sorted({name.partition(".")[0] for name in differences})
    unlike = [unlike_items(found[0], found[1], protocol) for protocol in protocols]
    return (labels[0], labels[1]), differences, [line for line in unlike if line]


def comparison_table(labels: tuple[str, str], differences: Mapping[str, Difference]) -> pd.DataFrame:
    """Table of paired differences, numbers to three places: figure, the two versions' values, difference, 95 %."""
    rows = [
        (
            _marked(name),
            f"{found.first:.3f}",
            f"{found.second:.3f}",
            f"{found.point:+.3f}",
            f"{found.lo:+.3f} to {found.hi:+.3f}",
        )
        for name, found in differences.items()
    ]
    return pd.DataFrame(rows, columns=["figure", *labels, "difference", "95 %"])


def draw_comparison(labels: tuple[str, str], differences: Mapping[str, Difference], path: Path) -> None:
    """Write a picture of paired differences (a forest plot) as PNG."""
    from mammo_ml.figures import PNG, difference_figure

    columns = [np.array([getattr(found, key) for found in differences.values()]) for key in ("point", "lo", "hi")]
    names = [_marked(name) for name in differences]
    points, lows, highs = columns
    figure = difference_figure(names, points, lows, highs, f"{labels[0]} minus {labels[1]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata=PNG)


def _marked(name: str) -> str:
    return f"{name} (low)" if name.endswith(LOWER_IS_BETTER) else name


def _named(store: Store, text: str, name: str, workspace: Path) -> Any:
    for sign in ("@", "/"):
        if sign in text:
            name, _, text = text.partition(sign)
            break
    if not name:
        raise BadInputError("compare", [f"'{text}' names no model"], "Say NAME/VERSION, NAME@alias, or give --name.")
    if text == CHAMPION:
        return version_of(store, name, champion(name, workspace))
    return version_of(store, name, int(text) if text.isdecimal() else text)
