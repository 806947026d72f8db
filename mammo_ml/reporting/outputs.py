"""What a pass of the pipeline left behind, read for a report: every file is compared with dvc.lock as it is opened."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mammo_ml import tracking
from mammo_ml.errors import MammoError
from mammo_ml.tracking import StageEntry

NOT_HASHED = ("data/ingest", "data/cut")
"""Folders of films and pictures: too large to be hashed for a report, and their files carry hashes of their own."""
Metrics = Mapping[str, Mapping[str, float]]
"""metrics.json: protocol, figure, number; NaN where one is undefined."""


def without_null(found: Mapping[str, Mapping[str, float | None]]) -> Metrics:
    """Figures by protocol as numbers: null becomes NaN."""
    return {
        protocol: {key: float("nan") if value is None else float(value) for key, value in figures.items()}
        for protocol, figures in found.items()
    }


class NotHereError(MammoError):
    """A file that a part of the report needs is not there; its text names it."""


class Outputs:
    """Outputs of the stages in a workspace; what is missing or not as dvc.lock says is noted in `faults`."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.faults: list[str] = []
        self._checked: set[str] = set()

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """Content of params.yaml; nothing where there is none."""
        path = self.workspace / "params.yaml"
        found = tracking.read_dvc_yaml(path.read_bytes()) if path.is_file() else None
        return found if isinstance(found, dict) else {}

    @property
    def dataset(self) -> str:
        """Name of the data set; "unknown" without params.yaml."""
        return str(self.parameters.get("dataset", "unknown"))

    @cached_property
    def entries(self) -> list[tuple[StageEntry, dict[str, str]]]:
        """Finished stages of dvc.lock, each with the md5 of its outputs; none where it cannot be read."""
        try:
            return tracking.locked_entries(self.workspace)
        except yaml.YAMLError as error:
            self.note(f"dvc.lock is not YAML: {error}")
            return []

    @cached_property
    def locked(self) -> dict[str, str]:
        """md5 of every output that dvc.lock knows, by its path."""
        return {path: md5 for _, outputs in self.entries for path, md5 in outputs.items()}

    def note(self, fault: str) -> None:
        """Add a fault, once."""
        if fault not in self.faults:
            self.faults.append(fault)

    def has(self, name: str) -> bool:
        """Tell whether a file or folder is there."""
        return (self.workspace / name).exists()

    def path(self, name: str) -> Path:
        """Path of an output, compared with dvc.lock the first time.

        Raises:
            NotHereError: when it is not there.
        """
        path = self.workspace / name
        if not path.exists():
            self.note(f"{name} is not here")
            raise NotHereError(f"{name} is not here. `dvc repro` makes it, `dvc pull` fetches it.")
        self._compare(name)
        return path

    def _compare(self, name: str) -> None:
        output = next((path for path in self.locked if name == path or name.startswith(f"{path}/")), None)
        if output is None or output in self._checked or output.startswith(NOT_HASHED):
            return
        self._checked.add(output)
        if tracking.computed_md5(self.workspace / output) != self.locked[output]:
            self.note(f"{output} is not what dvc.lock says: it was changed, or its stage did not finish")

    def check_order(self) -> None:
        """Note every stage whose result was made from something that another stage has made anew since."""
        for entry, _ in self.entries:
            for path, md5 in entry.data.items():
                if self.locked.get(path, md5) != md5:
                    self.note(f"{entry.label} was made from an earlier {path}: run `dvc repro`")

    def metrics(self, stage: str) -> Metrics:
        """Content of a stage's metrics.json.

        Raises:
            NotHereError: when it is not there or not JSON.
        """
        name = f"reports/{stage}/metrics.json"
        try:
            found = json.loads(self.path(name).read_text(encoding="utf-8"))
            return without_null(found)
        except (ValueError, AttributeError, TypeError) as error:
            self.note(f"{name} cannot be read")
            raise NotHereError(f"{name} cannot be read: {error}") from None

    def table(self, name: str) -> pd.DataFrame:
        """A CSV file.

        Raises:
            NotHereError: when it is not there or no table.
        """
        path = self.path(name)
        try:
            return pd.read_csv(path)
        except ValueError as error:
            self.note(f"{name} cannot be read")
            raise NotHereError(f"{name} cannot be read: {error}") from None
