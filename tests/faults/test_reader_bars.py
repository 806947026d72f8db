"""Bars D2, D4 and D5 where films are read: hostile, odd, cut and changed files, and films deeper than 8 bits."""

import io
import os
import shutil
import struct
import subprocess
import sys
import zlib
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from mammo_ml.cutting import PatchSet
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.canonical import canonical_films, eight_bits
from mammo_ml.imaging.readers import Film, format_pgm, parse_film, read_film

GREY = np.random.default_rng(1).integers(0, 256, (24, 31), dtype=np.uint8)
WIDE = GREY.astype(np.uint16) * 257
RED = np.stack([GREY, GREY // 2, GREY // 3], axis=2)


def encode(pixels: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture if mode is None else picture.convert(mode)).save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values: dict[int, int | tuple[int, int]], pixels: bytes) -> bytes:
    """A TIFF of one strip with these tags over those of a grey picture of 2 x 2 px, 8 bits."""
    tags: dict[int, int | tuple[int, int]] = {256: 2, 257: 2, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 2}
    tags |= {279: len(pixels)} | values
    entries = [
        struct.pack("<HHIHH", tag, 3, *((2, *value) if isinstance(value, tuple) else (1, value, 0)))
        for tag, value in sorted(tags.items())
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\x00" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


def pages(n: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "tiff", save_all=True, append_images=[Image.fromarray(GREY)] * (n - 1))
    return file.getvalue()


def turned(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    return encode(GREY, kind, exif=exif)


def animated() -> bytes:
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "png", save_all=True, append_images=[Image.fromarray(GREY[::-1].copy())])
    return file.getvalue()


def with_text(zipped: bool) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 2_000_000, zip=zipped)
    return encode(GREY, "png", pnginfo=text)


def with_wrong_height(data: bytes) -> bytes:
    """A JPEG whose frame header says 65535 x 65535 px."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]


ALL_ROWS = b"".join(b"\0" + row.tobytes() for row in GREY)

HOSTILE = {
    "empty file": ("film.pgm", b"", "the file is empty"),
    "empty PNG": ("film.png", b"\x89PNG\r\n\x1a\n", "cut off"),
    "PNG named PGM": ("film.pgm", encode(GREY, "png"), "named .pgm, but a PNG file by its first bytes"),
    "PGM named PNG": ("film.png", format_pgm(GREY), "named .png, but a PGM file by its first bytes"),
    "TIFF named JPEG": ("film.jpg", encode(GREY, "tiff"), "named .jpg, but a TIFF file"),
    "JPEG named DICOM": ("film.dcm", encode(GREY, "jpeg"), "named .dcm, but a JPEG file"),
    "PNG named script": ("film.png.exe", encode(GREY, "png"), "named .exe, but a PNG file"),
    "EPS": ("film.pgm", b"%!PS-Adobe-3.0 EPSF-3.0\n", "begins with '%!PS-Adobe"),
    "SVG": (
        "film.pgm",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        'begins with "<svg xmlns=\'http", no kind of film',
    ),
    "HTML": ("film.pgm", b"<!doctype html><img onerror=alert(1)>", "begins with '<!doctype"),
    "GIF": ("film.png", encode(GREY, "gif"), "begins with 'GIF8"),
    "BMP": ("film.png", encode(GREY, "bmp"), "begins with 'BM"),
    "DICOM": ("film.dcm", bytes(128) + b"DICM", "begins with '\\x00"),
    "gzip": ("film.pgm", b"\x1f\x8b\x08\x00" + bytes(20), "a gzip file"),
    "P2": ("film.pgm", b"P2\n2 1\n255\n1 2", "a text grey map (P2)"),
    "PGM, CRLF header": ("film.pgm", b"P5\r\n31 24\r\n255\r\n" + GREY.tobytes(), "Windows line ends"),
    "PGM, maximum 100": ("film.pgm", b"P5\n31 24\n100\n" + GREY.tobytes(), "found 'P5\\n31 24\\n100'"),
    "PGM, above its maximum": ("film.pgm", b"P5\n31 24\n4095\n" + WIDE.astype(">u2").tobytes(), "the maximum in the"),
    "PGM, trailing byte": ("film.pgm", format_pgm(GREY) + b"\n", "1 too many"),
    "PNG, trailing bytes": ("film.png", encode(GREY, "png") + b"junk", "4 bytes too many behind the end"),
    "two PNGs in one": ("film.png", encode(GREY, "png") * 2, "bytes too many behind the end"),
    "JPEG, trailing bytes": ("film.jpg", encode(GREY, "jpeg") + b"junk", "4 bytes too many behind the end"),
    "two JPEGs in one": ("film.jpg", encode(GREY, "jpeg") * 2, "bytes too many behind the end"),
    "half a PNG": ("film.png", encode(GREY, "png")[:400], "cut off"),
    "half a TIFF": ("film.tif", encode(GREY, "tiff")[:400], "cut off or damaged"),
    "half a JPEG": ("film.jpg", encode(GREY, "jpeg")[:400], "cut off"),
    "half a JPEG with an end": ("film.jpg", encode(GREY, "jpeg")[:200] + b"\xff\xd9", "cut off"),
    "PNG, rows missing": ("film.png", png(31, 24, 8, 0, ALL_ROWS[:-1]), "cut off or damaged"),
    "PNG, wrong checksum": ("film.png", encode(GREY, "png")[:-1] + b"\0", "the checksum of its part 'IEND'"),
    "PNG, no header": ("film.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), "its header is not at its start"),
    "PNG, short header": (
        "film.png",
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(9)) + chunk(b"IEND", b""),
        "13 bytes",
    ),
    "PNG without width": ("film.png", png(0, 24, 8, 0, ALL_ROWS), "cut off or damaged"),
    "palette PNG": ("film.png", encode(GREY, "png", "P"), "colours from a palette"),
    "1-bit PNG": ("film.png", encode(GREY, "png", "1"), "grey, 1 bits"),
    "grey PNG with alpha": ("film.png", encode(GREY, "png", "LA"), "grey with transparency"),
    "colour PNG with alpha": ("film.png", encode(RED, "png", "RGBA"), "colour with transparency"),
    "PNG, one grey transparent": ("film.png", encode(GREY, "png", transparency=7), "transparent pixels"),
    "animated PNG": ("film.png", animated(), "several pictures"),
    "colour PNG": ("film.png", encode(RED, "png"), "it is in colour"),
    "colour PNG of 16 bits": ("film.png", png(1, 1, 16, 2, bytes(7)), "colour, 16 bits"),
    "colour JPEG": ("film.jpg", encode(RED, "jpeg"), "it is in colour"),
    "CMYK JPEG": ("film.jpg", encode(RED, "jpeg", "CMYK"), "not grey of 8 or 16 bits (CMYK)"),
    "turned JPEG": ("film.jpg", turned("jpeg"), "turned or mirrored (orientation 6)"),
    "turned PNG": ("film.png", turned("png"), "turned or mirrored (orientation 6)"),
    "turned TIFF": ("film.tif", tiff({274: 6}, bytes(4)), "turned or mirrored (orientation 6)"),
    "TIFF of two pages": ("film.tif", pages(2), "several pictures"),
    "colour TIFF": ("film.tif", encode(RED, "tiff"), "it is in colour"),
    "palette TIFF": ("film.tif", encode(GREY, "tiff", "P"), "photometric 3"),
    "TIFF of decimal fractions": ("film.tif", encode(GREY.astype(np.float32), "tiff"), "bits (32,)"),
    "TIFF of signed 16 bits": ("film.tif", tiff({258: 16, 339: 2}, bytes(8)), "sample format (2,)"),
    "TIFF of 12 bits": ("film.tif", tiff({258: 12}, bytes(6)), "bits (12,)"),
    "TIFF with white as 0": ("film.tif", tiff({262: 0}, bytes(4)), "its 0 is white"),
    "16-bit TIFF with white as 0": ("film.tif", tiff({258: 16, 262: 0}, bytes(8)), "its 0 is white"),
    "TIFF with alpha": ("film.tif", encode(GREY, "tiff", "LA"), "bits (8, 8)"),
    "JPEG inside a TIFF": ("film.tif", encode(GREY, "tiff", compression="jpeg"), "compressed in a way not accepted"),
    "fax inside a TIFF": (
        "film.tif",
        encode(GREY, "tiff", "1", compression="group4"),
        "compressed in a way not accepted",
    ),
    "BigTIFF": ("film.tif", b"II+\x00\x08\x00\x00\x00" + bytes(40), "no kind of film"),
    "PNG with 2 MB of zipped text": ("film.png", with_text(zipped=True), "Decompressed data too large"),
}


@pytest.mark.bar("D2")
def test_d2_every_hostile_or_odd_file_is_refused_by_name_with_what_is_accepted(tmp_path, record_property):
    for what, (name, data, words) in HOSTILE.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadInputError) as caught:
            pytest.fail(f"{what}: read as {read_film(tmp_path / name)}")
        assert words in str(caught.value), what
        assert caught.value.problems[0].startswith(f"{name}: "), what
        assert str(caught.value).splitlines()[-1].endswith((" as such.", "then pixels.")), f"{what}: no remedy"
    record_property("tried", f"{len(HOSTILE)} hostile or odd files: PGM, PNG, TIFF, JPEG and others under their names")


def bombs() -> dict[str, tuple[str, bytes]]:
    """Small files that say, or unpack to, far more than a film."""
    rows_13000 = bytes(13_000 * (1 + 13_000 // 8))
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 1))
    strip = {256: 13_000, 257: 13_000, 259: 8, 278: 13_000}
    return {
        "1-bit PNG of 13000 x 13000": ("film.png", png(13_000, 13_000, 1, 0, rows_13000)),
        "PNG of 65535 x 65535": ("film.png", png(65_535, 65_535, 8, 0, b"")),
        "TIFF of 65535 x 65535": ("film.tif", tiff({256: 65_535, 257: 65_535, 278: 65_535}, bytes(4))),
        "deflated TIFF of 13000 x 13000": ("film.tif", tiff(strip, zlib.compress(bytes(60_000)))),
        "JPEG of 65535 x 65535": ("film.jpg", with_wrong_height(encode(GREY, "jpeg"))),
        "PGM of 999999 x 999999": ("film.pgm", b"P5\n999999 999999\n255\nxx"),
        "PNG with 200 MB of zipped text": ("film.png", png(31, 24, 8, 0, ALL_ROWS, text)),
    }


READ_IN_LITTLE_MEMORY = """
import resource, sys, time
from pathlib import Path
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.readers import read_film
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 64_000_000,) * 2)
for path in sys.argv[1:]:
    start = time.perf_counter()
    try:
        print("read", read_film(Path(path)))
    except BadInputError as error:
        print(f"{time.perf_counter() - start:.3f}", error.problems[0])
