"""Measure the detector on each of its bases against the loop torchvision's documentation shows: float32, contiguous.

Run as `python -m benchmarks.detector` on a machine that does nothing else; writes reports/benchmarks/detector.json.
Theirs is torchvision's `SSD` on the same base (`ssd300_vgg16` as it comes), fed a list of images. Ours runs in float32
and in bfloat16 (autocast), both with channels last. All hold the same weights, see the same images and take turns, so
that a busy machine slows all alike. A ratio is the median over the turns of theirs over ours (above 1: ours is faster),
with the smallest and the largest. Large kernels are convolved by `nn.Conv2d` in theirs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from benchmarks.large_kernel import cpu_model, with_conv2d
from mammo_ml.allocator import keep_freed_memory
from mammo_ml.datasets import phantom
from mammo_ml.detector_bases import Base
from mammo_ml.imaging.breast import CANONICAL_SPACING_MM, breast_mask, chest_wall_side
from mammo_ml.imaging.canonical import CanonicalFilm, to_canonical
from mammo_ml.imaging.patches import Tiling, breast_tiles
from mammo_ml.imaging.readers import Film
from mammo_ml.models.ssd import (
    BOX_SCALES,
    CLASSES,
    LesionSSD,
    SsdParameters,
    build_detector,
    detection_loss,
    predict_boxes,
)
from mammo_ml.models.ssd_bases import BASES, VGG_STD, build_base
from mammo_ml.prediction import FilmDetectionParameters, MergeParameters, detect_on_films

LEARNING_RATE = 1e-5
WIDTH = 32
BATCH: dict[Base, int] = {"small": 16, "six_layer_cnn": 16, "vgg16": 4}
MERGE = MergeParameters(nms_iou=0.3, max_per_tile=10, max_per_film=20)
THEIRS = "torchvision_float32"
PRECISIONS = {"float32": False, "bfloat16": True}
Run = Callable[[], object]
Seconds = dict[str, list[float]]


def torchvisions(base: Base, ours: LesionSSD) -> SSD:
    """What a user would otherwise build, holding our weights."""
    design = BASES[base]
    state = {name: tensor for name, tensor in ours.state_dict().items() if name != BOX_SCALES}
    if base == "vgg16":
        theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=len(CLASSES))
        # It sees 0..255 less the mean, our base the same divided by ImageNet's deviation.
        first = "backbone.features.0.weight"
        state = state | {first: state[first] / (255 * torch.tensor(VGG_STD))[:, None, None]}
    else:
        default_boxes = DefaultBoxGenerator(list(map(list, design.aspect_ratios)), scales=list(design.scales))
        size, statistics_of_images = (design.input_px,) * 2, [list(design.image_mean), list(design.image_std)]
        theirs = SSD(build_base(base, WIDTH), default_boxes, size, len(CLASSES), *statistics_of_images)
    theirs.load_state_dict(state)
    with_conv2d(theirs)
    return theirs


def lesions(n: int, side: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Images (N, 1, S, S), each with one lesion: so that both losses have the same work."""
    draw = torch.Generator().manual_seed(0)
    box = torch.tensor([[0.3, 0.2, 0.6, 0.5]]) * side
    return torch.rand(n, 1, side, side, generator=draw), [box] * n, [torch.tensor([1])] * n


def in_precision(run: Run, sixteen_bits: bool) -> Run:
    """The same, with convolutions in bfloat16 where asked for."""

    def inside() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=sixteen_bits):
            run()

    return inside


def training_step(model: torch.nn.Module, loss: Callable[[], Tensor], sixteen_bits: bool = False) -> Run:
    """Forward, backward and one AdamW step."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        model.train()
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=sixteen_bits):
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def predicting(model: SSD, images: list[Tensor]) -> Run:
    """Torchvision's prediction of one batch."""

    def predict() -> None:
        model.eval()
        with torch.inference_mode():
            model(images)

    return predict


