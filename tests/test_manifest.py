"""Every difference between a folder and its manifest is told by the file's name."""

import json
from pathlib import Path

import pytest

from mammo_ml.errors import BadInputError
from mammo_ml.manifest import verify_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "deeper" / "b.txt").write_text("b")
    (folder / "empty").touch()
    write_manifest(folder)
    return folder


def told(folder: Path) -> list[str]:
    with pytest.raises(BadInputError) as caught:
        verify_manifest(folder)
    return caught.value.problems


def test_an_untouched_folder_gives_the_hash_of_its_manifest(folder: Path) -> None:
    before = verify_manifest(folder)
    assert before == verify_manifest(folder)
    assert write_manifest(folder) == before


def test_every_fault_of_a_folder_is_told_in_one_run(folder: Path, tmp_path: Path) -> None:
    (folder / "a.txt").write_text("A")
    (folder / "deeper" / "b.txt").unlink()
    (folder / "empty").unlink()
    (folder / "empty").symlink_to(tmp_path / "nowhere")
    (folder / "deeper" / "c.txt").touch()
    (folder / "elsewhere").symlink_to(tmp_path)
    problems = told(folder)
    assert problems[0].startswith("a.txt was changed: sha256 559aead08264…")
    assert problems[1:] == [
        "deeper/b.txt is missing",
        "empty is a link or no file",
        "deeper/c.txt was added",
        "elsewhere was added and is a link",
    ]


def test_a_folder_replaced_by_a_link_to_the_same_files_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "deeper").rename(tmp_path / "moved")
    (folder / "deeper").symlink_to(tmp_path / "moved")
    assert told(folder) == ["deeper/b.txt is missing", "deeper was added and is a link"]


def test_files_that_came_later_are_left_to_whoever_names_them(folder: Path) -> None:
    (folder / "later").touch()
    assert told(folder) == ["later was added"]
    assert verify_manifest(folder, besides=["later"]) == verify_manifest(folder, besides=["later", "never"])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": []}', "[" * 100_000])
def test_a_manifest_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    assert told(folder) == ["manifest.json is not a list of hashes"]


def test_a_manifest_cannot_point_out_of_its_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    hashes = json.loads((folder / "manifest.json").read_text())["sha256"]
    (folder / "manifest.json").write_text(json.dumps({"sha256": hashes | {"../secret": hashes["empty"]}}))
    assert told(folder) == ["../secret is missing"]
