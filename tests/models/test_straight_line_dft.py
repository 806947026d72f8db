import numpy as np
import pytest

from mammo_ml.models.straight_line_dft import ZERO, Complex, dft, inverse_dft, operations

LENGTHS = [1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 15, 16, 20, 24, 25, 27, 30, 32, 45, 48, 60, 64, 75, 80, 96, 100, 125, 128]


def random_numbers(count):
    generator = np.random.default_rng(0)
    return generator.normal(size=count) + 1j * generator.normal(size=count)


def complexes(numbers):
    return [Complex(float(number.real), float(number.imag)) for number in numbers]


def numbers(complexes):
    return np.array([value.re + 1j * value.im for value in complexes])


@pytest.mark.parametrize("length", LENGTHS)
def test_transform_and_inverse_are_numpys(length):
    given = random_numbers(length)
    np.testing.assert_allclose(numbers(dft(complexes(given))), np.fft.fft(given), atol=1e-11)
    np.testing.assert_allclose(numbers(inverse_dft(complexes(given))), length * np.fft.ifft(given), atol=1e-11)


@pytest.mark.parametrize("length", [48, 80])
@pytest.mark.parametrize("filled", [1, 3, 32])
def test_what_is_known_to_be_zero_changes_nothing_and_takes_no_work(length, filled):
    given = random_numbers(filled)
    found = numbers(dft([*complexes(given), *[ZERO] * (length - filled)]))
    np.testing.assert_allclose(found, np.fft.fft(given, length), atol=1e-11)
    assert operations(length, filled) < operations(length, length)


# Worked by hand: sums and differences of two; 12 of three, and 4 products; 16 of four.
@pytest.mark.parametrize(("length", "expected"), [(1, 0), (2, 4), (3, 16), (4, 16)])
def test_operations_are_counted(length, expected):
    assert operations(length, length) == expected


def test_the_networks_lengths_take_far_less_than_five_n_log_n():
    assert operations(80, 80) < 0.7 * 5 * 80 * np.log2(80)
    assert operations(48, 48) < 0.6 * 5 * 48 * np.log2(48)


@pytest.mark.parametrize(("length", "factor"), [(7, 7), (14, 7), (77, 77), (35, 7)])
def test_a_length_with_another_prime_factor_is_refused_by_name(length, factor):
    with pytest.raises(ValueError, match=f"only prime factors are 2, 3 and 5, found a factor {factor}"):
        dft([Complex(1.0, 0.0)] * length)
