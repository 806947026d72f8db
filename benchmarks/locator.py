"""Measure the lesion locator on whole films: the cascade against the detector on every tile, in turns.

Run as `python -m benchmarks.locator` on a machine that does nothing else, after `make repro`; writes
reports/benchmarks/locator.json. Both ways start from the film's file and end with its boxes, hold the same
detector and take turns film by film, so that a busy machine slows both alike; a ratio is the median over the films,
detector everywhere over cascade (above 1: the cascade is faster). `seconds_per_tile` is what a tile costs in the batch
of its film; its two numbers belong into section `evaluate_locator` of params.yaml. The cold start is a new process from
its first instruction to the boxes of one film, memory the most that process ever held.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.large_kernel import cpu_model
from mammo_ml.allocator import keep_freed_memory
from mammo_ml.datasets import phantom
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.breast import CANONICAL_SPACING_MM, breast_mask, chest_wall_side
from mammo_ml.imaging.canonical import CanonicalFilm, eight_bits, to_canonical
from mammo_ml.imaging.patches import TileParameters
from mammo_ml.imaging.readers import Film, read_film, write_pgm
from mammo_ml.locator import Locator, boxes_in_tiles
from mammo_ml.locator_bundle import locator_of, open_bundle
from mammo_ml.prediction import FilmDetectionParameters, classify_tiles, detect_on_films, tiles_of_film

COLD_START = """
import resource, sys
from mammo_ml.allocator import keep_freed_memory
keep_freed_memory()
import torch
from dataclasses import replace
from pathlib import Path
torch.set_num_threads(int(sys.argv[3]))
from mammo_ml.imaging.readers import read_film
from mammo_ml.locator_bundle import locator_of, open_bundle
locator = locator_of(open_bundle(Path(sys.argv[1])))
locator.locate(replace(read_film(Path(sys.argv[2])), pixel_spacing_mm=0.2))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
Run = Callable[[], Any]


def timed(run: Run) -> tuple[float, Any]:
    """Seconds of a run, and what it returned."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def film_of(path: Path) -> Film:
    """A film of 0.2 mm per pixel."""
    return replace(read_film(path), pixel_spacing_mm=CANONICAL_SPACING_MM)


def canonical(film: Film) -> CanonicalFilm:
    """As the locator prepares it."""
    return to_canonical("film", film, chest_wall_side(breast_mask(eight_bits(film))), film.pixel_spacing_mm)


def one_film(locator: Locator, path: Path) -> tuple[dict[str, float], int, int]:
    """Seconds of a film by both ways and of a tile in each network; the numbers of its tiles, and of those searched."""
    looking = FilmDetectionParameters(tiles=locator.tiles, merge=locator.merge)
    own = TileParameters(**dict(locator.tiles) | {"input_px": locator.classifier_px})
    film = canonical(film_of(path))
    windows = tiles_of_film(film, locator.tiles)
    cascade, located = timed(lambda: locator.locate(film_of(path)))
    everywhere, _ = timed(lambda: detect_on_films(locator.detector, [canonical(film_of(path))], looking))
    classifier, _ = timed(lambda: classify_tiles(locator.classifier, film, own))
    detector, _ = timed(lambda: boxes_in_tiles(locator.detector, film, windows, looking.merge))
    of_tiles = {"classifier": classifier / len(windows), "detector": detector / len(windows)}
    return {"cascade": cascade, "everywhere": everywhere, **of_tiles}, len(windows), len(windows) - located.n_skipped


def measure(locator: Locator, paths: list[Path]) -> dict[str, Any]:
    """Figures of all films; the first is looked at once before, unmeasured."""
    one_film(locator, paths[0])
    films, tiles, searched = zip(*(one_film(locator, path) for path in paths), strict=True)
    seconds = {name: [film[name] for film in films] for name in films[0]}
    return {
        "films": len(paths),
        "threshold": locator.threshold,
        "searched_share": round(sum(searched) / sum(tiles), 3),
        "seconds_per_film_p50": quantile(seconds["cascade"], 0.5),
        "seconds_per_film_p95": quantile(seconds["cascade"], 0.95),
        "seconds_per_film_everywhere_p50": quantile(seconds["everywhere"], 0.5),
        "seconds_per_film_everywhere_p95": quantile(seconds["everywhere"], 0.95),
        "seconds_saved_ratio": round(
            statistics.median(b / a for a, b in zip(seconds["cascade"], seconds["everywhere"], strict=True)), 3
        ),
        "seconds_per_tile": {name: round(statistics.median(seconds[name]), 5) for name in ("classifier", "detector")},
    }


def quantile(values: list[float], share: float) -> float:
    """Quantile of seconds, to a tenth of a millisecond."""
    return round(float(np.quantile(values, share)), 4)


def cold_start(model: Path, film: Path, threads: int, repetitions: int) -> dict[str, float]:
    """Median seconds of a new process that answers one film, and its peak memory in MB."""
    command = [sys.executable, "-c", COLD_START, str(model), str(film), str(threads)]
    found = [
        timed(lambda: subprocess.run(command, check=True, capture_output=True, text=True)) for _ in range(repetitions)
    ]
    return {
        "cold_start_seconds": round(statistics.median(seconds for seconds, _ in found), 2),
        "peak_memory_mb": round(max(int(done.stdout) for _, done in found) / 1024),  # Linux counts KiB
    }


def films_in(folder: Path, n: int, scratch: Path) -> list[Path]:
    """Every so manieth film of a folder; phantoms where there is none."""
    found = sorted(folder.glob("*.pgm"))
    if found:
        return [found[index] for index in np.linspace(0, len(found) - 1, min(n, len(found))).astype(int)]
    for film in phantom.plan(phantom.PhantomParameters(women=max(20, n), seed=1))[:n]:
        write_pgm(scratch / f"{film.film_id}.pgm", phantom.draw(film, seed=1))
    return sorted(scratch.glob("*.pgm"))


def main() -> None:
    """Measure and write the report."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("data/finalize_locator"), help="bundle of a locator")
    parser.add_argument("--folder", type=Path, default=Path("data/ingest"), help="films of 0.2 mm (PGM); else phantoms")
    parser.add_argument("--films", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--threshold", type=float, help="another than the bundle's")
    parser.add_argument("--report", type=Path, default=Path("reports/benchmarks/locator.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        locator = locator_of(open_bundle(arguments.model), arguments.threshold)
    except BadInputError as error:
        sys.exit(str(error))
    with tempfile.TemporaryDirectory() as scratch:
        paths = films_in(arguments.folder, arguments.films, Path(scratch))
        figures = measure(locator, paths) | cold_start(arguments.model, paths[0], arguments.threads, 3)
    machine = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "load_average": round(os.getloadavg()[0], 1),
    }
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(figures | {"machine": machine}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
