"""Bars G1 to G5: two promoters at once, versions that must not pass, roll back, kills, and champions that vanish."""

import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from mammo_ml import registry
from mammo_ml.cli import app
from mammo_ml.errors import BadInputError
from mammo_ml.registry import audit
from mammo_ml.registry.files import run_file
from mammo_ml.tracking import Store
from tests.registry.toys import GATE, copy_registry, make_registry, overwrite, toy_evidence
from tests.toy_models import NAME, REGISTER, stub_prediction, toy_world

Tried = Callable[[str, object], None]
ROUNDS = 20
FILM = pd.DataFrame({"film_id": ["a", "b"], "image": ["UDUK", "UDUKMSAxCjI1NQoA"]})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Four versions (see `tests.registry.toys.SKILLS`); version 1 is champion."""
    with toy_world(tmp_path_factory.mktemp("configuration")):
        folder = make_registry(tmp_path_factory.mktemp("template") / "registry")
        assert registry.promote(NAME, folder, GATE, number=1).allowed
        yield folder


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Path:
    return copy_registry(template, tmp_path / "workspace")


def champion_alias(workspace: Path) -> str | None:
    found = Store(workspace).client.get_registered_model(NAME).aliases.get("champion")
    return None if found is None else str(found)


def lines(workspace: Path) -> list[dict[str, Any]]:
    known = audit.audit_of(Store(workspace), NAME)
    assert known.faults == []
    return [dict(line.content) for line in known.lines]


# ------------------------------------------------------------------------------------------------- G1: two promoters


def promoter(workspace: Path, orders: Any, answers: Any) -> None:
    """A process that promotes a version whenever it is told to."""
    gate = GATE.model_copy(update={"margin": -1.0, "subgroup_margin": -1.0})
    while (order := orders.get()) is not None:
        number, barrier_at = order
        time.sleep(max(0.0, barrier_at - time.time()))
        decision = registry.promote(NAME, workspace, gate, number=number, override="a round of the test")
        answers.put((number, decision.allowed, decision.champion, [one.name for one in decision.refused_by]))


@pytest.mark.slow
@pytest.mark.bar("G1")
def test_g1_of_two_promoters_each_decides_against_the_champion_it_replaces(
    workspace: Path, record_property: Tried
) -> None:
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()
    queues: list[Any] = [context.Queue() for _ in range(2)]
    processes = [context.Process(target=promoter, args=(workspace, orders, answers)) for orders in queues]
    for process in processes:
        process.start()
    generator = random.Random(0)
    champion, n_lines, told_so = 1, 1, 0
    try:
        for turn in range(ROUNDS):
            others = [number for number in (1, 2, 3) if number != champion]
            targets = [others[0]] * 2 if turn % 2 else generator.sample(others, 2)
            for orders, number in zip(queues, targets, strict=True):
                orders.put((number, time.time() + 0.05))
            both = [answers.get(timeout=120) for _ in targets]
            new = lines(workspace)[n_lines:]
            assert len(new) == 2, "a line for each attempt"
            for line in new:
                assert line["from"] == champion, "decided against the champion that it replaced"
                if line["outcome"] == "promoted":
                    champion = line["to"]
            assert champion_alias(workspace) == str(champion)
            assert registry.champion(NAME, workspace) == champion
            assert sorted((answer[0], answer[1]) for answer in both) == sorted(
                (line["to"], line["outcome"] == "promoted") for line in new
            )
            if turn % 2:
                (loser,) = [answer for answer in both if not answer[1]]
                assert loser[3] == ["is not champion yet"], "the loser is told"
                told_so += 1
            n_lines += 2
    finally:
        for orders in queues:
            orders.put(None)
        for process in processes:
            process.join(30)
            process.kill()
    assert told_so == ROUNDS // 2
    record_property("tried", f"{ROUNDS} rounds of two processes, in half of them for the same version")


# -------------------------------------------------------------------------------------------------- G2: not to pass


def without(figures: dict, *names: str) -> dict:
    return {"by_patient": {key: value for key, value in figures["by_patient"].items() if key not in names}}


def with_figure(figures: dict, **changed: float) -> dict:
    return {"by_patient": figures["by_patient"] | changed}


def registered(workspace: Path, **changes: Any) -> int:
    """Another sound version with the predictions of version 2, changed as told; returns its number."""
    folder = workspace / "more"
    files, metrics = toy_evidence(folder, skill=3.0)
    flags = REGISTER | {key: changes[key] for key in REGISTER if key in changes}
    metrics = changes.get("metrics", lambda figures: figures)(metrics)
    bundle = changes.get("bundle", workspace / "bundle_2")
    return registry.register(bundle, NAME, metrics, workspace, **flags, evidence=changes.get("evidence", files))


def other_folds(workspace: Path) -> int:
    """A registry of real films, and a phantom model made with other folds."""
    params = workspace / "params.yaml"
    overwrite(params, params.read_bytes().replace(b"phantom", b"mini_mias"))
    return registered(workspace)


def tampered(workspace: Path) -> int:
    number = registered(workspace, metrics=lambda figures: with_figure(figures, ece=0.1))
    store = Store(workspace)
    path = run_file(store, store.client.get_model_version(NAME, str(number)).run_id, "metrics.json")
    overwrite(path, path.read_bytes().replace(b'"ece": 0.1', b'"ece": 0.0'))
    return number


def damaged(workspace: Path) -> int:
    number = registered(workspace, metrics=lambda figures: with_figure(figures, ece=0.11))
    weights = registry.bundle_of(NAME, workspace, number)[1] / "weights.safetensors"
    overwrite(weights, weights.read_bytes()[:-1] + b"!")
    return number


NAN = float("nan")
REFUSED: dict[str, tuple[Callable[[Path], int], list[str]]] = {
    "worse": (lambda _: 3, ["[FAIL]  no worse than champion", "lower bound -0.", "is not above -0.020", "against 0."]),
    "NaN": (
        lambda w: registered(w, metrics=lambda m: with_figure(m, auc_macro=NAN)),
        ["[FAIL]  every figure is a number", "1 of ", "by_patient.auc_macro", "by_patient.auc_macro nan"],
    ),
    "a missing figure": (
        lambda w: registered(w, metrics=lambda m: without(m, "auc_macro_baseline")),
        ["[FAIL]  every figure is a number", "metrics.json lacks by_patient.auc_macro_baseline"],
    ),
    "no better than knowing nothing": (
        lambda w: registered(w, metrics=lambda m: with_figure(m, auc_macro_lo=0.49)),
        ["[FAIL]  better than knowing nothing", "lower bound 0.490 is not above 0.500"],
    ),
    "other data and folds": (
        other_folds,
        [
            "[FAIL]  data set belongs here",
            "[FAIL]  folds belong here",
            "folds aaaaaaaaaaaa; benchmark folds e9a630f1943f",
        ],
    ),
    "other women": (
        lambda w: registered(
            w,
            **dict(zip(("evidence", "metrics"), _of_fewer_women(w), strict=True)),
        ),
        ["[FAIL]  no worse than champion", "judged on different women: 20 and 24, 20 of them the same"],
    ),
    "tampered figures": (tampered, ["[FAIL]  files are intact", "metrics.json was changed: sha256 "]),
    "tampered weights": (damaged, ["[FAIL]  files are intact", "weights.safetensors was changed"]),
    "leaks": (lambda w: registered(w, leak_free=False), ["[FAIL]  split leaks nothing"]),
    "invalid data": (lambda w: registered(w, data_valid=False), ["[FAIL]  data are valid"]),
}


def _of_fewer_women(workspace: Path) -> tuple[list[Path], Callable[[dict], dict]]:
    files, metrics = toy_evidence(workspace / "fewer", skill=3.0, women=20)
    return files, lambda _: metrics


@pytest.mark.bar("G2")
@pytest.mark.parametrize("fault", REFUSED)
def test_g2_what_must_not_pass_is_refused_with_its_numbers_and_the_alias_stays(
    workspace: Path, fault: str, record_property: Tried
) -> None:
    make, expected = REFUSED[fault]
    number = make(workspace)
    result = CliRunner().invoke(app, ["promote", NAME, "--version", str(number), "--workspace", str(workspace)])
    assert result.exit_code == 1, result.output
    for text in (*expected, "REFUSED"):
        assert text in result.output
    assert champion_alias(workspace) == "1"
    line = lines(workspace)[-1]
    assert (line["outcome"], line["from"], line["to"]) == ("refused", 1, number)
    assert line["failed"]
    record_property("tried", fault)


# ----------------------------------------------------------------------------------------------------- G3: roll back


@pytest.mark.bar("G3")
def test_g3_rolling_back_serves_the_previous_version_byte_for_byte_offline_within_ten_seconds(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, record_property: Tried
) -> None:
    before = stub_prediction(registry.load_model(NAME, workspace)[1], FILM).to_csv().encode()
    assert registry.promote(NAME, workspace, GATE, number=2).allowed
    number, promoted = registry.load_model(NAME, workspace)
    assert number == 2
    assert stub_prediction(promoted, FILM).to_csv().encode() != before

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", offline)
    begin = time.monotonic()
    result = CliRunner().invoke(app, ["rollback", NAME, "--reason", "a trial", "--workspace", str(workspace)])
    number, bundle = registry.load_model(NAME, workspace)
    seconds = time.monotonic() - begin
    assert result.exit_code == 0, result.output
    assert "champion is version 1; it was version 2" in result.output
    assert number == 1
    assert stub_prediction(bundle, FILM).to_csv().encode() == before
    line = lines(workspace)[-1]
    assert (line["action"], line["outcome"], line["from"], line["to"], line["reason"]) == (
        "rollback", "rolled back", 2, 1, "a trial",
    )  # fmt: skip
    assert seconds <= 10
    record_property("tried", f"a rollback without network: {seconds:.1f} s until the version before answers")


# --------------------------------------------------------------------------------------------------------- G4: kills

TRACED = ("pwrite64", "fdatasync")
"""System calls by which a move changes anything: SQLite writes and syncs its log."""
MOVE = """
import os, sys
from pathlib import Path
from mammo_ml.registry import audit
from mammo_ml.registry.audit import Entry
from mammo_ml.tracking import Store, store_lock

