"""Which modules each stage imports, directly or not: what `dvc.yaml` must list, for DVC does not follow imports.

`python -m pipelines.dependencies` (or `make deps`) rewrites the code dependencies of every stage of dvc.yaml.
"""

import ast
import re
import sys
from functools import cache
from pathlib import Path

PACKAGES = ("mammo_ml", "pipelines")
EXEMPT = {"mammo_ml/tracking.py", "mammo_ml/track_outputs.py", "mammo_ml/dvc_dataset_source.py"}
"""Record runs and models; cannot change an output. Editing them re-runs nothing, nor what they alone import."""
CODE = re.compile(r"^      - (?:mammo_ml|pipelines)/\S+\.(?:py|csv|css)$")


def modules_of(script: Path, root: Path) -> list[str]:
    """Paths, sorted and relative to `root`, of a script and every module of ours it imports, and their tables."""
    seen: set[str] = set()
    waiting = [script.relative_to(root).as_posix()]
    while waiting:
        module = waiting.pop()
        if module in seen or module in EXEMPT:
            continue
        seen.add(module)
        waiting += _imports(root, module)
    empty = {path for path in seen if path.endswith("__init__.py")}
    return sorted(seen - empty | {data for module in seen for data in _data_files(root, module)})


@cache
def _imports(root: Path, module: str) -> tuple[str, ...]:
    found = []
    for node in ast.walk(ast.parse((root / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found += [path for name in names if (path := _path_of(root, name))]
    return tuple(found)


def _path_of(root: Path, name: str) -> str | None:
    if name.split(".")[0] not in PACKAGES:
        return None
    path = root.joinpath(*name.split(".")).with_suffix(".py")
    return path.relative_to(root).as_posix() if path.is_file() else None


def _data_files(root: Path, module: str) -> list[str]:
    """Tables of the package a module reads: those named in its text, `splits.py`'s benchmark folds by their ending."""
    text = (root / module).read_text(encoding="utf-8")
    tables = (root / "mammo_ml").rglob("*.csv")
    return [
        path.relative_to(root).as_posix()
        for path in tables
        if path.name in text or (module == "mammo_ml/splits.py" and path.name.endswith("_folds.csv"))
    ]


def rewrite(dvc_yaml: str, root: Path) -> str:
    """The text of dvc.yaml with the code dependencies of every stage as its script's imports demand."""
    lines: list[str] = []
    modules: list[str] = []
    for line in dvc_yaml.splitlines():
        if found := re.match(r"      python -m pipelines\.(\w+)", line):
            modules = modules_of(root / "pipelines" / f"{found[1]}.py", root)
        if CODE.match(line):
            continue
        lines.append(line)
        if line == "    deps:":
            lines += [f"      - {module}" for module in modules]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite dvc.yaml in the current folder."""
    path = Path("dvc.yaml")
    before = path.read_text(encoding="utf-8")
    after = rewrite(before, Path.cwd())
    path.write_text(after, encoding="utf-8")
    sys.stderr.write("dvc.yaml was complete\n" if before == after else "dvc.yaml: code dependencies rewritten\n")


if __name__ == "__main__":
    main()