"""


@pytest.mark.bar("D2")
def test_d2_a_small_file_that_unpacks_to_a_huge_one_costs_neither_memory_nor_time(tmp_path, record_property):
    paths, small = [], bombs()
    for number, (name, data) in enumerate(small.values()):
        assert len(data) < 1_000_000
        (tmp_path / str(number)).mkdir()
        paths.append(tmp_path / str(number) / name)
        paths[-1].write_bytes(data)
    program = [sys.executable, "-c", READ_IN_LITTLE_MEMORY, *map(str, paths)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    answers = done.stdout.splitlines()
    for (what, (name, _)), answer in zip(small.items(), answers, strict=True):
        seconds, problem = answer.split(" ", 1)
        assert problem.startswith(f"{name}: "), (what, answer)
        assert not problem.endswith("MemoryError"), (what, answer)
        assert float(seconds) < 1, (what, answer)
    slowest = max(float(answer.split(" ")[0]) for answer in answers)
    record_property("tried", f"{len(small)} small files of huge content within 64 MB, the slowest in {slowest:.2f} s")


@pytest.mark.bar("D1", "D2")
def test_d1_no_film_cut_off_at_any_byte_is_read(record_property):
    n_cut = 0
    for kind, name in (("pgm", "f.pgm"), ("png", "f.png"), ("jpeg", "f.jpg"), ("tiff", "f.tif")):
        for pixels in (GREY, WIDE)[: 1 if kind == "jpeg" else 2]:
            whole = format_pgm(pixels) if kind == "pgm" else encode(pixels, kind)
            assert parse_film(whole, name).pixels.shape == GREY.shape
            for n_bytes in range(len(whole)):
                with pytest.raises(BadInputError, match=name):
                    pytest.fail(
                        f"{n_bytes} of {len(whole)} bytes of a {kind} film: {parse_film(whole[:n_bytes], name)}"
                    )
                n_cut += 1
    record_property("tried", f"{n_cut} films cut off at every byte, four kinds, 8 and 16 bits")


@pytest.mark.bar("D4")
def test_d4_no_byte_of_a_png_film_changes_unnoticed(record_property):
    whole = encode(GREY, "png")
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        with pytest.raises(BadInputError, match=r"film\.png"):
            pytest.fail(f"byte {position}: {parse_film(bytes(changed), 'film.png')}")
    record_property("tried", f"{len(whole)} flipped bits, one in every byte of a PNG film")


@pytest.mark.bar("D2")
def test_d2_a_mutated_film_is_read_or_refused_by_name_and_never_anything_else(record_property):
    generator = np.random.default_rng(7)
    seeds = [encode(pixels, kind) for kind in ("png", "tiff", "jpeg") for pixels in (GREY, RED)]
    seeds += [format_pgm(WIDE), encode(WIDE, "png"), encode(WIDE, "tiff")]
    seeds += [encode(GREY, "tiff", compression=name) for name in ("tiff_lzw", "packbits")]
    messages, n_read = [], 0
    for number in range(2_000):
        data = seeds[number % len(seeds)]
        # The head holds what a decoder steers by, so half of the mutations go there.
        reach = len(data) if number % 2 else min(len(data), 200)
        mutant = np.frombuffer(data, np.uint8).copy()
        places = generator.integers(0, reach, generator.integers(1, 6))
        mutant[places] = generator.integers(0, 256, len(places))
        try:
            assert isinstance(parse_film(mutant.tobytes(), "film"), Film)
            n_read += 1
        except BadInputError as error:
            messages.append(error.problems[0])
    assert [message for message in messages if not message.startswith("film: ")] == []
    record_property("tried", f"{len(messages):,} mutated films refused by name, {n_read:,} read")


# --- D4: files changed behind the pipeline's back ---------------------------------------------------------------------


def write_films(folder, n: int) -> pd.DataFrame:
    """Films of half an ellipse of tissue at the left edge, each as PGM or PNG, and their rows of films.csv."""
    y, x = np.mgrid[:200, :120]
    rows = []
    for number in range(n):
        pixels = np.where(np.hypot(x / 90, (y - 95) / 80) < 1, 140 + number, 8).astype(np.uint8)
        name = f"f{number}.{'png' if number % 2 else 'pgm'}"
        data = encode(pixels, "png") if number % 2 else format_pgm(pixels)
        (folder / name).write_bytes(data)
        rows.append([f"f{number}", name, sha256(data).hexdigest(), "left", 0.2])
    return pd.DataFrame(rows, columns=["film_id", "path", "sha256", "chest_wall", "pixel_spacing_mm"])


def flip_a_bit(path, generator) -> None:
    """Change one bit and keep size, permissions and times, as a failing disk does."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[generator.integers(len(data))] ^= 1 << generator.integers(8)
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.bar("D4")
def test_d4_every_film_with_a_flipped_bit_is_named_before_any_film_is_used(tmp_path, record_property):
    generator, n_flipped = np.random.default_rng(3), 0
    for attempt in range(15):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        films = write_films(folder, 5)
        assert len(list(canonical_films(folder, films))) == 5
        chosen = sorted(generator.choice(films["path"], size=1 + attempt % 4, replace=False))
        for name in chosen:
            flip_a_bit(folder / name, generator)
        with pytest.raises(BadInputError) as caught:
            next(canonical_films(folder, films))
        assert [problem.split(":")[0] for problem in caught.value.problems] == chosen
        assert "dvc checkout --force" in str(caught.value)
        n_flipped += len(chosen)
    record_property("tried", f"{n_flipped} films of {15 * 5} with one bit flipped, size, times and permissions kept")


