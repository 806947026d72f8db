from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from benchmarks.keras_network import SHOWN_CHANNELS, SHOWN_PX, seeded_patches, seeded_weights
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.cnni_bcc import INPUT_MEAN, INPUT_STD, SameConv2d, local_contrast
from mammo_ml.models.large_kernel import LargeKernelDepthwise

# The slides' layer table: weights and biases of each layer.
TABLE = {
    "features.0.0": 320,  # 3 * 3 * 32 + 32
    "features.1.0": 32_800,  # 32 * 32 * 32 + 32
    "features.2.0": 2_112,  # 32 * 64 + 64
    "features.3.0": 262_208,  # 64 * 64 * 64 + 64
    "dense": 12_291,  # 4096 * 3 + 3
}


def build(variant="exact", seed=0, **others):
    torch.manual_seed(seed)
    return build_classifier(ClassifierParameters(variant=variant, **others))


def same_convolution_slow(image, kernel, stride):
    """Keras' "same" convolution of one image and one kernel, pixel by pixel, zeros outside the image."""
    height, width = image.shape
    taps_y, taps_x = kernel.shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    top = max((out_height - 1) * stride + taps_y - height, 0) // 2
    left = max((out_width - 1) * stride + taps_x - width, 0) // 2
    out = np.zeros((out_height, out_width))
    for i in range(out_height):
        for j in range(out_width):
            for a in range(taps_y):
                for b in range(taps_x):
                    y, x = i * stride + a - top, j * stride + b - left
                    if 0 <= y < height and 0 <= x < width:
                        out[i, j] += image[y, x] * kernel[a, b]
    return out


def bright_spots(count, seed):
    """Return noise patches, every second with a bright disc, and which have one."""
    rng = np.random.default_rng(seed)
    patches = rng.uniform(0.2, 0.4, (count, 1, 128, 128)).astype(np.float32)
    labels = np.arange(count) % 2
    ys, xs = np.mgrid[:128, :128]
    for index in np.flatnonzero(labels):
        y, x = rng.uniform(30, 98, 2)
        patches[index, 0, (ys - y) ** 2 + (xs - x) ** 2 < 14**2] += 0.5
    return torch.from_numpy(patches), torch.from_numpy(labels)


def test_the_exact_network_has_the_slides_parameters_layer_by_layer():
    network = build()
    counts = {name: sum(p.numel() for p in network.get_submodule(name).parameters()) for name in TABLE}
    assert counts == TABLE
    assert sum(p.numel() for p in network.parameters()) == 309_731


def test_variants_have_the_parameters_that_are_said():
    counts = {variant: sum(p.numel() for p in build(variant).parameters()) for variant in ("normalised", "wide")}
    assert counts == {"normalised": 310_115, "wide": 624_323}


def test_each_layer_has_the_slides_output_shape():
    network, shapes = build(), []
    for module in [*network.features, network.pool, network.dense]:
        module.register_forward_hook(lambda _m, _i, output: shapes.append((*output.shape,)))
    with torch.inference_mode():
        network(torch.rand(2, 1, 128, 128))
    assert shapes == [(2, 32, 64, 64), (2, 32, 64, 64), (2, 64, 64, 64), (2, 64, 32, 32), (2, 64, 8, 8), (2, 3)]


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (SameConv2d(1, 1, 3, stride=2), (8, 6)),  # even size, stride 2: padding 0 before, 1 after
        (SameConv2d(1, 1, 3, stride=2), (7, 5)),  # odd size: 1 before, 1 after
        (LargeKernelDepthwise(1, 10), (9, 12)),  # even kernel: 4 before, 5 after
        (LargeKernelDepthwise(1, 32), (20, 24)),  # the network's 15 before, 16 after
        (LargeKernelDepthwise(1, 12, stride=2), (10, 12)),  # 5 before, 5 after
    ],
    ids=["3x3_even", "3x3_odd", "10x10", "32x32", "12x12_stride_2"],
)
def test_padding_is_keras_same(layer, size):
    layer = layer.double()
    image = np.random.default_rng(0).normal(size=size)
    kernel = torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0)).detach().numpy()[0, 0]
    found = layer(torch.from_numpy(image)[None, None])[0, 0].detach().numpy()
    stride = layer.stride if isinstance(layer.stride, int) else layer.stride[0]
    np.testing.assert_allclose(found, same_convolution_slow(image, kernel, stride), rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", ["exact", "normalised", "wide"])
def test_the_seed_alone_decides_the_weights(variant):
    first, again, other = build(variant, 1).state_dict(), build(variant, 1).state_dict(), build(variant, 2).state_dict()
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first["dense.weight"], other["dense.weight"])


def test_weights_start_as_keras_draws_them():
    network = build()
    # Glorot's limit sqrt(6 / (fan in + fan out)); Keras counts a depthwise kernel's fans as C * K^2 and K^2.
    limits = {
        "features.0.0": np.sqrt(6 / (9 * 1 + 9 * 32)),
        "features.1.0": np.sqrt(6 / (32 * 32 * 32 + 32 * 32)),
        "features.2.0": np.sqrt(6 / (32 + 64)),
        "features.3.0": np.sqrt(6 / (64 * 64 * 64 + 64 * 64)),
        "dense": np.sqrt(6 / (4096 + 3)),
    }
    for name, limit in limits.items():
        layer = network.get_submodule(name)
        largest = layer.weight.abs().max().item()
        assert 0.95 * limit < largest <= limit * (1 + 1e-6), name
        assert not layer.bias.any(), name


