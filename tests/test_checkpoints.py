"""Tensor files that tell whether they are whole, and which checkpoint of several is believed."""

import os
import pickle
import resource
from contextlib import contextmanager

import pytest
import torch

from mammo_ml.checkpoints import Checkpoints, DamagedFileError, read_sealed, write_sealed
from mammo_ml.errors import MammoError

TENSORS = {
    "conv": torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).float().to(memory_format=torch.channels_last),
    "step": torch.tensor(7.0),
    "state": torch.arange(9, dtype=torch.uint8),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "none": torch.empty(0, 4),
}
NOTES = {"history": [1.5, float("inf")], "text": "ü\n"}


def checkpoints(folder, key="key"):
    return Checkpoints(folder, key)


def save(folder, *steps, key="key"):
    for step in steps:
        checkpoints(folder, key).save(step, {"weight": torch.full((3,), float(step))}, {"step": step})
    return sorted(folder.iterdir())


def newest_step(folder):
    found = checkpoints(folder).newest()
    return found and found[1]["step"]


# --- one file ---------------------------------------------------------------------------------------------------------


def test_tensors_and_notes_survive_their_file(tmp_path):
    write_sealed(tmp_path / "new" / "a", TENSORS, NOTES)
    tensors, notes = read_sealed(tmp_path / "new" / "a")
    assert notes == NOTES
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        torch.testing.assert_close(tensors[name], value, rtol=0, atol=0)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_tensors_that_share_memory_can_be_written(tmp_path):
    whole = torch.arange(6.0)
    write_sealed(tmp_path / "a", {"whole": whole, "part": whole[2:4]}, {})
    assert read_sealed(tmp_path / "a")[0]["part"].tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("tensors", "notes"),
    [
        ({"a": torch.zeros(2, 3)}, {"n": 2}),
        ({"b": torch.zeros(2, 3)}, {"n": 1}),
        ({"a": torch.zeros(3, 2)}, {"n": 1}),
        ({"a": torch.zeros(2, 3, dtype=torch.int32)}, {"n": 1}),
        ({"a": torch.zeros(2, 3).index_fill(0, torch.tensor(1), 1e-30)}, {"n": 1}),
    ],
    ids=["notes", "name", "shape", "type", "value"],
)
def test_a_seal_taken_from_another_file_does_not_fit(tmp_path, monkeypatch, tensors, notes):
    write_sealed(tmp_path / "whole", {"a": torch.zeros(2, 3)}, {"n": 1})
    from mammo_ml import checkpoints as module

    own = module.tensors_sha256({"a": torch.zeros(2, 3)}, '{"n": 1}')
    with monkeypatch.context() as patched:
        patched.setattr(module, "tensors_sha256", lambda *_: own)
        write_sealed(tmp_path / "forged", tensors, notes)
    with pytest.raises(DamagedFileError, match=r"forged: was changed: sha256 .*, written was "):
        read_sealed(tmp_path / "forged")


def test_a_file_that_is_missing_or_not_sealed_is_refused_by_name(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "bare")
    save_file({"a": torch.zeros(2)}, tmp_path / "odd", metadata={"sealed": "[1]"})
    for name, reason in {"bare": "holds no sha256", "odd": "holds no sha256", "missing": "no such file"}.items():
        with pytest.raises(DamagedFileError, match=f"{name}: {reason}"):
            read_sealed(tmp_path / name)


class Marker:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_under_the_name_of_a_checkpoint_is_refused_and_not_run(tmp_path, capsys):
    hostile = tmp_path / "folder" / "step_0000000009.safetensors"
    save(tmp_path / "folder", 1)
    hostile.write_bytes(pickle.dumps(Marker(str(tmp_path / "marker"))))
    assert newest_step(tmp_path / "folder") == 1
    assert str(hostile) in capsys.readouterr().err
    assert not (tmp_path / "marker").exists()


# --- several checkpoints ----------------------------------------------------------------------------------------------


def test_the_last_two_are_kept_and_the_newest_is_read_without_a_word(tmp_path, capsys):
    assert newest_step(tmp_path) is None
    names = [path.name for path in save(tmp_path, 1, 2, 10, 9999)]
    assert names == ["step_0000000010.safetensors", "step_0000009999.safetensors"]
    assert newest_step(tmp_path) == 9999
    assert capsys.readouterr().err == ""


def test_one_of_another_configuration_is_refused_by_name(tmp_path, capsys):
    before, newest = save(tmp_path, 1, 2)
    save(tmp_path, 2, key="other")
    assert newest_step(tmp_path) == 1
    assert capsys.readouterr().err == (
        f"WARNING: checkpoint refused: {newest}: belongs to configuration other, this training is key\n"
        f"WARNING: the training goes on from the checkpoint before: {before}\n"
    )


def test_where_none_is_good_the_start_from_the_beginning_is_said(tmp_path, capsys):
    for path in save(tmp_path, 1, 2):
        path.write_bytes(b"")
    assert newest_step(tmp_path) is None
    message = capsys.readouterr().err
    assert message.count("checkpoint refused") == 2
    assert "the training STARTS OVER from step 1" in message


def test_a_refused_checkpoint_of_a_later_step_never_pushes_out_a_good_one(tmp_path):
    _, newest = save(tmp_path, 4, 8)
    newest.write_bytes(b"")
    assert newest_step(tmp_path) == 4
    assert [int(path.stem[5:]) for path in save(tmp_path, 5)] == [4, 5]
    assert newest_step(tmp_path) == 5


def test_what_a_kill_left_half_written_is_removed_by_the_next_save(tmp_path):
    (tmp_path / "step_0000000003.safetensors.partial").write_bytes(b"half")
    assert newest_step(tmp_path) is None
    assert [path.name for path in save(tmp_path, 5)] == ["step_0000000005.safetensors"]


def test_a_checkpoint_is_due_when_the_last_one_is_old_enough(tmp_path):
    assert Checkpoints(tmp_path, "key", seconds=0).due
    assert not Checkpoints(tmp_path, "key", seconds=3600).due


@contextmanager
def no_file_larger_than(n_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.bar("T3")
def test_t3_without_room_for_a_checkpoint_the_file_is_named_and_the_one_before_untouched(tmp_path, record_property):
    before = save(tmp_path, 1, 2)
    contents = [path.read_bytes() for path in before]
    with (
        no_file_larger_than(1000),
        pytest.raises(MammoError, match=r"step_0000000003\.safetensors: cannot be written .*: File too large"),
    ):
        checkpoints(tmp_path).save(3, {"weight": torch.zeros(1000)}, {"step": 3})
    assert sorted(tmp_path.iterdir()) == before
    assert [path.read_bytes() for path in before] == contents
    assert newest_step(tmp_path) == 2
    record_property("tried", "a file size limit reached in the middle of a checkpoint")
