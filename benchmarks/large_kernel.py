"""Measure the six-layer network with our large-kernel convolution against `nn.Conv2d` and against Keras, in one run.

Run as `python -m benchmarks.large_kernel`; Keras comes with the extra `bench`; without it that side is left out.
All sides hold the same network and take turns, A B C A B C, so that a busy machine slows all alike; each is at its
best: `nn.Conv2d` in the memory layout, Keras on the backend, compiled or not, that were fastest in a trial run; torch's
sides keep freed memory (`mammo_ml.allocator`) as all our commands do, and Keras, no faster with it, does not.
A figure is the median of its repetitions. Beside them stands what the machine could do at most.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.keras_network import TASKS
from mammo_ml.allocator import keep_freed_memory
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.cnni_bcc import PATCH_PX
from mammo_ml.models.compiled_depthwise import layer_of
from mammo_ml.models.depthwise_program import Layer
from mammo_ml.models.large_kernel import METHODS, LargeKernelDepthwise, Method, depthwise_conv2d, same_padding
from mammo_ml.models.straight_line_dft import operations

LEARNING_RATE = 1e-3
PRECISIONS = ("float32", "bfloat16")
KERAS_WAYS = (("jax", "compiled"), ("tensorflow", "compiled"), ("tensorflow", "eager"))
TRIAL_BATCH = 16
TRIAL_LIMIT_S = 30.0
"""A way to run Keras that takes longer for one trial is not its best."""
LAYERS = ((32, 64, 32, 1), (64, 64, 64, 2))
"""Channels, edge of the input, edge of the kernel and stride of the two large layers."""
TURN_S = 1.0
"""A side goes on for as long, that what others left in caches and thread pools does not decide."""
Run = Callable[[], float]
"""One repetition; the seconds it took."""


class DepthwiseConv2d(nn.Conv2d):
    """What a user would otherwise write: `nn.Conv2d(groups=C)` with Keras' "same" padding."""

    def __init__(self, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__(channels, channels, kernel_size, stride, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        rows = same_padding(x.shape[-2], self.kernel_size[0], self.stride[0])
        columns = same_padding(x.shape[-1], self.kernel_size[1], self.stride[1])
        return super().forward(F.pad(x, columns + rows))


def with_conv2d(network: nn.Module) -> nn.Module:
    """Replace every LargeKernelDepthwise in place by nn.Conv2d holding the same weights."""
    for module in network.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, LargeKernelDepthwise):
                conv2d = DepthwiseConv2d(len(child.weight), child.weight.shape[-1], child.stride)
                conv2d.load_state_dict(child.state_dict())
                setattr(module, name, conv2d)
    return network


def timed(work: Callable[[], object]) -> Run:
    """The work as a repetition."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def in_torch(network: nn.Module, batch_size: int, precision: str, task: str) -> Run:
    """Forward, backward and one Adam step of a batch, or its prediction."""
    patches, labels = torch.rand(batch_size, 1, PATCH_PX, PATCH_PX), torch.arange(batch_size) % 3
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    narrow = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        with narrow:
            loss: Tensor = F.cross_entropy(network(patches).float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def predict() -> None:
        network.eval()
        with torch.inference_mode(), narrow:
            network(patches)

    return timed(step if task == "training" else predict)


class KerasProcess:
    """The same network in Keras, in a process of its own that runs one repetition whenever it is asked."""

    def __init__(self, backend: str, compiled: str, precision: str, threads: int) -> None:
        # No backend takes a number of threads in one way; all take the processors they may run on.
        self.name = f"{backend}, {compiled}"
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.keras_network", "serve", precision, compiled],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads]),
        )
        word, self.version = self._read().split()
        if word != "ready":
            raise RuntimeError(f"Keras on {self.name} did not start: {word}")

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def _read(self, limit_s: float | None = None) -> str:
        output = self._pipes()[1]
        if not select.select([output], [], [], limit_s)[0]:
            self.close()  # it would go on beside the others' measurements
            raise TimeoutError(f"Keras on {self.name} took more than {limit_s:.0f} s")
        line = output.readline()
        if not line:
            raise RuntimeError(f"Keras on {self.name} ended with {self._process.wait()}")
        return line

    def run(self, task: str, batch_size: int, limit_s: float | None = None) -> Run:
        """A repetition, raising TimeoutError after the limit; the first one of a batch size also compiles."""

        def one() -> float:
            asked, _ = self._pipes()
            asked.write(f"{task} {batch_size}\n")
            asked.flush()
            return float(self._read(limit_s))

        return one

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def fastest(ways: dict[str, Run]) -> str:
    """Name of the way whose second run is the shortest; the first may compile, and a way that takes too long is out.

    Raises:
        RuntimeError: when all do.
    """
    seconds = {}
    for name, run in ways.items():
        try:
            run()
            seconds[name] = run()
        except TimeoutError as error:
            print(error, file=sys.stderr, flush=True)
    if not seconds:
        raise RuntimeError(f"none of {', '.join(ways)} is fast enough to be measured")
    print(json.dumps({"trial, seconds": rounded(dict(seconds))}), flush=True)
    return min(seconds, key=lambda name: seconds[name])


def in_turns(sides: dict[str, Run], repetitions: int) -> dict[str, list[float]]:
    """The seconds of each run of all sides, in turns of a second or one run, after one unmeasured run of each."""
    for run in sides.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, run in sides.items():
            spent = 0.0
            while spent < TURN_S:
                seconds[name].append(run())
                spent += seconds[name][-1]
    return seconds


@contextlib.contextmanager
def keras_processes(precision: str, threads: int) -> Iterator[dict[str, KerasProcess]]:
    """Keras on every backend that is installed, by name; none without Keras."""
    started: dict[str, KerasProcess] = {}
    try:
        for backend, compiled in KERAS_WAYS:
            if importlib.util.find_spec("keras") and importlib.util.find_spec(backend):
                process = KerasProcess(backend, compiled, precision, threads)
                started[process.name] = process
        yield started
    finally:
        for process in started.values():
            process.close()


def measure(precision: str, batch_sizes: list[int], repetitions: int, threads: int) -> dict[str, Any]:
    """Ratios (above 1: ours is faster) and patches per second of training and inference, by batch size."""
    torch.manual_seed(0)
    ours = build_classifier(ClassifierParameters(variant="exact"))
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    theirs = {}
    for name, layout in layouts.items():
        network = with_conv2d(build_classifier(ClassifierParameters(variant="exact")))
        network.load_state_dict(ours.state_dict())
        theirs[name] = network.to(memory_format=layout)
        patches = torch.rand(2, 1, PATCH_PX, PATCH_PX)
        with torch.inference_mode():
            torch.testing.assert_close(ours(patches), network(patches), rtol=1e-3, atol=1e-4)
    found: dict[str, Any] = {f"batch_{size}": {} for size in batch_sizes}
    with keras_processes(precision, threads) as keras:
        for task in TASKS:
            layout = fastest({name: in_torch(net, TRIAL_BATCH, precision, task) for name, net in theirs.items()})
            trials = {name: own.run(task, TRIAL_BATCH, TRIAL_LIMIT_S) for name, own in keras.items() if own.is_alive}
            backend = fastest(trials) if trials else None
            for size in batch_sizes:
                sides = {
                    "ours": in_torch(ours, size, precision, task),
                    "conv2d": in_torch(theirs[layout], size, precision, task),
                }
                if backend:
                    sides["keras"] = keras[backend].run(task, size)
                seconds = {name: statistics.median(times) for name, times in in_turns(sides, repetitions).items()}
                figures = found[f"batch_{size}"]
                for name in sides:
                    figures[f"{task}_patches_per_second{'' if name == 'ours' else f'_{name}'}"] = size / seconds[name]
                    if name != "ours":
                        figures[f"{task}_vs_{name}"] = seconds[name] / seconds["ours"]
                figures[f"{task}_turns"] = repetitions
                figures[f"{task}_layout_conv2d"] = layout
                if backend:
                    figures[f"{task}_backend_keras"] = f"{backend}, keras {keras[backend].version}"
                print(json.dumps({f"{precision} batch {size} {task}": rounded(figures)}), flush=True)
    return found


def peak_memory_mib(batch_size: int, threads: int) -> float:
    """Largest resident memory of a process of its own that trains three steps, MiB."""
    command = [sys.executable, "-m", "benchmarks.large_kernel", "--memory-of", str(batch_size)]
    told = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, check=True)
    return float(told.stdout)


def train_and_tell_memory(batch_size: int) -> None:
    """Train three steps and print the process's largest resident memory, MiB."""
    step = in_torch(build_classifier(ClassifierParameters(variant="exact")), batch_size, "float32", "training")
    for _ in range(3):
        step()
    # The kernel's own count: getrusage's would be at least that of the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 1024)


def layer_at(channels: int, edge: int, kernel: int, stride: int) -> Layer:
    """A large layer as its programs are written for it."""
    padding = same_padding(edge, kernel, stride) * 2
    return layer_of(torch.empty(1, channels, edge, edge), torch.empty(channels, 1, kernel, kernel), stride, padding)


def operations_of_prediction(layer: Layer) -> float:
    """Real additions and multiplications of a channel of one image, without the order that two share a transform in."""
    (size, _), (outputs, _), (points, _), stride = layer
    phases, inside = stride**2, size // stride
    rows = size * stride * operations(points, inside)
    columns = points * (phases * (operations(points, inside) + 8 * points) + operations(points, points))
    return (rows + columns + outputs * operations(points, points)) / 2


def operations_of_step(layer: Layer) -> float:
    """The same of a training step: a prediction, and the gradients of images and kernels."""
    (size, _), (outputs, _), (points, _), stride = layer
    phases, inside = stride**2, size // stride
    rows = size * stride * operations(points, inside) + outputs * operations(points, outputs)
    of_phase = operations(points, inside) + 16 * points + operations(points, points)
    columns = points * (operations(points, outputs) + phases * of_phase)
    back = size * stride * operations(points, points)
    return operations_of_prediction(layer) + (rows + columns + back) / 2


def taps_inside(edge: int, kernel: int, stride: int) -> int:
    """Pairs of an output and a value of the kernel, along one axis, that meet on the map, not in its padding."""
    before, _ = same_padding(edge, kernel, stride)
    starts = torch.arange(-(-edge // stride)) * stride - before
    return int(((starts + kernel).clamp(max=edge) - starts.clamp(min=0)).sum())


def roofline(batch_size: int, speeds: dict[str, float], repetitions: int) -> dict[str, float]:
    """What bounds a training step and a prediction: arithmetic at the speed of the machine's matrix product.

    `direct_bound_patches_per_second` is that of a plain convolution's multiply-adds, those with padding left out, which
    no such convolution can pass. `…_mflop_per_patch` is what our programs for the two large layers add and multiply,
    `…_large_layers_patches_per_second` how fast they alone are, `…_large_layers_share` their share of the whole.
    """
    a, b = torch.rand(2, 2048, 2048)
    multiply = statistics.median(in_turns({"matmul": timed(lambda: a @ b)}, repetitions)["matmul"])
    gflops = 2 * 2048**3 / multiply / 1e9
    # Forward, and backward for images and for kernels.
    multiply_adds = sum(
        3 * channels * taps_inside(edge, kernel, stride) ** 2 for channels, edge, kernel, stride in LAYERS
    )
    found = {
        "matmul_gflop_per_second": gflops,
        "direct_gflop_per_patch": 2 * multiply_adds / 1e9,
        "direct_bound_patches_per_second": gflops / (2 * multiply_adds / 1e9),
    }
    counts = {"training": operations_of_step, "inference": operations_of_prediction}
    for task, run in large_layers(batch_size).items():
        seconds = statistics.median(in_turns({task: run}, repetitions)[task])
        found[f"{task}_mflop_per_patch"] = sum(layer[0] * counts[task](layer_at(*layer)) for layer in LAYERS) / 1e6
        found[f"{task}_large_layers_patches_per_second"] = batch_size / seconds
        found[f"{task}_large_layers_share"] = speeds[task] * seconds / batch_size
    return found


def large_layers(batch_size: int) -> dict[str, Run]:
    """The two large layers alone, in training and in inference."""
    layers = [LargeKernelDepthwise(channels, kernel, stride) for channels, _, kernel, stride in LAYERS]
    images = [torch.rand(batch_size, channels, edge, edge, requires_grad=True) for channels, edge, _, _ in LAYERS]

    def train() -> None:
        for layer, x in zip(layers, images, strict=True):
            y = layer(x)
            torch.autograd.grad(y, (x, *layer.parameters()), y)

    @torch.inference_mode()
    def predict() -> None:
        for layer, x in zip(layers, images, strict=True):
            layer(x)

    return {"training": timed(train), "inference": timed(predict)}


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers to two places, below as well."""
    return {
        key: rounded(value) if isinstance(value, dict) else round(value, 2) if isinstance(value, float) else value
        for key, value in values.items()
    }


def methods_at(size: int, stride: int) -> tuple[dict[str, Run], dict[str, Run]]:
    """Training and prediction of a layer with kernels of that size, by each method."""
    x, weight = torch.randn(16, 32, 64, 64), torch.randn(32, 1, size, size, requires_grad=True)
    padding = same_padding(64, size, stride) * 2

    def predict(method: Method) -> None:
        with torch.inference_mode():
            depthwise_conv2d(x, weight, None, stride, padding, method)

    def train(method: Method) -> None:
        y = depthwise_conv2d(x.detach().requires_grad_(), weight, None, stride, padding, method)
        y.sum().backward()  # type: ignore[no-untyped-call]

    # F.conv2d's gradients of the largest kernels take seconds and decide nothing.
    trained = [method for method in METHODS if size <= 16 or method != "direct"]
    return (
        {method: timed(partial(train, method)) for method in trained},
        {method: timed(partial(predict, method)) for method in METHODS},
    )


def cut_over(repetitions: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each method by stride and kernel size: where our layer should change over."""
    found = {}
    for stride in (1, 2):
        for size in (3, 5, 7, 8, 9, 12, 16, 24, 32, 64):
            found[f"stride_{stride}_{size}x{size}"] = {
                f"{task}_ms_{method}": 1e3 * min(seconds)
                for task, sides in zip(("training", "inference"), methods_at(size, stride), strict=True)
                for method, seconds in in_turns(sides, repetitions).items()
            }
    return found


def cpu_model() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def has_matrix_units() -> bool:
    """Whether the processor has AMX, which bfloat16's goal asks for."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text()


def write(report: dict[str, Any], path: Path) -> None:
    """Write a report, and show it."""
    text = json.dumps(rounded(report), indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)


def main() -> None:
    """Measure and write the report."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", type=Path, default=Path("reports/benchmarks/large_kernel.json"))
    parser.add_argument(
        "--cut-over", action="store_true", help="only time every method by kernel size (…_cut_over.json)"
    )
    parser.add_argument("--memory-of", type=int, metavar="BATCH", help="only print the memory a training takes, MiB")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.cut_over:
        write(cut_over(arguments.repetitions), arguments.report.with_stem(f"{arguments.report.stem}_cut_over"))
        return
    if arguments.memory_of:
        train_and_tell_memory(arguments.memory_of)
        return
    report: dict[str, Any] = {
        precision: measure(precision, arguments.batch_sizes, arguments.repetitions, arguments.threads)
        for precision in arguments.precisions
    }
    size = arguments.batch_sizes[-1]
    figures = report[arguments.precisions[0]][f"batch_{size}"]
    report |= {
        "roofline": roofline(size, {task: figures[f"{task}_patches_per_second"] for task in TASKS}, 5),
        "memory": {f"batch_{n}_mib": peak_memory_mib(n, arguments.threads) for n in arguments.batch_sizes},
        "machine": {
            "cpu": cpu_model(),
            "matrix_units": has_matrix_units(),
            "threads": arguments.threads,
            "torch": torch.__version__,
        },
    }
    write(report, arguments.report)


if __name__ == "__main__":
    main()
