"""A registered version says how many corrections taught it."""

from pathlib import Path

import pytest

from mammo_ml.tracking import Store
from tests.small_project import STAGES, make_project, register, write


@pytest.mark.slow
def test_a_version_is_tagged_with_the_findings_that_taught_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, outputs, sections = STAGES["finalize_classifier"]
    monkeypatch.setitem(STAGES, "finalize_classifier", ([*code, "data/cut/feedback"], outputs, sections))
    cuts = tmp_path / "project" / "data" / "cut" / "feedback" / "cuts.csv"
    write(cuts, "cut_id,kind\na_centred_0,centred\na_jittered_0,jittered\nb_centred_0,centred\nc_centred_0,rejected\n")
    folder = make_project(tmp_path / "project")

    number = register(folder, folder / "data" / "finalize_classifier")

    client = Store(folder).client
    version = client.get_model_version("mammo-classifier", str(number))
    assert version.tags["feedback_lesions"] == "2"
    inputs = client.get_run(version.run_id).inputs.dataset_inputs
    assert any(given.dataset.name.startswith("data/cut/feedback") for given in inputs)
