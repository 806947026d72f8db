import json
from pathlib import Path

import pandas as pd
import pytest

from mammo_ml.external.record import METRICS, TAG, external_section, log_validation
from mammo_ml.external.report import metrics_json
from mammo_ml.external.validation import ExternalFigures
from mammo_ml.lineage import open_version
from mammo_ml.registry.files import run_file
from mammo_ml.tracking import Store
from tests.toy_models import NAME

FIGURES = ExternalFigures(
    external={"film_auc_macro": 0.61, "film_auc_macro_lo": 0.5, "film_auc_macro_hi": 0.7,
              "n_women": 9.0, "n_films": 9.0, "n_lesions": 4.0},
    internal={"film_auc_macro": 0.7}, lesion_films={}, absent={"auc_macro": "no patches"}, notes=("A guess.",),
    subgroups=pd.DataFrame(),
)  # fmt: skip


def test_a_validation_is_logged_to_the_version_and_shown_with_its_card(workspace: Path) -> None:
    version, store = open_version(f"{NAME}/2", workspace), Store(workspace)
    assert "None yet" in external_section(version, workspace)
    folder = workspace / "reports"
    folder.mkdir()
    (workspace / "data" / "datasets" / "other").mkdir(parents=True)
    about = {"model": f"{NAME}/2", "kind": "classifier", "set": "other", "date": "2026-11-23"}
    (folder / METRICS).write_text(metrics_json(FIGURES, about), encoding="utf-8")
    run_id = log_validation(store, version, "other", workspace, folder, FIGURES)

    run = store.client.get_run(run_id)
    assert run.data.metrics["external.film_auc_macro"] == 0.61
    tags = {"model": NAME, "model_version": "2", "external_set": "other", "mlflow.parentRunId": version.run_id}
    assert tags.items() <= run.data.tags.items()
    # the version's own files and signed tags are as they were
    section = external_section(open_version(f"{NAME}/2", workspace), workspace)
    assert "| `film_auc_macro` | 0.700 | 0.610 [0.500, 0.700] |" in section
    assert "- Not computed: auc_macro: no patches." in section
    found = store.client.get_model_version(NAME, "2")
    assert "External validation" in found.description

    path = run_file(store, run_id, METRICS)
    path.write_text(path.read_text("utf-8").replace("0.61", "0.91"), encoding="utf-8")
    section = external_section(version, workspace)
    assert "0.910" not in section
    assert "**Not shown:** other: metrics.json of its run was changed" in section

    signed = json.loads(found.tags[f"{TAG}other"])
    signed["signed"]["set"] = "another"
    store.client.set_model_version_tag(NAME, "2", f"{TAG}another", json.dumps(signed))
    assert "another: tag external.another was changed" in external_section(version, workspace)


@pytest.mark.parametrize("which", ["1", "3"])
def test_one_versions_validation_is_no_others(workspace: Path, which: str) -> None:
    assert "None yet" in external_section(open_version(f"{NAME}/{which}", workspace), workspace)
