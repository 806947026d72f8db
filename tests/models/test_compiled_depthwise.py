import pytest
import torch
import torch.nn.functional as F

from mammo_ml.models import large_kernel, simd_program
from mammo_ml.models.compiled_depthwise import CompiledDepthwise, can_compile
from mammo_ml.models.large_kernel import depthwise_conv2d, fastest_method

# (channels, (H, W), (kh, kw), stride, (left, right, top, bottom)): odd and even, non-square, none symmetric
CASES = {
    "even_kernel": (2, (6, 8), (4, 4), 1, (1, 2, 1, 2)),
    "odd_kernel_more_outputs_than_pixels": (3, (5, 8), (3, 5), 1, (8, 4, 2, 3)),
    "kernel_larger_than_the_image": (2, (3, 16), (6, 19), 1, (9, 9, 4, 2)),
    "stride_2": (2, (6, 16), (4, 5), 2, (1, 2, 1, 1)),
    "stride_2_without_padding": (1, (18, 40), (7, 26), 2, (0, 0, 0, 0)),
    "stride_3_larger_than_the_kernel": (2, (9, 24), (2, 2), 3, (0, 1, 0, 0)),
    "lines_of_the_cache_and_half_a_line": (1, (4, 24), (3, 3), 1, (1, 1, 1, 1)),
}


def random_case(case, images, seed=0):
    channels, size, kernel_size, stride, padding = case
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, *size, generator=generator)
    weight = torch.randn(channels, 1, *kernel_size, generator=generator)
    return x, weight, torch.randn(channels, generator=generator), stride, padding


def relative_error(found, expected):
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "x weight", "x weight bias"])
@pytest.mark.parametrize("images", [1, 16, 21])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_outputs_and_whichever_gradients_are_wanted_equal_conv2d_in_float64(case, images, wanted):
    *learned, stride, padding = random_case(case, images)
    for tensor, name in zip(learned, ("x", "weight", "bias"), strict=True):
        tensor.requires_grad_(name in wanted.split())
    x, weight, bias = (tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in learned)
    expected = F.conv2d(F.pad(x, padding), weight, bias, stride, groups=x.shape[1])
    found = CompiledDepthwise.apply(*learned, stride, padding)
    assert relative_error(found, expected) < 1e-5
    grad_y = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    asked = [tensor for tensor in learned if tensor.requires_grad]
    wanted_of = [tensor for tensor in (x, weight, bias) if tensor.requires_grad]
    given = torch.autograd.grad(found, asked, grad_y)
    exact = torch.autograd.grad(expected, wanted_of, grad_y.double())
    for one, other in zip(given, exact, strict=True):
        assert one.shape == other.shape
        assert relative_error(one, other) < 1e-5


def test_without_a_bias_and_from_tensors_that_are_not_contiguous():
    x, weight, _, stride, padding = random_case(CASES["stride_2"], 5)
    expected = F.conv2d(F.pad(x, padding), weight, None, stride, groups=2)
    for layout in (x.contiguous(memory_format=torch.channels_last), x.repeat_interleave(2, dim=0)[::2]):
        assert relative_error(CompiledDepthwise.apply(layout, weight, None, stride, padding), expected) < 1e-5


