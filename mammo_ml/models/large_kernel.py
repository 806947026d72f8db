"""Fast depthwise convolution for kernels of 32x32 and 64x64, equal to `Conv2d(groups=C)`.

A depthwise kernel of K x K costs K² multiply-adds per output pixel; as a product of spectra its cost hardly grows with
K. Four choices make it fast:

- The transform is only as long as the wanted outputs ask, not as the full linear convolution: what wraps around falls
  on outputs nobody reads. 64 points with a kernel of 32 need 80 points instead of 95, a quarter less work than 96.
- Stride s is the sum of s² convolutions of stride 1 between every s-th pixel and every s-th tap (polyphase), so no
  output is computed to be thrown away.
- Padding is a circular shift of the kernel, which is small and shared by the batch; the images are never shifted.
- Channels go through in groups whose spectra stay in the processor's cache.

The forward map is the restriction of an exact circulant, so both gradients are its exact transposes at the same size.
Source of the method: Mathieu, Henaff and LeCun 2014, "Fast training of convolutional networks through FFTs".
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Padding = tuple[int, int, int, int]  # left, right, top, bottom: the order of F.pad

# From this many taps on we use spectra; `python -m benchmarks.large_kernel --cut-over` shows the timings to choose by.
# F.conv2d's gradients are far slower than its forward pass, so training changes over at smaller kernels. Chosen for
# stride 1 on a CPU; in inference at stride 2 F.conv2d was still ahead at 32x32.
SPECTRAL_FROM_TAPS_TRAINING = 8 * 8
SPECTRAL_FROM_TAPS_INFERENCE = 24 * 24
# Complex numbers in one group's spectrum: about the second-level cache on a CPU, bounded memory on an accelerator.
GROUP_SPECTRUM_SIZE = {"cpu": 2**19, "other": 2**25}


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Return Keras' "same" padding (before, after) of one axis: ceil(size / stride) outputs, the odd pixel after."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: Padding = (0, 0, 0, 0)
) -> Tensor:
    """Convolve each channel with its own kernel: `F.conv2d(F.pad(x, padding), weight, bias, stride, groups=C)`.

    Args:
        x: (N, C, H, W) of any floating type; types narrower than float32 are computed in float32.
        weight: (C, 1, kh, kw), as `nn.Conv2d(C, C, (kh, kw), groups=C)` keeps it.
        bias: (C,) or None.
        stride: the same for both axes.
        padding: zeros to the left, right, top and bottom, in pixels.

    Returns:
        (N, C, H', W') of x's type, differentiable once.

    Raises:
        ValueError: when the shapes do not fit each other, or the kernel exceeds the padded image.
    """
    if x.ndim != 4 or weight.ndim != 4 or weight.shape[:2] != (x.shape[1], 1):
        raise ValueError(
            f"expected x (N, C, H, W) and weight (C, 1, kh, kw), found {(*x.shape,)} and {(*weight.shape,)}"
        )
    if stride < 1 or min(padding) < 0:
        raise ValueError(f"expected stride >= 1 and padding >= 0, found {stride} and {padding}")
    if min(axis.outputs for axis in plan(x, weight, stride, padding)) < 1:
        raise ValueError(f"kernel {(*weight.shape[2:],)} exceeds the image {(*x.shape[2:],)} padded by {padding}")
    training = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if weight[0].numel() < (SPECTRAL_FROM_TAPS_TRAINING if training else SPECTRAL_FROM_TAPS_INFERENCE):
        return F.conv2d(F.pad(x, padding), weight, bias, stride, groups=x.shape[1])
    y: Tensor = SpectralDepthwise.apply(x, weight, stride, padding, training and weight.requires_grad)
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


class Phase(NamedTuple):
    """Every stride-th pixel and the stride-th taps that meet them, the first tap at lag `lag`."""

    pixels: slice
    taps: slice
    lag: int


class Axis(NamedTuple):
    """One axis of a strided convolution as a sum of circular convolutions over `points` points."""

    phases: tuple[Phase, ...]
    outputs: int
    points: int


def plan_axis(size: int, taps: int, stride: int, before: int, after: int) -> Axis:
    """Split a strided convolution of `size` pixels into phases and find the shortest transform that is exact.

    y[i] = sum_k x[stride * i + k - before] w[k]: in the phase k = stride * a + first_tap, output i reads the phase's
    pixel i + a + lag. That index may go around the circle only where the transform holds zeros.
    """
    outputs = (size + before + after - taps) // stride + 1
    phases, points = [], outputs
    for first_tap in range(min(stride, taps)):
        lag, first_pixel = divmod(first_tap - before, stride)
        pixel_count, tap_count = len(range(first_pixel, size, stride)), len(range(first_tap, taps, stride))
        # The least index, lag <= 0, must come around behind the last pixel; the greatest must not come around.
        points = max(points, pixel_count - lag, outputs + lag + tap_count - 1, tap_count)
        if pixel_count:
            phases.append(Phase(slice(first_pixel, None, stride), slice(first_tap, None, stride), lag))
    return Axis(tuple(phases), outputs, _fast_length(points))


def _fast_length(at_least: int) -> int:
    """Return the next even length whose only prime factors are 2, 3 and 5."""
    length = at_least + at_least % 2
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


def plan(x: Tensor, weight: Tensor, stride: int, padding: Padding) -> tuple[Axis, Axis]:
    """Return the vertical and the horizontal axis."""
    left, right, top, bottom = padding
    rows = plan_axis(x.shape[2], weight.shape[2], stride, top, bottom)
    columns = plan_axis(x.shape[3], weight.shape[3], stride, left, right)
    return rows, columns


class SpectralDepthwise(torch.autograd.Function):
    """The convolution above as products of spectra.

    `keep` holds the image spectra for `backward`, about 210 MB for both layers at batch 64: at batch 16
    on two cores that took 15 % less time than transforming again; at batch 64 the timings did not decide.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: Padding, keep: bool) -> Tensor:  # noqa: D102
        rows, columns = plan(x, weight, stride, padding)
        kernels = _kernel_spectra(weight, rows, columns)
        kernels_conj = kernels.conj().resolve_conj()
        y = x.new_empty(*x.shape[:2], rows.outputs, columns.outputs)
        images = []
        for group in _channel_groups(x, rows, columns):
            total: Tensor | None = None
            for phase, (row, column) in enumerate(product(rows.phases, columns.phases)):
                image = _spectrum(x[:, group, row.pixels, column.pixels], rows, columns)
                term = image * kernels_conj[phase, group]
                total = term if total is None else total.add_(term)
                if keep:
                    images.append(image)
            assert total is not None, "an axis has at least one phase"
            y[:, group] = _inverse(total, rows.outputs, columns.outputs, columns)
        ctx.save_for_backward(x, weight, kernels)
        ctx.images, ctx.axes = images, (rows, columns)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:  # noqa: D102
        x, weight, kernels = ctx.saved_tensors
        rows, columns = ctx.axes
        images = iter(ctx.images)
        # Zeros, because with a stride above the kernel size some pixels meet no tap.
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        grad_kernels = torch.empty_like(kernels) if ctx.needs_input_grad[1] else None
        for group in _channel_groups(x, rows, columns):
            grad = _spectrum(grad_y[:, group], rows, columns)
            grad_conj = grad.conj().resolve_conj()
            for phase, (row, column) in enumerate(product(rows.phases, columns.phases)):
                pixels = (slice(None), group, row.pixels, column.pixels)
                if grad_kernels is not None:
                    image = next(images) if ctx.images else _spectrum(x[pixels], rows, columns)
                    torch.sum(image * grad_conj, 0, out=grad_kernels[phase, group])
                if grad_x is not None:
                    height, width = grad_x[pixels].shape[2:]
                    grad_x[pixels] = _inverse(grad * kernels[phase, group], height, width, columns)
        grad_weight = None if grad_kernels is None else _kernel_gradient(grad_kernels, weight, rows, columns)
        return grad_x, grad_weight, None, None, None


