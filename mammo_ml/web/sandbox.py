"""Processes that decode films: one that takes too long or too much is ended, and the next film gets a fresh one."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.web.preparing import Answer, receive, write_frame

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
SMALLER = "Send the film in a simpler form (PGM, or uncompressed), or reduced."


class Sandbox:
    """Some processes of `mammo_ml.web.preparing`, each with a film at a time.

    Args:
        processes: how many films are read at once.
        seconds: a film that takes longer is given up.
        memory_bytes: address space of one process.
    """

    def __init__(self, processes: int = 2, seconds: float = 20.0, memory_bytes: int = 3_000_000_000) -> None:
        self.seconds = seconds
        self._memory = memory_bytes
        self._idle: queue.Queue[_Process] = queue.Queue()
        self._all = [_Process(memory_bytes) for _ in range(processes)]
        for process in self._all:
            self._idle.put(process)

    def ask(self, request: Mapping[str, Any], data: bytes) -> Answer:
        """Answer of `mammo_ml.web.preparing.answer`; blocks until a process is free.

        Raises:
            BadInputError: when the film is refused, takes too long, or brings its process down.
        """
        process = self._idle.get()
        try:
            answer = process.ask(request, data, self.seconds)
        finally:
            self._idle.put(process)
        if "problems" in answer.facts:
            raise BadInputError("film", answer.facts["problems"], answer.facts["remedy"])
        return answer

    @property
    def starts(self) -> int:
        """How many processes were started in all."""
        return sum(process.starts for process in self._all)

    @property
    def pids(self) -> list[int]:
        """Numbers of the processes."""
        return [process.pid for process in self._all]

    def close(self) -> None:
        """End the processes."""
        for process in self._all:
            process.end()


class _Process:
    """One process, started anew where it is gone."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory = memory_bytes
        self.starts = 0
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        self.starts += 1
        # its standard error may quote what is in a film
        return subprocess.Popen(
            [sys.executable, "-m", "mammo_ml.web.preparing", str(self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ONE_THREAD},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Mapping[str, Any], data: bytes, seconds: float) -> Answer:
        if self._process.poll() is not None or not self._greeted():
            self.end()
            self._process = self._start()
            if not self._greeted():
                raise MammoError("films cannot be read: `python -m mammo_ml.web.preparing` does not start")
        late = threading.Event()
        timer = threading.Timer(seconds, self._give_up, [late])
        timer.start()
        try:
            stdin, stdout = _pipes(self._process)
            write_frame(stdin, json.dumps(dict(request)).encode())
            write_frame(stdin, data)
            stdin.flush()
            return receive(stdout)
        except (EOFError, OSError, ValueError):
            self.end()
            if late.is_set():
                problem = f"reading it took longer than the {seconds:g} s one film may have"
            else:
                problem = "reading it ended the process that read it: it is damaged, or needs too much memory"
            raise BadInputError("film", [problem], SMALLER) from None
        finally:
            timer.cancel()

    def _greeted(self) -> bool:
        """Wait until a new process says that it is ready; the others have said so."""
        if getattr(self._process, "greeted", False):
            return True
        try:
            receive(_pipes(self._process)[1])
        except (EOFError, OSError, ValueError):
            return False
        self._process.greeted = True  # type: ignore[attr-defined]
        return True

    def _give_up(self, late: threading.Event) -> None:
        late.set()
        self._process.kill()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue


def _pipes(process: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout
