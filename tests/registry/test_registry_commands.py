"""What the commands print and how they end; promote and rollback are run as commands by the tests of bars G2 and G3."""

from pathlib import Path

import pandas as pd
from click.testing import Result
from typer.testing import CliRunner

from mammo_ml.cli import app
from mammo_ml.tracking import Store
from tests.toy_models import NAME


def run(workspace: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--workspace", str(workspace)])


def test_the_commands_show_versions_champions_history_and_differences(workspace: Path, tmp_path: Path) -> None:
    assert "no version has the alias 'champion'" in run(workspace, "models").output
    assert run(workspace, "promote", NAME, "--version", "1").exit_code == 0
    refused = run(workspace, "promote", NAME, "--version", "3")
    assert refused.exit_code == 1
    assert "REFUSED" in refused.output
    shown = run(workspace, "models").output
    assert "champion is version 1, promoted" in shown
    assert "by_patient.auc_macro" in shown

    history = run(workspace, "history", NAME, "--csv", str(tmp_path / "history.csv"))
    assert history.exit_code == 0
    assert "no worse than champion" in history.output
    table = pd.read_csv(tmp_path / "history.csv")
    assert table[["outcome", "to", "record"]].to_numpy().tolist() == [["promoted", 1, "sound"], ["refused", 3, "sound"]]
    assert "is not above -0.020" in table["failed"][1]

    compared = run(workspace, "compare", f"{NAME}/2", f"{NAME}@champion", "--out", str(tmp_path / "difference.png"))
    assert compared.exit_code == 0, compared.output
    assert "by_patient.brier (low)" in compared.output
    assert f"Difference: {NAME}/2 minus {NAME}/1" in compared.output
    assert (tmp_path / "difference.png").read_bytes().startswith(b"\x89PNG")
    assert (
        run(workspace, "compare", "2", "1", "--name", NAME).output
        == run(workspace, "compare", f"{NAME}/2", f"{NAME}/1").output
    )


def test_what_is_wrong_is_told_without_a_traceback(workspace: Path) -> None:
    for words, told in (
        (("compare", "2", "1"), "'2' names no model"),
        (("compare", f"{NAME}/4", f"{NAME}/1"), "it was registered without predictions.csv, items.csv"),
        (("history", "mammo-unknown"), "not in the registry"),
        (("rollback", NAME), "had no other champion before"),
    ):
        result = run(workspace, *words)
        assert result.exit_code == 1
        assert told in result.output
        assert "Traceback" not in result.output


def test_a_changed_record_ends_with_1_and_is_named(workspace: Path) -> None:
    assert run(workspace, "promote", NAME, "--version", "1").exit_code == 0
    client = Store(workspace).client
    text = client.get_registered_model(NAME).tags["audit.000001"]
    client.set_registered_model_tag(NAME, "audit.000001", text.replace('"who": "', '"who": "not '))
    result = run(workspace, "history", NAME)
    assert result.exit_code == 1
    assert "the signature in it does not fit" in result.output
    assert "moved past the gate" in run(workspace, "models").output
