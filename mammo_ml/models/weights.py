"""Tensors from a safetensors file that may come from anyone: the header is checked before anything is allocated.

Nothing is unpickled. The format: https://github.com/huggingface/safetensors#format
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mammo_ml.errors import BadInputError, raise_if_any

MAX_FILE_BYTES = 2**31
MAX_HEADER_BYTES = 2**22
MAX_DIMENSIONS = 8
MAX_TOLD = 20
"""Faults told of one file; a hostile one could have thousands."""
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
REMEDY = "Restore the file (`dvc checkout --force`, or the registered version) or run the stage that made it again."

Network = TypeVar("Network", bound=nn.Module)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict, every number of it finite.

    Raises:
        BadInputError: naming the file and everything in its header, or each tensor, that is wrong.
    """
    weights, _ = read_safetensors(path)
    raise_if_any(str(path), not_finite(weights), REMEDY)
    return weights


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors by name, and the notes (`__metadata__`) beside them.

    Raises:
        BadInputError: naming the file and what is wrong: it is missing, too large, no safetensors file, or its header
            and its bytes do not fit each other exactly.
    """
    if not path.is_file():
        raise BadInputError(str(path), ["no such file"], REMEDY)
    if path.stat().st_size > MAX_FILE_BYTES:
        problem = f"{path.stat().st_size:,} bytes, more than the {MAX_FILE_BYTES:,} that weights may have"
        raise BadInputError(str(path), [problem], REMEDY)
    # From one reading: a file that changes between the check and the loading is not loaded unchecked.
    data = path.read_bytes()
    entries, notes, start = _header(path, data)
    raise_if_any(str(path), _faults(entries, notes, len(data) - start), REMEDY)
    try:
        return safetensors.torch.load(data), notes
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise BadInputError(str(path), [f"not a safetensors file: {error}"], REMEDY) from None


def load_into(network: Network, weights: dict[str, Tensor], where: str) -> Network:
    """Put weights into a network, every name, shape and type equal, and set it to evaluation mode.

    A network with a method `refusal_of(weights)` may say in one line why they are not its own, one with a method
    `completed(weights)` adds what older files lack.

    Raises:
        BadInputError: naming `where` and the tensors that are missing, unknown, or of another shape or type.
    """
    what = f"{where}: weights for {type(network).__name__}"
    if (refusal_of := getattr(network, "refusal_of", None)) and (refusal := refusal_of(weights)):
        raise BadInputError(what, [refusal])
    if completed := getattr(network, "completed", None):
        weights = completed(weights)
    expected = network.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is not a weight of this network" for name in weights if name not in expected]
    problems += [
        f"{name} is {_text(weights[name])}, this network's is {_text(tensor)}"
        for name, tensor in expected.items()
        if name in weights and _text(weights[name]) != _text(tensor)
    ]
    raise_if_any(what, problems, REMEDY)
    network.load_state_dict(weights, strict=True)
    return network.eval()


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Name each tensor that holds NaN or infinity."""
    return [
        f"{name} holds NaN or infinity"
        for name, tensor in weights.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]


def _text(tensor: Tensor) -> str:
    return f"{tensor.dtype} of {tuple(tensor.shape)}"


def _header(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, str], int]:
    """Entries by tensor name, notes, and where the tensors' bytes start."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, MAX_HEADER_BYTES):
        told = f"not a safetensors file: it has {len(data):,} bytes and announces a header of {size:,}"
        pickled = data.startswith((b"PK\x03\x04", b"\x80"))
        told += "; by its first byte it is a pickle (.pt, .pkl), and none is ever opened" if pickled else ""
        raise BadInputError(str(path), [told], REMEDY)
    try:
        header = json.loads(data[8 : 8 + size].decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise BadInputError(str(path), [f"not a safetensors file: header: {error}"], REMEDY) from None
    if not isinstance(header, dict):
        raise BadInputError(str(path), ["not a safetensors file: its header is no list of tensors"], REMEDY)
    notes = header.pop("__metadata__", {})
    return header, notes, 8 + size


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Object of a JSON text in which no name stands twice: which of the two counts differs between readers."""
    counts = Counter(name for name, _ in pairs)
    if len(counts) != len(pairs):
        raise ValueError(f"{_shown(counts.most_common(1)[0][0])} stands there twice")
    return dict(pairs)


def _shown(value: object) -> str:
    """What a stranger wrote, short and without characters that would act on a terminal."""
    return ascii(value)[:80]


def _faults(entries: dict[str, Any], notes: object, n_bytes: int) -> list[str]:
    """What is wrong with the tensors a header declares over `n_bytes` bytes; they must fill these without a gap."""
    if not (isinstance(notes, dict) and all(isinstance(value, str) for value in notes.values())):
        return ["__metadata__ is not text by name"]
    faults = [f"{_shown(name)}: {fault}" for name, entry in entries.items() if (fault := _entry_fault(entry))]
    if faults:
        return faults[:MAX_TOLD]
    end = 0
    for first, last, name in sorted((*entry["data_offsets"], name) for name, entry in entries.items()):
        if first != end:
            faults.append(f"{_shown(name)}: begins at byte {first:,}, the tensor before it ends at {end:,}")
        end = last
    return faults[:MAX_TOLD] + ([f"the tensors end at byte {end:,} of {n_bytes:,}"] if end != n_bytes else [])


def _entry_fault(entry: object) -> str:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "expected dtype, shape and data_offsets"
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        return f"dtype {_shown(dtype)} is none of {', '.join(ITEM_BYTES)}"
    if not _whole_numbers(shape) or len(shape) > MAX_DIMENSIONS:
        return f"shape {_shown(shape)} is not made of whole numbers from 0, {MAX_DIMENSIONS} at most"
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"data_offsets {_shown(offsets)} are not first and last byte"
    declared, found = math.prod(shape) * ITEM_BYTES[dtype], offsets[1] - offsets[0]
    return "" if declared == found else f"{dtype} of shape {shape} has {declared:,} bytes, data_offsets hold {found:,}"


def _whole_numbers(values: object) -> bool:
    """True for a list of integers from 0 to 2^31 - 1; `True` is none."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**31 for value in values)
