"""Depthwise convolution as a product of spectra, exact forward and backward.

A depthwise kernel of K x K costs K² multiply-adds per output pixel; as a product of spectra its cost hardly grows with
K. Five choices make it fast:

- The transform is only as long as the wanted outputs ask, not as the full linear convolution: what wraps around falls
  on outputs nobody reads. 64 points with a kernel of 32 need 80 points instead of 95, a quarter less work than 96.
- Two images are the real and the imaginary part of one: a real kernel acts on each alone, and complex transforms take
  less time than real ones of as many images, above all the inverse.
- Every s-th output has the spectrum of all outputs folded s times, so that stride s asks for a short inverse
  transform; backward the short spectrum of the gradient is repeated, and nothing is filled with zeros.
- Padding is a circular shift of the kernel, which is small and shared by the batch; the images are never shifted. A
  bias is added to the spectrum's first value, and its gradient read there: neither passes over the images.
- Channels go through in groups whose spectra stay in the processor's cache.

The forward map is the restriction of an exact circulant, so both gradients are its exact transposes at the same size.
Source of the method: Mathieu, Henaff and LeCun 2014, "Fast training of convolutional networks through FFTs".
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Padding = tuple[int, int, int, int]  # left, right, top, bottom: the order of F.pad

# Complex numbers in one group's spectrum: about the second-level cache on a CPU, bounded memory on an accelerator.
GROUP_SPECTRUM_SIZE = {"cpu": 2**19, "other": 2**25}


class Axis(NamedTuple):
    """One axis of a strided convolution as every stride-th output of a circular one over `points` points."""

    outputs: int
    points: int


def plan_axis(size: int, taps: int, stride: int, before: int, after: int) -> Axis:
    """Find the shortest fast transform, a multiple of the stride, that is exact for the wanted outputs.

    y[i] = sum_k x[stride * i + k - before] w[k]: that index may go around the circle only where the transform holds
    zeros.
    """
    outputs = (size + before + after - taps) // stride + 1
    # The least index, -before, must come around behind the last pixel; the greatest must not come around.
    points = max(size + before, stride * (outputs - 1) + taps - before, taps, stride * outputs)
    return Axis(outputs, stride * _fast_length(math.ceil(points / stride)))


def _fast_length(at_least: int) -> int:
    """Return the next length whose only prime factors are 2, 3 and 5."""
    length = at_least
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def plan(x: Tensor, weight: Tensor, stride: int, padding: Padding) -> tuple[Axis, Axis]:
    """Return the vertical and the horizontal axis."""
    left, right, top, bottom = padding
    rows = plan_axis(x.shape[2], weight.shape[2], stride, top, bottom)
    columns = plan_axis(x.shape[3], weight.shape[3], stride, left, right)
    return rows, columns


class SpectralDepthwise(torch.autograd.Function):
    """`F.conv2d(F.pad(x, padding), weight, bias, stride, groups=C)` as products of spectra.

    `keep` holds the image spectra for `backward`, about 210 MB for both layers at batch 64.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: Padding, keep: bool
    ) -> Tensor:
        rows, columns = plan(x, weight, stride, padding)
        size = (rows.points, columns.points)
        circles = weight.new_zeros(len(weight), *size, dtype=_at_least_float32(weight))
        circles[:, : weight.shape[2], : weight.shape[3]] = weight[:, 0]
        shift = (padding[2], padding[0])
        kernels = torch.fft.fft2(circles.roll((-shift[0], -shift[1]), (1, 2)))
        kernels_conj = (kernels.conj() / stride**2).resolve_conj()
        y = x.new_empty(*x.shape[:2], rows.outputs, columns.outputs)
        pairs = []
        for group in _channel_groups(x, rows, columns):
            pair = _spectrum_of_pairs(x[:, group], size)
            if keep:
                pairs.append(pair)
            product = _fold(pair * kernels_conj[group], stride)
            if bias is not None:
                # The first value is the sum over all points, of both images.
                total = bias[group].to(product.real.dtype) * product[0, 0].numel()
                product[:, :, 0, 0] += torch.complex(total, total)
            _inverse_of_pairs(product, out=y[:, group])
        ctx.save_for_backward(x, weight, kernels)
        ctx.pairs, ctx.axes, ctx.stride, ctx.shift = pairs, (rows, columns), stride, shift
        return y

    @staticmethod
    @once_differentiable
    def backward(  # noqa: D102
        ctx: Any, grad_y: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        x, weight, kernels = ctx.saved_tensors
        stride, (rows, columns) = ctx.stride, ctx.axes
        size = (rows.points, columns.points)
        pairs = iter(ctx.pairs)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_kernels = torch.empty_like(kernels) if ctx.needs_input_grad[1] else None
        grad_bias = grad_y.new_empty(len(weight), dtype=_at_least_float32(weight)) if ctx.needs_input_grad[2] else None
        for group in _channel_groups(x, rows, columns):
            # (pairs, channels, 1, rows, 1, columns), repeated `stride` times along each axis where it meets the others
            grad = _spectrum_of_pairs(grad_y[:, group], (size[0] // stride, size[1] // stride))[:, :, None, :, None]
            if grad_bias is not None:
                of_pairs = grad[:, :, 0, 0, 0, 0]
                grad_bias[group] = (of_pairs.real + of_pairs.imag).sum(0)
            if grad_kernels is not None:
                pair = next(pairs) if ctx.pairs else _spectrum_of_pairs(x[:, group], size)
                # Its inverse's real part is the sum over both images; what one does to the other is imaginary.
                met = (_repeats(pair, stride) * grad.conj().resolve_conj()).sum(0)
                grad_kernels[group] = met.flatten(3, 4).flatten(1, 2)
            if grad_x is not None:
                product = (grad * _repeats(kernels[group], stride)).flatten(4, 5).flatten(2, 3)
                _inverse_of_pairs(product, out=grad_x[:, group])
        if grad_bias is not None:
            grad_bias = grad_bias.to(weight.dtype)
        if grad_kernels is None:
            return grad_x, None, grad_bias, None, None, None
        circles = torch.fft.ifft2(grad_kernels).real.roll(ctx.shift, (1, 2))
        grad_weight = circles[:, None, : weight.shape[2], : weight.shape[3]].to(weight.dtype)
        return grad_x, grad_weight.contiguous(), grad_bias, None, None, None


def _channel_groups(x: Tensor, rows: Axis, columns: Axis) -> Iterator[slice]:
    room = GROUP_SPECTRUM_SIZE.get(x.device.type, GROUP_SPECTRUM_SIZE["other"])
    step = max(1, room // max(1, math.ceil(len(x) / 2) * rows.points * columns.points))
    return (slice(start, start + step) for start in range(0, x.shape[1], step))


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _spectrum_of_pairs(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Transform (N, C, h, w) to (ceil(N / 2), C, *size): images 0, 2, … as real parts, 1, 3, … as imaginary ones."""
    height, width = images.shape[2:]
    shape = (math.ceil(len(images) / 2), images.shape[1], *size, 2)
    pairs = images.new_zeros(shape, dtype=_at_least_float32(images))
    pairs[:, :, :height, :width, 0] = images[0::2]
    pairs[: len(images) // 2, :, :height, :width, 1] = images[1::2]
    spectrum: Tensor = torch.fft.fft2(torch.view_as_complex(pairs))
    return spectrum


def _inverse_of_pairs(spectrum: Tensor, out: Tensor) -> None:
    """Transform back into `out` (N, C, h, w), the first rows and columns: the inverse of `_spectrum_of_pairs`."""
    pairs = torch.view_as_real(torch.fft.ifft2(spectrum))[:, :, : out.shape[2], : out.shape[3]]
    out[0::2] = pairs[..., 0]
    out[1::2] = pairs[: len(out) // 2, ..., 1]


def _fold(spectrum: Tensor, stride: int) -> Tensor:
    """Sum what `_repeats` shows side by side: the spectrum, times stride², of every stride-th value on both axes."""
    # One sum over both axes takes far longer than two.
    return spectrum if stride == 1 else _repeats(spectrum, stride).sum(-4).sum(-2)


def _repeats(spectrum: Tensor, stride: int) -> Tensor:
    """View (..., h, w) as (..., stride, h / stride, stride, w / stride): where a repeated spectrum meets it."""
    height, width = spectrum.shape[-2:]
    return spectrum.reshape(*spectrum.shape[:-2], stride, height // stride, stride, width // stride)
