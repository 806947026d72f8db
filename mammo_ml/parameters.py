"""The base of every parameter class, and the reader of params.yaml that names a wrong key."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mammo_ml.errors import BadInputError


class Parameters(BaseModel):
    """Frozen, validated parameters; an unknown, missing or out-of-range key is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


P = TypeVar("P", bound=Parameters)


def parse_section(values: object, kind: type[P], where: str) -> P:
    """Check the mapping `values` against `kind`; `where` (file and section) starts each line of the error.

    Raises:
        BadInputError: naming every unknown, missing, mistyped or out-of-range key at once.
    """
    if not isinstance(values, dict):
        raise BadInputError(where, [f"expected a mapping of keys, found {values!r}"])
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise BadInputError(where, [_explain(problem, kind) for problem in error.errors()]) from None


def read_section(path: Path, section: str, kind: type[P]) -> P:
    """Read one section of a params.yaml.

    Raises:
        BadInputError: when the file is not YAML, the section is missing, or a key is wrong.
    """
    sections = read_yaml(path)
    if section not in sections:
        raise BadInputError(str(path), [f"section '{section}' is missing{_hint(section, sections)}"])
    return parse_section(sections[section], kind, f"{path}, section '{section}'")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping; raises BadInputError otherwise."""
    if not path.is_file():
        raise BadInputError(str(path), ["no such file"])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BadInputError(str(path), [f"not valid YAML: {error}"]) from None
    if not isinstance(content, dict):
        raise BadInputError(str(path), ["expected sections, each a mapping of keys"])
    return content


def _explain(problem: Any, kind: type[Parameters]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key '{key}'{_hint(str(problem['loc'][-1]), _fields_beside(problem['loc'], kind))}"
        case "missing":
            return f"key '{key}' is missing"
        case _:
            # A rule about several keys stands at no key of its own.
            where = f"key '{key}': " if key else ""
            return f"{where}{problem['msg']}, found {problem['input']!r}"


def _fields_beside(place: Sequence[int | str], kind: type[BaseModel]) -> list[str]:
    """Keys that could stand where the last one of `place` stands, in the class its parents lead to."""
    for part in place[:-1]:
        inner = kind.model_fields[str(part)].annotation if str(part) in kind.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        kind = inner
    return list(kind.model_fields)


def _hint(word: str, known: Iterable[object]) -> str:
    words = sorted(map(str, known))
    close = get_close_matches(word, words, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(words)}" if words else ""
