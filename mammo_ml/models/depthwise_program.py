"""The programs of `mammo_ml.models.compiled_depthwise`: a depthwise convolution and its gradients by spectra.

The lanes of a vector are images. Twice as many images as lanes go through together, the first half as the real, the
other as the imaginary parts of complex ones: a real kernel acts on each alone. (What is not finite in one spoils its
companion all the same, and one that is a million times as large takes its decimals.) Of each channel, rows are
transformed into a room that stays in the second-level cache, then its columns, there and back, then rows of outputs:

- Rows and columns behind an image's end, and outputs nobody reads, are left out of the transforms, which are straight
  lines of arithmetic (`mammo_ml.models.straight_line_dft`).
- A stride s parts image and kernel into s x s phases, of every s-th row and column, whose short products are added up:
  no output is computed that the stride skips.
- What wraps around falls on outputs nobody reads, and padding is a turn of the kernel, as in
  `mammo_ml.models.spectral_depthwise`.
"""

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from mammo_ml.models.simd_program import CompiledFunction, SimdFunction, Value
from mammo_ml.models.straight_line_dft import ZERO, Complex, dft, inverse_dft

LANES = 8
TOGETHER = 2 * LANES
"""Images that go through together."""
LINE = 16
"""Numbers in a line of the cache."""
PROGRAMS = 32
"""As many of a kind are kept."""


