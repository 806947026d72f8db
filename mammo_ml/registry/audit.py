"""The audit: every attempt to make a version champion, a signed line each, kept as tags in the store itself.

A line is a tag of the registered model, so that it outlives its version, and of the version it is about. It holds the
hash of the line before and a signature made with the user's key: a line that was edited, put in or taken out of the
middle is noticed. Lines are written under the store's lock.

A move of the alias is announced first (`audit.pending`), then made, then recorded: whenever the process is killed, the
champion is the old one or the announced one, and the next command records which.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mammo_ml import signing
from mammo_ml.errors import BadInputError
from mammo_ml.tracking import Store, user_name

CHAMPION = "champion"
PENDING = "audit.pending"
LINE = re.compile(r"^audit\.(\d{6})$")
MOVED = ("promoted", "rolled back")
LONGEST = 150
"""Characters of one explanation in a line: a server on another database takes tags of 5000."""
REMEDY = f"If another key signed it, name a copy of that key with {signing.KEY_VARIABLE}."


@dataclass(frozen=True)
class Entry:
    """What happened: `before` and `to` are versions, `action` promote or rollback.

    `failed` and `overridden` are conditions of the gate, each with its explanation.
    """

    action: str
    outcome: str
    before: int | None
    to: int
    reason: str = ""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    overridden: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A recorded entry; `fault` says what is wrong with the record itself, and is empty where it is sound."""

    number: int
    text: str
    content: Mapping[str, Any]
    fault: str = ""

    @property
    def moved_to(self) -> int | None:
        """The version that this line made champion, if it did and is sound."""
        moved = not self.fault and self.content.get("outcome") in MOVED
        return int(self.content["to"]) if moved else None


@dataclass(frozen=True)
class Audit:
    """Lines of one registered model, oldest first, and the move that was announced but not recorded, if any."""

    lines: tuple[Line, ...]
    pending: Line | None

    @property
    def champions(self) -> tuple[int, ...]:
        """Champions so far, the present one last; what was rolled back is no longer among them."""
        stack: list[int] = []
        for line in self.lines:
            number = line.moved_to
            if number is None:
                continue
            if line.content["outcome"] == "rolled back" and number in stack:
                while stack[-1] != number:
                    stack.pop()
            else:
                stack.append(number)
        return tuple(stack)

    @property
    def announced(self) -> int | None:
        """The version that a process which died before it was recorded had announced, if the announcement is sound."""
        return None if self.pending is None else self.pending.moved_to

    @property
    def faults(self) -> list[str]:
        """What is wrong with the audit, a sentence per line."""
        return [f"line {line.number}: {line.fault}" for line in self.lines if line.fault]


def read_audit(name: str, tags: Mapping[str, str]) -> Audit:
    """Audit in the tags of a registered model, every line checked: its signature, its number, the line before it."""
    texts = {int(found[1]): tags[key] for key in tags if (found := LINE.match(key))}
    lines: list[Line] = []
    for number in sorted(texts):
        before = lines[-1] if lines else None
        lines.append(_checked(name, number, texts[number], before))
    last = lines[-1] if lines else None
    pending = tags.get(PENDING)
    recorded = pending is None or any(line.text == pending for line in lines)
    announced = None if recorded else _checked(name, last.number + 1 if last else 1, str(pending), last)
    return Audit(tuple(lines), announced)


def _checked(name: str, number: int, text: str, before: Line | None) -> Line:
    try:
        content = signing.signed_content(text.encode(), f"line {number}", REMEDY)
    except BadInputError as error:
        return Line(number, text, {}, error.problems[0].removeprefix(f"line {number} "))
    fault = ""
    if (content.get("name"), content.get("number")) != (name, number):
        fault = f"was made as line {content.get('number')} of {content.get('name')}"
    elif content.get("previous") != (hashlib.sha256(before.text.encode()).hexdigest() if before else ""):
        fault = "the line before it is not the one it was written after"
    elif number != (before.number if before else 0) + 1:
        fault = "the line before it is missing"
    return Line(number, text, content, fault)


def audit_of(store: Store, name: str) -> Audit:
    """Audit of a registered model, as it stands in the store."""
    return read_audit(name, store.client.get_registered_model(name).tags)


def alias_of(model: Any, alias: str = CHAMPION) -> int | None:
    """Version that an alias points at; the store gives text or a number.

    Args:
        model: what MLflow's client calls RegisteredModel.
        alias: its name.
    """
    found = model.aliases.get(alias)
    return None if found is None else int(found)


# ------------------------------------------------------------------------------------------- under the store's lock


def record(store: Store, name: str, entry: Entry) -> None:
    """Add a line about something that moved no alias."""
    _write(store, name, _line(store, name, entry))


def move(store: Store, name: str, entry: Entry) -> None:
    """Point the alias `champion` at `entry.to`, announced before and recorded after.

    Raises:
        MlflowException: when the store fails; what it left is settled by the next command.
    """
    line = _line(store, name, entry)
    store.client.set_registered_model_tag(name, PENDING, line.text)
    store.client.set_registered_model_alias(name, CHAMPION, str(entry.to))
    _write(store, name, line)
    store.client.delete_registered_model_tag(name, PENDING)


def settle(store: Store, name: str) -> None:
    """Record a move that was announced by a process that died: made, or interrupted before it was made.

    Raises:
        BadInputError: when the announcement was not signed with this user's key.
    """
    model = store.client.get_registered_model(name)
    if PENDING not in model.tags:
        return
    announced = read_audit(name, model.tags).pending
    if announced is not None and announced.fault:
        remedy = f"{REMEDY} If nobody's command wrote it, delete the tag."
        raise BadInputError(f"audit of {name}", [f"tag {PENDING}: {announced.fault}"], remedy)
    if announced is not None:
        content = announced.content
        if alias_of(model) == content["to"]:
            _write(store, name, announced)
        else:
            entry = Entry(content["action"], "interrupted", content["from"], content["to"], content["reason"])
            record(store, name, entry)
    store.client.delete_registered_model_tag(name, PENDING)


def _line(store: Store, name: str, entry: Entry) -> Line:
    lines = audit_of(store, name).lines
    number = lines[-1].number + 1 if lines else 1
    content = {
        "number": number,
        "name": name,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": user_name(),
        "action": entry.action,
        "outcome": entry.outcome,
        "from": entry.before,
        "to": entry.to,
        "reason": entry.reason,
        "figures": dict(entry.figures),
        "failed": {condition: told[:LONGEST] for condition, told in entry.failed.items()},
        "overridden": {condition: told[:LONGEST] for condition, told in entry.overridden.items()},
        "previous": hashlib.sha256(lines[-1].text.encode()).hexdigest() if lines else "",
    }
    return Line(number, signing.sign(content), content)


def _write(store: Store, name: str, line: Line) -> None:
    from mlflow.exceptions import MlflowException

    key = f"audit.{line.number:06d}"
    store.client.set_registered_model_tag(name, key, line.text)
    try:
        store.client.set_model_version_tag(name, str(line.content["to"]), key, line.text)
    except MlflowException as error:
        # a version that was deleted meanwhile has no tags; the model keeps the line
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
