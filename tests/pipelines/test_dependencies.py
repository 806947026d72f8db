import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import stage as stage_module
from pipelines.dependencies import CODE, GRAPHS, ITEM, modules_of, rewrite

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {graph: (ROOT / graph).read_text(encoding="utf-8") for graph in GRAPHS}
TEXT = TEXTS[GRAPHS[0]]
STAGES: dict[str, dict[str, Any]] = {
    name: declared | {"graph": graph}
    for graph, text in TEXTS.items()
    for name, declared in yaml.safe_load(text)["stages"].items()
}
TRAINING = ("tune_", "train_", "predict_", "leaky_", "finalize_")
EXPENSIVE = [name for name in STAGES if name.startswith((*TRAINING, "pretrain_"))]
# Showing, recording and deciding changes no weight and no prediction.
CHEAP = re.compile(
    r"mammo_ml/(figures|cli|tracking|track_outputs|repro|data_docs|data_quality)\.py|mammo_ml/(registry|reporting)/"
)


def script_of(name: str) -> Path:
    return ROOT / "pipelines" / f"{name}.py"


def command_of(name: str) -> list[str]:
    return ITEM.sub("0", str(STAGES[name]["cmd"])).split()


def params_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / STAGES[name]["graph"].with_name("params.yaml")).read_text("utf-8"))
    return found


def declared_sections(name: str) -> set[str]:
    """Sections of the graph's own parameters; another graph than the project's has to name the file."""
    sections = set()
    for entry in STAGES[name].get("params", []):
        sections |= {entry} if isinstance(entry, str) else set(*entry.values())
    return sections


def outputs_of(name: str) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in STAGES[name].get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_every_stage_depends_on_every_module_its_script_imports(graph: Path) -> None:
    text = TEXTS[graph]
    assert rewrite(text, ROOT) == text, f"{graph} misses what a stage imports, or lists what it does not: `make deps`"


def test_a_new_import_two_modules_away_would_be_noticed(tmp_path: Path) -> None:
    for path, text in {
        "pipelines/split.py": "from mammo_ml.near import x\n",
        "mammo_ml/near.py": "def f():\n    from mammo_ml import far\n",
        "mammo_ml/far.py": "TABLE = 'known.csv'\n",
        "mammo_ml/datasets/known.csv": "a\n",
        "mammo_ml/datasets/other.csv": "a\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).write_text(text, encoding="utf-8")

    found = modules_of(tmp_path / "pipelines" / "split.py", tmp_path)

    assert found == ["mammo_ml/datasets/known.csv", "mammo_ml/far.py", "mammo_ml/near.py", "pipelines/split.py"]


def test_a_dependency_struck_out_by_hand_is_put_back() -> None:
    line = "      - mammo_ml/splits.py\n"
    assert rewrite(TEXT.replace(line, ""), ROOT) == TEXT


@pytest.mark.parametrize("name", EXPENSIVE)
def test_editing_pictures_reports_registry_commands_or_tracker_reruns_no_training(name: str) -> None:
    code = [line for line in STAGES[name]["deps"] if CODE.match(f"      - {line}")]
    assert code
    assert [module for module in code if CHEAP.match(module)] == []


def test_both_models_have_every_kind_of_training_stage() -> None:
    # the locator is put together from both: nothing of it is trained; a study searches a detector's inputs with it
    others = ("_locator", "_inputs")
    of_folds = [name for name in EXPENSIVE if name.startswith(TRAINING) and not name.endswith(others)]
    assert sorted(of_folds) == sorted(f"{kind}{model}" for kind in TRAINING for model in ("classifier", "detector"))


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_runs_the_script_of_its_name(name: str) -> None:
    assert script_of(name).is_file()
    assert command_of(name)[:3] == ["python", "-m", f"pipelines.{name}"]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_every_section_of_the_parameters_it_reads(name: str) -> None:
    text = script_of(name).read_text(encoding="utf-8")
    read = set(re.findall(r'stage\.section\("(\w+)"', text))
    read |= {key for key in ("dataset", "folds") if f"stage.{key}()" in text}
    declared, known = declared_sections(name), set(params_of(name))

    assert read - declared == set(), "DVC would not re-run the stage when these change"
    assert declared - known == set(), "params.yaml lacks these sections"
    # A stage named after a section reads it.
    assert name not in known or name in declared


@pytest.mark.parametrize("name", STAGES)
def test_the_script_takes_exactly_the_options_its_command_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"pipelines.{name}")
    parse = stage_module.arguments

    class ParsedError(Exception):
        pass

    def parse_and_stop(*arguments: Any, **options: Any) -> None:
        raise ParsedError(vars(parse(*arguments, **options)))

    monkeypatch.setattr(stage_module, "arguments", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [name, *command_of(name)[3:]])
    with pytest.raises(ParsedError) as parsed:  # SystemExit instead: an option that is unknown, or one that is missing
        getattr(module, name)()

    options = [word.removeprefix("--").replace("-", "_") for word in command_of(name)[3:] if word.startswith("--")]
    assert sorted({*options, "params"}) == sorted(parsed.value.args[0])


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_reads_the_parameters_of_its_own_graph(name: str) -> None:
    words, own = command_of(name), STAGES[name]["graph"].with_name("params.yaml").as_posix()
    given = words[words.index("--params") + 1] if "--params" in words else "params.yaml"
    assert given == own
    files = {file for entry in STAGES[name].get("params", []) if isinstance(entry, dict) for file in entry}
    assert files <= {own}


@pytest.mark.parametrize("name", STAGES)
def test_every_path_of_a_command_is_a_declared_dependency_or_output(name: str) -> None:
    deps = [ITEM.sub("0", dep) for dep in STAGES[name]["deps"]]
    outs = [ITEM.sub("0", out) for out in outputs_of(name)]
    words = [word for word in command_of(name)[3:] if "/" in word or word in ("expectations", "feedback", "reports")]
    paths = [word for word in words if not word.endswith("params.yaml")]

    # A folder whose single files are declared counts, and so does a file in a declared folder.
    undeclared = [path for path in paths if not any(is_in(path, one) or is_in(one, path) for one in deps + outs)]
    assert undeclared == []
    unwritten = [out for out in outs if not any(is_in(out, path) for path in paths)]
    assert unwritten == [], "declared, but no option of the command leads there"


def test_no_two_stages_write_the_same_place() -> None:
    outs = [out for name in STAGES for out in outputs_of(name)]
    assert [(a, b) for a in outs for b in outs if a != b and is_in(a, b)] == []
    assert len(outs) == len(set(outs))
