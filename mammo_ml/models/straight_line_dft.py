"""Discrete Fourier transforms of one length as straight-line arithmetic, on whatever can be added and multiplied.

On Python's numbers they compute; on the values of a `SimdProgram` they write a program without loops and tables: every
factor is a constant, and what is known to be 0, as all that lies behind a signal's end, takes no instruction.

Sources: Cooley and Tukey 1965, "An algorithm for the machine calculation of complex Fourier series"; Good 1958, "The
interaction algorithm and practical Fourier analysis", where the factors of the length have nothing in common.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Complex:
    """A complex number whose parts are numbers, or values of a program; 0 is known to be zero."""

    re: Any
    im: Any

    def __add__(self, other: "Complex") -> "Complex":
        return Complex(self.re + other.re, self.im + other.im)

    def __sub__(self, other: "Complex") -> "Complex":
        return Complex(self.re - other.re, self.im - other.im)

    def scaled(self, factor: float) -> "Complex":
        """Times a real constant."""
        return Complex(self.re * factor, self.im * factor)

    def __mul__(self, other: "Complex") -> "Complex":
        return Complex(self.re * other.re - self.im * other.im, self.re * other.im + self.im * other.re)

    def times_conjugate_of(self, other: "Complex") -> "Complex":
        """Times the conjugate of another one."""
        return Complex(self.re * other.re + self.im * other.im, self.im * other.re - self.re * other.im)

    def swapped(self) -> "Complex":
        """Real for imaginary: what turns a transform into its inverse."""
        return Complex(self.im, self.re)

    def turned(self, k: int, n: int) -> "Complex":
        """Times exp(-2πi k/n), without multiplications where it is a number of quarters."""
        quarters, rest = divmod(4 * k % (4 * n), n)
        quarter = Complex(self.im, 0 - self.re) if quarters % 2 else self
        start = Complex(0 - quarter.re, 0 - quarter.im) if quarters >= 2 else quarter
        if rest == 0:
            return start
        if 2 * rest == n:
            return Complex(start.re + start.im, start.im - start.re).scaled(math.sqrt(0.5))
        angle = math.pi * rest / (2 * n)
        cosine, sine = math.cos(angle), math.sin(angle)
        return Complex(start.re * cosine + start.im * sine, start.im * cosine - start.re * sine)


ZERO = Complex(0, 0)


def dft(x: Sequence[Complex]) -> list[Complex]:
    """X[k] = sum over j of x[j] exp(-2πi jk/n).

    Raises:
        ValueError: when the length has a prime factor beyond 5.
    """
    n = len(x)
    if n in _SHORT:
        return _SHORT[n](x)
    outer = _outer_length(n)
    inner = n // outer
    # Where they have no common factor, Good's order of inputs and outputs leaves no turns in between.
    coprime = math.gcd(outer, inner) == 1
    found = [ZERO] * n
    step = inner if coprime else 1
    parts = [dft([x[(step * j + outer * i) % n] for i in range(inner)]) for j in range(outer)]
    for k in range(inner):
        across = [part[k] if coprime else part[k].turned(j * k, n) for j, part in enumerate(parts)]
        for j, value in enumerate(dft(across)):
            found[_meeting(j, outer, k, inner) if coprime else k + inner * j] = value
    return found


def inverse_dft(x: Sequence[Complex]) -> list[Complex]:
    """The inverse of `dft`, times the length."""
    return [value.swapped() for value in dft([value.swapped() for value in x])]


class _Counted:
    """A number nobody knows, and how often something is done with one."""

    done = 0

    def _next(self, other: object = None) -> "_Counted":
        if isinstance(other, int | float) and other == 0:
            return self
        self.done += 1
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = _next

    def __mul__(self, factor: float) -> "_Counted":
        return self._next()


def operations(points: int, filled: int) -> int:
    """How many real additions and multiplications `dft` takes, where only so many points are not zero.

    Changes of sign are not counted.
    """
    number = _Counted()
    dft([Complex(number, number)] * filled + [ZERO] * (points - filled))
    return number.done


def _outer_length(n: int) -> int:
    """A factor of n, without a common factor with the rest where there is such a one."""
    odd = n // (n & -n)
    if odd == 1:
        return 4
    if odd < n:
        return odd
    threes = math.gcd(n, 3 ** n.bit_length())
    if 1 < threes < n:
        return threes
    for prime in (3, 5):
        if n % prime == 0:
            return prime
    raise ValueError(f"expected a length whose only prime factors are 2, 3 and 5, found a factor {n}")


def _meeting(j: int, outer: int, k: int, inner: int) -> int:
    """The number below outer * inner that leaves j when divided by outer, and k by inner."""
    return next(number for number in range(k, outer * inner, inner) if number % outer == j)


def _of_one(x: Sequence[Complex]) -> list[Complex]:
    return list(x)


def _of_two(x: Sequence[Complex]) -> list[Complex]:
    return [x[0] + x[1], x[0] - x[1]]


def _of_three(x: Sequence[Complex]) -> list[Complex]:
    both = x[1] + x[2]
    middle = x[0] + both.scaled(-0.5)
    apart = (x[1] - x[2]).scaled(math.sqrt(0.75)).turned(1, 4)
    return [x[0] + both, middle + apart, middle - apart]


def _of_four(x: Sequence[Complex]) -> list[Complex]:
    even, even_apart = x[0] + x[2], x[0] - x[2]
    odd, odd_apart = x[1] + x[3], (x[1] - x[3]).turned(1, 4)
    return [even + odd, even_apart + odd_apart, even - odd, even_apart - odd_apart]


def _of_five(x: Sequence[Complex]) -> list[Complex]:
    outer, outer_apart = x[1] + x[4], (x[1] - x[4]).turned(1, 4)
    inner, inner_apart = x[2] + x[3], (x[2] - x[3]).turned(1, 4)
    (cosine, sine), (cosine_2, sine_2) = ((math.cos(a), math.sin(a)) for a in (2 * math.pi / 5, 4 * math.pi / 5))
    first = x[0] + outer.scaled(cosine) + inner.scaled(cosine_2)
    second = x[0] + outer.scaled(cosine_2) + inner.scaled(cosine)
    first_apart = outer_apart.scaled(sine) + inner_apart.scaled(sine_2)
    second_apart = outer_apart.scaled(sine_2) - inner_apart.scaled(sine)
    return [
        x[0] + outer + inner,
        first + first_apart,
        second + second_apart,
        second - second_apart,
        first - first_apart,
    ]


_SHORT = {1: _of_one, 2: _of_two, 3: _of_three, 4: _of_four, 5: _of_five}
