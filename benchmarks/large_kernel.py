"""Measure the six-layer network with our large-kernel convolution against the same network with `nn.Conv2d`.

Run as `python -m benchmarks.large_kernel`. Both networks hold the same weights and see the same patches; they take
turns, A B A B, so that a busy machine slows both alike. A figure is the median of its repetitions.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.cnni_bcc import PATCH_PX
from mammo_ml.models.large_kernel import LargeKernelDepthwise, SpectralDepthwise, same_padding

LEARNING_RATE = 1e-3


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


def training_step(network: nn.Module, patches: Tensor, labels: Tensor) -> Callable[[], None]:
    """Return a function that runs forward, backward and one Adam step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        loss: Tensor = F.cross_entropy(network(patches), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def inference(network: nn.Module, patches: Tensor) -> Callable[[], None]:
    """Return a function that predicts one batch."""

    def predict() -> None:
        network.eval()
        with torch.inference_mode():
            network(patches)

    return predict


def alternate(
    ours: Callable[[], None], theirs: Callable[[], None], repetitions: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of each repetition of both, run in turns after one unmeasured run of each."""
    ours()
    theirs()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repetitions):
        for run, kept in zip((ours, theirs), seconds, strict=True):
            start = time.perf_counter()
            run()
            kept.append(time.perf_counter() - start)
    return seconds


def measure(batch_size: int, repetitions: int) -> dict[str, float]:
    """Return ratios (above 1: ours is faster) and patches per second of training and inference, float32."""
    torch.manual_seed(0)
    ours = build_classifier(ClassifierParameters(variant="exact"))
    theirs = with_conv2d(build_classifier(ClassifierParameters(variant="exact")))
    theirs.load_state_dict(ours.state_dict())
    patches, labels = torch.rand(batch_size, 1, PATCH_PX, PATCH_PX), torch.arange(batch_size) % 3
    with torch.inference_mode():
        torch.testing.assert_close(ours(patches), theirs(patches), rtol=1e-3, atol=1e-4)
    figures: dict[str, float] = {}
    tasks = {  # a prediction is short, so a busy moment weighs more: five times the repetitions
        "inference": (inference(ours, patches), inference(theirs, patches), 5 * repetitions),
        "training": (training_step(ours, patches, labels), training_step(theirs, patches, labels), repetitions),
    }
    for task, (our_run, their_run, count) in tasks.items():
        seconds = [statistics.median(times) for times in alternate(our_run, their_run, count)]
        figures[f"{task}_vs_conv2d"] = round(seconds[1] / seconds[0], 2)
        figures[f"{task}_patches_per_second"] = round(batch_size / seconds[0], 2)
        figures[f"{task}_patches_per_second_conv2d"] = round(batch_size / seconds[1], 2)
        figures[f"{task}_repetitions"] = count
    return figures


def print_cut_over(repetitions: int) -> None:
    """Print the milliseconds of spectra and F.conv2d by kernel size: where our layer should change over."""
    for stride in (1, 2):
        for size in (3, 5, 7, 8, 9, 12, 16, 24, 32):
            x, weight = torch.randn(4, 32, 64, 64), torch.randn(32, 1, size, size, requires_grad=True)
            padding = same_padding(64, size, stride) * 2

            def spectral(x=x, weight=weight, stride=stride, padding=padding):  # type: ignore[no-untyped-def]
                return SpectralDepthwise.apply(x, weight, None, stride, padding, torch.is_grad_enabled())

            def direct(x=x, weight=weight, stride=stride, padding=padding):  # type: ignore[no-untyped-def]
                return F.conv2d(F.pad(x, padding), weight, None, stride, groups=32)

            def trained(layer: Any, x: Tensor = x) -> Callable[[], None]:
                return lambda: layer(x=x.detach().requires_grad_()).sum().backward()

            training = [1e3 * min(times) for times in alternate(trained(spectral), trained(direct), repetitions)]
            with torch.inference_mode():
                predicting = [1e3 * min(times) for times in alternate(spectral, direct, repetitions)]
            print(
                f"stride {stride}, {size}x{size}: training {training[0]:.1f} ms against {training[1]:.1f},"
                f" inference {predicting[0]:.1f} against {predicting[1]:.1f}"
            )


def cpu_model() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16], help="64 takes minutes with nn.Conv2d")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", type=Path, default=Path("reports/benchmarks/large_kernel.json"))
    parser.add_argument("--cut-over", action="store_true", help="only print timings by kernel size")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.cut_over:
        print_cut_over(arguments.repetitions)
        return
    report = {
        "float32": {f"batch_{size}": measure(size, arguments.repetitions) for size in arguments.batch_sizes},
        "machine": {"cpu": cpu_model(), "threads": arguments.threads, "torch": torch.__version__},
    }
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
