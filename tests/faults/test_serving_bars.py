"""Bars S1 to S8: hostile requests, hostile films, many clients, and models that are swapped under them."""

import io
import json
import random
import socket
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from pydicom import uid
from starlette.testclient import TestClient

from mammo_ml.imaging.readers import format_pgm, parse_film
from mammo_ml.locator_bundle import open_bundle
from mammo_ml.web import bodies
from mammo_ml.web.app import Service, create_app
from mammo_ml.web.bodies import MAX_BODY_BYTES, MAX_UNANNOUNCED_BYTES
from mammo_ml.web.guards import LOOPBACK
from mammo_ml.web.models import ServedLocator
from mammo_ml.web.slots import Slot
from tests.imaging.dicom_files import PLANTED, data_set, dicom, saved
from tests.imaging.other_pictures import others
from tests.web.web_toys import KnownLocator, locator_folder, phantom_film, running, service, small_film

SPACING = {"pixel_spacing_mm": 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    locator_folder(place)
    return place


@pytest.fixture(scope="module")
def known(folder: Path) -> KnownLocator:
    return KnownLocator("mammo-locator", 7, open_bundle(folder / "locator"))


@pytest.fixture(scope="module")
def served(folder: Path, known: KnownLocator) -> Iterator[Service]:
    found = service(folder, known, hosts=LOOPBACK)
    yield found
    found.sandbox.close()


@pytest.fixture(scope="module")
def client(served: Service) -> TestClient:
    return TestClient(create_app(served), base_url="http://127.0.0.1")


def post(client: TestClient, film: bytes, **told: Any) -> Any:
    return client.post("/v1/locate", content=film, params=told or SPACING)


# ------------------------------------------------------------------------------------------------------------- S1


class Line:
    """A connection that may say anything, and keeps what came back."""

    def __init__(self, port: int, start: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.say(start)

    def say(self, content: bytes) -> bool:
        try:
            self.socket.sendall(content)
        except OSError:
            return False
        return True

    def status(self) -> int:
        """Of the answer; 0 where the connection was closed without one."""
        try:
            words = self.socket.recv(200).split()
        except OSError:
            return 0
        finally:
            self.socket.close()
        return int(words[1]) if len(words) > 1 else 0


def head(*lines: str) -> bytes:
    return "\r\n".join(["POST /v1/locate?pixel_spacing_mm=0.2 HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]).encode()


@pytest.mark.bar("S1")
def test_s1_requests_too_large_too_slow_or_lying_are_refused_and_others_are_served_meanwhile(
    served: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record_property: Any
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(bodies, "GRACE_S", 3.0)
    process = psutil.Process()
    with running(create_app(served)) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as other:
        ask = {"params": SPACING, "content": small_film()}
        assert other.post("/v1/locate", **ask).status_code == 200
        before = process.memory_info().rss
        huge = [Line(port, head("Content-Length: 1000000000")).status() for _ in range(10)]
        wrong = [Line(port, head(f"Content-Length: {text}")).status() for text in ("-1", "many", "1, 2", "1e3", "0x10")]
        slow = [Line(port, head("Content-Length: 1000000")) for _ in range(20)]
        for line in slow:
            line.say(b"P")
        assert other.post("/v1/locate", **ask).status_code == 200
        endless = Line(port, head("Transfer-Encoding: chunked"))
        block = b"100000\r\n" + bytes(0x100000) + b"\r\n"
        sent = sum(endless.say(block) for _ in range(MAX_UNANNOUNCED_BYTES // 0x100000 + 8))
        boundary = "Content-Type: multipart/form-data; boundary=b"
        parts = b"".join(b'--b\r\nContent-Disposition: form-data; name="p%d"\r\n\r\n1\r\n' % n for n in range(1000))
        many = Line(port, head(boundary, f"Content-Length: {len(parts) + 5}") + parts + b"--b--")
        silent = Line(port, b"POST /v1/locate HTTP/1.1\r\nHo")
        short = Line(port, head("Content-Length: 1000") + b"P5")
        statuses = {
            "1 GB": set(huge), "bad length": set(wrong), "1000 parts": {many.status()}, "chunked": {endless.status()},
            "too short": {short.status()}, "1 byte in 3 s": {line.status() for line in slow},
        }  # fmt: skip
        grown = process.memory_info().rss - before
        assert other.post("/v1/locate", **ask).status_code == 200
        silent.socket.close()
    assert statuses == {
        "1 GB": {413}, "bad length": {400}, "1000 parts": {400}, "chunked": {413}, "too short": {408},
        "1 byte in 3 s": {408},
    }, f"{statuses}, {sent} MiB sent"  # fmt: skip
    assert grown < 100_000_000
    assert served.buffers.held == 0
    assert list(tmp_path.iterdir()) == []
    record_property("tried", f"{len(huge) + len(wrong) + len(slow) + 3} lying requests; memory +{grown / 1e6:.0f} MB")


@pytest.mark.bar("S1")
def test_s1_films_that_fill_the_servers_room_are_asked_to_come_again(
    served: Service, client: TestClient, record_property: Any
) -> None:
    served.buffers.held += served.buffers.most - 1000
    try:
        answer = post(client, small_film())
    finally:
        served.buffers.held -= served.buffers.most - 1000
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert post(client, small_film()).status_code == 200
    record_property("tried", "a film where others fill the memory they may")


# ------------------------------------------------------------------------------------------------------- S2, S3, S4


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, *more: bytes, rows: bytes = b"") -> bytes:
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    pixels = np.zeros((64, 64), np.uint16)
    deflated = uid.DeflatedExplicitVRLittleEndian
    return {
        "13,000 x 13,000 px PNG of 1 bit": png(13000, 13000, 1, rows=bytes(1626 * 13000)),
        "200 MB of text in a PNG": png(
            64, 64, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9)), rows=bytes(65 * 64)
        ),
        "DICOM inflating to 300 MB": saved(data_set(pixels), bytes(300_000_000), deflated),
        "DICOM of 65,535 x 65,535": saved(data_set(pixels, Rows=65535, Columns=65535), pixels.tobytes()),
        "DICOM of 1,000,000 frames": saved(data_set(pixels, NumberOfFrames=1_000_000), pixels.tobytes()),
        "PGM of 999,999 x 999,999": b"P5\n999999 999999\n255\n" + bytes(100),
    }


@pytest.mark.bar("S2")
def test_s2_files_that_unfold_to_huge_films_are_refused_at_once_by_the_process_that_goes_on(
    served: Service, client: TestClient, record_property: Any
) -> None:
    assert post(client, small_film()).status_code == 200
    starts, worst = served.sandbox.starts, 0.0
    for name, film in bombs().items():
        begin = sum(_processor_seconds(pid) for pid in served.sandbox.pids)
        answer = post(client, film)
        worst = max(worst, sum(_processor_seconds(pid) for pid in served.sandbox.pids) - begin)
        assert 400 <= answer.status_code < 500, (name, answer.text)
        assert answer.json()["remedy"], name
    memory = max(psutil.Process(pid).memory_info().rss for pid in served.sandbox.pids)
    assert (served.sandbox.starts, post(client, small_film()).status_code) == (starts, 200)
    assert worst < 1.0
    assert memory < 600_000_000
    record_property(
        "tried", f"{len(bombs())} kinds; slowest {worst:.2f} s of a processor, {memory / 1e6:.0f} MB at most"
    )


def _processor_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.bar("S3")
def test_s3_mutated_films_are_answered_or_refused_and_nothing_else(
    served: Service, client: TestClient, record_property: Any
) -> None:
    small = parse_film(small_film(), "film").pixels
    seeds = [small_film(), encoded(small, "PNG"), encoded(small, "TIFF"), encoded(small, "JPEG"), dicom(small, 8)]
    assert post(client, small_film()).status_code == 200, "its processes have begun and are not what is measured"
    generator, starts, worst = random.Random(1), served.sandbox.starts, 0.0
    statuses: dict[int, int] = {}
    for n in range(2000):
        film = bytearray(seeds[n % len(seeds)])
        for _ in range(generator.choice([1, 1, 2, 8])):
            at = generator.randrange(len(film) if generator.random() < 0.3 else min(len(film), 600))
            match generator.randrange(4):
                case 0:
                    film[at] = generator.randrange(256)
                case 1:
                    del film[at : at + generator.randrange(1, 200)]
                case 2:
                    film[at:at] = generator.randbytes(generator.randrange(1, 50))
                case _:
                    film[at : at + 4] = struct.pack(
                        generator.choice("<>") + "I", generator.choice([0, 2**31, 2**32 - 1])
                    )
        begin = time.process_time() + sum(map(_processor_seconds, served.sandbox.pids))
        answer = post(client, bytes(film))
        worst = max(worst, time.process_time() + sum(map(_processor_seconds, served.sandbox.pids)) - begin)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
    assert all(status == 200 or 400 <= status < 500 for status in statuses), statuses
    assert min(statuses.values()) > 100, "both kinds of answer were tried"
    assert (served.sandbox.starts, worst < 2.0) == (starts, True), worst
    told = ", ".join(f"{number} answered {status}" for status, number in sorted(statuses.items()))
    record_property("tried", f"2,000 seeded mutations of 5 formats: {told}; slowest {worst:.2f} s of a processor")


@pytest.mark.bar("S4")
def test_s4_what_is_no_mammogram_gets_a_reason_and_no_score(client: TestClient, record_property: Any) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (400, 300, 3), dtype=np.uint8)
    grey = parse_film(small_film(), "film").pixels
    films = {
        "a photograph in colour": encoded(colours, "PNG"),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "a CT": dicom(grey, 8, Modality="CT", SOPClassUID=uid.CTImageStorage, BodyPartExamined="CHEST"),
        "several frames": dicom(grey, 8, NumberOfFrames=2),
        "all black": format_pgm(np.zeros((1024, 1024), np.uint8)),
        "64 x 64 px": format_pgm(np.full((64, 64), 99, np.uint8)),
        **{name: format_pgm(picture) for name, picture in others().items()},
    }
    for name, film in films.items():
        answer = client.post("/v1/locate", files={"film": ("x.pgm" if film[:1] in b"<%P" else "x", film)}, data=SPACING)
        assert answer.status_code == 422, (name, answer.text)
        assert answer.json()["problems"], name
        assert not {"boxes", "p_abnormal"} & set(answer.json())
    record_property("tried", f"{len(films)} files: {', '.join(films)}")


# ------------------------------------------------------------------------------------------------------------- S5, S6


@pytest.mark.slow
@pytest.mark.bar("S5")
def test_s5_one_film_in_every_form_gets_one_answer(folder: Path, record_property: Any) -> None:
    found = service(folder)
    pixels = parse_film(phantom_film(), "film").pixels
    deep = pixels.astype(np.uint16) * 257
    told = {"ImagerPixelSpacing": [0.2, 0.2], "ImageLaterality": None}
    same = {
        "PGM": phantom_film(),
        "PNG": encoded(pixels, "PNG"),
        "TIFF": encoded(pixels, "TIFF"),
        "MONOCHROME2": dicom(pixels, 8, **told),
        "MONOCHROME1": dicom(255 - pixels, 8, PhotometricInterpretation="MONOCHROME1", **told),
    }
    alike = {
        "PGM of 16 bits": format_pgm(deep),
        "PNG of 16 bits": encoded(deep, "PNG"),
        "DICOM of 16": dicom(deep, 16, **told),
    }
    mirrored = format_pgm(np.ascontiguousarray(pixels[:, ::-1]))
    with TestClient(create_app(found)) as client:
        first = post(client, same["PGM"]).json()
        assert first["boxes"]
        for allowed, films in ((1e-6, same), (0.02, alike)):
            for name, film in films.items():
                answer = post(client, film).json()
                assert answer["p_abnormal"] == pytest.approx(first["p_abnormal"], abs=allowed), name
                scores = [[box["score"] for box in one["boxes"]] for one in (answer, first)]
                assert scores[0] == pytest.approx(scores[1], abs=allowed), name
        turned = post(client, mirrored).json()
    assert turned["p_abnormal"] == pytest.approx(first["p_abnormal"], abs=1e-6)
    for box, other in zip(turned["boxes"], first["boxes"], strict=True):
        assert (1024 - box["x2"], 1024 - box["x1"]) == pytest.approx((other["x1"], other["x2"]), abs=1e-3)
    record_property("tried", f"one film as {', '.join([*same, *alike])}, and mirrored")


@pytest.mark.bar("S6")
def test_s6_names_reach_neither_disk_nor_log_nor_answer_and_strangers_are_turned_away(
    client: TestClient, caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    record_property: Any,
) -> None:  # fmt: skip
    caplog.set_level("DEBUG")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = [
        f"../../{PLANTED}.pgm", f"..\\{PLANTED}.pgm", f"/etc/{PLANTED}", f"{PLANTED}\0.pgm", f"{PLANTED}" * 30,
        f"<img src=x onerror={PLANTED}>.pgm", f"{PLANTED}\r\nSet-Cookie: a=b.pgm", f"{PLANTED}.<script>",
        f"{PLANTED}.dcm",
    ]  # fmt: skip
    film = small_film()
    bad = dicom(PatientName=f"<script>{PLANTED}</script>", Modality="CT")
    texts = []
    for name in names:
        for content in (film, bad, dicom(), film[:-1]):
            answer = client.post("/v1/locate", files={"film": (name, content)}, data=SPACING)
            assert answer.status_code in (200, 400, 422), answer.text
            texts.append(answer.text + str(dict(answer.headers)))
    for path in (f"/{PLANTED}", f"/static/../{PLANTED}", f"/v1/locate?name={PLANTED}", f"/static/%2e%2e%2f{PLANTED}"):
        texts.append(client.post(path, content=film).text)
        texts.append(client.get(path).text)
    # the client of this test logs what it asks for
    logged = [record.getMessage() for record in caplog.records if record.name != "httpx"]
    assert sum("/v1/locate" in line for line in logged) > len(names)
    assert PLANTED not in "".join(texts + logged)
    assert list(tmp_path.iterdir()) == []
    strangers = [
        {"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example"}, {"Host": "evil.example:8000"}, {"Host": ""},
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9"},
    ]  # fmt: skip
    for headers in strangers:
        for path in ("/", "/v1/model", "/health"):
            assert client.get(path, headers=headers).status_code == 403, headers
        assert client.post("/v1/locate", params=SPACING, content=film, headers=headers).status_code == 403
    assert client.get("/v1/model", headers={"Origin": "http://127.0.0.1"}).status_code == 200
    record_property("tried", f"{len(names)} names with 4 files each, {len(strangers)} foreign hosts and origins")


# ------------------------------------------------------------------------------------------------------------- S7, S8


@pytest.mark.slow
@pytest.mark.bar("S7")
def test_s7_many_clients_get_the_answers_that_one_gets(folder: Path, known: KnownLocator, record_property: Any) -> None:
    clients, requests = 16, 200
    found = service(folder, known)
    films = [small_film(height, 260) for height in range(290, 306)]
    seconds: list[float] = []
    with running(create_app(found)) as port:

        def ask(number: int) -> list[tuple[int, float]]:
            answers = []
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as one:
                for n in range(requests):
                    begin = time.monotonic()
                    answer = one.post("/v1/locate", params=SPACING, content=films[(number + n) % len(films)])
                    while answer.status_code == 503:
                        assert answer.headers["Retry-After"]
                        time.sleep(0.2)
                        answer = one.post("/v1/locate", params=SPACING, content=films[(number + n) % len(films)])
                    assert answer.status_code == 200, answer.text
                    seconds.append(time.monotonic() - begin)
                    answers.append(((number + n) % len(films), answer.json()["p_abnormal"]))
            return answers

        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as one:
            alone = [one.post("/v1/locate", params=SPACING, content=film).json()["p_abnormal"] for film in films]
        assert len(set(alone)) == len(films)
        with ThreadPoolExecutor(clients) as pool:
            told = [pair for answers in pool.map(ask, range(clients)) for pair in answers]
    assert len(told) == clients * requests
    assert all(answer == alone[film] for film, answer in told)
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    record_property(
        "tried", f"{clients} clients x {requests} requests; p50 {p50:.2f} s, p95 {p95:.2f} s, the model's time left out"
    )


@pytest.mark.slow
@pytest.mark.bar("S8")
def test_s8_ten_swaps_under_eight_clients_fail_no_request_and_a_broken_version_leaves_the_old_one(
    folder: Path, known: KnownLocator, record_property: Any
) -> None:
    champion = {"number": 1}
    folders = {}
    for number in range(1, 12):
        folders[number] = folder / f"version_{number}"
        folders[number].mkdir(exist_ok=True)
        (folders[number] / "manifest.json").write_text(json.dumps({"version": number}), encoding="utf-8")

    def load(number: int, _: Path) -> ServedLocator:
        return replace(known, number=number, seconds=0.01, broken=number == 6)

    slot: Slot[ServedLocator] = Slot("mammo-locator", lambda: (champion["number"], folders[champion["number"]]), load)
    slot.refresh()
    other = service(folder)
    found = Service(slot, other.classifier, other.sandbox, poll_s=0.05)
    done, answers, during_fault = threading.Event(), list[tuple[int, float]](), list[str]()
    with running(create_app(found)) as port:

        def ask(_: int) -> int:
            failed = 0
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as one:
                while not done.is_set():
                    answer = one.post("/v1/locate", params=SPACING, content=small_film())
                    failed += answer.status_code != 200
                    if answer.status_code == 200:
                        answers.append((answer.json()["model"]["version"], answer.json()["boxes"][0]["score"]))
            return failed

        with ThreadPoolExecutor(8) as pool:
            failures = pool.map(ask, range(8))
            try:
                _wait(lambda: len(answers) > 8)
                for number in range(2, 12):
                    champion["number"] = number
                    _wait(lambda number=number: slot.model is not None and (slot.model.number == number or slot.fault))
                    seen = len(answers)
                    _wait(lambda seen=seen: len(answers) > seen + 8)
                    if number == 6:
                        health = httpx.get(f"http://127.0.0.1:{port}/health").json()
                        during_fault = [
                            health["status"],
                            health["models"][0]["fault"],
                            str(health["models"][0]["version"]),
                        ]
            finally:
                done.set()
            assert sum(failures) == 0
    assert during_fault[0] == "degraded"
    assert "Version 5 goes on answering" in during_fault[1]
    assert "version 6 cannot be served: these weights are torn" in during_fault[1]
    assert during_fault[2] == "5"
    assert all(score == version / 100 for version, score in answers)
    assert {version for version, _ in answers} == {1, 2, 3, 4, 5, 7, 8, 9, 10, 11}
    assert slot.fault == ""
    record_property(
        "tried", f"10 swaps, the 5th of them to a broken version, under 8 clients: {len(answers)} answers, 0 failed"
    )


def _wait(happens: Any) -> None:
    end = time.monotonic() + 60
    while not happens() and time.monotonic() < end:
        time.sleep(0.01)
    assert happens()


def test_the_limits_are_those_of_the_largest_film() -> None:
    assert MAX_BODY_BYTES >= 2 * 42_000_000
    assert MAX_UNANNOUNCED_BYTES < MAX_BODY_BYTES
