"""Errors written for the person who meets them: what is wrong, where, and what to do."""

from collections.abc import Iterable, Sequence


class MammoError(Exception):
    """Base of every error this package raises on purpose; its text is complete without a traceback."""


class BadInputError(MammoError):
    """Every fault found in one input, reported together so that one run is enough to mend them all.

    Attributes:
        problems: one line per fault, each naming the file, and the row or key where there is one.
    """

    def __init__(self, what: str, problems: Sequence[str], remedy: str = "") -> None:
        self.problems = list(problems)
        lines = [f"{what}: {len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"]
        lines += [f"  - {problem}" for problem in self.problems]
        if remedy:
            lines.append(remedy)
        super().__init__("\n".join(lines))


def raise_if_any(what: str, problems: Iterable[str], remedy: str = "") -> None:
    """Raise one `BadInputError` naming every problem, or return when there is none."""
    found = list(problems)
    if found:
        raise BadInputError(what, found, remedy)
