"""Bar D5 for DICOM, and what S2 to S6 ask of reading: bombs, mutants, other pictures, one film in many forms, names."""

import io
import logging
import subprocess
import sys
import traceback
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from mammo_ml.errors import BadInputError
from mammo_ml.imaging.any_film import read_any
from mammo_ml.imaging.breast import breast_mask, chest_wall_side
from mammo_ml.imaging.canonical import eight_bits, to_canonical
from mammo_ml.imaging.dicom import DescribedFilm, parse_dicom
from mammo_ml.imaging.dicom_header import KEYWORDS
from mammo_ml.imaging.dicom_pixels import MAX_INFLATED_BYTES
from mammo_ml.imaging.plausibility import not_a_mammogram
from mammo_ml.imaging.readers import format_pgm
from tests.imaging.dicom_files import PATIENT, PLANTED, compressed, data_set, dicom, film_pixels, png, saved, stream
from tests.imaging.other_pictures import others

# --- D5 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.bar("D5")
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_d5_a_ramp_in_dicom_fills_black_to_white_and_stays_monotone(bits, record_property):
    ramp = np.arange(2**bits, dtype=np.uint16).reshape(-1, 32)
    forms = {
        "stated": dicom(ramp, bits),
        "as 16 bits": dicom(ramp, 16),
        "MONOCHROME1": dicom(ramp[::-1, ::-1].copy(), bits, PhotometricInterpretation="MONOCHROME1"),
        "signed": dicom((ramp.astype(np.int32) - 2 ** (bits - 1)).astype(np.int16), bits),
        "windowed": dicom(ramp, bits, WindowCenter=2 ** (bits - 1), WindowWidth=2**bits),
        "lossless JPEG": compressed(ramp, bits, uid.JPEGLosslessSV1),
        "JPEG-LS": compressed(ramp, bits, uid.JPEGLSLossless),
        "JPEG 2000": compressed(ramp, bits, uid.JPEG2000Lossless),
        "RLE": compressed(ramp, bits, uid.RLELossless),
    }
    for what, data in forms.items():
        film = read_any(data, "ramp.dcm")
        unit = film.to_unit().ravel()
        assert unit.mean() == pytest.approx(0.5, abs=0.02), what
        assert (unit[0], unit[-1]) == (0, 1), what
        assert np.all(np.diff(unit) > 0), what
        assert eight_bits(film).mean() / 255 == pytest.approx(0.5, abs=0.02), what
    record_property("tried", f"ramp of {bits} bits in DICOM: {', '.join(forms)}")


# --- S2: small files that unfold to huge ones -------------------------------------------------------------------------


def renumbered(data: bytes, element: bytes, value: int) -> bytes:
    """A file with another value of a US element, of which the first eight bytes are given."""
    at = data.index(element) + len(element)
    return data[:at] + value.to_bytes(2, "little") + data[at + 2 :]


def bombs() -> dict[str, bytes]:
    pixels = film_pixels(8, 64, 48)
    whole = saved(data_set(pixels, 8), pixels.tobytes(), uid.DeflatedExplicitVRLittleEndian)
    meta = whole[: whole.index(uid.DeflatedExplicitVRLittleEndian.encode()) + 200]
    meta = meta[: 132 + 12 + int.from_bytes(whole[140:144], "little")]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = packer.compress(b"\xe0\x7f\x10\x00OW\0\0" + (300_000_000).to_bytes(4, "little"))
    for _ in range(300):
        deflated += packer.compress(bytes(1_000_000))
    deflated += packer.flush()
    jpeg, wavelets = stream(pixels, 8, uid.JPEGBaseline8Bit), stream(pixels, 8, uid.JPEG2000Lossless)
    at = jpeg.index(b"\xff\xc0") + 5
    huge_jpeg = jpeg[:at] + b"\xff\xff\xff\xff" + jpeg[at + 4 :]
    huge_wavelets = wavelets[:8] + b"\0\0\xff\xff\0\0\xff\xff" + wavelets[16:]
    dot = uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.RLELossless
    return {
        "deflated to 300 MB": meta + deflated,
        "65535 x 65535": renumbered(renumbered(dicom(), b"\x28\0\x10\0US\2\0", 65535), b"\x28\0\x11\0US\2\0", 65535),
        "a million frames": dicom(pixels, 8, NumberOfFrames=1_000_000),
        "JPEG of 65535 x 65535": saved(data_set(pixels, 8), encapsulate([huge_jpeg]), dot[0]),
        "JPEG 2000 of 65535 x 65535": saved(data_set(pixels, 8), encapsulate([huge_wavelets]), dot[1]),
        "RLE of too little": saved(
            data_set(pixels, 8, Rows=6000, Columns=6000), encapsulate([b"\1" + bytes(99)]), dot[2]
        ),
    }


