"""Signatures on what is kept where others can write: HMAC-SHA256 with a key that is kept elsewhere.

Whoever holds the key can sign and check. Who can write to the store but has no key can neither change what was signed
nor sign anything else in its place.
"""

import hashlib
import hmac
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mammo_ml.errors import BadInputError

KEY_VARIABLE = "MAMMO_SIGNING_KEY"
MIN_KEY_BYTES = 32


def key_path() -> Path:
    """File of the signing key: that named by MAMMO_SIGNING_KEY, else one in the user's configuration folder."""
    chosen = os.environ.get(KEY_VARIABLE, "").strip()
    configuration = os.environ.get("XDG_CONFIG_HOME", "").strip() or Path.home() / ".config"
    return Path(chosen) if chosen else Path(configuration) / "mammo_ml" / "signing.key"


def ensure_key() -> None:
    """Make the user's key at its first use; one that MAMMO_SIGNING_KEY names must be there.

    Raises:
        BadInputError: when the key cannot be read.
    """
    if not os.environ.get(KEY_VARIABLE, "").strip():
        _make_key(key_path())
    _key()


def sign(content: Mapping[str, Any]) -> str:
    """JSON text that holds `content` and its signature.

    Raises:
        BadInputError: when the key cannot be read.
    """
    key = _key()
    signature = {"algorithm": "HMAC-SHA256", "key_id": _key_id(key), "hmac": _hmac(content, key)}
    return json.dumps({"signature": signature, "signed": dict(content)}, indent=2, sort_keys=True) + "\n"


def signed_content(text: bytes, what: str, remedy: str) -> dict[str, Any]:
    """Content of a text that `sign` wrote, once its signature is found to be that of this user's key.

    Args:
        text: the signature file's bytes.
        what: names the file in an error.
        remedy: what to do about a signature that does not fit.

    Raises:
        BadInputError: when the text is no signature, the key is missing, another key signed, or the content changed.
    """
    try:
        found = json.loads(text)
        key_id, content = found["signature"]["key_id"], dict(found["signed"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInputError(what, [f"{what} is not a signature"], remedy) from None
    ours = _key_id(_key())
    if key_id != ours:
        told = f"{what} was made with another key ({ascii(key_id)[:20]}) than that in {key_path()} ({ours!r})"
        raise BadInputError(what, [told], remedy)
    # The whole text, not its values: then no byte of it can differ.
    if not hmac.compare_digest(text, sign(content).encode()):
        raise BadInputError(what, [f"{what} was changed: the signature in it does not fit"], remedy)
    return content


def _key() -> bytes:
    path = key_path()
    remedy = f"Name the file that holds the key with {KEY_VARIABLE}."
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise BadInputError("signing key", [f"signing key {path}: {error.strerror}"], remedy) from None
    if len(key) < MIN_KEY_BYTES:
        problem = f"signing key {path}: {len(key)} bytes; a key has {MIN_KEY_BYTES} or more"
        raise BadInputError("signing key", [problem], remedy)
    return key


def _make_key(path: Path) -> None:
    """Make a key only its owner can read, whole or not at all; of two processes that try, both use the first one's."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.touch(mode=0o600)
    partial.write_text(f"{secrets.token_hex(32)}\n")
    try:
        os.link(partial, path)
    except FileExistsError:
        return
    finally:
        partial.unlink()
    print(
        f"A key to sign models with was made: {path}. Keep it: models it has signed are refused without it. "
        f"Others who use the same registry name a copy of it with {KEY_VARIABLE}.",
        file=sys.stderr,
    )


def _key_id(key: bytes) -> str:
    """Name of a key that does not give it away."""
    return hashlib.sha256(b"mammo_ml key id " + key).hexdigest()[:12]


def _hmac(content: Mapping[str, Any], key: bytes) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
