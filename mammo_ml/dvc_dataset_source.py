"""A data set under DVC as MLflow knows it: path, md5 and git revision. Found by the entry point mlflow.dataset_source.

Strings of the form `dvc://<path>@<rev>` are resolved to one.
"""

import tempfile
from pathlib import Path
from typing import Any

from mlflow.data.dataset_source import DatasetSource

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

    def load(self, folder: Path | None = None) -> Path:
        """Path of the data: the workspace's own where its bytes are these, else fetched from DVC into `folder`.

        Raises:
            MammoError: when DVC has other bytes under this path at this revision.
        """
        own = Path(self.path)
        if own.exists() and computed_md5(own) == self.md5:
            return own
        from dvc.api import DVCFileSystem

        target = (folder or Path(tempfile.mkdtemp(prefix="dvc-"))) / own.name
        DVCFileSystem(".", rev=self.rev).get(self.path, str(target), recursive=True)
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
        return cls(path or rev, data_md5(Path(path or rev), Path.cwd()), rev if path else "HEAD")

    def to_dict(self) -> dict[str, str]:
        """Path, md5 and rev."""
        return {"path": self.path, "md5": self.md5, "rev": self.rev}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> "DVCDatasetSource":
        """Read what `to_dict` gave."""
        return cls(source_dict["path"], source_dict["md5"], source_dict["rev"])