READ_IN_LITTLE_MEMORY = """
import resource, sys, time
from pathlib import Path
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.any_film import read_any
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 64_000_000,) * 2)
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        print("read", read_any(Path(path)))
    except BadInputError as error:
        print(f"{time.process_time() - start:.3f}", error.problems[0])
"""


@pytest.mark.bar("S2")
def test_s2_a_small_dicom_file_that_unfolds_to_a_huge_one_costs_neither_memory_nor_time(tmp_path, record_property):
    small = bombs()
    for number, data in enumerate(small.values()):
        assert len(data) < 400_000
        (tmp_path / f"{number}.dcm").write_bytes(data)
    paths = [str(tmp_path / f"{number}.dcm") for number in range(len(small))]
    program = [sys.executable, "-c", READ_IN_LITTLE_MEMORY, *paths]
    answers = subprocess.run(program, capture_output=True, text=True, timeout=300, check=True).stdout.splitlines()
    for number, (what, answer) in enumerate(zip(small, answers, strict=True)):
        seconds, problem = answer.split(" ", 1)
        assert problem.startswith(f"{number}.dcm: "), (what, answer)
        assert "MemoryError" not in problem, (what, answer)
        assert float(seconds) < 1, (what, answer)
    assert f"unfold to more than {MAX_INFLATED_BYTES:,}" in answers[0]
    record_property("tried", f"{len(small)} small DICOM files of huge content within 64 MB: {', '.join(small)}")


# --- S3: mutants ------------------------------------------------------------------------------------------------------

SYNTAXES = {
    **{"plain": (uid.ExplicitVRLittleEndian, 12), "implicit": (uid.ImplicitVRLittleEndian, 12)},
    **{"deflated": (uid.DeflatedExplicitVRLittleEndian, 12), "RLE": (uid.RLELossless, 16)},
    **{"JPEG": (uid.JPEGBaseline8Bit, 8), "JPEG of 12 bits": (uid.JPEGExtended12Bit, 12)},
    **{"lossless JPEG": (uid.JPEGLosslessSV1, 16), "JPEG-LS": (uid.JPEGLSLossless, 12)},
    "JPEG 2000": (uid.JPEG2000Lossless, 12),
}


def seeds() -> list[bytes]:
    found = []
    for syntax, bits in SYNTAXES.values():
        pixels = film_pixels(bits, 64, 48)
        plain = uid.UID(syntax).is_deflated or not uid.UID(syntax).is_compressed
        content = pixels.tobytes() if plain else encapsulate([stream(pixels, bits, syntax)])
        found.append(saved(data_set(pixels, bits, WindowCenter=100, WindowWidth=200), content, syntax))
    return found


MUTATE = """
import sys, time
import numpy as np
from pathlib import Path
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.any_film import read_any
generator, slowest, n_read, n_refused = np.random.default_rng(7), 0.0, 0, 0
seeds = [Path(path).read_bytes() for path in sys.argv[2:]]
for number in range(int(sys.argv[1])):
    data = np.frombuffer(seeds[number % len(seeds)], np.uint8).copy()
    # Half of the mutations go to the header, a quarter to the head of what is compressed.
    first, last = [(132, len(data)), (132, 900), (len(data) - 900, len(data)), (132, 900)][number // len(seeds) % 4]
    places = generator.integers(max(132, first), min(last, len(data)), generator.integers(1, 6))
    data[places] = generator.integers(0, 256, len(places))
    start = time.process_time()
    try:
        film = read_any(data.tobytes(), "mutant")
        assert film.pixels.max() <= film.max_value
        n_read += 1
    except BadInputError as error:
        assert all(problem.startswith("mutant: ") for problem in error.problems), error
        assert "Mustermann" not in str(error)
        n_refused += 1
    slowest = max(slowest, time.process_time() - start)
print(n_read, n_refused, slowest)
"""


