"""The version that is served, and its swap when the champion changes: a new one is loaded whole and tried first.

Whoever answers a request takes the model once and keeps it to the end, so a swap disturbs nobody. A version that cannot
be loaded, is damaged, or was made champion past the gate leaves the one before it in place; `fault` says so.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from mammo_ml.errors import MammoError
from mammo_ml.manifest import MANIFEST, file_sha256
from mammo_ml.web.models import Model

M = TypeVar("M", bound=Model)
RETRY_S = 60.0
"""A version that could not be loaded is tried again after so long."""


class Slot(Generic[M]):
    """One model behind one address.

    Args:
        name: of the registered model.
        find: gives version and folder of the champion, verified; raises where there is none that may be served.
        load: makes a model of them.
    """

    def __init__(self, name: str, find: Callable[[], tuple[int, Path]], load: Callable[[int, Path], M]) -> None:
        self.name = name
        self.fault = ""
        self.swaps = 0
        self._find, self._load = find, load
        self._model: M | None = None
        self._served: tuple[int, str] | None = None
        self._broken: tuple[tuple[int, str], float, str] | None = None

    @property
    def model(self) -> M | None:
        """The model that answers now."""
        return self._model

    def refresh(self) -> None:
        """Look at the registry once, and swap where it has another champion; never raises."""
        try:
            number, folder = self._find()
            found = (number, file_sha256(folder / MANIFEST))
            if found != self._served:
                self._swap(found, folder)
            self.fault = ""
        except Exception as error:  # of any type: a store may fail in every way, and what is served must go on
            text = str(error) if isinstance(error, MammoError) else f"{type(error).__name__}: {error}"
            kept = "" if self._model is None else f"Version {self._model.number} goes on answering. "
            self.fault = f"{kept}{text}"

    def _swap(self, found: tuple[int, str], folder: Path) -> None:
        if self._broken and self._broken[0] == found and time.monotonic() - self._broken[1] < RETRY_S:
            raise MammoError(self._broken[2])
        try:
            model = self._load(found[0], folder)
            model.check()
        except Exception as error:  # of any type, see above
            reason = f"version {found[0]} cannot be served: {error}"
            self._broken = (found, time.monotonic(), reason)
            raise MammoError(reason) from error
        self._model, self._served = model, found
        self.swaps += 1


class Watch:
    """A thread that refreshes slots every so often."""

    def __init__(self, slots: Sequence["Slot[Any]"], seconds: float) -> None:
        self._slots, self._seconds = slots, seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, once the present look is over."""
        self._end.set()
        self._thread.join(timeout=self._seconds + 5)

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            for slot in self._slots:
                slot.refresh()