@pytest.mark.parametrize(("variant", "steps"), [("exact", 40), ("normalised", 15)])
def test_the_network_learns_to_see_a_bright_spot(variant, steps):
    network = build(variant)
    patches, labels = bright_spots(4, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(patches), labels)
        loss.backward()
        assert torch.isfinite(loss)
        optimizer.step()
    # Knowing the two classes' shares but not the patch costs ln 2 = 0.69.
    assert loss.item() < 0.35


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("variant", ["exact", "normalised", "wide"])
def test_an_even_patch_gives_finite_logits_and_gradients(variant, value):
    network = build(variant)
    network(torch.full((2, 1, 128, 128), value)).sum().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_linear_activation_leaves_the_exact_network_affine():
    network = build(activation="linear").double()
    a, b = torch.rand(2, 1, 1, 128, 128, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(network((a + b) / 2), (network(a) + network(b)) / 2, rtol=0, atol=1e-10)


def test_a_wrong_parameter_is_refused():
    with pytest.raises(ValidationError, match="variant"):
        ClassifierParameters(variant="bigger")
    with pytest.raises(ValidationError, match="dropout"):
        ClassifierParameters(variant="exact", dropout=1.0)


def as_torch(keras_weights):
    """Keras' arrays under the names and in the layout of ours; its flattening puts channels last."""
    found = {}
    for number in range(4):
        kernel, bias = keras_weights[2 * number : 2 * number + 2]
        order = (2, 3, 0, 1) if number in (1, 3) else (3, 2, 0, 1)
        found |= {f"features.{number}.0.weight": kernel.transpose(order), f"features.{number}.0.bias": bias}
    dense, bias = keras_weights[8:]
    found |= {"dense.weight": dense.reshape(8, 8, 64, 3).transpose(3, 2, 0, 1).reshape(3, -1), "dense.bias": bias}
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}


def test_every_layer_says_what_keras_says():
    stored = np.load(Path(__file__).with_name("keras_outputs.npz"))
    assert stored["parameters"] == 309_731
    network = build().eval()
    network.load_state_dict(as_torch(seeded_weights()))
    x = torch.from_numpy(seeded_patches()).permute(0, 3, 1, 2)
    with torch.inference_mode():
        # The stored patches are as they reach the first layer.
        logits = network(x * INPUT_STD + INPUT_MEAN)
        for number, block in enumerate(network.features):
            x = block(x)
            shown = x[:, SHOWN_CHANNELS][:, :, SHOWN_PX][..., SHOWN_PX].permute(0, 2, 3, 1).numpy()
            wanted = stored[f"layer_{number}"]
            np.testing.assert_allclose(shown, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(logits.numpy(), stored["logits"], rtol=1e-4, atol=1e-4 * np.abs(stored["logits"]).max())


@pytest.mark.parametrize(
    ("variant", "input_scaling", "n_parameters"),
    [("normalised", "global", 309_731), ("normalised", "local", 309_731), ("wide", "global", 623_555)],
)
def test_the_folded_network_has_no_normalisation_and_says_the_same(variant, input_scaling, n_parameters):
    network = build(variant, dropout=0.3, input_scaling=input_scaling)
    patches, labels = bright_spots(4, seed=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(3):  # so that no scale is 1 and no mean 0
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(patches), labels).backward()
        optimizer.step()
    folded = network.folded()
    assert folded.state_dict().keys() == build().state_dict().keys()
    assert sum(p.numel() for p in folded.parameters()) == n_parameters
    with torch.inference_mode():
        before, after = network.eval()(patches), folded(patches)
    assert before.abs().max() > 0.01
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_folding_the_exact_network_copies_it():
    network = build()
    copy = network.folded()
    patches, _ = bright_spots(2, seed=2)
    with torch.inference_mode():
        torch.testing.assert_close(copy(patches), network.eval()(patches), rtol=0, atol=0)
        copy.dense.bias.add_(1.0)
    assert not network.dense.bias.any()


def test_local_contrast_is_the_distance_from_the_mean_around_in_spreads():
    generator = np.random.default_rng(0)
    image = np.round(generator.uniform(0.2, 0.8, (20, 26)), 2)
    found = local_contrast(torch.from_numpy(image)[None, None])[0, 0].numpy()
    around = np.pad(image, 4, mode="reflect")
    means = np.array([[around[y : y + 9, x : x + 9].mean() for x in range(26)] for y in range(20)])
    squares = np.pad((image - means) ** 2, 4, mode="reflect")
    spread = np.sqrt([[squares[y : y + 9, x : x + 9].mean() for x in range(26)] for y in range(20)])
    np.testing.assert_allclose(found, np.clip((image - means) / (spread + 0.5 / 255), -4, 4), rtol=0, atol=1e-9)


def test_local_contrast_of_nothing_is_nothing_and_of_anything_is_bounded():
    assert local_contrast(torch.full((1, 1, 128, 128), 0.7)).abs().max() < 1e-3  # float32 rounds the means
    speck = torch.zeros(1, 1, 128, 128)
    speck[0, 0, 64, 64] = 1.0
    assert local_contrast(speck).abs().max() <= 4.0


def test_local_contrast_turns_with_the_patch():
    patch = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    turned = local_contrast(torch.rot90(patch, 1, (2, 3)))
    torch.testing.assert_close(turned, torch.rot90(local_contrast(patch), 1, (2, 3)), rtol=1e-5, atol=1e-5)
