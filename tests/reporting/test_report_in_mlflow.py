"""What the report takes from MLflow, the times of stages, and what it gives: itself, with the pass."""

from pathlib import Path

from mammo_ml import tracking
from mammo_ml.tracking import StageEntry, Store, closing, current_pass


def test_times_are_those_of_live_runs_and_the_report_is_kept_with_its_pass(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("dataset: mini_mias\n", encoding="utf-8")
    train, split, evaluate = (StageEntry(stage, None, {}, {}) for stage in ("train", "split", "evaluate_detector"))
    entries = [train, split, evaluate]
    assert tracking.stage_seconds(tmp_path, "mini_mias", entries) == {}
    assert not (tmp_path / tracking.FOLDER).exists(), "a report makes no store"

    store, a_pass = Store(tmp_path), current_pass(tmp_path, "mini_mias")
    parent = store.open_pass(store.experiment("mini_mias"), a_pass)
    with closing(parent):
        for entry, tags in ((train, {}), (split, {"mammo.rebuilt": True}), (evaluate, {})):
            with closing(store.open_stage(parent, entry, a_pass, tags)):
                pass
    seconds = tracking.stage_seconds(tmp_path, "mini_mias", entries)
    assert list(seconds) == ["train"]
    assert 0 <= seconds["train"] < 60

    (tmp_path / "report.html").write_text("<p>fine</p>", encoding="utf-8")
    tracking.log_to_pass(tmp_path, "mini_mias", [tmp_path / "report.html"])
    kept = store.client.get_run(parent.run_id)
    assert [file.path for file in store.client.list_artifacts(parent.run_id)] == ["report.html"]
    assert kept.info.status == "FINISHED"
    assert len(store.client.search_runs([parent.experiment], "tags.`mammo.level` = 'pass'")) == 1
