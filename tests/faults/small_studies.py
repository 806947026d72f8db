"""Workers of cheap studies, forked from one process that has imported Optuna, so that many can be killed in a minute.

`python small_studies.py SCENARIO FOLDER SEED` prints one JSON object.
"""

import json
import math
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mammo_ml.errors import MammoError
from mammo_ml.tuning import Range, TuningParameters, tune

DEFAULTS = {"learning_rate": 0.001, "base": "small"}
SPACE = {"learning_rate": Range(low=0.0001, high=0.1, log=True), "base": Range(choices=("small", "wide"))}


def parameters(trials: int, **others: int) -> TuningParameters:
    return TuningParameters(trials=trials, budget_samples=10, space=SPACE, seed=1, **others)


def score(values) -> float:
    return -abs(math.log10(values["learning_rate"]) + 2) + (0.1 if values["base"] == "wide" else 0)


def work(folder: Path, trials: int, seconds: float = 0.0, **others: int) -> str:
    """Be one worker; every trial begun stands as a line in `begun`, with its values. Returns the table."""

    def objective(number, values, report):
        line = json.dumps([number, os.getpid(), time.time(), values]) + "\n"
        with (folder / "begun").open("a") as file:
            file.write(line)
        time.sleep(seconds)
        return score(values)

    folder.mkdir(exist_ok=True)
    return tune(objective, DEFAULTS, parameters(trials, **others), folder)[1].to_csv(index=False)


def fork(action: Callable[[], object]) -> int:
    """Run an action in a process of its own and return its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        action()
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(code)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def begun(folder: Path) -> list[list]:
    file = folder / "begun"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def start(folder: Path, chance: random.Random) -> dict:
    """Two workers at the same moment on a store that is not there yet, ten times."""
    rounds = []
    for n in range(10):
        store, at = folder / str(n), time.time() + 0.2

        def one(store: Path = store, at: float = at) -> None:
            time.sleep(max(0.0, at - time.time()))
            work(store, 4, 0.1)

        store.mkdir(parents=True)
        codes = [wait(pid) for pid in [fork(one), fork(one)]]
        entries = begun(store)
        rounds.append({"codes": codes, "begun": [e[0] for e in entries], "workers": len({e[1] for e in entries})})
    return {"rounds": rounds}


def start_mlflow(folder: Path, chance: random.Random) -> dict:
    """The same for MLflow's store."""
    from mammo_ml.tracking import Store

    Store(folder / "first")  # imports all there is
    rounds = []
    for n in range(10):
        store, at = folder / str(n), time.time() + 0.2

        def one(store: Path = store, at: float = at) -> None:
            time.sleep(max(0.0, at - time.time()))
            opened = Store(store)
            opened.new_run(opened.experiment("phantom"), "trial", {})

        store.mkdir(parents=True)
        codes = [wait(pid) for pid in [fork(one), fork(one)]]
        opened = Store(store)
        rounds.append({"codes": codes, "runs": len(opened.client.search_runs([opened.experiment("phantom")]))})
    return {"rounds": rounds}


BEATS = {"heartbeat_s": 1, "grace_s": 3}


def kill_workers(folder: Path, chance: random.Random) -> dict:
    """Of two workers one is killed in a trial, five times."""
    folder.mkdir(exist_ok=True)
    kills = []
    steady = fork(lambda: work(folder, 14, 0.3, **BEATS))
    for _ in range(5):
        pid = fork(lambda: work(folder, 14, 30.0, **BEATS))
        killed = wait_for(lambda pid=pid: [entry for entry in begun(folder) if entry[1] == pid])[0]
        time.sleep(chance.uniform(0.0, 0.3))
        os.kill(pid, signal.SIGKILL)
        wait(pid)
        kills.append(begun_again(folder, killed, time.time()))
    return {"kills": kills, "code": wait(steady), "begun": [entry[0] for entry in begun(folder)]}


