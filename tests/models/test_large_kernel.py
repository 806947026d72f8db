import math
import time

import pytest
import torch
import torch.nn.functional as F

from mammo_ml.devices import device_named
from mammo_ml.models import large_kernel, spectral_depthwise
from mammo_ml.models.large_kernel import METHODS, LargeKernelDepthwise, depthwise_conv2d, same_padding
from mammo_ml.models.spectral_depthwise import SpectralDepthwise, plan_axis

# (channels, (H, W), (kh, kw), stride, (left, right, top, bottom)): odd and even, non-square, none symmetric
SMALL_CASES = {
    "even_kernel_same_padding": (2, (6, 6), (4, 4), 1, (1, 2, 1, 2)),
    "odd_kernel_no_padding": (3, (5, 8), (3, 3), 1, (0, 0, 0, 0)),
    "non_square_kernel": (2, (5, 7), (2, 5), 1, (3, 0, 1, 2)),
    "stride_2_even_kernel": (2, (6, 8), (4, 4), 2, (1, 1, 1, 1)),
    "stride_2_odd_image_odd_kernel": (1, (7, 5), (3, 5), 2, (2, 1, 0, 3)),
    "stride_3_larger_than_the_kernel": (2, (7, 8), (2, 2), 3, (0, 1, 0, 0)),
    "kernel_larger_than_the_image": (1, (3, 4), (6, 7), 1, (3, 4, 4, 2)),
    "one_pixel": (1, (1, 1), (2, 2), 2, (1, 0, 1, 0)),
}
# The network's two large layers: 32x32 at stride 1 and 64x64 at stride 2, Keras "same" padding.
LAYERS = {
    "depthwise_32": (32, (64, 64), (32, 32), 1, (15, 16, 15, 16)),
    "depthwise_64": (64, (64, 64), (64, 64), 2, (31, 31, 31, 31)),
}


def spectral(x, weight, stride, padding):
    return SpectralDepthwise.apply(x, weight, None, stride, padding, True)


def random_case(case, images, dtype):
    channels, size, kernel_size, stride, padding = case
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, channels, *size, dtype=dtype, generator=generator).requires_grad_()
    weight = torch.randn(channels, 1, *kernel_size, dtype=dtype, generator=generator).requires_grad_()
    return x, weight, stride, padding


def assert_equal_to_conv2d(convolve, x, weight, stride, padding, tolerance):
    expected = F.conv2d(F.pad(x, padding), weight, None, stride, groups=x.shape[1])
    found = convolve(x, weight, stride, padding)
    assert found.dtype == x.dtype
    grad_y = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    expected_all = (expected, *torch.autograd.grad(expected, (x, weight), grad_y))
    found_all = (found, *torch.autograd.grad(found, (x, weight), grad_y))
    for name, one, other in zip(("output", "grad_x", "grad_weight"), found_all, expected_all, strict=True):
        # Relative to the largest value: a sum that nearly cancels has no relative accuracy of its own.
        scale = other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", SMALL_CASES.values(), ids=SMALL_CASES.keys())
def test_gradients_are_the_derivatives_of_the_output(case):
    x, weight, stride, padding = random_case(case, 2, torch.float64)
    # fast_mode compares random projections; every single entry is compared with conv2d below
    assert torch.autograd.gradcheck(lambda a, b: spectral(a, b, stride, padding), (x, weight), fast_mode=True)


@pytest.mark.parametrize("keep", [True, False], ids=["kept_spectra", "recomputed_spectra"])
@pytest.mark.parametrize("case", SMALL_CASES.values(), ids=SMALL_CASES.keys())
def test_spectral_product_equals_conv2d_in_float64(case, keep):
    def convolve(x, weight, stride, padding):
        return SpectralDepthwise.apply(x, weight, None, stride, padding, keep)

    assert_equal_to_conv2d(convolve, *random_case(case, 3, torch.float64), tolerance=1e-10)


@pytest.mark.parametrize(
    "method", sorted(METHODS.keys() - {"compiled"})
)  # that is for float32: test_compiled_depthwise.py
@pytest.mark.parametrize("case", SMALL_CASES.values(), ids=SMALL_CASES.keys())
def test_every_method_equals_conv2d_in_float64(case, method):
    def convolve(x, weight, stride, padding):
        return depthwise_conv2d(x, weight, None, stride, padding, method)

    assert_equal_to_conv2d(convolve, *random_case(case, 3, torch.float64), tolerance=1e-10)


@pytest.mark.parametrize("method", ["toeplitz", "compiled"])
@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
def test_the_other_methods_equal_conv2d_on_the_networks_own_layers(case, method):
    def convolve(x, weight, stride, padding):
        return depthwise_conv2d(x, weight, None, stride, padding, method)

    assert_equal_to_conv2d(convolve, *random_case((4, *case[1:]), 2, torch.float32), tolerance=1e-4)


