"""The film in a request: raw bytes or a form, never more than allowed, never slower than allowed, never on disk."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from mammo_ml.imaging.readers import MAX_PIXELS
from mammo_ml.web.refusals import RequestError

MAX_BODY_BYTES = 2 * MAX_PIXELS + 4_000_000
"""The largest film, 16 bits and not compressed, with its header."""
MAX_UNANNOUNCED_BYTES = 16_000_000
"""A body that does not tell its length before."""
MAX_BUFFERED_BYTES = 4 * MAX_BODY_BYTES
"""All bodies together."""
GRACE_S, SLOWEST_BYTES_S = 30.0, 50_000
"""A body may take so long, and a second more for each so many bytes."""
MAX_FIELDS = 4
LONGEST_SUFFIX = 6


@dataclass(frozen=True)
class Upload:
    """A film as it was sent: bytes, the end of its file name (as in ".pgm"), and its spacing if that was told."""

    data: bytes
    suffix: str
    spacing_mm: float | None


class Buffers:
    """How many bytes of bodies are held at this moment, over all requests."""

    def __init__(self, most: int = MAX_BUFFERED_BYTES, largest: int = MAX_BODY_BYTES) -> None:
        self.most, self.largest = most, largest
        self.held = 0

    async def read(self, request: Request) -> bytearray:
        """Read the body of a request; the caller gives its bytes back with `release`.

        Raises:
            RequestError: 413 where it is too large, 408 where it is too slow, 503 where there is no room, 400 where it
                breaks off.
        """
        # the protocol has refused a length that is no number
        announced = int(request.headers.get("content-length", "-1"))
        if announced > self.largest:
            raise self._too_large(announced)
        most = self.largest if announced >= 0 else min(self.largest, MAX_UNANNOUNCED_BYTES)
        body, begin = bytearray(), time.monotonic()
        chunks = request.stream().__aiter__()
        try:
            while True:
                allowed = begin + GRACE_S + len(body) / SLOWEST_BYTES_S - time.monotonic()
                chunk = await asyncio.wait_for(anext(chunks, None), max(allowed, 0.0))
                if chunk is None:
                    return body
                if self.held + len(chunk) > self.most:
                    raise RequestError(503, "the server holds as many films as it may", "Try again.", retry_after_s=5)
                body += chunk
                self.held += len(chunk)
                if len(body) > most:
                    raise self._too_large(announced)
        except BaseException as error:
            self.release(body)
            if isinstance(error, TimeoutError):
                slow = f"the film came too slowly: {len(body):,} bytes in {time.monotonic() - begin:.0f} s"
                raise RequestError(408, slow, "Send it over a faster connection, or reduced.") from None
            if isinstance(error, ClientDisconnect):
                raise RequestError(400, "the film broke off", "Send it again.") from None
            raise

    def release(self, body: bytearray) -> None:
        """Give the bytes of a body back."""
        self.held -= len(body)

    def _too_large(self, announced: int) -> RequestError:
        if announced < 0:
            problem = f"the request has more than {MAX_UNANNOUNCED_BYTES:,} bytes and does not tell its length before"
            return RequestError(413, problem, "Send the header Content-Length.")
        problem = f"the request has {announced:,} bytes, a film at most {self.largest:,}"
        return RequestError(413, problem, "Send one film; a very fine one reduced to 0.05 mm per pixel.")


async def upload_of(request: Request, body: bytearray) -> Upload:
    """The film in a body that was read.

    Raises:
        RequestError: 400 where it is no form or has no film, 422 where the spacing is no number.
    """
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        return Upload(bytes(body), "", _spacing(request.query_params.get("pixel_spacing_mm")))
    try:
        form = await _InMemory(request.headers, _once(body), max_files=1, max_fields=MAX_FIELDS).parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError) as error:
        raise RequestError(400, f"the form cannot be read: {_own_words(error)}", FORM_REMEDY) from None
    try:
        film = form.get("film")
        if not isinstance(film, UploadFile):
            raise RequestError(400, "the form has no file in its field 'film'", FORM_REMEDY)
        told = form.get("pixel_spacing_mm", request.query_params.get("pixel_spacing_mm"))
        return Upload(await film.read(), suffix_of(film.filename or ""), _spacing(told))
    finally:
        await form.close()


FORM_REMEDY = "Send the bytes of the film as the body, or a form with one file in its field 'film'."


class _InMemory(MultiPartParser):
    """Starlette's parser, which would write larger files to disk."""

    spool_max_size = MAX_BODY_BYTES + 1


async def _once(body: bytearray) -> AsyncGenerator[bytes, None]:
    yield bytes(body)


def suffix_of(name: str) -> str:
    """How a file name ends, as in ".pgm", which is all of it that is used; empty where that is nothing usual."""
    suffix = "." + name.rpartition(".")[2].lower()
    return suffix if 1 < len(suffix) <= LONGEST_SUFFIX and suffix[1:].isalnum() and suffix.isascii() else ""


def _spacing(told: object) -> float | None:
    if told in (None, ""):
        return None
    try:
        spacing = float(str(told))
    except ValueError:
        spacing = math.nan
    if not (math.isfinite(spacing) and spacing > 0):
        raise RequestError(
            422, "pixel_spacing_mm is not a positive number", "Send the edge of a pixel in mm, as in 0.05."
        )
    return spacing


def _own_words(error: Exception) -> str:
    """The parser's own message: it names counts and limits, never what was sent."""
    return error.message if isinstance(error, MultiPartException) else "it is damaged"
