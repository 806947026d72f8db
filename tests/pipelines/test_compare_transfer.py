"""The study of transfers on drawn films: who teaches, who is looked at, and what is written."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from mammo_ml.errors import BadInputError
from mammo_ml.splits import make_folds
from mammo_ml.transfer import SETS
from mammo_ml.windows import WindowFilm, WindowTask
from pipelines import compare_transfer, evaluate_compare_transfer, ingest_cdd_cesm
from tests.transfer_sets import ASKED, write_sets

ROOT = Path(__file__).resolve().parents[2]


def run(monkeypatch: pytest.MonkeyPatch, module: Any, *options: str) -> None:
    name = module.__name__.rpartition(".")[2]
    monkeypatch.setattr("sys.argv", [name, *options])
    getattr(module, name)()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    studies = yaml.safe_load((ROOT / "pipelines/studies/params.yaml").read_text(encoding="utf-8"))
    params = {key: studies[key] for key in ("dataset", "folds", "predict_detector")} | {"compare_transfer": ASKED}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return tmp_path


def test_nobody_judges_who_has_taught(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = write_sets(workspace / "sets")
    taught: list[set[str]] = []

    class Watched(WindowTask):
        def __init__(self, model: Any, train: Sequence[WindowFilm], *rest: Any) -> None:
            taught.append({film.film_id for film in train})
            super().__init__(model, train, *rest)

    monkeypatch.setattr(compare_transfer, "WindowTask", Watched)
    for name in ASKED["configurations"]:
        out = workspace / "predicted" / f"{name}.csv"
        run(monkeypatch, compare_transfer, "--configuration", name, *options, "--out", str(out))

    films = pd.read_csv(workspace / "sets/mini_mias/catalog/films.csv", dtype="str")
    folds = make_folds(films, 20).set_index("patient_id")["fold"]
    fold_of = {row.film_id: folds[row.patient_id] for row in films.itertuples()}
    two_phases = pd.read_csv(workspace / "predicted/cbis_ddsm_then_mini_mias.csv")
    # mini_mias: 2 seeds x 5 folds; then, for each of those, a phase of CBIS-DDSM and one of mini-MIAS
    assert len(taught) == 10 + 20
    for number, own in enumerate(taught[10:]):
        fold = number // 2 % 5
        looked_at = two_phases[(two_phases["fold"] == fold) & (two_phases["seed"] == 1 + number // 10)]
        assert not own & set(looked_at["film_id"])
        if number % 2:
            assert own == {film_id for film_id, place in fold_of.items() if place != fold}
    of_mini_mias = two_phases[two_phases["dataset"] == "mini_mias"]
    assert all(fold_of[row.film_id] == row.fold for row in of_mini_mias.itertuples())
    assert set(two_phases.loc[two_phases["dataset"] != "mini_mias", "fold"]) <= {0}

    catalogs = [option for option in options if "films" not in option]
    out = workspace / "reports"
    run(
        monkeypatch,
        evaluate_compare_transfer,
        *catalogs,
        "--predicted",
        str(out.with_name("predicted")),
        "--out",
        str(out),
    )
    for name in ASKED["configurations"]:
        metrics = json.loads((out / name / "metrics.json").read_text(encoding="utf-8"))
        assert list(metrics) == list(SETS)
        assert [metrics[one]["n_women"] for one in SETS] == [15, 2, 1]
        assert ("froc_mean_gain" in metrics["mini_mias"]) == (name != "mini_mias")
    assert (out / "table.md").read_text(encoding="utf-8").count("\n") == 5
    assert (out / "chart.png").stat().st_size > 10_000


def test_cdd_cesm_is_asked_for_by_name(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAMMO_EXTERNAL", raising=False)
    with pytest.raises(BadInputError, match="MAMMO_EXTERNAL is not set, and holds no folder cdd-cesm-malignant"):
        run(monkeypatch, ingest_cdd_cesm, "--films", "films", "--catalog", "catalog")
    assert not (workspace / "films").exists()


def test_a_set_that_contradicts_itself_leaves_no_tables(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workspace / "external" / ingest_cdd_cesm.FOLDER
    (folder / "images").mkdir(parents=True)
    head = "file,patient_id,side,view,density_acr,tags,pathology\n"
    (folder / "images.csv").write_text(head + "P1_L_DM_CC.jpg,1,L,CC,B,mass,malignant\n", encoding="utf-8")
    (folder / "boxes_from_masks.csv").write_text("file,x,y,w,h,pathology\n", encoding="utf-8")
    monkeypatch.setenv("MAMMO_EXTERNAL", str(folder.parent))
    with pytest.raises(BadInputError, match=r"images\.csv line 2: images/P1_L_DM_CC\.jpg: no such file"):
        run(monkeypatch, ingest_cdd_cesm, "--films", "films", "--catalog", "catalog")
    assert not (workspace / "catalog").exists()
    shutil.rmtree(folder)
