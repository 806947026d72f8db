"""Bar D4: a byte flipped in the DVC cache, mode bits kept. `dvc checkout` restores it with status 0; what then?"""

import os
import shutil
import stat
import subprocess
import sys
from hashlib import md5
from pathlib import Path

import pytest
import yaml

from mammo_ml.cache_check import damaged_outputs
from mammo_ml.datasets.phantom import PhantomParameters
from mammo_ml.errors import MammoError
from mammo_ml.recipe import save_best
from tests.pipelines.command_lines import command_of

ROOT = Path(__file__).parents[2]
UP_TO_DATE = "Data and pipelines are up to date."


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A module of this environment in a folder, with the project's code and one thread."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def done(folder: Path, *words: str) -> str:
    finished = run(folder, *words)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


def object_of(workspace: Path, file: str) -> Path:
    """Where the cache keeps the bytes of a file."""
    name = md5((workspace / file).read_bytes()).hexdigest()
    return workspace / ".dvc" / "cache" / "files" / "md5" / name[:2] / name[2:]


def flip_byte(path: Path, position: float = 0.5) -> None:
    """Change one bit of the byte at a share of a file's length, and leave the file's mode as it is."""
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[int(len(content) * position)] ^= 1
    path.write_bytes(content)
    path.chmod(mode)


# ------------------------------------------------------------------------------- the real stages, on films of phantoms

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
RUN = ("ingest", "catalog", "split", "cut")


def outputs_of(stage: str) -> list[str]:
    return [out.replace("${item.fold}", "0") for out in STAGES[stage]["outs"]]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the real stages up to the cuts ran under DVC, on the fewest phantoms there may be."""
    workspace = tmp_path_factory.mktemp("d4") / "workspace"
    workspace.mkdir()
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    parameters |= {"dataset": "phantom", "ingest": PhantomParameters(women=20).model_dump()}
    (workspace / "params.yaml").write_text(yaml.safe_dump(parameters))
    shutil.copytree(ROOT / "feedback", workspace / "feedback")
    graph = {
        name: STAGES[name] | {"deps": [dep for dep in STAGES[name].get("deps", []) if dep.startswith("data/")]}
        for name in RUN
    }
    (workspace / "dvc.yaml").write_text(yaml.safe_dump({"stages": graph}))
    for stage in ("tune_classifier", "tune_detector"):
        (workspace / outputs_of(stage)[0]).mkdir(parents=True)
        save_best({}, workspace / outputs_of(stage)[0] / "best.json")
    done(workspace, "dvc", "init", "--no-scm", "--quiet")
    done(workspace, "dvc", "config", "core.analytics", "false")
    done(workspace, "dvc", "repro", "--quiet")
    return workspace


DAMAGED = {
    "data/ingest": ["mdb007.pgm"],
    "data/cut/patches": ["patches.csv", "pictures.npy"],
    "data/cut/cuts": ["boxes.csv", "pictures.npy"],
}


@pytest.fixture(scope="module")
def damaged(pipeline: Path) -> Path:
    """The workspace after a byte of each of these files changed in the cache and all outputs were restored from it."""
    files = {f"{folder}/{name}": (pipeline / folder / name) for folder, names in DAMAGED.items() for name in names}
    before = {file: path.read_bytes() for file, path in files.items()}
    for file in files:
        flip_byte(object_of(pipeline, file))
    for stage in RUN:
        for output in outputs_of(stage):
            path = pipeline / output
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    done(pipeline, "dvc", "checkout")
    assert UP_TO_DATE in done(pipeline, "dvc", "status")  # DVC says that all is well
    assert [file for file, path in files.items() if path.read_bytes() == before[file]] == []
    return pipeline


@pytest.mark.slow
@pytest.mark.bar("D4")
@pytest.mark.parametrize(
    ("stage", "reads"),
    [
        ("catalog", "data/ingest"),
        ("cut", "data/ingest"),
        ("train_classifier", "data/cut/patches"),
        ("tune_detector", "data/cut/cuts"),
    ],
)
def test_d4_the_stage_that_reads_damaged_files_refuses_names_them_and_writes_nothing(
    stage, reads, damaged, record_property
):
    names = DAMAGED[reads]
    record_property("tried", f"a byte of {' and '.join(names)} before {stage}")
    new = {output: f"refused/{output}" for output in outputs_of(stage)}
    finished = run(damaged, *(new.get(word, word) for word in command_of(ROOT, stage)[2:]))
    assert finished.returncode != 0
    assert [name for name in names if name not in finished.stderr] == []
    assert "Traceback" not in finished.stderr
    assert [output for output in new.values() if (damaged / output).exists()] == []


# ------------------------------------------------------------------- asked before a run: does DVC take damage for good?

SMALL_GRAPH = """
stages:
  films:
    cmd: python -c "import pathlib; d = pathlib.Path('films'); d.mkdir(); [(d / f'{n}.pgm').write_text(str(n) * 999) for n in range(9)]"
    outs: [films]
  count:
    cmd: python -c "import pathlib; pathlib.Path('count.txt').write_text(str(len(list(pathlib.Path('films').iterdir()))))"
    deps: [films]
    outs: [count.txt]