def _channel_groups(x: Tensor, rows: Axis, columns: Axis) -> Iterator[slice]:
    room = GROUP_SPECTRUM_SIZE.get(x.device.type, GROUP_SPECTRUM_SIZE["other"])
    step = max(1, room // max(1, len(x) * rows.points * (columns.points // 2 + 1)))
    return (slice(start, start + step) for start in range(0, x.shape[1], step))


def _spectrum(images: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Transform (..., h, w) to (..., row points, column points / 2 + 1), complex64 or complex128."""
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    spectrum: Tensor = torch.fft.rfft2(wide, s=(rows.points, columns.points))
    return spectrum


def _inverse(spectrum: Tensor, height: int, width: int, columns: Axis) -> Tensor:
    """Transform back and keep the first `height` x `width`; rows that are cut away are not transformed along x."""
    image_rows = torch.fft.ifft(spectrum, dim=-2)[..., :height, :]
    images: Tensor = torch.fft.irfft(image_rows, n=columns.points)[..., :width]
    return images


def _kernel_spectra(weight: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Transform (C, 1, kh, kw) to (phases, C, row points, ...), each tap at its lag, counted around the circle."""
    pairs = list(product(rows.phases, columns.phases))
    circles = weight.new_zeros(len(pairs), len(weight), rows.points, columns.points)
    for circle, (row, column) in zip(circles, pairs, strict=True):
        taps = weight[:, 0, row.taps, column.taps]
        circle[:, : taps.shape[1], : taps.shape[2]] = taps
        circle.copy_(circle.roll((row.lag, column.lag), (1, 2)))
    return _spectrum(circles, rows, columns)


def _kernel_gradient(spectra: Tensor, weight: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Return the gradient (C, 1, kh, kw), each tap read at its lag: the transpose of `_kernel_spectra`."""
    grad_weight = torch.zeros_like(weight)  # taps that only ever meet padding stay zero
    circles = _inverse(spectra, rows.points, columns.points, columns)
    for circle, (row, column) in zip(circles, product(rows.phases, columns.phases), strict=True):
        target = grad_weight[:, 0, row.taps, column.taps]
        target.copy_(circle.roll((-row.lag, -column.lag), (1, 2))[:, : target.shape[1], : target.shape[2]])
    return grad_weight


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
