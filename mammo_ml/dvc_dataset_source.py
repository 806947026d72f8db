"""A data set under DVC as MLflow knows it: path, md5 and git revision. Found by the entry point mlflow.dataset_source.

Strings of the form `dvc://<path>@<rev>` are resolved to one.
"""

import tempfile
from pathlib import Path
from typing import Any

from mlflow.data.dataset_source import DatasetSource

from mammo_ml.dvc_record import cache_of, cached_files, git, has_commit, output_md5_at, restore
from mammo_ml.errors import MammoError
from mammo_ml.tracking import computed_md5, data_md5

PREFIX = "dvc://"


class DVCDatasetSource(DatasetSource):  # type: ignore[misc]
    """Source of a data set: `path` in the DVC project, `md5` of its bytes, `rev` of the code that read it."""

    def __init__(self, path: str, md5: str, rev: str) -> None:
        self.path, self.md5, self.rev = path, md5, rev

    @staticmethod
    def _get_source_type() -> str:
        return "dvc"

    def load(self, folder: Path | None = None, workspace: Path | None = None) -> Path:
        """Path of the data: the workspace's own where its bytes are these, else a copy.

        The copy comes from DVC's cache, by the md5; what the cache lacks, DVC is asked for at the revision.

        Args:
            folder: where a copy goes; a new temporary one when None.
            workspace: folder with dvc.yaml; the current one when None.

        Raises:
            MammoError: when neither has these bytes under this path.
        """
        where = workspace or Path()
        own = where / self.path
        if own.exists() and computed_md5(own) == self.md5:
            return own
        target = (folder or Path(tempfile.mkdtemp(prefix="dvc-"))) / own.name
        if (where / ".dvc").is_dir() and cached_files(cache := cache_of(where), self.md5) is not None:
            restore(cache, self.md5, target)
            return target
        _fetch(where, self, target)
        found = computed_md5(target)
        if found != self.md5:
            raise MammoError(f"{self.path} at {self.rev}: md5 {found}, the run read {self.md5}")
        return target

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return isinstance(raw_source, str) and raw_source.startswith(PREFIX)

    @classmethod
    def _resolve(cls, raw_source: str) -> "DVCDatasetSource":
        path, _, rev = raw_source.removeprefix(PREFIX).rpartition("@")
        path, rev = (path, rev) if path else (rev, "HEAD")
        return cls(path, _md5_of(path, rev, Path.cwd()), rev)

    def to_dict(self) -> dict[str, str]:
        """Path, md5 and rev."""
        return {"path": self.path, "md5": self.md5, "rev": self.rev}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> "DVCDatasetSource":
        """Read what `to_dict` gave."""
        return cls(source_dict["path"], source_dict["md5"], source_dict["rev"])


def _md5_of(path: str, rev: str, workspace: Path) -> str:
    """md5 of a path at a revision; HEAD, and any revision outside git, is the workspace as it is."""
    if rev == "HEAD" or git(workspace, "rev-parse", "HEAD") is None:
        return data_md5(Path(path), workspace)
    if not has_commit(workspace, rev):
        raise MammoError(f"{PREFIX}{path}@{rev}: this clone has no commit '{rev}'. `git fetch` may bring it.")
    found = output_md5_at(workspace, rev, path)
    if found is None:
        raise MammoError(f"{PREFIX}{path}@{rev}: dvc.lock of that commit has no output '{path}'.")
    return found


def _fetch(workspace: Path, source: DVCDatasetSource, target: Path) -> None:
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import RevError

    try:
        DVCFileSystem(str(workspace), rev=source.rev).get(source.path, str(target), recursive=True)
    except (DvcException, RevError, OSError) as error:
        raise MammoError(
            f"{source.path} with md5 {source.md5} is neither in the workspace nor in DVC's cache, and DVC cannot "
            f"fetch it at {source.rev}: {error}\n`dvc fetch --all-commits` brings what a remote has."
        ) from None
