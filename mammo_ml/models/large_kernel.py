"""Fast depthwise convolution for kernels of 32x32 and 64x64, equal to `Conv2d(groups=C)`.

Four methods give the same, up to the type they compute in; which is fastest depends on the kernel's size, the type and
the device:

- `direct`: `F.conv2d`, for small kernels;
- `compiled`: a product of spectra, whose cost hardly grows with the kernel, by a program that is written for the size
  and compiled for the processor (`mammo_ml.models.compiled_depthwise`);
- `spectra`: a product of spectra by torch's transforms (`mammo_ml.models.spectral_depthwise`), on any device, of any
  size, in any type;
- `toeplitz`: each channel's kernel as banded matrices, one per row of it, that take a row of the image to a row of
  outputs. Most of their entries are zeros, but dense products are what matrix units are made for.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mammo_ml.models.compiled_depthwise import CompiledDepthwise, can_compile
from mammo_ml.models.depthwise_program import TOGETHER
from mammo_ml.models.spectral_depthwise import Padding, SpectralDepthwise, plan

Method = Literal["direct", "compiled", "spectra", "toeplitz"]

# From this many taps on a CPU's vector units use a product of spectra; chosen by what
# `python -m benchmarks.large_kernel --cut-over` measures (reports/benchmarks/large_kernel_cut_over.json). F.conv2d's
# gradients are far slower than its forward pass, so training changes over at smaller kernels. In inference F.conv2d
# leaves out what a stride skips. Toeplitz products are never the fastest there. A program does sixteen images in the
# time of one, and counts by the share that is there. Torch's transforms, which are left the few, were measured with
# four images (docs/experiments.md).
FROM_TAPS_TRAINING: Mapping[Method, int] = MappingProxyType({"compiled": 5 * 5, "spectra": 8 * 8})
FROM_TAPS_INFERENCE: Mapping[Method, int] = MappingProxyType({"compiled": 8 * 8, "spectra": 24 * 24})
FROM_TAPS_INFERENCE_STRIDED: Mapping[Method, int] = MappingProxyType({"compiled": 12 * 12, "spectra": 32 * 32})
FEW_IMAGES = 3
"""So many or fewer go faster through torch's transforms than through a program."""
TRIAL_IMAGES = 16
TRIALS = 3
HOPELESS = 10.0


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Return Keras' "same" padding (before, after) of one axis: ceil(size / stride) outputs, the odd pixel after."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: Padding = (0, 0, 0, 0),
    method: Method | None = None,
) -> Tensor:
    """Convolve each channel with its own kernel: `F.conv2d(F.pad(x, padding), weight, bias, stride, groups=C)`.

    Args:
        x: (N, C, H, W) of any floating type; spectra of types narrower than float32 are computed in float32, the other
            methods in the type that autocast asks.
        weight: (C, 1, kh, kw), as `nn.Conv2d(C, C, (kh, kw), groups=C)` keeps it.
        bias: (C,) or None.
        stride: the same for both axes.
        padding: zeros to the left, right, top and bottom, in pixels.
        method: how; by default what is fastest (`fastest_method`).

    Returns:
        (N, C, H', W') of x's type, differentiable once.

    Raises:
        ValueError: when the shapes do not fit each other, or the kernel exceeds the padded image.
    """
    if x.ndim != 4 or weight.ndim != 4 or weight.shape[:2] != (x.shape[1], 1):
        raise ValueError(
            f"expected x (N, C, H, W) and weight (C, 1, kh, kw), found {(*x.shape,)} and {(*weight.shape,)}"
        )
    if bias is not None and (bias.shape != (x.shape[1],) or bias.device != x.device):
        raise ValueError(f"expected bias ({x.shape[1]},) on {x.device}, found {(*bias.shape,)} on {bias.device}")
    if stride < 1 or min(padding) < 0:
        raise ValueError(f"expected stride >= 1 and padding >= 0, found {stride} and {padding}")
    if min(axis.outputs for axis in plan(x, weight, stride, padding)) < 1:
        raise ValueError(f"kernel {(*weight.shape[2:],)} exceeds the image {(*x.shape[2:],)} padded by {padding}")
    return METHODS[method or fastest_method(x, weight, bias, stride, padding)](x, weight, bias, stride, padding)


def fastest_method(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: Padding) -> Method:
    """The method for this size, type and device; arguments as of `depthwise_conv2d`.

    It was measured once and for all, so that one training gives the same numbers twice. Matrix units, an accelerator's
    or AMX, work in narrow types, and nobody could measure them for you: there the first convolution of a kind tries all
    of them, and the process keeps the fastest. Two runs may then differ by what the types round.
    """
    learned = (x, weight) if bias is None else (x, weight, bias)
    training = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in learned)
    device = x.device.type
    narrows = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    narrowed = torch.get_autocast_dtype(device) if narrows else None
    if not _has_matrix_units_for(narrowed or x.dtype, device):
        return _fastest_without_matrix_units(x, weight, stride, padding, training)
    of_images = (TRIAL_IMAGES if len(x) > FEW_IMAGES else FEW_IMAGES, *x.shape[1:])
    with _one_at_a_time:
        return _fastest_of_trial(
            x.device, x.dtype, weight.dtype, narrowed, of_images, (*weight.shape,), stride, padding, training
        )


