"""Measure the lesion locator's server: seconds until a film is answered, for one client and under several at once.

Run as `python -m benchmarks.server` on a machine that does nothing else, after `make repro`; writes
reports/benchmarks/server.json. The server is a process of its own, as `mammo-ml web` starts it, on the bundles of the
last pass; the clients share the machine with it. Each sends films over a connection that it keeps, one after another.
"""

import argparse
import json
import multiprocessing
import os
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import torch
import uvicorn

from benchmarks.large_kernel import cpu_model
from benchmarks.locator import films_in, quantile
from mammo_ml.allocator import keep_freed_memory
from mammo_ml.locator_bundle import open_bundle
from mammo_ml.models.bundle import read_bundle
from mammo_ml.web.app import Service, create_app
from mammo_ml.web.models import ServedClassifier, ServedLocator
from mammo_ml.web.sandbox import Sandbox
from mammo_ml.web.server import PatientHttp
from mammo_ml.web.slots import Slot

START_S = 60.0


def serve(locator: Path, classifier: Path, port: int) -> None:
    """Serve two bundles until the process is ended."""
    one = ServedLocator("mammo-locator", 1, open_bundle(locator))
    other = ServedClassifier("mammo-classifier", 1, read_bundle(classifier))
    slots = (
        Slot("mammo-locator", lambda: (1, locator), lambda number, folder: one),
        Slot("mammo-classifier", lambda: (1, classifier), lambda number, folder: other),
    )
    for slot in slots:
        slot.refresh()
    app = create_app(Service(*slots, Sandbox(), poll_s=0))
    uvicorn.run(app, host="127.0.0.1", port=port, http=PatientHttp, ws="none", log_config=None, log_level="critical")


def client(port: int, films: list[bytes]) -> list[float]:
    """Seconds until each film was answered."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    seconds = []
    for film in films:
        begin = time.perf_counter()
        connection.request("POST", "/v1/locate", body=film)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the server answered {answer.status}: {content.decode()}")
        seconds.append(time.perf_counter() - begin)
    return seconds


def measure(port: int, films: list[bytes], clients: int) -> dict[str, float]:
    """Figures of so many clients, which share the films."""
    shares = [films[n::clients] for n in range(clients)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seconds = [one for found in pool.map(lambda share: client(port, share), shares) for one in found]
    return {
        "films": len(seconds),
        "seconds_per_film_p50": quantile(seconds, 0.5),
        "seconds_per_film_p95": quantile(seconds, 0.95),
        "films_per_second": round(len(seconds) / (time.perf_counter() - begin), 2),
    }


def main() -> None:
    """Measure and write the report."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--locator", type=Path, default=Path("data/finalize_locator"), help="bundle of a locator")
    parser.add_argument("--classifier", type=Path, default=Path("data/finalize_classifier"), help="and of a classifier")
    parser.add_argument("--folder", type=Path, default=Path("data/ingest"), help="films of 0.2 mm (PGM); else phantoms")
    parser.add_argument("--films", type=int, default=120)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--report", type=Path, default=Path("reports/benchmarks/server.json"))
    arguments = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(arguments.locator, arguments.classifier, port))
    process.start()
    try:
        figures = figures_of(port, process.pid or 0, arguments)
    finally:
        process.terminate()
        process.join()
    machine = {"cpu": cpu_model(), "cores": os.cpu_count(), "torch": torch.__version__}
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(figures | {"machine": machine}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


def figures_of(port: int, pid: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One client, then several; memory of the server and of the processes that decode for it, together."""
    with tempfile.TemporaryDirectory() as scratch:
        films = [path.read_bytes() for path in films_in(arguments.folder, arguments.films, Path(scratch))]
    end = time.monotonic() + START_S
    while True:
        try:
            client(port, films[:2])
            break
        except ConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
    figures: dict[str, Any] = {
        "one_client": measure(port, films[:60], 1),
        f"{arguments.clients}_clients": measure(port, films, arguments.clients),
    }
    server = psutil.Process(pid)
    memory = sum(one.memory_info().rss for one in [server, *server.children(recursive=True)])
    return figures | {"memory_mb": round(memory / 2**20), "load_average": round(os.getloadavg()[0], 1)}


if __name__ == "__main__":
    main()