def kill_silent_workers(folder: Path, chance: random.Random) -> dict:
    """Five workers are killed in their trials; only by their silence can the sixth tell that they are dead."""

    def victim() -> None:
        socket.gethostname = lambda: "another-host"
        work(folder, 8, 30.0, **BEATS)

    folder.mkdir(exist_ok=True)
    pids = [fork(victim) for _ in range(5)]
    killed = wait_for(lambda: begun(folder) if len(begun(folder)) == 5 else [])
    steady = fork(lambda: work(folder, 8, 0.05, **BEATS))
    time.sleep(chance.uniform(0.0, 3.0))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        wait(pid)
    at = time.time()
    kills = [begun_again(folder, entry, at) for entry in killed]
    return {"kills": kills, "code": wait(steady), "begun": [entry[0] for entry in begun(folder)]}


def begun_again(folder: Path, killed: list, at: float) -> dict:
    number, pid, _, values = killed
    again = wait_for(lambda: [entry for entry in begun(folder) if entry[0] == number and entry[1] != pid])[0]
    return {"trial": number, "same": again[3] == values, "after": again[2] - at}


def wait_for(found: Callable[[], list]) -> list:
    until = time.time() + 60
    while not (entries := found()) and time.time() < until:
        time.sleep(0.02)
    return entries


def kill_anywhere(folder: Path, chance: random.Random) -> dict:
    """A lone worker is killed at random moments, most of them amid the writes of the stores, until it has ended."""
    folder.mkdir(exist_ok=True)
    work(folder / "one", 1)  # what a start costs on this machine, and then what all the trials cost
    began = time.time()
    work(folder / "one", 1)
    start, began = time.time() - began, time.time()
    whole = work(folder / "whole", 40)
    longest = start + 0.2 * (time.time() - began)
    kills, lost, left = 0, [], folder / "killed"
    while True:
        pid = fork(lambda: (folder / "table").write_text(work(left, 40)))
        time.sleep(chance.uniform(0.0, longest))
        os.kill(pid, signal.SIGKILL)
        if wait(pid) == 0:
            break
        kills += 1
        numbers = [entry[0] for entry in begun(left)]
        # a trial that was begun after trial n shows that n was finished: it must never be begun again
        lost += [n for at, n in enumerate(numbers) if n < max(numbers[:at], default=0)]
    return {"kills": kills, "lost": lost, "equal": (folder / "table").read_text() == whole}


def full(folder: Path, chance: random.Random) -> dict:
    """The disk is full after so many bytes: what is said, and whether the study ends once there is room."""
    folder.mkdir()
    whole, said = work(folder / "whole", 6), []
    for size in (0, 1500, 20_000, 100_000, 150_000):
        store = folder / str(size)

        def one(store: Path = store, size: int = size) -> None:
            store.mkdir()
            (store / "begun").touch()
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            try:
                work(store, 6)
            except MammoError as error:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                (store / "said").write_text(str(error))

        codes = [wait(fork(one)), wait(fork(lambda store=store: (store / "table").write_text(work(store, 6))))]
        table, text = store / "table", store / "said"
        said.append(
            {
                "size": size,
                "codes": codes,
                "said": text.read_text() if text.exists() else "",
                "equal": table.exists() and table.read_text() == whole,
            }
        )
    return {"said": said}


SCENARIOS = {
    "start": start,
    "start_mlflow": start_mlflow,
    "kill_workers": kill_workers,
    "kill_silent_workers": kill_silent_workers,
    "kill_anywhere": kill_anywhere,
    "full": full,
}


if __name__ == "__main__":
    name, where, seed = sys.argv[1:]
    Path(where).mkdir(parents=True, exist_ok=True)
    if name != "start_mlflow":
        work(Path(where) / "imports everything", 2)
    print(json.dumps(SCENARIOS[name](Path(where) / "run", random.Random(int(seed)))))
