"""The slides' network in Keras: what the benchmark sets ours beside, and the outputs the tests hold ours against.

Needs the extra `bench`. `python -m benchmarks.keras_network --write tests/models/keras_outputs.npz` makes the tests'
file anew. `serve` is what `benchmarks.large_kernel` starts, one process for each backend, and asks for one repetition
at a time.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PATCH_PX = 128
SHOWN_PX = [0, 1, 2, 15, 16, 30, 31, -3, -2, -1]
"""Rows and columns of a layer's output that the tests look at: at the edges, where padding decides."""
SHOWN_CHANNELS = [0, 5, -1]
TASKS = ("training", "inference")


def network() -> Any:
    """The six layers, with Keras' own padding and first weights."""
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((PATCH_PX, PATCH_PX, 1)),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.DepthwiseConv2D(32, padding="same", activation="relu"),
            layers.Conv2D(64, 1, padding="same", activation="relu"),
            layers.DepthwiseConv2D(64, strides=2, padding="same", activation="relu"),
            layers.AveragePooling2D(4),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def seeded_weights() -> list[NDArray[np.float32]]:
    """Weights in Keras' order, from a fixed seed: kernels (kh, kw, in, out), depthwise ones (kh, kw, C, 1)."""
    generator = np.random.default_rng(20)
    shapes = [(3, 3, 1, 32), (32,), (32, 32, 32, 1), (32,), (1, 1, 32, 64), (64,), (64, 64, 64, 1), (64,)]
    shapes += [(8 * 8 * 64, 3), (3,)]  # type: ignore[list-item]
    # Depthwise kernels have one input each.
    inputs = [9, 9, 1024, 1024, 32, 32, 4096, 4096, 4096, 4096]
    return [
        generator.normal(0.0, float(np.sqrt(2 / n)), shape).astype(np.float32)
        for shape, n in zip(shapes, inputs, strict=True)
    ]


def seeded_patches() -> NDArray[np.float32]:
    """Two patches (2, 128, 128, 1), as they reach the first layer."""
    return np.random.default_rng(21).normal(0.0, 1.0, (2, PATCH_PX, PATCH_PX, 1)).astype(np.float32)


def write_outputs(path: Path) -> None:
    """What Keras says of the seeded patches: logits, and of every convolution some pixels and channels."""
    import keras

    model = network()
    model.set_weights(seeded_weights())
    convolutions = model.layers[:4]
    looking = keras.Model(model.inputs, [*(layer.output for layer in convolutions), model.layers[-1].output])
    *maps, logits = [np.asarray(value) for value in looking(seeded_patches())]
    shown = {
        f"layer_{number}": found[:, SHOWN_PX][:, :, SHOWN_PX][..., SHOWN_CHANNELS] for number, found in enumerate(maps)
    }
    version = np.array(f"keras {keras.__version__}, {keras.backend.backend()}")
    np.savez_compressed(path, logits=logits, parameters=np.array(model.count_params()), version=version, **shown)


def serve() -> None:
    """Read lines "TASK BATCH", run one repetition each, and answer its seconds."""
    import keras

    precision, compiled = sys.argv[2:4]
    if precision == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=compiled == "compiled")
    print(f"ready {keras.__version__}", flush=True)
    for line in sys.stdin:
        task, size = line.split()
        patches = np.random.default_rng(0).random((int(size), PATCH_PX, PATCH_PX, 1), dtype=np.float32)
        labels = np.arange(int(size)) % 3
        start = time.perf_counter()
        if task == "training":
            model.train_on_batch(patches, labels)
        else:
            model.predict_on_batch(patches)
        print(time.perf_counter() - start, flush=True)


def main() -> None:
    """Write the tests' file, or serve repetitions."""
    if sys.argv[1:2] == ["serve"]:
        serve()
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, required=True)
    write_outputs(parser.parse_args().write)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
