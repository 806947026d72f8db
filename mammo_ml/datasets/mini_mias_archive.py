"""The mini-MIAS archive: where it comes from, and films that are what they should be, or none at all."""

import lzma
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pandas as pd

from mammo_ml.datasets.mini_mias import HEIGHT_PX, INFO, WIDTH_PX, number_of
from mammo_ml.errors import BadInputError, MammoError, raise_if_any
from mammo_ml.imaging.readers import parse_pgm

OFFICIAL_URL = "http://peipa.essex.ac.uk/pix/mias/all-mias.tar.gz"
LICENCE = "Licence.txt"
ATTEMPTS = 4
TIMEOUT_S = 30
CHUNK_BYTES = 1 << 18
REMEDY = (
    "Nothing was published: these files are not those of mini-MIAS. Take the archive again from its source; "
    "a downloaded one is kept, so delete the file named above first."
)
Report = Callable[[int, int | None], None]


def official_manifest() -> dict[str, str]:
    """Hash (sha256) of every official film by film_id."""
    table = pd.read_csv(Path(str(files("mammo_ml.datasets") / "mini_mias_sha256.csv")), dtype="str")
    return dict(zip(table["film_id"], table["sha256"], strict=True))


def obtain_archive(source: str | None, cache: Path, report: Report = lambda received, total: None) -> Path:
    """Path of the archive, downloaded where need be; an interrupted download goes on where it was.

    Args:
        source: a path or URL, as MIAS_ARCHIVE gives it; the official address when None or empty.
        cache: folder for downloads.
        report: called with bytes received, and bytes in all where the server tells.

    Raises:
        MammoError: when there is no such file, or the address cannot be reached.
    """
    url = source or OFFICIAL_URL
    if "://" not in url:
        if not Path(url).is_file():
            raise MammoError(f"MIAS_ARCHIVE names {url}, which is not a file. Point it to mini-MIAS's all-mias.tar.gz.")
        return Path(url)
    target = cache / f"{sha256(url.encode()).hexdigest()[:12]}-{PurePosixPath(urlsplit(url).path).name}"
    if not target.is_file():
        _download(url, target, report)
    return target


def _download(url: str, target: Path, report: Report) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch_rest(url, partial, report)
            partial.replace(target)
            return
        except (OSError, HTTPException) as error:
            if attempt == ATTEMPTS or (isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404)):
                raise MammoError(
                    f"the mini-MIAS archive could not be downloaded from {url}: {error}.\n"
                    "Set MIAS_ARCHIVE to the path or address of all-mias.tar.gz and run `make repro`; "
                    "`make phantom` goes on with phantom films."
                ) from None
            time.sleep(2 ** (attempt - 1))


