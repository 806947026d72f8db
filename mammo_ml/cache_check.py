"""Outputs that DVC takes for what dvc.lock says, and are not: it trusts an object by its mode bits, a file by its time.

`dvc checkout` restores damaged bytes with exit status 0, and `dvc status` calls them up to date.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mammo_ml.errors import MammoError
from mammo_ml.tracking import computed_md5

REMEDY = (
    "DVC does not notice this. Delete these files and run `dvc pull`, or `make repro`, which makes them again "
    "where no remote has them."
)


def damaged_outputs(workspace: Path) -> list[str]:
    """Name every cached output of dvc.lock, and every object it would be restored from, whose md5 is another.

    An output that DVC itself finds changed or missing is not named: `dvc repro` makes or restores it. Reads each file
    once, about 0.5 GB/s.

    Returns:
        A line per damaged file, its path relative to the workspace; none where all is well or nothing ran yet.

    Raises:
        MammoError: when dvc.yaml or dvc.lock cannot be read.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(workspace)) as repo:
            outs = [out for out in repo.index.outs if out.use_cache and out.hash_info and out.hash_info.name == "md5"]
            return [line for out in outs for line in _damaged(out, workspace.resolve())]
    except DvcException as error:
        raise MammoError(f"{workspace}: the outputs of earlier runs cannot be checked: {error}") from None


def _damaged(out: Any, root: Path) -> Iterator[str]:
    listing = _object(out, out.hash_info.value)
    if out.hash_info.isdir:
        if not listing.is_file():
            return
        if computed_md5(listing) != out.hash_info.value.removesuffix(".dir"):
            yield f"{_name(listing, root)}: the list of the files of {out} was changed"
            return
        files = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_bytes())}
    else:
        files = {"": out.hash_info.value}
    unchanged = out.exists and not out.changed_checksum()
    for name, expected in files.items():
        output, cached = Path(out.fs_path) / name, _object(out, expected)
        for path in (output, cached) if unchanged else (cached,):
            if path.is_file() and (found := computed_md5(path)) != expected:
                of = "" if path == output else f" (of {_name(output, root)})"
                yield f"{_name(path, root)}{of}: md5 {found[:12]}…, dvc.lock says {expected[:12]}…"


def _object(out: Any, md5: str) -> Path:
    return Path(out.cache.oid_to_path(md5))


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