@pytest.fixture
def amx(monkeypatch):
    """A processor that says it has AMX, and no trial of before."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    large_kernel._fastest_of_trial.cache_clear()
    yield monkeypatch
    large_kernel._fastest_of_trial.cache_clear()


def bfloat16_case(training):
    x, weight, stride, padding = random_case((2, *LAYERS["depthwise_64"][1:]), 1, torch.bfloat16)
    return x.requires_grad_(training), weight.requires_grad_(training), None, stride, padding


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("expected", METHODS)
def test_where_matrix_units_are_all_methods_are_tried_once_and_the_fastest_is_kept(amx, expected, training):
    asked = []

    def seconds(work, device, best):
        work()  # what would be timed runs, forward and, in training, backward
        asked.append(work.args[0])
        return 1.0 if asked[-1] == expected else 2.0

    amx.setattr(large_kernel, "_seconds", seconds)
    case = bfloat16_case(training)
    assert large_kernel.fastest_method(*case) == large_kernel.fastest_method(*case) == expected
    assert asked == list(METHODS)


def test_a_real_trial_ends_with_a_method_also_in_inference_and_under_autocast(amx):
    with torch.inference_mode():
        assert large_kernel.fastest_method(*bfloat16_case(False)) in METHODS
    x, weight, stride, padding = random_case((2, *LAYERS["depthwise_32"][1:]), 1, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert large_kernel.fastest_method(x, weight, None, stride, padding) in METHODS
    assert large_kernel._fastest_of_trial.cache_info().currsize == 2


def test_a_method_that_cannot_be_done_or_is_hopeless_does_not_stop_the_trial():
    def impossible():
        raise RuntimeError("out of memory")

    cpu, ran = torch.device("cpu"), []
    assert large_kernel._seconds(impossible, cpu, math.inf) == math.inf
    assert large_kernel._seconds(lambda: ran.append(time.sleep(0.01)), cpu, best=1e-6) >= 0.01
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("dtype", "device", "has"),
    [
        (torch.float32, "cpu", False),
        (torch.bfloat16, "cpu", True),
        (torch.float16, "cpu", False),
        (torch.float32, "cuda", False),
        (torch.float16, "cuda", True),
        (torch.bfloat16, "meta", False),
    ],
)
def test_matrix_units_are_for_narrow_types(amx, dtype, device, has):
    assert large_kernel._has_matrix_units_for(dtype, device) == has


@pytest.mark.parametrize("method", METHODS)
def test_every_method_hands_back_the_type_it_was_given_under_autocast(method):
    x, weight, stride, padding = random_case((2, (6, 16), (4, 4), 2, (1, 1, 1, 1)), 2, torch.float32)
    bias = torch.ones(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert depthwise_conv2d(x, weight, bias, stride, padding, method).dtype == torch.float32
        assert depthwise_conv2d(x.bfloat16(), weight, bias, stride, padding, method).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_without_matrix_units_nothing_is_timed(dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(large_kernel, "_seconds", lambda *given: pytest.fail("timed"))
    x, weight, stride, padding = random_case((2, *LAYERS["depthwise_64"][1:]), 1, dtype)
    assert large_kernel.fastest_method(x, weight, None, stride, padding) == "spectra"


@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_the_networks_own_layers_equal_conv2d(case, dtype, tolerance):
    def convolve(x, weight, stride, padding):
        return depthwise_conv2d(x, weight, None, stride, padding)

    channels, *rest = case
    if dtype == torch.float64:
        channels = 4  # conv2d takes seconds over all of them; channels do not meet each other
    assert_equal_to_conv2d(convolve, *random_case((channels, *rest), 1, dtype), tolerance=tolerance)


@pytest.mark.parametrize("device", ["cpu", *(["auto"] if torch.accelerator.is_available() else [])])
@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
def test_the_networks_own_layers_are_the_same_on_every_device_there_is(case, device):
    x, weight, stride, padding = random_case((4, *case[1:]), 3, torch.float32)
    place = device_named(device)
    found = depthwise_conv2d(x.to(place), weight.to(place), None, stride, padding)
    assert found.device.type == place.type
    expected = F.conv2d(F.pad(x, padding), weight, None, stride, groups=4)
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("method", "room"), [("spectra", 1), ("spectra", 2**19), ("toeplitz", 1), ("direct", 1)], ids=str
)
def test_a_bias_and_its_gradient_are_those_of_conv2d(images, stride, method, room, monkeypatch):
    monkeypatch.setitem(spectral_depthwise.GROUP_SPECTRUM_SIZE, "cpu", room)
    x, weight, _, padding = random_case((3, (11, 14), (8, 9), stride, (3, 4, 2, 3)), images, torch.float64)
    ours = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    y = depthwise_conv2d(x, weight, ours, stride, padding, method)
    expected = F.conv2d(F.pad(x, padding), weight, theirs, stride, groups=3)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    weights = torch.rand(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-10)


def test_a_bias_alone_can_be_learned():
    x, weight, stride, padding = random_case((2, (11, 14), (8, 9), 1, (3, 4, 2, 3)), 2, torch.float64)
    bias = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    y = depthwise_conv2d(x.detach(), weight.detach(), bias, stride, padding)
    y.sum().backward()
    torch.testing.assert_close(bias.grad, torch.full_like(bias, y[:, 0].numel()), rtol=0, atol=1e-9)


def test_channels_split_into_groups_give_the_same_result(monkeypatch):
    # A room of 1 puts each channel into a group of its own.
    monkeypatch.setitem(spectral_depthwise.GROUP_SPECTRUM_SIZE, "cpu", 1)
    x, weight, stride, padding = random_case((5, (9, 8), (4, 5), 2, (1, 2, 2, 1)), 2, torch.float64)
    assert_equal_to_conv2d(spectral, x, weight, stride, padding, tolerance=1e-10)


def test_half_precision_is_computed_in_float32_and_handed_back_in_its_own_type():
    x, weight, stride, padding = random_case(SMALL_CASES["stride_2_even_kernel"], 2, torch.bfloat16)
    y = spectral(x, weight, stride, padding)
    expected = F.conv2d(F.pad(x.float(), padding), weight.float(), None, stride, groups=2).bfloat16()
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_a_graph_may_be_run_backward_twice():
    x, weight, stride, padding = random_case(SMALL_CASES["stride_2_even_kernel"], 2, torch.float64)
    y = spectral(x, weight, stride, padding).square().sum()
    first = torch.autograd.grad(y, (x, weight), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(y, (x, weight)), first, rtol=0, atol=0)


@pytest.mark.parametrize(("kernel_size", "is_spectral"), [(3, False), (32, True)])
def test_small_kernels_go_to_conv2d_and_large_ones_to_spectra(kernel_size, is_spectral):
    y = LargeKernelDepthwise(2, kernel_size)(torch.rand(1, 2, 40, 40))
    names, node = [], y.grad_fn
    while node is not None:
        names.append(type(node).__name__)
        node = node.next_functions[0][0] if node.next_functions else None
    assert ("SpectralDepthwiseBackward" in names) == is_spectral


@pytest.mark.parametrize(
    ("kernel_size", "stride", "direct"), [(16, 1, True), (24, 1, False), (24, 2, True), (32, 2, False)]
)
def test_in_inference_a_stride_changes_over_later(kernel_size, stride, direct, monkeypatch):
    called, conv2d = [], F.conv2d
    monkeypatch.setattr(large_kernel.F, "conv2d", lambda *given, **more: called.append(1) or conv2d(*given, **more))
    with torch.inference_mode():
        LargeKernelDepthwise(2, kernel_size, stride)(torch.rand(1, 2, 64, 64))
    assert bool(called) == direct


def test_transforms_are_no_longer_than_the_wanted_outputs_ask():
    # 64 pixels, 32 taps, 15 zeros before: outputs reach index 63 - 15 + 31 = 79, so 80 points, not 64 + 31 = 95 -> 96.
    assert plan_axis(64, 32, 1, 15, 16).points == 80
    # 31 zeros before 64 pixels are 95 points, and outputs reach index 62 - 31 + 63 = 94; 96 = 2 * 48 are next.
    assert plan_axis(64, 64, 2, 31, 31).points == 96
    # Stride 7: a multiple of it, though 7 is no fast factor.
    assert plan_axis(20, 3, 7, 0, 0).points == 21


# Worked by hand from total = (ceil(size / stride) - 1) * stride + kernel - size, the smaller half first.
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "expected"),
    [(128, 3, 2, (0, 1)), (64, 32, 1, (15, 16)), (64, 64, 2, (31, 31)), (64, 1, 1, (0, 0)), (5, 1, 3, (0, 0))],
)
def test_same_padding_puts_the_odd_pixel_after(size, kernel_size, stride, expected):
    assert same_padding(size, kernel_size, stride) == expected


def test_the_layer_and_nn_conv2d_exchange_their_weights():
    torch.manual_seed(0)
    ours = LargeKernelDepthwise(3, 16, stride=2).double()
    torch.nn.init.normal_(ours.bias)
    theirs = torch.nn.Conv2d(3, 3, 16, stride=2, groups=3, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 20, 26, dtype=torch.float64)
    # 10 x 13 outputs: (10 - 1) * 2 + 16 - 20 = 14 rows and (13 - 1) * 2 + 16 - 26 = 14 columns of padding, 7 each side.
    torch.testing.assert_close(ours(x), theirs(F.pad(x, (7, 7, 7, 7))), rtol=0, atol=1e-10)
    ours.load_state_dict(theirs.state_dict())


def test_a_bias_of_another_length_or_device_is_refused():
    x, weight = torch.zeros(1, 2, 8, 8), torch.zeros(2, 1, 3, 3)
    for bias in (torch.zeros(1), torch.zeros(2, 1), torch.zeros(2, device="meta")):
        with pytest.raises(ValueError, match=r"expected bias \(2,\) on cpu, found"):
            depthwise_conv2d(x, weight, bias)


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "message"),
    [
        ((1, 2, 8, 8), (3, 1, 3, 3), "weight"),
        ((2, 8, 8), (2, 1, 3, 3), "expected x"),
        ((1, 2, 4, 8), (2, 1, 5, 3), "exceeds"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x_shape, weight_shape, message):
    with pytest.raises(ValueError, match=message):
        depthwise_conv2d(torch.zeros(x_shape), torch.zeros(weight_shape))
