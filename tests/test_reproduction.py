import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mammo_ml import reproduction
from mammo_ml.bundle_comparison import LARGEST_PROBABILITY_DIFFERENCE, compare, phantom_probabilities
from mammo_ml.cli import app
from mammo_ml.dvc_record import restore
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.lineage import Version, open_version
from mammo_ml.models.bundle import read_bundle
from mammo_ml.reproduction import make_plan
from mammo_ml.tracking import computed_md5
from tests.small_project import commit, git, make_project, nudged, record_stages, register, small_bundle, write
from tests.toy_models import NAME, toy_world


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registered version whose dvc.lock was committed after its pass."""
    folder = make_project(tmp_path_factory.mktemp("reproduction") / "project")
    with toy_world(tmp_path_factory.mktemp("configuration")):
        record_stages(folder)
        register(folder, folder / "data" / "finalize_classifier")
        commit(folder, "Outputs of the pass")
        yield folder


@pytest.fixture(scope="module")
def version(project: Path) -> Version:
    return open_version(f"{NAME}/1", project)


@pytest.fixture
def reproduce(project: Path, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """`mammo-ml reproduce` of version 1 into a folder of the test: exit status and output."""

    def run(*options: str, workspace: Path = project) -> tuple[int, str]:
        arguments = [f"{NAME}/1", "--folder", str(tmp_path / "again"), "--workspace", str(workspace), *options]
        done = CliRunner().invoke(app, ["reproduce", *arguments])
        return done.exit_code, done.output

    return run


def changed(version: Version, **tags: str) -> Version:
    return dataclasses.replace(version, tags={**version.tags, **tags})


def hashes(folder: Path) -> dict[str, str]:
    """Every file of a workspace, without MLflow's store, which opening it writes to, and the lock of git's index."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".mlflow" not in path.relative_to(folder).parts]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


# ------------------------------------------------------------------------------------------------------ the whole of it