class Layer(NamedTuple):
    """What a program is written for; rows before columns.

    Attributes:
        size: pixels of an image.
        outputs: pixels of an output.
        points: length of the transforms of one phase.
        stride: the same for both axes.
    """

    size: tuple[int, int]
    outputs: tuple[int, int]
    points: tuple[int, int]
    stride: int

    @property
    def pitch(self) -> int:
        """Numbers from one row of the room to the next: an odd multiple of a line, for the sake of the cache's sets."""
        return (self.points[1] | 1) * TOGETHER

    @property
    def spectrum_shape(self) -> tuple[int, int, int, int]:
        """Of a channel's kernel, complex: phases across, phases down, columns, rows."""
        return self.stride, self.stride, self.points[1], self.points[0]

    @property
    def gradient_shape(self) -> tuple[int, int, int, int, int]:
        """Of its gradient: phases across, phases down, columns, real and imaginary part, rows up to a full vector."""
        return *self.spectrum_shape[:3], 2, -(-self.points[0] // LANES) * LANES


_one_at_a_time = threading.Lock()
"""No program is written twice at once."""


def forward_program(layer: Layer) -> CompiledFunction:
    """Write and compile the forward map.

    Returns:
        `program(channels, kernels, bias, images, outputs)`: addresses of arrays (C, *spectrum_shape), complex, and
        (C,), and of tables of TOGETHER addresses of arrays (C, *size) and (C, *outputs), all of float32.
    """
    with _one_at_a_time:
        return _forward_program(layer)


@lru_cache(PROGRAMS)
def _forward_program(layer: Layer) -> CompiledFunction:
    writer = _Writer(layer, ("kernels", "bias"), ("images", "outputs"))
    total = writer.column_for_itself()

    def one_column(channel: Value, column: Value) -> None:
        writer.write([ZERO] * layer.points[0], total)

        def add_phase(across: Value, down: Value) -> None:
            spectrum = writer.transformed(writer.phase(across, down, column))
            kernel = writer.kernel(channel, column, across, down)
            products = [value.times_conjugate_of(k) for value, k in zip(spectrum, kernel, strict=True)]
            writer.write([old + new for old, new in zip(writer.read(total), products, strict=True)], total)

        writer.for_every_phase(add_phase)
        writer.transform_back(writer.read(total), writer.column(0, 1, layer.outputs[0], column))

    def one_channel(channel: Value) -> None:
        writer.transform_rows("images", channel, layer.size, layer.stride, 0)
        writer.function.loop(0, layer.points[1], lambda column: one_column(channel, column))
        shift = writer.function.spread(writer.function.array("bias"), channel)
        writer.transform_rows_back("outputs", channel, layer.outputs, 1, shift)

    return writer.function.compiled(one_channel)


def backward_program(layer: Layer, of_images: bool, of_kernels: bool) -> CompiledFunction:
    """Write and compile the gradients.

    Args:
        layer: what for.
        of_images: whether the images' gradients are written.
        of_kernels: whether the gradients of the kernels' spectra are added up.

    Returns:
        `program(channels, kernels, of_kernels, images, of_outputs, of_images)`, as `forward_program`'s; the second
        array is (C, *gradient_shape).
    """
    with _one_at_a_time:
        return _backward_program(layer, of_images, of_kernels)


@lru_cache(PROGRAMS)
def _backward_program(layer: Layer, of_images: bool, of_kernels: bool) -> CompiledFunction:
    writer = _Writer(layer, ("kernels", "of_kernels"), ("images", "of_outputs", "of_images"))
    first_of_outputs = layer.stride * layer.size[0]
    of_outputs = writer.column_for_itself()

    def one_column(channel: Value, column: Value) -> None:
        writer.write(writer.transformed(writer.column(first_of_outputs, 1, layer.outputs[0], column)), of_outputs)

        def one_phase(across: Value, down: Value) -> None:
            if of_kernels:
                spectrum = writer.transformed(writer.phase(across, down, column))
                grads = writer.read(of_outputs)
                products = [value.times_conjugate_of(grad) for value, grad in zip(spectrum, grads, strict=True)]
                writer.add_to_kernel(products, channel, column, across, down)
            if of_images:
                kernel = writer.kernel(channel, column, across, down)
                products = [grad * k for grad, k in zip(writer.read(of_outputs), kernel, strict=True)]
                writer.transform_back(products, writer.phase(across, down, column))

        writer.for_every_phase(one_phase)

    def one_channel(channel: Value) -> None:
        writer.transform_rows("of_outputs", channel, layer.outputs, 1, first_of_outputs)
        if of_kernels:
            writer.transform_rows("images", channel, layer.size, layer.stride, 0)
        writer.function.loop(0, layer.points[1], lambda column: one_column(channel, column))
        if of_images:
            writer.transform_rows_back("of_images", channel, layer.size, layer.stride)

    return writer.function.compiled(one_channel)


class _Column(NamedTuple):
    """Some complex vectors of a column: an array, and where in it each starts."""

    array: Any
    starts: list[Value | int]


class _Writer:
    """The parts that programs are made of.

    The room holds spectra by row and column, each a complex vector of TOGETHER numbers. Phases across lie below each
    other, as many rows each as an image has.
    """

    def __init__(self, layer: Layer, arrays: Sequence[str], tables: Sequence[str]) -> None:
        self.layer = layer
        rows = layer.stride * layer.size[0] + layer.outputs[0]  # of phases, and behind them of outputs
        self.function = SimdFunction(LANES, arrays=arrays, tables=tables, room=rows * layer.pitch)

    def for_every_phase(self, body: Callable[[Value, Value], None]) -> None:
        """Do this for every phase, across and down."""
        stride = self.layer.stride
        self.function.loop(0, stride, lambda across: self.function.loop(0, stride, lambda down: body(across, down)))

    # Columns of the room

    def column(self, first_row: Value | int, step: int, count: int, column: Value) -> _Column:
        """Every step-th of the room's rows, of one column."""
        pitch = self.layer.pitch
        start = column * TOGETHER + first_row * pitch
        return _Column(self.function.room, [start + row * step * pitch for row in range(count)])

    def phase(self, across: Value, down: Value, column: Value) -> _Column:
        """The rows of a phase, of one column."""
        rows, stride = self.layer.size[0], self.layer.stride
        return self.column(across * rows + down, stride, rows // stride, column)

    def column_for_itself(self) -> _Column:
        """Room in the first-level cache for a column's spectrum."""
        points = self.layer.points[0]
        return _Column(self.function.scratch(2 * points), [point * TOGETHER for point in range(points)])

    def read(self, column: _Column) -> list[Complex]:
        """The complex vectors of a column."""
        load, array = self.function.load, column.array
        return [Complex(load(array, start), load(array, start + LANES)) for start in column.starts]

    def write(self, values: Sequence[Complex], column: _Column) -> None:
        """Put complex vectors into a column."""
        for value, start in zip(values, column.starts, strict=True):
            self.function.store(value.re, column.array, start)
            self.function.store(value.im, column.array, start + LANES)

    def transformed(self, column: _Column) -> list[Complex]:
        """The spectrum of what is in a column, behind which there is nothing."""
        return dft(_filled(self.read(column), self.layer.points[0]))

    def transform_back(self, spectrum: Sequence[Complex], column: _Column) -> None:
        """Put what a spectrum stands for into a column, as far as this goes."""
        self.write(inverse_dft(spectrum)[: len(column.starts)], column)

    # Spectra of kernels

    def _phase_of_kernel(self, channel: Value, column: Value, across: Value, down: Value) -> Value:
        stride, columns = self.layer.stride, self.layer.points[1]
        phase: Value = ((channel * stride + across) * stride + down) * columns + column
        return phase

    def kernel(self, channel: Value, column: Value, across: Value, down: Value) -> list[Complex]:
        """A column of the spectrum of a kernel's phase, the same for all images."""
        points, kernels = self.layer.points[0], self.function.array("kernels")
        start = self._phase_of_kernel(channel, column, across, down) * (2 * points)
        starts = [start + 2 * point for point in range(points)]
        return [Complex(self.function.spread(kernels, at), self.function.spread(kernels, at + 1)) for at in starts]

    def add_to_kernel(
        self, products: Sequence[Complex], channel: Value, column: Value, across: Value, down: Value
    ) -> None:
        """Add the sum over all images to a column of the gradient of a kernel's phase."""
        array, padded = self.function.array("of_kernels"), self.layer.gradient_shape[-1]
        start = self._phase_of_kernel(channel, column, across, down) * (2 * padded)
        filled = _filled(products, padded)
        for part, values in enumerate(([value.re for value in filled], [value.im for value in filled])):
            for point in range(0, padded, LANES):
                at = start + (part * padded + point)
                new = self.function.sums(values[point : point + LANES])
                self.function.store(self.function.load(array, at) + new, array, at)

    # Rows of images

    def _planes(self, table: str, channel: Value, size: tuple[int, int]) -> list[Any]:
        start = channel * (size[0] * size[1])
        return [self.function.from_table(table, image, start) for image in range(TOGETHER)]

    def _row(self, row: Value) -> _Column:
        start = row * self.layer.pitch
        return _Column(self.function.room, [start + column * TOGETHER for column in range(self.layer.points[1])])

    def transform_rows(self, table: str, channel: Value, size: tuple[int, int], stride: int, first_row: int) -> None:
        """Put the spectra of all rows of a channel, phase across by phase across, into the room from a row on."""
        planes = self._planes(table, channel, size)

        def one_row(row: Value) -> None:
            re, im = (self._pixels(half, row, size[1]) for half in (planes[:LANES], planes[LANES:]))
            pixels = [Complex(*parts) for parts in zip(re, im, strict=True)]
            for across in range(stride):
                spectrum = dft(_filled(pixels[across::stride], self.layer.points[1]))
                self.write(spectrum, self._row(row + (first_row + across * size[0])))

        self.function.loop(0, size[0], one_row)

    def transform_rows_back(
        self, table: str, channel: Value, size: tuple[int, int], stride: int, shift: Value | int = 0
    ) -> None:
        """Put what the room's first rows stand for into a channel of the images, a shift added to every pixel."""
        planes = self._planes(table, channel, size)

        def one_row(row: Value) -> None:
            pixels = [ZERO] * size[1]
            for across in range(stride):
                spectrum = self.read(self._row(row + across * size[0]))
                pixels[across::stride] = inverse_dft(spectrum)[: size[1] // stride]
            self._put_pixels([pixel.re + shift for pixel in pixels], planes[:LANES], row)
            self._put_pixels([pixel.im + shift for pixel in pixels], planes[LANES:], row)

        self.function.loop(0, size[0], one_row)

    # An image is often a power of two away from the next, so that their lines share the cache's sets: each line is
    # read, and written, at once.

    def _pixels(self, planes: Sequence[Any], row: Value, width: int) -> list[Value]:
        """The pixels of a row, each a vector over the images."""
        found = []
        for line in range(0, width, LINE):
            starts = [row * width + column for column in range(line, min(line + LINE, width), LANES)]
            by_image = [[self.function.load(plane, start) for start in starts] for plane in planes]
            found += [pixel for vectors in zip(*by_image, strict=True) for pixel in self.function.transposed(vectors)]
        return found

    def _put_pixels(self, pixels: Sequence[Value], planes: Sequence[Any], row: Value) -> None:
        for line in range(0, len(pixels), LINE):
            columns = range(line, min(line + LINE, len(pixels)), LANES)
            by_column = [self.function.transposed(pixels[column : column + LANES]) for column in columns]
            for plane, vectors in zip(planes, zip(*by_column, strict=True), strict=True):
                for column, vector in zip(columns, vectors, strict=True):
                    self.function.store(vector, plane, row * len(pixels) + column)


def _filled(values: Sequence[Complex], count: int) -> list[Complex]:
    return [*values, *[ZERO] * (count - len(values))]