def _fastest_without_matrix_units(x: Tensor, weight: Tensor, stride: int, padding: Padding, training: bool) -> Method:
    inference = FROM_TAPS_INFERENCE if stride == 1 else FROM_TAPS_INFERENCE_STRIDED
    from_taps = FROM_TAPS_TRAINING if training else inference
    taps, images = weight[0].numel(), len(x)
    if images > FEW_IMAGES and can_compile(x, weight, stride, padding):
        share = images / (TOGETHER * math.ceil(images / TOGETHER))
        if taps * share >= from_taps["compiled"]:
            return "compiled"
    return "spectra" if taps >= from_taps["spectra"] else "direct"


def _has_matrix_units_for(dtype: torch.dtype, device: str) -> bool:
    # An accelerator's would take float32 as TF32, which keeps three decimals. Device `meta` computes nothing.
    if dtype not in (torch.bfloat16, torch.float16) or device == "meta":
        return False
    if device != "cpu":
        return True
    return dtype == torch.bfloat16 and bool(torch.cpu.get_capabilities().get("amx_bf16"))


_one_at_a_time = threading.Lock()
"""Trials beside each other would slow each other."""


@cache
def _fastest_of_trial(
    device: torch.device,
    dtype: torch.dtype,
    weight_dtype: torch.dtype,
    narrowed: torch.dtype | None,  # by autocast, in which the trial runs as well: a part of the key alone
    of_images: tuple[int, ...],
    of_weight: tuple[int, ...],
    stride: int,
    padding: Padding,
    training: bool,
) -> Method:
    with torch.inference_mode(False), torch.set_grad_enabled(training):
        x = torch.zeros(of_images, device=device, dtype=dtype, requires_grad=training)
        weight = torch.zeros(of_weight, device=device, dtype=weight_dtype, requires_grad=training)

        def work(method: Method) -> None:
            y = METHODS[method](x, weight, None, stride, padding)
            if training:
                torch.autograd.grad(y, (x, weight), torch.zeros_like(y))

        seconds: dict[Method, float] = {}
        for method in METHODS:
            seconds[method] = _seconds(partial(work, method), device, min(seconds.values(), default=math.inf))
    return min(seconds, key=lambda method: seconds[method])


def _seconds(work: Callable[[], None], device: torch.device, best: float) -> float:
    """The shortest of a few runs after a first one, which may compile or fetch; infinite where it cannot be done.

    A first run far beyond the best of another method is enough.
    """
    times = []
    for _ in range(1 + TRIALS):
        start = time.perf_counter()
        try:
            work()
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
        except RuntimeError:  # too large for the device's memory, or a type it has no transform for
            return math.inf
        times.append(time.perf_counter() - start)
        if times[0] > HOPELESS * best:
            return times[0]
    return min(times[1:])


def _direct(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: Padding) -> Tensor:
    return F.conv2d(F.pad(x, padding), weight, bias, stride, groups=x.shape[1]).to(x.dtype)


def _spectra(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: Padding) -> Tensor:
    keep = torch.is_grad_enabled() and weight.requires_grad
    y: Tensor = SpectralDepthwise.apply(x, weight, bias, stride, padding, keep)
    return y


def _compiled(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: Padding) -> Tensor:
    if not can_compile(x, weight, stride, padding):
        raise RuntimeError(f"no program is written for {x.dtype} on {x.device.type} at this size: use another method")
    y: Tensor = CompiledDepthwise.apply(x, weight, bias, stride, padding)
    return y


def _toeplitz(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: Padding) -> Tensor:
    """One dense convolution along the columns whose channels are the pixels of a row."""
    n, channels, _, width = x.shape
    columns = plan(x, weight, stride, padding)[1].outputs
    # Which tap of its row takes each pixel to each output: (W', W); one beyond the last where none does.
    taps = torch.arange(width, device=x.device) - stride * torch.arange(columns, device=x.device)[:, None] + padding[0]
    n_taps = weight.shape[3]
    taps = torch.where((taps >= 0) & (taps < n_taps), taps, n_taps)
    banded = F.pad(weight[:, 0], (0, 1))[:, :, taps].permute(0, 2, 3, 1)  # (C, W', W, kh)
    rows = F.pad(x.transpose(2, 3), (padding[2], padding[3])).flatten(1, 2)
    y = F.conv1d(rows, banded.reshape(channels * columns, width, -1), None, stride, groups=channels)
    y = y.view(n, channels, columns, y.shape[2]).transpose(2, 3)
    return (y if bias is None else y + bias[:, None, None]).to(x.dtype)


METHODS: Mapping[Method, Callable[[Tensor, Tensor, Tensor | None, int, Padding], Tensor]] = MappingProxyType(
    {"compiled": _compiled, "spectra": _spectra, "toeplitz": _toeplitz, "direct": _direct}
)


class LargeKernelDepthwise(nn.Module):
    """Depthwise convolution with Keras' "same" padding; its state_dict is that of `nn.Conv2d(C, C, K, groups=C)`."""

    def __init__(self, channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as Keras does: Glorot uniform, biases zero.

        Keras counts a depthwise kernel's fans as C·K² and K², torch as K² and C·K²; Glorot's limit uses their sum.
        """
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        kernel_size = self.weight.shape[-1]
        top, bottom = same_padding(x.shape[-2], kernel_size, self.stride)
        left, right = same_padding(x.shape[-1], kernel_size, self.stride)
        return depthwise_conv2d(x, self.weight, self.bias, self.stride, (left, right, top, bottom))

    def extra_repr(self) -> str:
        """Return what `print(module)` shows."""
        return f"{len(self.weight)}, kernel_size={self.weight.shape[-1]}, stride={self.stride}"