def _fetch_rest(url: str, partial: Path, report: Report) -> None:
    """Append what is missing to a partial download; raises OSError or HTTPException when the connection breaks off."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        partial.unlink()  # the server's file is shorter than what is here: start again
        return _fetch_rest(url, partial, report)
    begins_here = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
    if answer.status == 206 and not begins_here:
        answer.close()
        partial.unlink(missing_ok=True)
        raise OSError("the server sent another part of the file than the one asked for")
    with answer, partial.open("ab" if begins_here else "wb") as file:
        received = file.tell()
        length = answer.headers.get("Content-Length")
        total = received + int(length) if length else None
        while chunk := answer.read(CHUNK_BYTES):
            file.write(chunk)
            received += len(chunk)
            report(received, total)
    if total is not None and received < total:
        raise OSError(f"the connection ended after {received:,} of {total:,} bytes")
    return None


def unpack(archive: Path, out: Path, manifest: Mapping[str, str] | None) -> None:
    """Unpack films, Info.txt and Licence.txt into the folder `out`, all of them checked, or nothing.

    Args:
        archive: a gzipped tar; its files may lie in one folder.
        out: replaced when everything is right, untouched otherwise.
        manifest: sha256 by film_id; None where none is known.

    Raises:
        BadInputError: naming every film that is broken, missing, unknown, twice there, or not the official one.
    """
    draft = out.with_name(out.name + ".unpacking")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _extract(archive, draft)
        check_folder(draft, manifest, str(archive))
        shutil.rmtree(out, ignore_errors=True)
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _extract(archive: Path, draft: Path) -> None:
    """Write each wanted file of the archive under its own name into `draft`, wherever in the archive it lies."""
    problems = []
    origin: dict[str, str] = {}
    for name, member, content in _wanted_files(archive):
        if content is None:
            problems.append(f"{member} is a link or a device, not a file")
        elif name in origin:
            problems.append(f"{name} is there twice: {origin[name]} and {member}")
        else:
            origin[name] = member
            try:
                (draft / name).write_bytes(content)
            except OSError as error:
                raise MammoError(f"{draft / name} could not be written: {error}. Nothing was published.") from None
    raise_if_any(str(archive), problems, REMEDY)


def _wanted_files(archive: Path) -> Iterator[tuple[str, str, bytes | None]]:
    """Name, place in the archive and bytes of its films and texts; no bytes for what is not a regular file."""
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if member.isdir() or not (name.endswith(".pgm") or name in (INFO, LICENCE)):
                    continue
                file = tar.extractfile(member) if member.isfile() else None
                yield name, member.name, None if file is None else file.read()
    # zlib and lzma errors come through where damage lies in a member's content
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise BadInputError(str(archive), [f"cannot be unpacked: {error}"], REMEDY) from None


def check_folder(folder: Path, manifest: Mapping[str, str] | None, name: str) -> None:
    """Check every film of a folder; `name` is what messages call it.

    Raises:
        BadInputError: as `unpack`.
    """
    problems = [] if (folder / INFO).is_file() else [f"{INFO} is missing"]
    hashes: dict[str, str] = {}
    broken: set[str] = set()
    for path in sorted(folder.glob("*.pgm")):
        content = path.read_bytes()
        hashes[path.stem] = sha256(content).hexdigest()
        if found := _broken(path.stem, content):
            problems += found
            broken.add(path.stem)
    problems += _twins(hashes)
    if manifest is not None:
        problems += [f"{film_id}.pgm is missing" for film_id in sorted(manifest.keys() - hashes.keys())]
        problems += [_unknown(film_id) for film_id in sorted(hashes.keys() - manifest.keys())]
        problems += [
            _foreign(film_id, hashes, manifest)
            for film_id in sorted(hashes.keys() & manifest.keys() - broken)
            if hashes[film_id] != manifest[film_id]
        ]
    raise_if_any(name, dict.fromkeys(problems), REMEDY)


def _unknown(film_id: str) -> str:
    return f"{film_id}.pgm is no film of mini-MIAS"


def _broken(film_id: str, content: bytes) -> list[str]:
    try:
        number_of(film_id)
        parse_pgm(content, f"{film_id}.pgm", (HEIGHT_PX, WIDTH_PX), 255)
    except BadInputError as error:
        return error.problems
    except ValueError:
        return [_unknown(film_id)]
    return []


def _twins(hashes: Mapping[str, str]) -> list[str]:
    same: dict[str, list[str]] = defaultdict(list)
    for film_id, value in hashes.items():
        same[value].append(f"{film_id}.pgm")
    return [f"{' and '.join(names)} hold the same bytes" for names in same.values() if len(names) > 1]


def _foreign(film_id: str, hashes: Mapping[str, str], manifest: Mapping[str, str]) -> str:
    found = hashes[film_id]
    owner = next((other for other, value in manifest.items() if value == found), None)
    if owner is None:
        return f"{film_id}.pgm differs from the official film: sha256 {found[:12]}…"
    question = "" if hashes.get(owner) == found else ": were two files swapped?"
    return f"{film_id}.pgm holds the film {owner}{question}"