@pytest.mark.bar("D4")
def test_d4_swapped_missing_and_replaced_films_are_named(tmp_path):
    films = write_films(tmp_path, 7)
    (tmp_path / "f0.pgm").rename(tmp_path / "kept")
    (tmp_path / "f2.pgm").rename(tmp_path / "f0.pgm")
    (tmp_path / "kept").rename(tmp_path / "f2.pgm")
    (tmp_path / "f3.png").unlink()
    (tmp_path / "f4.pgm").unlink()
    (tmp_path / "f4.pgm").mkdir()
    with pytest.raises(BadInputError) as caught:
        next(canonical_films(tmp_path, films))
    swapped = [f"f{n}.pgm: sha256 " for n in (0, 2)]
    for problem, start in zip(caught.value.problems, [*swapped, "f3.png is missing", "f4.pgm is missing"], strict=True):
        assert problem.startswith(start)


@pytest.mark.bar("D4")
def test_d4_a_flipped_bit_anywhere_in_a_folder_of_patches_is_noticed_when_it_is_read(tmp_path, record_property):
    table = pd.DataFrame({"patch_id": ["a", "b"], "film_id": ["1", "2"], "label": ["normal", "benign"]})
    pictures = np.random.default_rng(5).integers(0, 256, (2, 5, 8, 8), dtype=np.uint8)
    generator = np.random.default_rng(4)
    PatchSet(table, pictures).save(tmp_path / "whole")
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    for attempt in range(60):
        name, folder = files[attempt % len(files)], tmp_path / str(attempt)
        shutil.copytree(tmp_path / "whole", folder)
        flip_a_bit(folder / name, generator)
        with pytest.raises(BadInputError) as caught:
            PatchSet.load(folder)
        assert str(folder) in str(caught.value)
        if name != "manifest.json":
            assert caught.value.problems[0].startswith(f"{name} was changed")
    record_property("tried", f"60 bits flipped in {', '.join(files)}")