def take_turns(runs: dict[str, Run], repetitions: int) -> Seconds:
    """Seconds of each repetition of each run, in turns after one unmeasured run of each."""
    for run in runs.values():
        run()
    seconds: Seconds = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    found = {"median": statistics.median(values), "smallest": min(values), "largest": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def compared(seconds: Seconds, n_images: int) -> dict[str, Any]:
    """Seconds per image of each run, the ratios turn by turn, and which of ours is the fastest."""
    ratios = {
        name: spread([theirs / ours for theirs, ours in zip(seconds[THEIRS], own, strict=True)])
        for name, own in seconds.items()
        if name != THEIRS
    }
    return {
        "seconds_per_image": {name: spread([value / n_images for value in own]) for name, own in seconds.items()},
        "torchvision_over_ours": ratios,
        "ours_at_its_best": max(ratios, key=lambda name: ratios[name]["median"]),
    }


def measure(base: Base, n_images: int, repetitions: int, film: CanonicalFilm, step_px: int) -> dict[str, Any]:
    """Training step, inference, and a whole film through tiles."""
    torch.manual_seed(0)
    ours = build_detector(SsdParameters(base=base, width=WIDTH))
    theirs = torchvisions(base, ours)
    images, boxes, labels = lesions(n_images, ours.side_px)
    check_equal(ours, theirs, images)
    # torchvision's backbone of VGG16 wants three channels.
    channels = len(BASES[base].image_mean)
    listed = [image.expand(channels, -1, -1) for image in images]
    targets = [{"boxes": b, "labels": c} for b, c in zip(boxes, labels, strict=True)]

    inference: dict[str, Run] = {THEIRS: predicting(theirs, listed)}
    films: dict[str, Run] = {}
    tiles = Tiling(window_px=256, step_px=step_px, min_breast_share=0.5)
    looking = FilmDetectionParameters(tiles=tiles, merge=MERGE)
    for name, sixteen_bits in PRECISIONS.items():
        inference[name] = in_precision(lambda: predict_boxes(ours, images), sixteen_bits)
        films[name] = in_precision(lambda: detect_on_films(ours, [film], looking), sixteen_bits)
    figures: dict[str, Any] = {"inference": compared(take_turns(inference, 3 * repetitions), n_images)}
    whole = take_turns(films, repetitions)
    figures["whole_film"] = {
        "tiles": len(breast_tiles(film.mask, tiles)),
        "seconds": {name: spread(own) for name, own in whole.items()},
    }

    training: dict[str, Run] = {THEIRS: training_step(theirs, lambda: sum(theirs(listed, targets).values()))}
    for name, sixteen_bits in PRECISIONS.items():
        training[name] = training_step(ours, lambda: detection_loss(ours, images, boxes, labels), sixteen_bits)
    figures["training_step"] = compared(take_turns(training, repetitions), n_images)
    return {"batch_size": n_images, "repetitions": repetitions, **figures}


def check_equal(ours: LesionSSD, theirs: SSD, images: Tensor) -> None:
    """Both must compute the same before their speed is compared."""
    ours.eval()
    theirs.eval()
    with torch.inference_mode():
        outputs, default_boxes = ours.raw_outputs(images)
        seen = torch.stack([theirs.transform.normalize(image) for image in images])
        features = list(theirs.backbone(seen).values())
        torch.testing.assert_close(
            theirs.anchor_generator(ImageList(seen[:1], [(ours.side_px,) * 2]), features)[0], default_boxes
        )
        for name, expected in theirs.head(features).items():
            torch.testing.assert_close(outputs[name], expected, rtol=1e-3, atol=1e-2 * float(expected.std()))


def phantom_film() -> CanonicalFilm:
    """A synthetic film of mini-MIAS's size."""
    planned = phantom.plan(phantom.PhantomParameters(women=20, seed=1))[0]
    pixels = phantom.draw(planned, seed=1)
    side = chest_wall_side(breast_mask(pixels))
    film = Film(pixels.astype(np.uint8), max_value=255, pixel_spacing_mm=CANONICAL_SPACING_MM)
    return to_canonical(planned.film_id, film, side, CANONICAL_SPACING_MM)


def main() -> None:
    """Measure and write the report."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", choices=get_args(Base), default=get_args(Base))
    parser.add_argument("--repetitions", type=int, default=5, help="turns of training; inference gets three times more")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one image, one turn, few tiles: shows that it runs")
    parser.add_argument("--report", type=Path, default=Path("reports/benchmarks/detector.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    film = phantom_film()
    bases = {}
    for base in arguments.bases:
        quick = arguments.quick
        bases[base] = measure(
            base, 1 if quick else BATCH[base], 1 if quick else arguments.repetitions, film, 256 if quick else 128
        )
        print(json.dumps({base: bases[base]}, indent=2), flush=True)
    machine = {"cpu": cpu_model(), "threads": arguments.threads, "torch": torch.__version__}
    report = {"quick": arguments.quick, "bases": bases, "machine": machine}
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
