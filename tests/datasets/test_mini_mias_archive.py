"""Downloads over a loopback server, and what an archive may not do."""

import gzip
import io
import tarfile
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from mammo_ml.datasets import mini_mias_archive
from mammo_ml.datasets.mini_mias_archive import check_folder, obtain_archive, official_manifest, unpack
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.imaging.readers import format_pgm


def film(number: int) -> bytes:
    return format_pgm(np.full((1024, 1024), number, np.uint8))


def make_archive(path, members):
    """A gzipped tar of (name, bytes) or ready TarInfo (links)."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                entry = tarfile.TarInfo(member[0])
                entry.size = len(member[1])
                tar.addfile(entry, io.BytesIO(member[1]))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


INFO = ("Info.txt", b"mdb001 G NORM\n")


# --- download ---------------------------------------------------------------------------------------------------------

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 700_000, dtype=np.uint8))


@pytest.fixture
def sleeps(monkeypatch):
    waited = []
    monkeypatch.setattr(mini_mias_archive.time, "sleep", waited.append)
    return waited


@pytest.fixture
def serve():
    """Start a loopback server that answers with a function of (handler, number of the request, from 1)."""
    servers = []

    def start(answer):
        ranges = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                ranges.append(self.headers.get("Range"))
                answer(self, len(ranges))

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/pix/all-mias.tar.gz", ranges

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def send(handler, body: bytes, *, ranges: bool = True, cut: int | None = None, shift: int = 0) -> None:
    """Answer as a file server; `cut` ends the connection after so many bytes, `shift` sends another range."""
    asked = handler.headers.get("Range")
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and ranges else 0
    if start >= len(body):
        handler.send_response(416)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    start -= shift if start else 0
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    handler.send_header("Content-Length", str(len(body) - start))
    handler.end_headers()
    handler.wfile.write(body[start:][:cut])


def test_an_interrupted_download_goes_on_where_it_was_and_arrives_whole(serve, sleeps, tmp_path):
    url, ranges = serve(lambda handler, n: send(handler, CONTENT, cut=300_000 if n == 1 else None))
    reports = []
    archive = obtain_archive(url, tmp_path / "cache", lambda *progress: reports.append(progress))
    assert archive.read_bytes() == CONTENT
    assert ranges == [None, "bytes=300000-"]
    assert sleeps == [1]
    received = [progress[0] for progress in reports]
    assert received == sorted(received)
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert {total for _, total in reports} == {len(CONTENT)}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [archive.name]


def test_a_download_of_an_earlier_session_goes_on_and_a_finished_one_is_not_repeated(serve, sleeps, tmp_path):
    def broken_off(handler, n):
        send(handler, CONTENT, cut=1000 if n <= 4 else None)

    url, ranges = serve(broken_off)
    with pytest.raises(MammoError, match=r"the connection ended after 4,000 of 700,000 bytes"):
        obtain_archive(url, tmp_path)
    archive = obtain_archive(url, tmp_path)
    assert archive.read_bytes() == CONTENT
    assert ranges == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-", "bytes=4000-"]
    assert obtain_archive(url, tmp_path) == archive
    assert len(ranges) == 5


@pytest.mark.parametrize("trait", ["no ranges", "another range"])
def test_a_server_that_does_not_go_on_where_asked_never_mixes_the_file(trait, serve, sleeps, tmp_path):
    def answer(handler, n):
        cut = 300_000 if n == 1 else None
        send(handler, CONTENT, cut=cut, ranges=trait != "no ranges", shift=7 if trait == "another range" else 0)

    url, _ = serve(answer)
    assert obtain_archive(url, tmp_path).read_bytes() == CONTENT


def test_a_file_that_became_shorter_on_the_server_is_taken_anew(serve, sleeps, tmp_path):
    url, ranges = serve(lambda handler, n: send(handler, CONTENT if n == 1 else b"short", cut=300_000))
    assert obtain_archive(url, tmp_path).read_bytes() == b"short"
    assert ranges == [None, "bytes=300000-", None]


def test_a_broken_chunked_answer_is_tried_again(serve, sleeps, tmp_path):
    def answer(handler, n):
        if n > 1:
            return send(handler, CONTENT, ranges=False)
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"ffff\r\nonly this")  # a chunk of 65,535 bytes is announced
        handler.close_connection = True
        return None

    url, _ = serve(answer)
    assert obtain_archive(url, tmp_path).read_bytes() == CONTENT


def test_an_address_that_is_not_there_is_not_asked_again(serve, sleeps, tmp_path):
    url, ranges = serve(lambda handler, n: handler.send_error(404))
    with pytest.raises(MammoError, match=r"404: Not Found(.|\n)*MIAS_ARCHIVE"):
        obtain_archive(url, tmp_path)
    assert (len(ranges), sleeps) == (1, [])


def test_an_unreachable_address_names_the_variable_and_the_command_that_goes_on_without(sleeps, tmp_path):
    with pytest.raises(MammoError) as caught:
        obtain_archive("http://127.0.0.1:9/all-mias.tar.gz", tmp_path)
    message = str(caught.value)
    assert "could not be downloaded from http://127.0.0.1:9/all-mias.tar.gz" in message
    assert "Set MIAS_ARCHIVE" in message
    assert "`make repro`" in message
    assert sleeps == [1, 2, 4]


def test_a_path_is_used_as_it_is_and_a_missing_one_is_named(tmp_path):
    (tmp_path / "all-mias.tar.gz").write_bytes(b"")
    assert obtain_archive(str(tmp_path / "all-mias.tar.gz"), tmp_path / "cache") == tmp_path / "all-mias.tar.gz"
    assert not (tmp_path / "cache").exists()
    with pytest.raises(MammoError, match=r"MIAS_ARCHIVE names .*other\.tar\.gz, which is not a file"):
        obtain_archive(str(tmp_path / "other.tar.gz"), tmp_path / "cache")


# --- unpacking --------------------------------------------------------------------------------------------------------


def refused(archive, out, manifest=None) -> BadInputError:
    with pytest.raises(BadInputError) as caught:
        unpack(archive, out, manifest)
    assert not out.exists()
    assert [path for path in out.parent.iterdir() if path.name.startswith(out.name)] == []
    assert "Nothing was published" in str(caught.value)
    return caught.value


def test_films_in_a_folder_of_the_archive_lie_flat_and_nothing_else_comes_along(tmp_path):
    members = [("mias/mdb001.pgm", film(1)), ("mias/Info.txt", INFO[1]), ("mias/Licence.txt", b"l"), ("mias/x.sh", b"")]
    archive = make_archive(tmp_path / "a.tar.gz", members)
    unpack(archive, tmp_path / "films", {"mdb001": sha256(film(1)).hexdigest()})
    assert sorted(path.name for path in (tmp_path / "films").iterdir()) == ["Info.txt", "Licence.txt", "mdb001.pgm"]
    assert (tmp_path / "films" / "mdb001.pgm").read_bytes() == film(1)


def test_a_good_archive_replaces_what_was_there_and_a_bad_one_leaves_it(tmp_path):
    out = tmp_path / "films"
    out.mkdir()
    (out / "old.txt").write_text("old")
    bad = make_archive(tmp_path / "bad.tar.gz", [INFO, ("mdb001.pgm", film(1)[:-1])])
    with pytest.raises(BadInputError):
        unpack(bad, out, None)
    assert [path.name for path in out.iterdir()] == ["old.txt"]
    unpack(make_archive(tmp_path / "good.tar.gz", [INFO, ("mdb001.pgm", film(1))]), out, None)
    assert sorted(path.name for path in out.iterdir()) == ["Info.txt", "mdb001.pgm"]


def test_two_members_of_one_name_are_refused_with_both_places(tmp_path):
    members = [INFO, ("a/mdb001.pgm", film(1)), ("b/mdb001.pgm", film(2))]
    error = refused(make_archive(tmp_path / "a.tar.gz", members), tmp_path / "films")
    assert error.problems == ["mdb001.pgm is there twice: a/mdb001.pgm and b/mdb001.pgm"]


@pytest.mark.parametrize("name", ["../../mdb001.pgm", "/mdb001.pgm", "a/../../mdb001.pgm"])
def test_a_member_that_climbs_out_lands_inside(name, tmp_path):
    out = tmp_path / "deep" / "er" / "films"
    unpack(make_archive(tmp_path / "a.tar.gz", [INFO, (name, film(1))]), out, None)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"a.tar.gz", "deep/er/films/Info.txt", "deep/er/films/mdb001.pgm"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_is_refused_by_name_and_what_it_points_to_stays_as_it_is(kind, tmp_path):
    victim = tmp_path / "victim.pgm"
    victim.write_bytes(b"mine")
    members = [INFO, link("mdb001.pgm", str(victim), kind), ("mdb001.pgm", film(1))]
    error = refused(make_archive(tmp_path / "a.tar.gz", members), tmp_path / "films")
    assert error.problems == ["mdb001.pgm is a link or a device, not a file"]
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize("damage", ["no archive", "empty", "cut", "garbled"])
def test_an_archive_that_cannot_be_unpacked_is_named(damage, tmp_path):
    archive = make_archive(tmp_path / "a.tar.gz", [INFO, ("mdb001.pgm", CONTENT), ("mdb002.pgm", film(1))])
    data = bytearray(archive.read_bytes())
    half = len(data) // 2
    data[half : half + 2000] = bytes(2000) if damage == "garbled" else data[half : half + 2000]
    changed = {"no archive": b"<html>not found</html>", "empty": b"", "cut": bytes(data[:half]), "garbled": bytes(data)}
    archive.write_bytes(changed[damage])
    error = refused(archive, tmp_path / "films")
    assert str(archive) in str(error)
    assert error.problems


def test_a_stream_damaged_in_the_middle_of_a_film_is_named_not_traced(tmp_path):
    archive = make_archive(tmp_path / "a.tar.gz", [INFO, ("mdb001.pgm", film(1))])
    header = archive.read_bytes()[:10]
    # a valid beginning, then a deflate block of the reserved type 3: zlib itself raises
    raw = gzip.decompress(archive.read_bytes())[:600_000]
    body = gzip.compress(raw, 0)[10:-8]
    archive.write_bytes(header + body[: len(body) // 2] + b"\xff" * 300_000)
    assert "cannot be unpacked" in refused(archive, tmp_path / "films").problems[0]


def test_a_full_disk_is_named_and_nothing_is_published(tmp_path, monkeypatch):
    archive = make_archive(tmp_path / "a.tar.gz", [INFO, ("mdb001.pgm", film(1))])

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mini_mias_archive.Path, "write_bytes", full)
    with pytest.raises(MammoError, match=r"Info\.txt could not be written: .*No space left on device") as caught:
        unpack(archive, tmp_path / "films", None)
    assert "Take the archive again" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_folder_is_checked_without_a_manifest_too(tmp_path):
    (tmp_path / "mdb001.pgm").write_bytes(film(1))
    (tmp_path / "scan.pgm").write_bytes(film(2))
    with pytest.raises(BadInputError) as caught:
        check_folder(tmp_path, None, "phantoms")
    assert caught.value.problems == ["Info.txt is missing", "scan.pgm is no film of mini-MIAS"]
    (tmp_path / "scan.pgm").unlink()
    (tmp_path / "Info.txt").write_bytes(INFO[1])
    check_folder(tmp_path, None, "phantoms")


def test_the_official_manifest_names_322_different_films():
    manifest = official_manifest()
    assert sorted(manifest) == [f"mdb{n:03d}" for n in range(1, 323)]
    assert len(set(manifest.values())) == 322
    assert all(len(value) == 64 for value in manifest.values())
