import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mammo_ml import tracking
from mammo_ml.dvc_record import output_md5_at, training_data
from mammo_ml.errors import MammoError
from mammo_ml.tracking import StageRun, Store, TrackedData, computed_md5
from tests.small_project import commit, git, make_project, write


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with two commits: the catalog's dvc.lock of the first knows no outputs, that of the second does."""
    folder = make_project(tmp_path_factory.mktemp("source") / "project")
    commit(folder, "Outputs of the pass")
    tracking.quiet_mlflow()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        yield folder


@pytest.fixture
def no_catalog(project: Path) -> Iterator[None]:
    """The workspace went on: the catalog is another by now."""
    path = project / "data" / "catalog" / "films.csv"
    before = path.read_text(encoding="utf-8")
    write(path, "film_id\nmdb777\n")
    yield
    write(path, before)


def test_mlflow_finds_the_source_by_its_entry_point_and_resolves_addresses(project: Path) -> None:
    from mlflow.data.dataset_source_registry import resolve_dataset_source

    from mammo_ml.dvc_dataset_source import DVCDatasetSource

    head = git(project, "rev-parse", "HEAD")
    source = resolve_dataset_source(f"dvc://data/catalog@{head}", candidate_sources=[DVCDatasetSource])
    assert source.to_dict() == {"path": "data/catalog", "md5": computed_md5(project / "data" / "catalog"), "rev": head}
    assert resolve_dataset_source("dvc://data/catalog").to_dict()["rev"] == "HEAD"


@pytest.mark.usefixtures("no_catalog")
def test_an_address_with_a_revision_has_the_md5_of_that_revision_and_not_todays(project: Path) -> None:
    from mammo_ml.dvc_dataset_source import DVCDatasetSource

    source = DVCDatasetSource._resolve("dvc://data/catalog@HEAD~0")
    assert (source.load() / "films.csv").read_text(encoding="utf-8") == "film_id\nmdb001\n"
    assert source.md5 != computed_md5(project / "data" / "catalog")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("dvc://data/catalog@0123456", "this clone has no commit '0123456'"),
        ("dvc://data/catalog@HEAD~1", "dvc.lock of that commit has no output 'data/catalog'"),
        ("dvc://data/nothing@HEAD~0", "has no output 'data/nothing'"),
    ],
)
@pytest.mark.usefixtures("project")
def test_an_address_of_nothing_is_told(address: str, told: str) -> None:
    from mammo_ml.dvc_dataset_source import DVCDatasetSource

    with pytest.raises(MammoError) as error:
        DVCDatasetSource._resolve(address)
    assert told in str(error.value)


@pytest.mark.usefixtures("no_catalog")
def test_a_runs_input_loads_back_as_the_bytes_the_run_read(project: Path, tmp_path: Path) -> None:
    import mlflow.data

    store = Store(project)
    experiment = store.experiment("mini_mias")
    run_id = store.new_run(experiment, "a stage", {})
    read = TrackedData(Path("data/catalog"), md5=md5_in_lock(project))
    StageRun(store, experiment, run_id, "a stage").log_data([read], project)

    (logged,) = store.client.get_run(run_id).inputs.dataset_inputs
    source = mlflow.data.get_source(logged)
    assert logged.dataset.source_type == "dvc"
    assert logged.dataset.digest == read.md5
    assert source.to_dict() == {"path": "data/catalog", "md5": read.md5, "rev": git(project, "rev-parse", "HEAD")}
    # the workspace has other bytes by now: these come from DVC's cache
    loaded = source.load(tmp_path)
    assert loaded == tmp_path / "catalog"
    assert computed_md5(loaded) == read.md5


def test_the_data_behind_a_bundle_are_inputs_of_the_run_that_registers_it(project: Path) -> None:
    import mlflow.data

    output = "data/finalize_classifier"
    found = training_data(project, output, computed_md5(project / output))
    store = Store(project)
    experiment = store.experiment("mini_mias")
    run_id = store.new_run(experiment, "register", {})
    StageRun(store, experiment, run_id, "register").log_data(found, project)

    logged = {one.dataset.name: one for one in store.client.get_run(run_id).inputs.dataset_inputs}
    rev = git(project, "rev-parse", "--short=7", "HEAD")
    paths = ["mammo_ml/datasets/mini_mias_sha256.csv", "data/ingest", "data/catalog", "data/tune_classifier"]
    assert sorted(logged) == sorted(f"{path} @ {rev}" for path in paths)
    source = mlflow.data.get_source(logged[f"data/ingest @ {rev}"])
    assert source.to_dict()["md5"] == computed_md5(project / "data" / "ingest")
    assert training_data(project, output, "0" * 32) == []


def md5_in_lock(project: Path) -> str:
    """md5 of data/catalog as dvc.lock has it."""
    found = output_md5_at(project, "HEAD", "data/catalog")
    assert found is not None
    return found


@pytest.mark.usefixtures("no_catalog")
def test_bytes_that_nobody_has_any_more_are_told(project: Path, tmp_path: Path) -> None:
    from mammo_ml.dvc_dataset_source import DVCDatasetSource

    gone = hashlib.md5(b"gone", usedforsecurity=False).hexdigest()
    with pytest.raises(MammoError, match=r"the run read|neither in the workspace nor in DVC"):
        DVCDatasetSource("data/catalog", gone, "HEAD").load(tmp_path)
    shutil.rmtree(tmp_path / "catalog", ignore_errors=True)
    with pytest.raises(MammoError, match="dvc fetch --all-commits"):
        DVCDatasetSource("data/nothing", gone, "no-git").load(tmp_path)