@pytest.mark.bar("S3")
def test_s3_a_mutated_dicom_file_is_read_or_refused_by_name_and_never_anything_else(tmp_path, record_property):
    for number, data in enumerate(seeds()):
        (tmp_path / str(number)).write_bytes(data)
    paths = [str(tmp_path / str(number)) for number in range(len(SYNTAXES))]
    # In a process of its own, so that a decoder that dies takes nothing else with it.
    done = subprocess.run(
        [sys.executable, "-c", MUTATE, "2700", *paths], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    n_read, n_refused, slowest = map(float, done.stdout.split())
    assert n_read + n_refused == 2700
    assert min(n_read, n_refused) > 300
    assert slowest < 2
    assert PLANTED not in done.stderr
    record_property(
        "tried", f"{n_refused:,.0f} mutated DICOM files refused by name, {n_read:,.0f} read, {slowest:.2f} s at most"
    )


@pytest.mark.bar("S3")
def test_s3_no_dicom_film_cut_off_at_any_byte_is_read(record_property):
    n_cut = 0
    for what, whole in zip(SYNTAXES, seeds(), strict=True):
        assert parse_dicom(whole, "f").pixels.shape == (64, 48)
        # What may be lacking at the end: the padding of what was deflated (PS3.5 annex A.5), and the length, always 0,
        # of the delimiter behind what was compressed (PS3.5 annex A.4).
        last = len(whole) - {"plain": 0, "implicit": 0, "deflated": 1}.get(what, 4)
        for n_bytes in {*range(0, last, 29), *range(last - 9, last)}:
            with pytest.raises(BadInputError, match="f: "):
                pytest.fail(f"{n_bytes} of {len(whole)} bytes: {read_any(whole[:n_bytes], 'f')}")
            n_cut += 1
    record_property("tried", f"{n_cut} DICOM films cut off, {len(SYNTAXES)} transfer syntaxes")


# --- S4: what is no mammogram -----------------------------------------------------------------------------------------


@pytest.mark.bar("S4")
def test_s4_other_pictures_are_refused_with_a_reason(record_property):
    pictures = others()
    for what, pixels in pictures.items():
        reasons = not_a_mammogram(read_any(png(pixels), "picture.png"))
        assert reasons, what
        assert all(reason[0].islower() and len(reason) > 20 for reason in reasons), what
    for data in (b"%!PS-Adobe-3.0 EPSF-3.0", b"<svg xmlns='x'/>", b"<!doctype html>", b"GIF89a", b"", bytes(200)):
        for name in ("film.pgm", "film.dcm"):
            with pytest.raises(BadInputError, match="A film is a DICOM file, or"):
                read_any(data, name)
    with pytest.raises(BadInputError, match="modality is CT"):
        read_any(dicom(SOPClassUID=uid.CTImageStorage, Modality="CT"), "film.dcm")
    record_property("tried", f"{len(pictures)} pictures: {', '.join(pictures)}")


# --- S5: one film in many forms ---------------------------------------------------------------------------------------


@pytest.mark.bar("S5")
def test_s5_one_film_in_every_form_is_one_film_to_the_models(record_property):
    deep, flat = film_pixels(12), eight_bits(DescribedFilm(film_pixels(12), 4095))
    tiff = io.BytesIO()
    Image.fromarray(deep).save(tiff, "tiff")
    forms = {
        "PGM of 8 bits": (format_pgm(flat), "f.pgm"),
        "PGM of 16 bits": (format_pgm(deep), "f.pgm"),
        "PNG of 8 bits": (png(flat), "f.png"),
        "PNG of 16 bits": (png(deep), "f.png"),
        "TIFF of 16 bits": (tiff.getvalue(), "f.tif"),
        "DICOM of 8 bits": (dicom(flat, 8), "f.dcm"),
        "DICOM of 12 bits": (dicom(deep), "f.dcm"),
        "DICOM of 12 bits as 16": (dicom(deep, 16), "f"),
        "DICOM, MONOCHROME1": (dicom(4095 - deep, PhotometricInterpretation="MONOCHROME1"), "f.dcm"),
        "DICOM, windowed": (dicom(deep, WindowCenter=2048, WindowWidth=4096), "f.dcm"),
        "DICOM, signed": (dicom((deep.astype(np.int32) - 2048).astype(np.int16)), "f.dcm"),
        "DICOM, JPEG 2000": (compressed(deep, 12, uid.JPEG2000Lossless), "f.dcm"),
    }
    for what, (data, name) in forms.items():
        film = read_any(data, name, pixel_spacing_mm=0.4)
        np.testing.assert_array_equal(to_canonical("f", film, "left", film.pixel_spacing_mm).pixels.shape, (600, 480))
        np.testing.assert_array_equal(eight_bits(film), flat, err_msg=what)
        # Mirrored, the breast is found on the other side and the canonical film is the same.
        assert chest_wall_side(breast_mask(eight_bits(film))) == "left", what
    mirrored = read_any(dicom(deep[:, ::-1].copy()), "f.dcm", 0.4)
    assert chest_wall_side(breast_mask(eight_bits(mirrored))) == "right"
    straight = to_canonical("f", read_any(dicom(deep), "f.dcm", 0.4), "left", 0.4)
    np.testing.assert_array_equal(to_canonical("f", mirrored, "right", 0.4).pixels, straight.pixels)
    record_property("tried", f"one film in {len(forms)} forms and mirrored: {', '.join(forms)}")


# --- S6: names of patients --------------------------------------------------------------------------------------------


def planted_everywhere() -> dict[str, bytes]:
    """Files whose every text, one after the other, is the patient's name, and files damaged in other ways."""
    pixels = film_pixels(8, 64, 48)
    files = {"whole": dicom(pixels, 8)}
    for keyword in KEYWORDS:
        if dictionary_VR_of(keyword) in ("CS", "DS", "IS", "LO", "UI", "SH"):
            content = data_set(pixels, 8)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content.add_new(keyword, "LO", PLANTED)
            files[keyword] = saved(content, pixels.tobytes())
            # Here the reader takes the kind of value from its own list, and finds the name to be none of it.
            files[f"{keyword}, implicit"] = saved(content, pixels.tobytes(), uid.ImplicitVRLittleEndian)
    nested = Dataset()
    nested.CodingSchemeDesignator, nested.CodeValue, nested.CodeMeaning = PLANTED, PLANTED, PLANTED
    for keyword in ("ViewCodeSequence", "AnatomicRegionSequence", "VOILUTSequence", "ModalityLUTSequence"):
        files[keyword] = dicom(pixels, 8, **{keyword: [nested]})
    whole = files["whole"]
    files |= {f"cut at {n}": whole[:n] for n in range(140, len(whole), 311)}
    at = whole.index(PLANTED.encode())
    files |= {f"length changed at {at - n}": whole[: at - n] + b"\xff\xff" + whole[at - n + 2 :] for n in range(2, 9)}
    files["no preamble"] = whole[132:]
    files["all of another modality"] = dicom(pixels, 8, Modality="CT", BodyPartExamined=PLANTED, Rows=None)
    return files


def dictionary_VR_of(keyword: str) -> str:  # noqa: N802
    return "" if keyword == "PixelData" else dictionary_VR(keyword)


@pytest.mark.bar("S6")
def test_s6_no_name_of_a_patient_is_in_any_film_note_message_log_or_warning(caplog, capfd, record_property):
    files, n_refused = planted_everywhere(), 0
    assert set(PATIENT) & set(KEYWORDS) == set()
    caplog.set_level(logging.DEBUG)
    # Making such files is not silent.
    caplog.clear()
    capfd.readouterr()
    for what, data in files.items():
        said = ""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                said = repr(vars(read_any(data, "film")))
            except BadInputError as error:
                n_refused += 1
                said = "".join(traceback.format_exception(error)) + repr(error.__context__) + repr(error.__cause__)
        assert PLANTED.lower() not in (said + " ".join(str(w.message) for w in warned)).lower(), what
    assert PLANTED.lower() not in caplog.text.lower()
    assert PLANTED not in "".join(capfd.readouterr())
    assert 30 < n_refused < len(files)
    record_property(
        "tried", f"{len(files)} files with the patient's name in every element, {n_refused} of them refused"
    )


@pytest.mark.bar("S6")
def test_s6_nothing_is_said_by_pydicom_in_threads_either(tmp_path, record_property):
    for number, data in enumerate(planted_everywhere().values()):
        (tmp_path / str(number)).write_bytes(data)
    program = [sys.executable, "-W", "always", "-c", READ_IN_THREADS, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, check=True)
    assert PLANTED.lower() not in (done.stdout + done.stderr).lower()
    assert done.stdout.strip() == "done"
    record_property("tried", "the same files in 4 threads, with every warning shown and logged")


READ_IN_THREADS = """
import logging, sys, threading
from pathlib import Path
logging.basicConfig(level=logging.DEBUG)
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.any_film import read_any

def read_all():
    for path in Path(sys.argv[1]).iterdir():
        try:
            read_any(path)
        except BadInputError as error:
            logging.error(str(error), exc_info=True)

threads = [threading.Thread(target=read_all) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("done")
"""
