"""The audit: what is noticed of lines that were edited, taken out, put in or copied, and what a kill leaves."""

import json
from pathlib import Path
from typing import Any

import pytest

from mammo_ml import registry
from mammo_ml.errors import BadInputError
from mammo_ml.registry import audit, overview
from mammo_ml.registry.audit import Entry
from mammo_ml.tracking import Store
from tests.registry.toys import GATE, copy_registry
from tests.toy_models import NAME, toy_world


@pytest.fixture(scope="module")
def audited_template(registry_template: Path, configuration: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 2 is champion after 1; version 3 was refused."""
    folder = copy_registry(registry_template, tmp_path_factory.mktemp("audited") / "template")
    with toy_world(configuration):
        for number in (1, 2, 3):
            registry.promote(NAME, folder, GATE, number=number)
    return folder


@pytest.fixture
def audited(audited_template: Path, tmp_path: Path) -> Path:
    return copy_registry(audited_template, tmp_path / "audited")


def set_tag(workspace: Path, key: str, value: str) -> None:
    Store(workspace).client.set_registered_model_tag(NAME, key, value)


def tag(workspace: Path, key: str) -> str:
    return str(Store(workspace).client.get_registered_model(NAME).tags[key])


def faults(workspace: Path) -> dict[int, str]:
    lines = audit.audit_of(Store(workspace), NAME).lines
    return {line.number: line.fault for line in lines if line.fault}


def test_an_untouched_audit_is_sound_and_chained(audited: Path) -> None:
    known = audit.audit_of(Store(audited), NAME)
    assert known.faults == []
    assert known.champions == (1, 2)
    assert [line.content["outcome"] for line in known.lines] == ["promoted", "promoted", "refused"]
    assert all(len(line.text) < 5000 for line in known.lines)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_edited_line_is_noticed(audited: Path, number: int) -> None:
    key = f"audit.{number:06d}"
    set_tag(audited, key, tag(audited, key).replace('"who": "', '"who": "not '))
    assert "was changed: the signature in it does not fit" in faults(audited)[number]
    assert (overview.history(NAME, audited)["record"] != "sound").sum() >= 1


def test_a_line_taken_out_is_noticed(audited: Path) -> None:
    Store(audited).client.delete_registered_model_tag(NAME, "audit.000002")
    assert list(faults(audited)) == [3]
    with pytest.raises(BadInputError, match="moved past the gate"):
        registry.champion(NAME, audited)


def test_a_line_copied_to_another_place_or_model_is_noticed(audited: Path) -> None:
    set_tag(audited, "audit.000004", tag(audited, "audit.000001"))
    assert "was made as line 1 of mammo-classifier" in faults(audited)[4]
    tags = {"audit.000001": tag(audited, "audit.000001")}
    assert "of mammo-classifier" in audit.read_audit("mammo-other", tags).lines[0].fault


def test_a_line_that_nobody_signed_makes_no_champion(workspace: Path) -> None:
    set_tag(workspace, "audit.000001", json.dumps({"signed": {"outcome": "promoted", "to": 1, "number": 1}}))
    Store(workspace).client.set_registered_model_alias(NAME, "champion", "1")
    with pytest.raises(BadInputError, match="line 1: is not a signature") as told:
        registry.champion(NAME, workspace)
    assert "mammo-ml promote" in str(told.value)


def test_another_users_lines_are_told_with_the_remedy(
    audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.key").write_text("k" * 64)
    monkeypatch.setenv("MAMMO_SIGNING_KEY", str(tmp_path / "other.key"))
    assert "was made with another key" in faults(audited)[1]
    with pytest.raises(BadInputError, match="was made with another key"):
        registry.champion(NAME, audited)


def test_lines_outlive_the_versions_they_are_about(audited: Path) -> None:
    Store(audited).client.delete_model_version(NAME, "1")
    assert audit.audit_of(Store(audited), NAME).faults == []
    assert len(overview.history(NAME, audited)) == 3


# --------------------------------------------------------------------------------------------------- what a kill leaves


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("dies_at", "champion_left", "outcome"),
    [
        ("set_registered_model_alias", 2, "interrupted"),
        ("set_registered_model_tag", 1, "rolled back"),
        ("set_model_version_tag", 1, "rolled back"),
        ("delete_registered_model_tag", 1, "rolled back"),
    ],
)
def test_a_move_that_was_broken_off_is_settled_by_the_next_command(
    audited: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str, champion_left: int, outcome: str
) -> None:
    store = Store(audited)
    announce = store.client.set_registered_model_tag

    def die(*arguments: Any) -> None:
        if "audit.pending" in arguments and dies_at == "set_registered_model_tag":
            announce(*arguments[1:])
        else:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(type(store.client), dies_at, die)
        with pytest.raises(Killed):
            audit.move(store, NAME, Entry("rollback", "rolled back", 2, 1))
    assert registry.champion(NAME, audited) == champion_left, "at once, before anything is settled"
    audit.settle(store, NAME)
    assert registry.champion(NAME, audited) == champion_left
    known = audit.audit_of(store, NAME)
    assert (known.faults, known.pending) == ([], None)
    assert [line.content["outcome"] for line in known.lines][3:] == [outcome]


def test_an_announcement_that_nobody_signed_stops_what_would_move_the_alias(audited: Path) -> None:
    set_tag(audited, "audit.pending", "{}")
    with pytest.raises(BadInputError, match=r"audit\.pending"):
        registry.rollback(NAME, audited)
    assert registry.champion(NAME, audited) == 2