def test_a_version_is_built_again_byte_for_byte_and_the_workspace_stays_as_it_was(
    project: Path, version: Version, reproduce: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    before = hashes(project)
    status, said = reproduce()
    assert status == 0, said
    assert "REPRODUCED byte for byte" in said
    # time and disk are told first
    order = [version.commit or "", "from DVC's cache", "s when it was trained", "MB free", "REPRODUCED"]
    assert sorted(order, key=said.index) == order
    assert hashes(project) == before
    assert git(project, "worktree", "list").count("\n") == 0
    result = json.loads((tmp_path / "again" / "build" / "reproduction.json").read_text(encoding="utf-8"))
    assert result["verdict"] == "byte for byte"
    assert result["commit"] == version.commit
    assert git(tmp_path / "again", "rev-parse", "HEAD") == version.commit

    # a stopped attempt is gone on with: what is restored already is not restored again
    films = tmp_path / "again" / "data" / "catalog" / "films.csv"
    (tmp_path / "again" / "data" / "tune_classifier" / "fold_0" / "best.json").unlink()
    kept = films.stat().st_mtime_ns
    status, said = reproduce()
    assert status == 0, said
    assert films.stat().st_mtime_ns == kept


def test_other_weights_are_told_and_end_with_1(
    project: Path, version: Version, reproduce: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(plan: reproduction.Plan) -> Path:
        return small_bundle(plan.folder / "build" / "made", seed=2)

    monkeypatch.setattr(reproduction, "build", other)
    status, said = reproduce()
    assert status == 1
    assert "weights.safetensors  DIFFERS" in said
    assert "config.json          byte for byte" in said
    assert "NOT REPRODUCED" in said


def test_a_dry_run_tells_and_does_nothing(reproduce: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    status, said = reproduce("--dry-run")
    assert status == 0
    assert "stages    finalize_classifier" in said
    assert not (tmp_path / "again").exists()


def test_a_stage_that_fails_is_named_with_what_to_do(project: Path, version: Version, tmp_path: Path) -> None:
    plan = make_plan(version, project, tmp_path / "again")
    wrong = dataclasses.replace(plan, remade=("no_such_stage",))
    reproduction.prepare(wrong, project)
    with pytest.raises(MammoError, match="no_such_stage stopped") as error:
        reproduction.build(wrong)
    assert "Run the same command again" in str(error.value)


def test_a_folder_that_holds_something_else_is_left_alone(
    project: Path, reproduce: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    write(tmp_path / "again" / "thesis.txt", "mine")
    status, said = reproduce()
    assert status == 1
    assert "is in use" in said
    assert (tmp_path / "again" / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_a_disk_that_is_too_small_is_told_before_it_starts(
    project: Path, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduction, "_free", lambda folder: 1_000_000)
    with pytest.raises(MammoError, match="too little disk"):
        make_plan(version, project, tmp_path / "again")


# ------------------------------------------------------------------------------------------------ what cannot be built


def test_a_dirty_commit_is_refused_unless_anyway(project: Path, version: Version, tmp_path: Path) -> None:
    dirty = changed(version, git_dirty="true")
    with pytest.raises(BadInputError, match="was dirty") as error:
        make_plan(dirty, project, tmp_path)
    # nothing that this stage reads had been changed: DVC's md5 say so
    assert "holds the same code" in str(error.value)
    plan = make_plan(dirty, project, tmp_path, anyway=True)
    assert plan.commit == version.commit
    assert "was dirty" in plan.warnings[0]


def test_code_that_was_never_committed_is_named_file_by_file(project: Path, version: Version, tmp_path: Path) -> None:
    record = version.records[0]
    stages = [
        dataclasses.replace(
            stage,
            entry=dataclasses.replace(
                stage.entry, depends={**stage.entry.depends, "pipelines/finalize_classifier.py": "0" * 32}
            ),
        )
        for stage in record.stages
    ]
    unsaved = dataclasses.replace(
        changed(version, git_dirty="true"), records=[dataclasses.replace(record, stages=stages)]
    )
    with pytest.raises(BadInputError, match=r"pipelines/finalize_classifier\.py is another") as error:
        make_plan(unsaved, project, tmp_path)
    assert "No commit of this clone holds what ran" in str(error.value)
    plan = make_plan(unsaved, project, tmp_path, anyway=True)
    assert "not what ran: pipelines/finalize_classifier.py is another" in plan.warnings


def test_a_commit_that_is_not_in_this_clone_is_told_with_what_may_help(
    project: Path, version: Version, tmp_path: Path
) -> None:
    elsewhere = changed(version, git_commit="f" * 40)
    with pytest.raises(BadInputError, match="not in this clone") as error:
        make_plan(elsewhere, project, tmp_path)
    assert "git fetch --all" in str(error.value)
    outside = changed(version, git_commit="no-git")
    with pytest.raises(BadInputError, match="registered outside git"):
        make_plan(outside, project, tmp_path)


def test_a_version_that_no_dvc_lock_tells_of_is_refused(project: Path, version: Version, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no dvc\.lock") as error:
        make_plan(dataclasses.replace(version, records=[]), project, tmp_path)
    assert version.md5 in str(error.value)


@pytest.fixture
def without_tuning(project: Path) -> Iterator[None]:
    """DVC's cache without what tuning made."""
    cache = project / ".dvc" / "cache" / "files" / "md5"
    md5 = computed_md5(project / "data" / "tune_classifier" / "fold_0" / "best.json")
    gone = cache / md5[:2] / md5[2:]
    content = gone.read_bytes()
    gone.unlink()
    yield
    gone.write_bytes(content)


@pytest.mark.usefixtures("without_tuning")
def test_a_cache_that_lacks_what_is_needed_names_it_and_the_stages_that_could_make_it(
    project: Path, version: Version, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=r"data/tune_classifier/fold_0 .*made by tune_classifier@0") as error:
        make_plan(version, project, tmp_path)
    assert "No DVC remote is set" in str(error.value)
    assert "--remake runs these stages first, however long they take: tune_classifier@0" in str(error.value)
    write(project / ".dvc" / "config.local", "['remote \"hospital\"']\n    url = /nowhere\n")
    try:
        with pytest.raises(BadInputError, match="`dvc fetch --all-commits` may bring it from hospital"):
            make_plan(version, project, tmp_path)
    finally:
        (project / ".dvc" / "config.local").unlink()
    plan = make_plan(version, project, tmp_path, remake=True)
    assert plan.remade == ("tune_classifier@0",)
    assert "stages    tune_classifier@0, finalize_classifier" in str(plan)


def test_a_damaged_object_of_the_cache_is_named_and_never_used(project: Path, tmp_path: Path) -> None:
    cache = project / ".dvc" / "cache" / "files" / "md5"
    md5 = computed_md5(project / "data" / "catalog")
    film = computed_md5(project / "data" / "catalog" / "films.csv")
    path = cache / film[:2] / film[2:]
    content = path.read_bytes()
    path.write_bytes(b"film_id\nmdb999\n")
    try:
        with pytest.raises(BadInputError, match=r"it is not the films\.csv it should be"):
            restore(cache, md5, tmp_path / "catalog")
    finally:
        path.write_bytes(content)
    assert not (tmp_path / "catalog" / "films.csv").exists()
    restore(cache, md5, tmp_path / "catalog")
    assert computed_md5(tmp_path / "catalog") == md5


@pytest.mark.parametrize("which", [f"{NAME}@champion", f"{NAME}/9", "mammo-classifier"])
def test_a_version_that_does_not_exist_is_told(project: Path, which: str) -> None:
    done = CliRunner().invoke(app, ["reproduce", which, "--workspace", str(project)])
    assert done.exit_code == 1
    assert NAME in done.output
    assert "Traceback" not in done.output


def test_a_tampered_version_is_refused_by_the_name_of_the_file(
    version: Version, reproduce: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    weights = version.files / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        status, said = reproduce()
    finally:
        weights.write_bytes(content)
    assert status == 1
    assert "weights.safetensors" in said
    assert not (tmp_path / "again").exists()


# ---------------------------------------------------------------------------------------------------------- comparing


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "one", seed=1)


def test_equal_bytes_are_told_as_such(bundle: Path) -> None:
    found = compare(bundle, bundle)
    assert (found.verdict, found.reproduced) == ("byte for byte", True)


def test_weights_that_rounding_moved_are_within_tolerance_and_the_difference_is_the_one_made(
    bundle: Path, tmp_path: Path
) -> None:
    found = compare(bundle, nudged(bundle, tmp_path / "other", 1e-4))
    assert found.verdict == "within tolerance"
    assert found.tensor_difference == pytest.approx(1e-4, rel=0.01)
    assert 0 < (found.probability_difference or 0) < LARGEST_PROBABILITY_DIFFERENCE
    assert found.tensor in str(found)


def test_weights_that_answer_otherwise_are_not_reproduced(bundle: Path, tmp_path: Path) -> None:
    found = compare(bundle, nudged(bundle, tmp_path / "other", 3.0))
    assert found.verdict == "not reproduced"
    assert found.tensor_difference == pytest.approx(3.0, rel=0.01)


def test_another_configuration_or_other_films_are_never_within_tolerance(bundle: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bundle, tmp_path / "other")
    films = other / "training_films.csv"
    films.write_text(films.read_text(encoding="utf-8").replace("berta", "clara"), encoding="utf-8")
    found = compare(bundle, other)
    assert found.verdict == "not reproduced"
    assert found.equal == {"weights.safetensors": True, "config.json": True, "training_films.csv": False}


def test_the_probabilities_compared_are_those_of_the_network_on_every_tile(bundle: Path) -> None:
    found = phantom_probabilities(read_bundle(bundle))
    assert found.shape[0] > 1
    assert found.shape[1] == 3
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