def test_gradients_that_are_not_contiguous_and_a_bias_that_is_a_stride_apart():
    x, weight, bias, stride, padding = random_case(CASES["even_kernel"], 5)
    x.requires_grad_()
    weight.requires_grad_()
    spread = torch.stack([bias, bias + 1], 1)[:, 0]
    y = CompiledDepthwise.apply(x, weight, spread, stride, padding)
    expected = F.conv2d(F.pad(x, padding), weight, bias, stride, groups=2)
    assert relative_error(y, expected) < 1e-5
    grads = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    for grad_y in (torch.ones(()).expand(y.shape), grads.contiguous(memory_format=torch.channels_last)):
        exact = torch.autograd.grad(expected, (x, weight), grad_y, retain_graph=True)
        given = torch.autograd.grad(y, (x, weight), grad_y, retain_graph=True)
        assert all(relative_error(one, other) < 1e-5 for one, other in zip(given, exact, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_computed_in_float32_and_handed_back_in_their_own(dtype):
    *tensors, stride, padding = random_case(CASES["stride_2"], 6)
    x, weight, bias = (tensor.to(dtype).requires_grad_() for tensor in tensors)
    y = CompiledDepthwise.apply(x, weight, bias, stride, padding)
    wide = [tensor.detach().float().requires_grad_() for tensor in (x, weight, bias)]
    expected = F.conv2d(F.pad(wide[0], padding), *wide[1:], stride, groups=2)
    torch.testing.assert_close(y, expected.to(dtype))
    grad_y = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    given = torch.autograd.grad(y, (x, weight, bias), grad_y)
    exact = torch.autograd.grad(expected, wide, grad_y.float())
    for one, other in zip(given, exact, strict=True):
        assert one.dtype == dtype
        assert relative_error(one, other) < 0.01


def test_a_gradient_of_a_gradient_is_refused():
    x, weight, bias, stride, padding = random_case(CASES["even_kernel"], 4)
    y = CompiledDepthwise.apply(x.requires_grad_(), weight, bias, stride, padding)
    (once,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        once.sum().backward()


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_torchs_default_type_and_device_change_nothing(default):
    x, weight, bias, stride, padding = random_case(CASES["even_kernel"], 4)
    before, expected = torch.get_default_dtype(), CompiledDepthwise.apply(x, weight, bias, stride, padding)
    try:
        torch.set_default_dtype(default)
        with torch.device("meta"):
            found = CompiledDepthwise.apply(x.requires_grad_(), weight.requires_grad_(), bias, stride, padding)
            grads = torch.autograd.grad(found, (x, weight), found)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found, expected)
    assert all(grad.isfinite().all() for grad in grads)


def test_where_nothing_can_be_compiled_torchs_transforms_do_the_work(monkeypatch):
    def refuses(*given):
        raise RuntimeError("no memory may be executed")

    monkeypatch.setattr(simd_program.llvm, "create_mcjit_compiler", refuses)
    simd_program.works.cache_clear()
    x, weight = torch.zeros(4, 2, 64, 64), torch.zeros(2, 1, 32, 32)
    with pytest.warns(UserWarning, match=r"no programs can be compiled here \(no memory may be executed\)"):
        assert fastest_method(x, weight, None, 1, (15, 16, 15, 16)) == "spectra"
    monkeypatch.undo()
    simd_program.works.cache_clear()
    assert fastest_method(x, weight, None, 1, (15, 16, 15, 16)) == "compiled"


def test_the_same_numbers_come_twice_on_however_many_threads():
    *learned, stride, padding = random_case((7, (16, 16), (9, 9), 1, (4, 4, 4, 4)), 40)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 3):
            torch.set_num_threads(threads)
            x, weight, bias = (tensor.detach().requires_grad_() for tensor in learned)
            y = CompiledDepthwise.apply(x, weight, bias, stride, padding)
            found.append((y, *torch.autograd.grad(y, (x, weight), y)))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_an_image_is_what_it_is_alone_whoever_its_companions_are():
    x, weight, bias, stride, padding = random_case(CASES["stride_2"], 33)
    together = CompiledDepthwise.apply(x, weight, bias, stride, padding)
    alone = torch.cat([CompiledDepthwise.apply(one[None], weight, bias, stride, padding) for one in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_not_a_number_is_not_hidden():
    x, weight, bias, stride, padding = random_case(CASES["even_kernel"], 4)
    x[1, 0, 2, 3] = torch.nan
    assert CompiledDepthwise.apply(x, weight, bias, stride, padding)[1, 0].isnan().any()


@pytest.mark.parametrize(
    ("change", "can"),
    [
        ({}, True),
        ({"dtype": torch.bfloat16}, True),
        ({"dtype": torch.float64}, False),
        ({"device": "meta"}, False),
        ({"size": (6, 12)}, False),
        ({"size": (7, 16)}, False),
        ({"dtype": torch.complex64}, False),
        ({"dtype": torch.float32, "weight_dtype": torch.float64}, False),
        ({"size": (6, 256)}, False),
        ({"size": (256, 16)}, False),
        ({"size": (0, 16), "padding": (1, 2, 4, 4)}, False),
        ({"padding": (1, 6, 1, 1)}, False),
    ],
    ids=str,
)
def test_there_are_programs_for_whole_vectors_of_float32_and_of_types_below(change, can):
    x = torch.zeros(4, 2, *change.get("size", (6, 16)), dtype=change.get("dtype"), device=change.get("device"))
    weight_dtype = change.get("weight_dtype", change.get("dtype"))
    weight = torch.zeros(2, 1, 4, 5, dtype=weight_dtype, device=change.get("device"))
    padding = change.get("padding", (1, 2, 1, 1))
    assert can_compile(x, weight, 2, padding) == can
    if not can:
        with pytest.raises(RuntimeError, match=r"no program is written for .* at this size: use another method"):
            depthwise_conv2d(x, weight, None, 2, padding, "compiled")


@pytest.mark.parametrize(
    ("images", "kernel", "stride", "training", "method"),
    [
        (16, 5, 1, True, "compiled"),
        (16, 4, 1, True, "direct"),
        (32, 8, 1, False, "compiled"),
        (16, 7, 1, False, "direct"),
        (16, 12, 2, False, "compiled"),
        (16, 11, 2, False, "direct"),
        (17, 10, 1, False, "direct"),
        (17, 11, 1, False, "compiled"),
        (4, 15, 1, False, "direct"),
        (4, 16, 1, False, "compiled"),
        (4, 8, 1, True, "spectra"),
        (3, 8, 1, True, "spectra"),
        (3, 8, 1, False, "direct"),
        (3, 24, 1, False, "spectra"),
    ],
)
def test_a_program_counts_by_the_share_of_its_sixteen_images_that_is_there(images, kernel, stride, training, method):
    x, weight = torch.zeros(images, 2, 64, 64), torch.zeros(2, 1, kernel, kernel, requires_grad=training)
    padding = large_kernel.same_padding(64, kernel, stride) * 2
    assert fastest_method(x, weight, None, stride, padding) == method