"""  # noqa: E501


@pytest.fixture(scope="module")
def small_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("d4_small") / "workspace"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(SMALL_GRAPH)
    done(folder, "dvc", "init", "--no-scm", "--quiet")
    done(folder, "dvc", "repro", "--quiet")
    return folder


@pytest.fixture
def small(small_workspace: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_workspace, tmp_path / "workspace")


def named(workspace: Path) -> list[str]:
    return [line.partition(": md5 ")[0] for line in damaged_outputs(workspace)]


@pytest.mark.bar("D4")
def test_d4_sound_outputs_are_not_named_nor_are_those_never_made(small):
    assert damaged_outputs(small) == []
    (small / "dvc.lock").unlink()
    assert damaged_outputs(small) == []


@pytest.mark.bar("D4")
def test_d4_damaged_objects_are_named_with_their_files_before_and_after_they_are_restored(small, record_property):
    files = [*(f"films/{n}.pgm" for n in range(9)), "count.txt"]
    record_property("tried", f"{len(files)} objects of a cache, asked before a run")
    objects = {file: object_of(small, file) for file in files}
    for path in objects.values():
        flip_byte(path)
    expected = [f"{path.relative_to(small)} (of {file})" for file, path in objects.items()]
    assert named(small) == expected
    shutil.rmtree(small / "films")
    (small / "count.txt").unlink()
    assert named(small) == expected
    done(small, "dvc", "checkout")
    assert UP_TO_DATE in done(small, "dvc", "status")
    assert sorted(named(small)) == sorted(expected + files)


@pytest.mark.bar("D4")
def test_d4_deleting_what_is_named_lets_the_next_run_make_it_again(small, record_property):
    record_property("tried", "the remedy")
    before = {path.name: path.read_bytes() for path in (small / "films").iterdir()}
    damaged = object_of(small, "films/3.pgm")
    flip_byte(damaged)
    shutil.rmtree(small / "films")
    done(small, "dvc", "checkout")
    for name in named(small):
        (small / name.partition(" (of ")[0]).unlink()
    done(small, "dvc", "repro")
    assert {path.name: path.read_bytes() for path in (small / "films").iterdir()} == before
    assert damaged_outputs(small) == []


@pytest.mark.bar("D4")
def test_d4_a_damaged_list_of_a_folders_files_is_named(small, record_property):
    record_property("tried", "the list of a folder")
    (listing,) = (small / ".dvc" / "cache" / "files" / "md5").rglob("*.dir")
    flip_byte(listing)
    (line,) = damaged_outputs(small)
    assert line == f"{listing.relative_to(small)}: the list of the files of films was changed"


@pytest.mark.bar("D4")
def test_d4_what_a_killed_stage_left_is_dvcs_own_matter(small):
    # DVC sees that the folder is another one, and runs the stage again
    (small / "films" / "3.pgm").write_text("half")
    (small / "films" / "4.pgm").unlink()
    assert damaged_outputs(small) == []


@pytest.mark.bar("D4")
def test_d4_a_lock_file_that_is_no_yaml_is_named(small):
    (small / "dvc.lock").write_text("stages: [")
    with pytest.raises(MammoError, match=r"dvc\.lock"):
        damaged_outputs(small)
