"""Measure what keeping freed memory (`mammo_ml.allocator`) gains: the same work in two processes that take turns.

Run as `python -m benchmarks.allocator` on a machine that does nothing else; writes reports/benchmarks/allocator.json.
One process keeps its memory, the other leaves it to the C library as it comes. A ratio is the median over the turns of
the seconds without over the seconds with it (above 1: keeping is faster), with the smallest and the largest.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from mammo_ml.allocator import keep_freed_memory

KEPT, AS_IT_COMES = "kept", "as_it_comes"
WORK = ("six_layers_training", "six_layers_inference", "small_training", "vgg16_training", "vgg16_inference")
BATCH = {"six_layers": 16, "small": 16, "vgg16": 4}
TURN_S = 2.0


def work_of(name: str) -> Callable[[], object]:
    """One repetition of a piece of work of the pipeline: a training step, or a prediction, of one batch."""
    import torch

    from benchmarks.detector import lesions, training_step
    from benchmarks.large_kernel import in_torch
    from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
    from mammo_ml.models.ssd import SsdParameters, build_detector, detection_loss, predict_boxes

    torch.manual_seed(0)
    network, task = name.rsplit("_", 1)
    batch = BATCH[network]
    if network == "six_layers":
        return in_torch(build_classifier(ClassifierParameters(variant="exact")), batch, "float32", task)
    detector = build_detector(SsdParameters.model_validate({"base": network}))
    images, boxes, labels = lesions(batch, detector.side_px)
    if task == "inference":
        return lambda: predict_boxes(detector, images)
    return training_step(detector, lambda: detection_loss(detector, images, boxes, labels))


def serve(how: str, name: str, threads: int) -> None:
    """Answer each line with the seconds of a repetition, the mean of as many as a turn has room for."""
    if how == KEPT:
        keep_freed_memory()
    import torch

    torch.set_num_threads(threads)
    work = work_of(name)
    for _ in range(3):
        work()
    print("ready", flush=True)
    for _ in sys.stdin:
        start, n = time.perf_counter(), 0
        while time.perf_counter() - start < TURN_S:
            work()
            n += 1
        print((time.perf_counter() - start) / n, flush=True)


def measure(name: str, turns: int, threads: int) -> dict[str, Any]:
    """Seconds of both processes, and their ratio turn by turn."""
    processes = {how: _started(how, name, threads) for how in (KEPT, AS_IT_COMES)}
    try:
        seconds: dict[str, list[float]] = {how: [] for how in processes}
        for _ in range(turns):
            for how, process in processes.items():
                _pipe(process.stdin).write("\n")
                _pipe(process.stdin).flush()
                seconds[how].append(float(_pipe(process.stdout).readline()))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    ratios = [slow / fast for fast, slow in zip(*seconds.values(), strict=True)]
    return {
        **{f"seconds_{how}": round(statistics.median(own), 4) for how, own in seconds.items()},
        "gain": round(statistics.median(ratios), 2),
        "smallest": round(min(ratios), 2),
        "largest": round(max(ratios), 2),
    }


def _started(how: str, name: str, threads: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.allocator", "--serve", how, name, "--threads", str(threads)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _pipe(process.stdout).readline()
    return process


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", type=Path, default=Path("reports/benchmarks/allocator.json"))
    parser.add_argument("--serve", nargs=2, metavar=("HOW", "WORK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve, arguments.threads)
        return
    report = {}
    for name in WORK:
        report[name] = measure(name, arguments.turns, arguments.threads)
        print(json.dumps({name: report[name]}), flush=True)
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