stores = {}
for line in sys.stdin:
    place = Path(line.strip())
    child = os.fork()
    if child == 0:
        sys.stdin.close()
        store = Store(place)
        print(os.getpid(), flush=True)
        os.kill(os.getpid(), 19)
        with store_lock(place):
            audit.settle(store, "mammo-classifier")
            audit.move(store, "mammo-classifier", Entry("promote", "promoted", 1, 2))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""


class Mover:
    """A process that forks one that moves the alias from version 1 to 2, stopped until strace has hold of it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", MOVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def move(self, workspace: Path, inject: str) -> int:
        """Move the alias while strace injects; returns the wait status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{workspace}\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.002)
        syscall = inject.partition(":")[0]
        words = ["-p", str(pid), "-e", f"trace={syscall}", "-e", f"inject={inject}"]
        tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", *words], stderr=subprocess.PIPE, text=True)
        while not self._traced(pid) and tracer.poll() is None:
            time.sleep(0.002)
        os.kill(pid, signal.SIGCONT)
        status = int(self.process.stdout.readline())
        message = tracer.communicate(timeout=60)[1]
        assert "attach" not in message, message
        return status

    @staticmethod
    def _traced(pid: int) -> bool:
        text = Path(f"/proc/{pid}/status").read_text()
        return text.partition("TracerPid:")[2].split()[0] != "0"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.slow
