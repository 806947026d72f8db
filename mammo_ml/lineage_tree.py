"""The lineage of a model as a tree for the terminal; what nobody wrote down reads "not recorded"."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.tree import Tree

NOT_RECORDED = "not recorded"
EMPTY = {
    "aliases": "none",
    "weights": "none: trained from scratch",
    "films": "none",
    "differs_from_commit": "in nothing",
    "same_code_in": "no commit of this clone",
}
"""What an empty list says, by its key."""


def tree_of(facts: Mapping[str, Any]) -> Tree:
    """A tree for the terminal; what is None reads "not recorded"."""
    version = facts["version"]
    root = Tree(f"[bold]{version['name']} version {version['version']}[/]")
    for section, content in facts.items():
        _grow(root, section, content)
    return root


def _grow(above: Tree, key: str, value: object) -> None:
    name = f"[cyan]{escape(key)}[/]"
    if value is None:
        above.add(f"{name}  [yellow]{NOT_RECORDED}[/]")
    elif isinstance(value, Mapping):
        branch = above.add(name)
        for below, content in value.items():
            _grow(branch, str(below), content)
    elif isinstance(value, list) and value:
        branch = above.add(name)
        for item in value:
            branch.add(escape(_line(item)) if isinstance(item, Mapping) else escape(str(item)))
    else:
        text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        above.add(f"{name}  {escape(EMPTY.get(key, 'none') if value == [] else text)}")


def _line(item: Mapping[str, Any]) -> str:
    """One line for an item of a list; a data input says where it comes from and where it went."""
    if "read_by" not in item:
        return ", ".join(f"{key.replace('_', ' ')} {NOT_RECORDED if v is None else v}" for key, v in item.items())
    made = f"made by {_stages(item['made_by'])}" if item["made_by"] else "kept with the code, or given"
    return f"{item['path']}  md5 {item['md5'] or NOT_RECORDED}\n  {made}; read by {_stages(item['read_by'])}"


def _stages(labels: Sequence[str]) -> str:
    """Names of stages, the folds of one together: tune_detector@0,1,2."""
    folds: dict[str, list[str]] = {}
    for label in labels:
        stage, _, fold = label.partition("@")
        folds.setdefault(stage, []).extend([fold] if fold else [])
    return ", ".join(stage + (f"@{','.join(dict.fromkeys(of))}" if of else "") for stage, of in folds.items())
