"""Which modules each stage imports, directly or not: what a dvc.yaml must list, for DVC does not follow imports.

`python -m pipelines.dependencies` (or `make deps`) rewrites the code dependencies of every stage of both graphs.
"""

import ast
import re
import sys
from functools import cache
from pathlib import Path

GRAPHS = (Path("dvc.yaml"), Path("pipelines/studies/dvc.yaml"))
ITEM = re.compile(r"\$\{item\.\w+\}")
"""What DVC replaces by the key of a stage's matrix."""
PACKAGES = ("mammo_ml", "pipelines")
EXEMPT = {
    "mammo_ml/dvc_dataset_source.py",
    "mammo_ml/dvc_record.py",
    "mammo_ml/track_outputs.py",
    "mammo_ml/tracking.py",
    "mammo_ml/tuning_pictures.py",
}
"""Record runs and models, and draw what a run shows; cannot change an output. Editing them re-runs nothing, nor what
they alone import."""
STARTER = ("mammo_ml/pretrained.py", "mammo_ml/starter")
"""A module, and the folder of weights it reads."""
CODE = re.compile(r"^      - (?:(?:mammo_ml|pipelines)/\S+\.(?:py|csv|css)|mammo_ml/starter/\S+)$")


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
    packages = {path for path in seen if path.endswith("__init__.py")}  # what they import counts, they do not
    return sorted(seen - packages | {data for module in seen for data in _data_files(root, module)})


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
    path = root.joinpath(*name.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file.relative_to(root).as_posix() for file in files if file.is_file()), None)


def _data_files(root: Path, module: str) -> list[str]:
    """Files a module reads: tables named in its text, benchmark folds by their ending, starter weights."""
    if module == STARTER[0]:
        files = (root / STARTER[1]).rglob("*")
        return [path.relative_to(root).as_posix() for path in files if path.is_file()]
    text = (root / module).read_text(encoding="utf-8")
    tables = (root / "mammo_ml" / "datasets").rglob("*.csv")
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
    """Rewrite the graphs below the current folder."""
    for path in GRAPHS:
        before = path.read_text(encoding="utf-8")
        after = rewrite(before, Path.cwd())
        path.write_text(after, encoding="utf-8")
        sys.stderr.write(f"{path} was complete\n" if before == after else f"{path}: code dependencies rewritten\n")


if __name__ == "__main__":
    main()