# --- D5: films deeper than 8 bits -------------------------------------------------------------------------------------


@pytest.mark.bar("D5")
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_d5_a_ramp_deeper_than_eight_bits_fills_black_to_white_and_stays_monotone(bits, tmp_path, record_property):
    ramp = np.arange(2**bits, dtype=np.uint16).reshape(-1, 32)
    header = f"P5\n32 {len(ramp)}\n{2**bits - 1}\n".encode()
    files = {
        "16-bit.pgm": format_pgm(ramp),
        "stated.pgm": header + ramp.astype(">u2").tobytes(),
        "16-bit.png": encode(ramp, "png"),
        "16-bit.tif": encode(ramp, "tiff"),
        "zipped.tif": encode(ramp, "tiff", compression="tiff_adobe_deflate"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        film = read_film(tmp_path / name)
        unit = film.to_unit().ravel()
        assert film.max_value == 2**bits - 1
        assert unit.mean() == pytest.approx(0.5, abs=0.02)
        assert (unit[0], unit[-1]) == (0, 1)
        assert np.all(np.diff(unit) > 0)
        eight = eight_bits(film).ravel()
        assert eight.mean() / 255 == pytest.approx(0.5, abs=0.02)
        assert np.abs(eight / 255 - unit).max() <= 0.5 / 255 + 1e-6
    record_property("tried", f"ramp of {bits} bits as {', '.join(files)}")
