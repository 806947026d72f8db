"""From the bytes of a film file to what models and the page see, in a process of its own: `mammo_ml.web.sandbox`.

This is all that touches bytes from outside, so it runs where a decoder that crashes, hangs or fills the memory harms
no other request. It imports no torch: such a process starts within a second.
"""

import contextlib
import json
import re
import resource
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mammo_ml.errors import BadInputError, MammoError, raise_if_any
from mammo_ml.imaging.any_film import read_any
from mammo_ml.imaging.breast import CANONICAL_SPACING_MM, CanonicalTransform, breast_mask, chest_wall_side
from mammo_ml.imaging.canonical import CanonicalFilm, eight_bits, to_canonical
from mammo_ml.imaging.dicom import DescribedFilm
from mammo_ml.imaging.plausibility import not_a_mammogram, unlike_training

MINI_MIAS_SHAPE = (1024, 1024)
_NAME = re.compile(r"^film(\.[a-z0-9]+)?: ")
SPACING_REMEDY = "Send pixel_spacing_mm, the edge of a pixel in mm: 0.05 for 50 micrometres."
Arrays = Sequence[NDArray[np.generic]]


@dataclass(frozen=True)
class Answer:
    """What goes back to the server: facts, ready for JSON, and arrays."""

    facts: Mapping[str, Any]
    arrays: Arrays = field(default_factory=tuple)


def prepare(data: bytes, suffix: str, told_mm: float | None) -> Answer:
    """Bring a film into the canonical form that models see.

    Args:
        data: bytes of the file.
        suffix: how its name ends, as in ".pgm"; empty where it has none.
        told_mm: edge of a pixel as the sender says; None where it is for the file to say.

    Returns:
        Facts of the film (see `_facts`), its canonical pixels uint8 (H, W) and breast mask bool (H, W).

    Raises:
        BadInputError: when the file is no film that can be read, or its spacing is unknown or makes no film of it.
        MammoError: when no breast is found.
    """
    film, source = _film(data, suffix, told_mm)
    raise_if_any("film", not_a_mammogram(film), "Send a mammogram: one whole breast, black behind it.")
    side = chest_wall_side(breast_mask(eight_bits(film)))
    canonical = to_canonical("film", film, side, film.pixel_spacing_mm)
    transform = canonical.transform
    facts = _facts(film, source) | {
        "chest_wall": side,
        "sha256": sha256(data).hexdigest(),
        "warnings": [_sentence(way) for way in unlike_training(film)],
        "flipped": transform.flipped,
        "factor": transform.factor,
    }
    return Answer(facts, (canonical.pixels, canonical.mask))


def view(data: bytes, suffix: str, told_mm: float | None, max_edge_px: int) -> Answer:
    """A film to be looked at: its facts, and its pixels (h, w), reduced so that no edge is longer than `max_edge_px`.

    Raises:
        BadInputError: when the file is no film that can be read.
    """
    film = read_any(data, f"film{suffix}", told_mm)
    if film.pixel_spacing_mm is None and _is_mini_mias(film, data):
        film = replace(film, pixel_spacing_mm=CANONICAL_SPACING_MM)
    return Answer(_facts(film, ""), (_reduced(film.pixels, max_edge_px),))


def canonical_of(answer: Answer) -> CanonicalFilm:
    """The film that `prepare` made."""
    facts = answer.facts
    transform = CanonicalTransform(facts["width_px"], facts["height_px"], facts["flipped"], facts["factor"])
    return CanonicalFilm("film", answer.arrays[0].astype(np.uint8), answer.arrays[1].astype(np.bool_), transform)


def _film(data: bytes, suffix: str, told_mm: float | None) -> tuple[DescribedFilm, str]:
    """A film with its spacing, and where that is from."""
    film = read_any(data, f"film{suffix}", told_mm)
    source = "file" if told_mm is None else "told"
    if film.pixel_spacing_mm is None and _is_mini_mias(film, data):
        film, source = replace(film, pixel_spacing_mm=CANONICAL_SPACING_MM), "mini-MIAS"
    if film.pixel_spacing_mm is None:
        raise BadInputError("film", ["its pixel spacing is not known: the file does not tell it"], SPACING_REMEDY)
    return film, source


