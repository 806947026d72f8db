"""Depthwise convolution as a product of spectra, by programs compiled for its size and this processor.

What `mammo_ml.models.spectral_depthwise` does with a library's transforms, for processors, in float32, and for images
and outputs whose width the lanes divide; `mammo_ml.models.depthwise_program` says how.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mammo_ml.models.depthwise_program import LANES, TOGETHER, Layer, backward_program, forward_program
from mammo_ml.models.simd_program import CompiledFunction, works
from mammo_ml.models.spectral_depthwise import Padding, plan

LONGEST_TRANSFORM = 128
"""Points, of all phases together: programs grow with them, and the room has to stay in the cache."""
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def layer_of(x: Tensor, weight: Tensor, stride: int, padding: Padding) -> Layer:
    """The layer's measures."""
    rows, columns = plan(x, weight, stride, padding)
    return Layer(
        (x.shape[2], x.shape[3]),
        (rows.outputs, columns.outputs),
        (rows.points // stride, columns.points // stride),
        stride,
    )


def can_compile(x: Tensor, weight: Tensor, stride: int, padding: Padding) -> bool:
    """Whether there is a program for it, and programs work here."""
    if any(tensor.device.type != "cpu" or tensor.dtype not in TYPES for tensor in (x, weight)) or 0 in x.shape:
        return False
    layer = layer_of(x, weight, stride, padding)
    whole = all(size % stride == 0 for size in layer.size) and layer.size[1] % LANES == layer.outputs[1] % LANES == 0
    return whole and stride * max(layer.points) <= LONGEST_TRANSFORM and works()


class CompiledDepthwise(torch.autograd.Function):
    """`F.conv2d(F.pad(x, padding), weight, bias, stride, groups=C)` by compiled programs; float32 within."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: Padding
    ) -> Tensor:
        layer = layer_of(x, weight, stride, padding)
        kernels = _spectra_of_kernels(weight, layer, padding)
        images = _plain(x)
        y = images.new_empty(*x.shape[:2], *layer.outputs)
        shift = images.new_zeros(x.shape[1]) if bias is None else _plain(bias)
        _run(forward_program(layer), [kernels, shift], [images, y])
        ctx.save_for_backward(images, weight, kernels)
        ctx.layer, ctx.padding, ctx.dtype = layer, padding, x.dtype
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # noqa: D102
        ctx: Any, grad_y: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        images, weight, kernels = ctx.saved_tensors
        layer: Layer = ctx.layer
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        grads = _plain(grad_y)
        grad_bias = grads.sum((0, 2, 3)).to(weight.dtype) if of_bias else None
        grad_x = torch.empty_like(images) if of_x else images
        grad_kernels = images.new_zeros(len(weight), *layer.gradient_shape) if of_weight else kernels
        if of_x or of_weight:
            _run(backward_program(layer, of_x, of_weight), [kernels, grad_kernels], [images, grads, grad_x])
        grad_weight = _kernels_of_spectra(grad_kernels, weight, layer, ctx.padding) if of_weight else None
        return grad_x.to(ctx.dtype) if of_x else None, grad_weight, grad_bias, None, None


def _plain(tensor: Tensor) -> Tensor:
    """Its numbers as a program reads them: float32, one after the other."""
    return tensor.detach().float().resolve_neg().contiguous()


def _spectra_of_kernels(weight: Tensor, layer: Layer, padding: Padding) -> Tensor:
    """Spectra of the kernels' phases over the number of points: (C, *layer.spectrum_shape), complex."""
    (rows, columns), stride = layer.points, layer.stride
    circles = torch.zeros(len(weight), stride * rows, stride * columns, dtype=torch.float32, device="cpu")
    circles[:, : weight.shape[2], : weight.shape[3]] = weight[:, 0].detach()
    turned = circles.roll((-padding[2], -padding[0]), (1, 2))
    phases = turned.view(-1, rows, stride, columns, stride).permute(0, 4, 2, 3, 1)
    spectra: Tensor = torch.fft.fft2(phases, norm="forward")
    return spectra.contiguous()


def _kernels_of_spectra(parts: Tensor, weight: Tensor, layer: Layer, padding: Padding) -> Tensor:
    """The kernels (C, 1, kh, kw) whose phases have these spectra (C, *layer.gradient_shape)."""
    (rows, columns), stride = layer.points, layer.stride
    re, im = parts[..., :rows].unbind(-2)
    phases = torch.fft.ifft2(torch.complex(re, im)).real
    turned = phases.permute(0, 4, 2, 3, 1).reshape(-1, stride * rows, stride * columns)
    circles = turned.roll((padding[2], padding[0]), (1, 2))
    kernels: Tensor = circles[:, None, : weight.shape[2], : weight.shape[3]].to(weight.dtype)
    return kernels.contiguous()


def _run(program: CompiledFunction, of_channels: Sequence[Tensor], of_images: Sequence[Tensor]) -> None:
    """Run a program on all images.

    Args:
        program: as `forward_program` and `backward_program` return it.
        of_channels: its arrays (C, …).
        of_images: tensors (N, C, …), of which its tables are made, TOGETHER images at a time.
    """
    count, channels = of_images[0].shape[:2]
    # Where images are missing to the last ones, zeros are read, and what is written is not looked at.
    spare = [torch.zeros_like(tensor[0]) if count % TOGETHER else tensor for tensor in of_images]
    for first in range(0, count, TOGETHER):
        there = range(first, min(first + TOGETHER, count))
        addresses = [
            [*(tensor[image].data_ptr() for image in there), *[absent.data_ptr()] * (TOGETHER - len(there))]
            for tensor, absent in zip(of_images, spare, strict=True)
        ]
        tables = [(ctypes.c_int64 * TOGETHER)(*table) for table in addresses]
        program(channels, *(array.data_ptr() for array in of_channels), *map(ctypes.addressof, tables))
