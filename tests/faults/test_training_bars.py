"""Bars T1 to T5: trainings of both models that are killed, whose checkpoints are torn, and whose data is poisoned."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from mammo_ml.checkpoints import Checkpoints
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.training import fit, load_weights, save_weights
from pipelines.training_stage import refuse_one_sided_fold
from tests.faults import small_trainings as small
from tests.faults.small_trainings import KEY, MODELS, PARAMETERS, STEPS, Training, Trainings

TRACED = ("write", "fsync", "rename", "unlink")
SHORT = PARAMETERS.model_copy(update={"budget_samples": 8, "epoch_samples": 4})


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    server = Trainings(tmp_path_factory.mktemp("trainings"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole(trainings):
    """An uninterrupted training of each model, without checkpoints."""
    runs = {model: trainings.run(model=model) for model in (*MODELS, "tiny")}
    for model, run in runs.items():
        assert run.status == 0, run.stderr
        assert len(run.steps) == STEPS[model]
    return runs


def newest_step(folder: Path) -> int:
    found = Checkpoints(folder, KEY).newest()
    return found[1]["step"] if found else 0


def assert_goes_on(resumed: Training, expected: Training, after: int) -> None:
    """The steps after `after`, and no other, in their order; in the end the same bits."""
    assert resumed.status == 0, resumed.stderr
    assert resumed.steps == expected.steps[after:]
    assert resumed.result == expected.result


# --- T1: the same seed twice ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.bar("T1")
def test_t1_the_same_seed_gives_the_same_weights_and_figures_in_another_process(tmp_path, record_property):
    runs = [(model, threads) for threads in (1, 2) for model in MODELS]
    for process in "ab":
        jobs = [
            {"model": model, "threads": threads, "log": f"{name}.log", "result": f"{name}.json"}
            for model, threads in runs
            for name in [tmp_path / f"{process}_{model}_{threads}"]
        ]
        text = json.dumps(jobs, default=str)
        subprocess.run([sys.executable, small.__file__, text], env=small.environment(), check=True)

    for model, threads in runs:
        for end in ("log", "json", "safetensors"):
            first, second = (tmp_path / f"{process}_{model}_{threads}.{end}" for process in "ab")
            assert first.read_bytes() == second.read_bytes(), f"{model}, {threads} threads: {end}"
    record_property("tried", f"{len(runs)} trainings (both models, 1 and 2 threads), each in two processes")


# --- T2: killed at any step -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.bar("T2")
@pytest.mark.parametrize("model", MODELS)
def test_t2_a_training_killed_at_any_step_ends_as_one_that_was_not(model, trainings, whole, tmp_path, record_property):
    places = [(where, n) for where in ("inside", "after") for n in range(1, STEPS[model])]
    random = np.random.default_rng([20, len(model)])
    chosen = [places[n] for n in random.permutation(len(places))[:14]]
    for number, (where, n) in enumerate(chosen):
        job = {"model": model, "folder": str(tmp_path / f"{number}"), "seconds": 0}
        killed = trainings.run(**job, kill=[where, n])
        assert killed.status == -signal.SIGKILL
        after = n if where == "after" else n - 1
        assert killed.steps == whole[model].steps[:after]
        assert_goes_on(trainings.run(**job), whole[model], after)
        shutil.rmtree(tmp_path / f"{number}")
    within = sum(n % 5 != 0 for _, n in chosen)
    record_property("tried", f"{model}: {len(chosen)} kills at random steps, {within} of them within an epoch")


@pytest.mark.slow
@pytest.mark.bar("T2")
@pytest.mark.parametrize("model", MODELS)
def test_t2_a_training_killed_from_outside_again_and_again_ends_as_one_that_was_not(
    model, trainings, whole, tmp_path, record_property
):
    random = np.random.default_rng([21, len(model)])
    started = time.monotonic()
    trainings.run(model=model, folder=str(tmp_path / "timed"), seconds=0)
    seconds = time.monotonic() - started

    kills, chains = 0, 0
    while kills < 10:
        chains += 1
        assert chains < 30, "this machine is too uneven to hit a training while it runs"
        job = {"model": model, "folder": str(tmp_path / f"{chains}"), "seconds": random.choice([0.0, seconds / 8])}
        while True:
            before = newest_step(tmp_path / f"{chains}")
            training = trainings.start(**job)
            time.sleep(random.uniform(0.05, 0.6) * seconds)
            os.kill(training.pid, signal.SIGKILL)  # not yet waited for: the number is still its own
            if training.wait() == 0:
                break
            assert training.status == -signal.SIGKILL, training.stderr
            assert training.steps == whole[model].steps[before : before + len(training.steps)]
            assert newest_step(tmp_path / f"{chains}") >= before
            kills += 1
            assert kills < 100, "no training gets further before it is killed"
        assert_goes_on(training, whole[model], before)
    record_property("tried", f"{model}: {kills} kills from outside at random times, {chains} trainings to their end")


# --- T3: killed while a checkpoint is saved ---------------------------------------------------------------------------


def traced(trainings: Trainings, inject: str, **job) -> Training:
    """A training of which strace makes one system call fail, or kills it there."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace (apt install strace): it stops a process at each of its system calls")
    training = trainings.start(traced=True, model="tiny", seconds=0, **job)
    syscall = inject.partition(":")[0]
    tracer = subprocess.Popen(
        [
            "strace",
            "-qq",
            "-o",
            "/dev/null",
            "-p",
            str(training.pid),
            "-e",
            f"trace={syscall}",
            "-e",
            f"inject={inject}",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        tracer.wait(60)
    except subprocess.TimeoutExpired:
        tracer.kill()
    message = tracer.communicate()[1]
    if "attach" in message:
        os.kill(training.pid, signal.SIGKILL)
    assert "attach" not in message, message
    training.wait()
    return training


@pytest.mark.slow
@pytest.mark.bar("T3")
def test_t3_killed_at_any_system_call_of_a_save_a_training_loses_one_step_at_most(
    trainings, whole, tmp_path, record_property
):
    kills = dict.fromkeys(TRACED, 0)
    for syscall in TRACED:
        for k in count(1):
            folder = tmp_path / f"{syscall}_{k}"
            killed = traced(trainings, f"{syscall}:signal=SIGKILL:when={k}", folder=str(folder))
            if killed.status == 0:
                assert killed.result == whole["tiny"].result
                break
            assert killed.status == -signal.SIGKILL, killed.stderr
            kills[syscall] += 1
            left = newest_step(folder)
            assert left >= len(killed.steps) - 1
            resumed = trainings.run(model="tiny", folder=str(folder), seconds=0)
            assert_goes_on(resumed, whole["tiny"], left)
            assert resumed.stderr == "", "a kill never leaves a bad checkpoint"
            assert len(list(folder.iterdir())) == 2, "something was left over"
    # 6 steps, 2 epochs and the final weights are saved, each by a write, two fsync (file and folder) and a rename; from
    # the third step on a step removes the last but two.
    assert kills["write"] >= 9
    assert kills["fsync"] == 18
    assert kills["rename"] == 9
    assert kills["unlink"] == 4
    record_property("tried", ", ".join(f"{n} kills at {syscall}" for syscall, n in kills.items()))


@pytest.mark.slow
@pytest.mark.bar("T3")
def test_t3_on_a_full_disk_a_training_names_the_file_and_goes_on_when_there_is_room(
    trainings, whole, tmp_path, record_property
):
    failures = 0
    for syscall, error in (("write", "ENOSPC"), ("fsync", "EIO"), ("fsync", "ENOSPC")):
        for k in count(1):
            folder = tmp_path / f"{syscall}_{error}_{k}"
            failed = traced(trainings, f"{syscall}:error={error}:when={k}+", folder=str(folder))
            if failed.status == 0:
                break
            failures += 1
            assert failed.status == 3, failed.stderr
            assert f"{folder}/step_" in failed.stderr or f"{failed.weights}: cannot be written" in failed.stderr
            assert os.strerror(28 if error == "ENOSPC" else 5) in failed.stderr
            left = newest_step(folder)
            assert left >= len(failed.steps) - 1
            assert_goes_on(trainings.run(model="tiny", folder=str(folder), seconds=0), whole["tiny"], left)
    assert failures >= 30
    record_property(
        "tried", f"{failures} saves that failed for want of room or with an I/O error, at every write, fsync"
    )


# --- T4: damaged checkpoints ------------------------------------------------------------------------------------------


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def header_end(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def of_another_configuration(path: Path) -> None:
    found = Checkpoints(path.parent, KEY).newest()
    Checkpoints(path.parent, "another configuration").save(found[1]["step"], *found)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in its header": lambda path: os.truncate(path, header_end(path) // 2),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "one byte long": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "byte 0 flipped": lambda path: flip(path, 0),
    "byte 100 flipped": lambda path: flip(path, 100),
    "first byte of the tensors flipped": lambda path: flip(path, header_end(path)),
    "byte in the middle flipped": lambda path: flip(path, path.stat().st_size // 2),
    "last byte flipped": lambda path: flip(path, -1),
    "of another configuration": of_another_configuration,
}


@pytest.mark.slow
@pytest.mark.bar("T4")
@pytest.mark.parametrize("model", MODELS)
def test_t4_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    model, trainings, whole, tmp_path, record_property
):
    assert trainings.run(model=model, folder=str(tmp_path / "good"), seconds=0, kill=["after", 8]).status == -9
    for number, (name, damage) in enumerate(DAMAGES.items()):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "good", folder)
        newest, before = sorted(folder.iterdir(), reverse=True)
        damage(newest)
        resumed = trainings.run(model=model, folder=str(folder), seconds=30)
        assert f"checkpoint refused: {newest}: " in resumed.stderr, name
        assert f"goes on from the checkpoint before: {before}" in resumed.stderr, name
        assert_goes_on(resumed, whole[model], 7)
        shutil.rmtree(folder)
    record_property("tried", f"{model}: newest checkpoint {', '.join(DAMAGES)}")


@pytest.mark.slow
@pytest.mark.bar("T4")
@pytest.mark.parametrize("model", MODELS)
def test_t4_a_training_without_a_good_checkpoint_says_that_it_starts_over(model, trainings, whole, tmp_path):
    trainings.run(model=model, folder=str(tmp_path), seconds=0, kill=["after", 8])
    newest, before = sorted(tmp_path.iterdir(), reverse=True)
    flip(newest, -1)
    os.truncate(before, 1000)
    resumed = trainings.run(model=model, folder=str(tmp_path), seconds=0)
    assert f"refused: {newest}: was changed" in resumed.stderr
    assert f"refused: {before}: not a safetensors file: it has 1,000 bytes" in resumed.stderr
    assert f"none of the 2 checkpoints in {tmp_path} is good: the training STARTS OVER" in resumed.stderr
    assert_goes_on(resumed, whole[model], 0)


@pytest.mark.bar("T4")
def test_t4_no_flipped_byte_of_a_checkpoint_is_believed(tmp_path, capsys, record_property):
    fit(small.TinyTask(), SHORT, checkpoints=Checkpoints(tmp_path, KEY, seconds=0))
    before, newest = sorted(tmp_path.iterdir())
    step = newest_step(before.parent)
    whole = newest.read_bytes()
    offsets = [*range(24), *range(24, len(whole), len(whole) // 300)]  # header, notes and tensors
    for offset in offsets:
        newest.write_bytes(whole)
        flip(newest, offset)
        assert newest_step(tmp_path) < step, f"byte {offset} of {len(whole)}"
    assert capsys.readouterr().err.count("checkpoint refused") == len(offsets)
    record_property("tried", f"{len(offsets)} bytes flipped, one at a time")


# --- T5: poisoned data ------------------------------------------------------------------------------------------------


@pytest.mark.bar("T5")
@pytest.mark.parametrize(
    ("make", "n", "name"), [(small.classifier_task, 24, "patch_"), (small.detector_task, 16, "cut_")], ids=MODELS
)
def test_t5_a_pixel_that_is_nan_stops_the_training_and_its_picture_is_named(make, n, name, tmp_path, record_property):
    clean = small.pictures(n).astype(np.float32)
    poisoned = clean.copy()
    sick = int(make(clean).draw(SHORT.epoch_samples, np.random.default_rng([SHORT.seed, 1]))[2])  # in the second step
    poisoned[sick, 64, 64] = np.nan
    task = make(poisoned)
    with pytest.raises(MammoError) as caught:
        fit(task, SHORT, checkpoints=Checkpoints(tmp_path, KEY, seconds=0))
    first = task.draw(SHORT.epoch_samples, np.random.default_rng([SHORT.seed, 1]))
    step = 1 if sick in first[:2] else 2
    assert f"the loss is nan in epoch 1, step {step}, on " in str(caught.value)
    assert f"{name}{sick}" in str(caught.value)
    assert newest_step(tmp_path) == step - 1, "what was learned before is kept"
    record_property("tried", "one NaN pixel")


@pytest.mark.bar("T5")
def test_t5_a_box_that_is_nan_is_refused_by_the_name_of_its_cut():
    sound = (np.array([[30.0, 40, 70, 80]]), np.array([1]))
    poisoned = (np.array([[30.0, np.nan, 70, 80]]), np.array([1]))
    with pytest.raises(BadInputError, match=r"cut_5.*nan"):
        small.detector_task(targets=[poisoned if n == 5 else sound for n in range(16)])


@pytest.mark.bar("T5")
def test_t5_films_without_boxes_still_train_the_detector(record_property):
    empty = (np.empty((0, 4)), np.empty(0, dtype=np.int64))
    task = small.detector_task(targets=[empty] * 16)
    start = {name: value.clone() for name, value in task.model.state_dict().items()}
    fitted = fit(task, SHORT)
    assert all(np.isfinite(epoch.train_loss) and epoch.train_loss > 0 for epoch in fitted.history)
    moved = [name for name, value in task.model.state_dict().items() if not torch.equal(value, start[name])]
    assert any("classification_head" in name for name in moved)
    assert any("backbone" in name for name in moved)
    record_property("tried", f"{sum(2 for _ in fitted.history)} batches without a box")


@pytest.mark.bar("T5")
@pytest.mark.parametrize(
    ("labels", "wanted", "what", "lacking"),
    [
        (["normal", "normal", "benign", "malignant"], ("normal", "benign", "malignant"), "patch", "benign malignant"),
        (["malignant", "malignant", "benign", "benign"], ("benign", "malignant"), "lesion box", "benign"),
    ],
    ids=MODELS,
)
def test_t5_a_fold_that_shows_no_lesion_of_a_class_is_named_before_training(labels, wanted, what, lacking):
    roles = np.array(["train", "train", "inner", "test"])
    with pytest.raises(BadInputError) as caught:
        refuse_one_sided_fold(3, roles, labels, wanted, what)
    assert str(caught.value).startswith("fold 3: ")
    assert caught.value.problems == [f"its training part has no {label} {what}" for label in lacking.split()]
    refuse_one_sided_fold(3, np.full(4, "train"), ["normal", *wanted, "benign"][:4], wanted, what)


@pytest.mark.bar("T5")
def test_t5_an_inner_part_without_a_class_is_named_before_tuning():
    labels = ["normal", "benign", "malignant", "normal", "benign"]
    roles = np.array(["train", "train", "train", "inner", "inner"])
    with pytest.raises(BadInputError) as caught:
        refuse_one_sided_fold(2, roles, labels, ("normal", "benign", "malignant"), "patch", "inner")
    assert caught.value.problems == ["its inner part has no malignant patch"]
    assert "No figure could be chosen by it" in str(caught.value)


@pytest.mark.bar("T5")
def test_t5_patches_of_one_class_alone_give_finite_weights():
    task = small.classifier_task(n_classes=1)
    fit(task, SHORT)
    assert all(torch.isfinite(value).all() for value in task.model.state_dict().values())


@pytest.mark.bar("T5")
@pytest.mark.parametrize("make", [small.classifier_task, small.detector_task], ids=MODELS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_t5_weights_that_are_not_finite_are_never_written(make, value, tmp_path):
    model = make().model
    name, parameter = list(model.named_parameters())[2]
    with torch.no_grad():
        parameter.view(-1)[3] = value
    with pytest.raises(BadInputError, match=f"{name} holds NaN or infinity") as caught:
        save_weights(model, tmp_path / "weights.safetensors")
    assert str(tmp_path / "weights.safetensors") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class InfiniteGradient(small.TinyTask):
    """Its loss is finite and its gradient is not: only the weights tell."""

    def loss(self, samples, generator):
        return super().loss(samples, generator) + (0 * self.model[0].weight.sum()).sqrt()


@pytest.mark.bar("T5")
def test_t5_a_last_step_that_spoils_the_weights_ends_in_an_error_and_not_in_a_model():
    with pytest.raises(BadInputError, match=r"weights of epoch 1(.|\n)*0\.weight holds NaN or infinity"):
        fit(InfiniteGradient(), SHORT.model_copy(update={"batch_size": 4}), epochs=1)


@pytest.mark.bar("D4")
@pytest.mark.parametrize("make", [small.classifier_task, small.detector_task], ids=MODELS)
def test_d4_weights_with_a_flipped_byte_are_refused_by_name(make, tmp_path, record_property):
    path = tmp_path / "weights.safetensors"
    save_weights(make().model, path)
    model = make().model
    load_weights(model, path)
    whole = path.read_bytes()
    offsets = [0, 20, 200, header_end(path), len(whole) // 2, len(whole) - 1]
    for offset in offsets:
        path.write_bytes(whole)
        flip(path, offset)
        with pytest.raises(MammoError, match=rf"{path}: .*run the stage that made it again"):
            load_weights(model, path)
    record_property("tried", f"{len(offsets)} bytes flipped in a file of weights")