def _is_mini_mias(film: DescribedFilm, data: bytes) -> bool:
    """Films of mini-MIAS's form are taken for its 0.2 mm, as `mammo_ml.prediction` does."""
    return data.startswith(b"P5") and film.pixels.shape == MINI_MIAS_SHAPE and film.max_value == 255


def _facts(film: DescribedFilm, source: str) -> dict[str, Any]:
    height, width = film.pixels.shape
    return {
        "width_px": width,
        "height_px": height,
        "max_value": film.max_value,
        "pixel_spacing_mm": film.pixel_spacing_mm,
        "spacing_source": source,
        "laterality": film.laterality,
        "view": film.view,
        "origin": film.origin,
        "notes": [_sentence(note) for note in film.notes],
    }


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}{'' if text.endswith('?') else '.'}"


def _reduced(pixels: NDArray[np.generic], max_edge_px: int) -> NDArray[np.generic]:
    height, width = pixels.shape
    factor = max(height, width) / max_edge_px
    if factor <= 1:
        return pixels
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    # Pillow resizes 16 bits only as floats
    kind = np.uint8 if pixels.dtype == np.uint8 else np.float32
    small = np.asarray(Image.fromarray(pixels.astype(kind)).resize(size, Image.Resampling.BOX))
    return np.round(small).astype(pixels.dtype)


# ------------------------------------------------------------------------------------------- the process of a sandbox


def write_frame(stream: IO[bytes], content: bytes | memoryview) -> None:
    """Write some bytes with their number before them."""
    stream.write(struct.pack(">Q", len(content)))
    stream.write(content)


def read_frame(stream: IO[bytes]) -> bytes:
    """Read what `write_frame` wrote.

    Raises:
        EOFError: when the other side is gone.
    """
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    (length,) = struct.unpack(">Q", head)
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content


def send(stream: IO[bytes], answer: Answer) -> None:
    """Send facts and arrays to the other process."""
    forms = [{"dtype": array.dtype.str, "shape": array.shape} for array in answer.arrays]
    write_frame(stream, json.dumps({"facts": answer.facts, "arrays": forms}).encode())
    for array in answer.arrays:
        write_frame(stream, np.ascontiguousarray(array).tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> Answer:
    """Receive what `send` sent.

    Raises:
        EOFError: when the other side is gone.
    """
    head = json.loads(read_frame(stream))
    arrays = []
    for form in head["arrays"]:
        arrays.append(np.frombuffer(read_frame(stream), dtype=form["dtype"]).reshape(form["shape"]))
    return Answer(head["facts"], arrays)


def answer(request: Mapping[str, Any], data: bytes) -> Answer:
    """Do what a request asks; faults are answers too, and hold no bytes of the film."""
    try:
        if request["what"] == "view":
            return view(data, request["suffix"], request["spacing_mm"], request["max_edge_px"])
        return prepare(data, request["suffix"], request["spacing_mm"])
    except BadInputError as error:
        lines = str(error).splitlines()[1 + len(error.problems) :]
        problems = [_NAME.sub("", problem) for problem in error.problems]
        return Answer({"problems": problems, "remedy": " ".join(lines)})
    except MammoError as error:
        problem, _, remedy = str(error).removeprefix("film film: ").partition(". ")
        return Answer({"problems": [problem.rstrip(".")], "remedy": remedy})
    except MemoryError:
        return Answer({"problems": ["reading it needs more memory than one film may have"], "remedy": ""})
    except Exception as error:  # of any type, for its text may quote the file
        problem = f"it cannot be read ({type(error).__name__})"
        return Answer({"problems": [problem], "remedy": "Export the film again as PGM, PNG, TIFF or DICOM."})


def main(max_memory_bytes: int) -> None:
    """Answer requests on the standard streams until the server is gone."""
    for limit, value in ((resource.RLIMIT_AS, max_memory_bytes), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    # whatever else prints must not get between the frames
    sys.stdout = sys.stderr
    send(answers, Answer({"ready": True}))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            request = json.loads(read_frame(requests))
            send(answers, answer(request, read_frame(requests)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3_000_000_000)