@pytest.mark.bar("G4")
def test_g4_killed_at_any_system_call_of_a_promotion_the_champion_is_the_old_or_the_new_one(
    template: Path, tmp_path: Path, record_property: Tried
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace (apt install strace): it stops a process at each of its system calls")
    kills = dict.fromkeys(TRACED, 0)
    left = {1: 0, 2: 0}
    mover = Mover()
    try:
        for syscall in TRACED:
            for k in count(1):
                place = copy_registry(template, tmp_path / f"{syscall}_{k}")
                status = mover.move(place, f"{syscall}:signal=SIGKILL:when={k}")
                number, _ = registry.load_model(NAME, place)  # never none, loadable, known to the audit at once
                store = Store(place)
                audit.settle(store, NAME)
                model = store.client.get_registered_model(NAME)
                known = audit.read_audit(NAME, model.tags)
                assert audit.alias_of(model) == number == known.champions[-1]
                assert (known.pending, known.faults) == (None, [])
                outcomes = [line.content["outcome"] for line in known.lines][1:]
                assert outcomes in ([["promoted"]] if number == 2 else [[], ["interrupted"]])
                shutil.rmtree(place)
                if status == 0:
                    assert number == 2
                    break
                assert os.WTERMSIG(status) == signal.SIGKILL
                kills[syscall] += 1
                left[number] += 1
    finally:
        mover.close()
    assert kills["pwrite64"] >= 10
    assert left[1]
    assert left[2]
    counted = ", ".join(f"{n} at {syscall}" for syscall, n in kills.items() if n)
    ends = f"{left[1]} left the old champion, {left[2]} the new"
    record_property("tried", f"{sum(kills.values())} kills: {counted}; {ends}")


# ------------------------------------------------------------------------------------------- G5: a champion vanishes


def delete_version(workspace: Path) -> None:
    Store(workspace).client.delete_model_version(NAME, "1")


def delete_files(workspace: Path) -> None:
    shutil.rmtree(registry.bundle_of(NAME, workspace)[1])


@pytest.mark.bar("G5")
@pytest.mark.parametrize(
    ("delete", "reason"),
    [
        (delete_version, "version 1 was champion until its alias was removed"),
        (delete_files, r"artifacts/bundle/weights\.safetensors is missing"),
    ],
)
def test_g5_a_loaded_champion_goes_on_answering_when_it_is_deleted_and_a_fresh_load_says_why_not(
    workspace: Path, delete: Callable[[Path], None], reason: str, record_property: Tried
) -> None:
    _, bundle = registry.load_model(NAME, workspace)
    before = stub_prediction(bundle, FILM)
    delete(workspace)
    pd.testing.assert_frame_equal(stub_prediction(bundle, FILM), before)
    with pytest.raises(BadInputError, match=reason):
        registry.load_model(NAME, workspace)
    assert registry.promote(NAME, workspace, GATE, number=2, override="the champion was deleted").allowed
    assert registry.load_model(NAME, workspace)[0] == 2
    record_property("tried", delete.__name__.replace("_", " "))
