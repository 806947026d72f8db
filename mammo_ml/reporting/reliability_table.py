"""docs/reliability.md: what was done to the platform, bar by bar, and what came of it.

`make reliability` runs every test marked with a bar, then `python -m mammo_ml.reporting.reliability_table FILE` turns
the lines that the run wrote (`pytest --reliability FILE`) into the document. Nothing in it is typed by hand but what
each bar does.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from mammo_ml.errors import BadInputError, raise_if_any

BARS: Mapping[str, str] = {
    "D1": "Films are cut short: empty, header only, half, one byte missing.",
    "D2": "Films come in another form: a byte too many, Windows line ends, another maximum, P2, P4, P6, another size, "
    "a PNG by another name.",
    "D3": "Films and rows do not pair up: one without the other, one film under two names, two films swapped.",
    "D4": "A byte is flipped in the DVC cache, or on the remote, and the file restored from there.",
    "D5": "A 12-bit ramp is read from PGM, PNG and TIFF of 16 bits, and from DICOM.",
    "L1": "Every row of the real list is accounted for; a reader that keeps a film's first row is told apart.",
    "L2": "The lesions without a location are counted on the real list, and stay positives.",
    "L3": "Coordinates are read unflipped, with x and y swapped, flipped twice.",
    "L4": "Eleven kinds of bad row, a byte-order mark, Windows line ends.",
    "L5": "Checks that look at nothing: no rows, only nulls, no expectations, `mostly`, a condition no row meets.",
    "L6": "A woman on both sides of a split, an augmented copy of a test film in training, tuning on the test part.",
    "P1": "The whole run is killed at random moments, and a broken lock file is planted.",
    "P2": "Only the parent of a running stage is killed.",
    "P3": "The disk is full, in every stage.",
    "P4": "Two runs are started at once.",
    "P5": "A stage says that it is done but left outputs out.",
    "T1": "The same training runs twice, on one thread and on two.",
    "T2": "Training is killed at random steps and resumed.",
    "T3": "Training is killed at every system call of saving a checkpoint.",
    "T4": "The latest checkpoint is cut, changed in a byte, or another training's.",
    "T5": "The loss is not a number, a batch has no boxes, a fold has one class.",
    "U1": "Two workers start at once on a store that does not exist yet.",
    "U2": "A worker is killed in the middle of a trial.",
    "U3": "The study's file is torn, its lock stale, its path relative.",
    "G1": "Two promote at once.",
    "G2": "A model that is worse, or whose figures are missing or tampered with, is promoted.",
    "G3": "A promotion is rolled back.",
    "G4": "Promotion is killed at every system call.",
    "G5": "The champion's files are deleted under a running server.",
    "G6": "Training is killed: what does its run say?",
    "M1": "A model's files are changed in a byte, swapped between versions, added to, removed, linked, edited.",
    "M2": "Model files are hostile: pickles, impossible headers, wrong shapes, values that are no numbers.",
    "S1": "Requests are too large, too slow, or lie about their length.",
    "S2": "Small files unfold to huge films.",
    "S3": "Films are mutated at random.",
    "S4": "Files are no films of the breast.",
    "S5": "One film comes in different formats and forms.",
    "S6": "Names hold paths, markup or other hosts; DICOM files hold the names of patients.",
    "S7": "Many clients ask at once.",
    "S8": "The served model is swapped under load.",
}
"""What is done to the platform, by bar; the order is that of the document."""
DOCUMENT = Path("docs/reliability.md")
NOT_SHOWN = "NOT SHOWN"
TITLE = """\
# Reliability, bar by bar

Made by `make reliability` from a run of the tests marked with a bar; do not edit by hand. A bar is a kind of damage
that hurt this field's tools or their users. It counts as shown when every test of it passed.
"""
HEAD = ("bar", "what is done", "tried", "tests", "outcome")


@dataclass(frozen=True)
class Trial:
    """One test of one bar, as the run wrote it down; `outcome` is passed, failed or skipped."""

    bar: str
    test: str
    tried: str
    outcome: str
    seconds: float


def read_trials(path: Path) -> list[Trial]:
    """Read what `pytest --reliability` wrote, one JSON object a line.

    Raises:
        BadInputError: naming each line that is none of these, and when there is no line at all.
    """
    remedy = "Run `make reliability` again."
    if not path.is_file():
        raise BadInputError(str(path), ["no such file"], remedy)
    trials, problems = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            trials.append(Trial(**json.loads(line)))
        except (ValueError, TypeError):
            names = ", ".join(field.name for field in fields(Trial))
            problems.append(f"line {number}: expected a JSON object of {names}, found {line[:60]!r}")
    problems += [f"unknown bar {bar!r}" for bar in dict.fromkeys(trial.bar for trial in trials) if bar not in BARS]
    raise_if_any(str(path), problems if trials or problems else ["holds no test"], remedy)
    return trials


def reliability_table(trials: Iterable[Trial]) -> str:
    """Content of docs/reliability.md: a row for each bar, also for those without a test, in the order of `BARS`."""
    by_bar: dict[str, list[Trial]] = {bar: [] for bar in BARS}
    for trial in trials:
        by_bar[trial.bar].append(trial)
    rows = [(bar, BARS[bar], _tried(by_bar[bar]), _tests(by_bar[bar]), _outcome(by_bar[bar])) for bar in BARS]
    n_shown = sum(row[-1] == "passed" for row in rows)
    table = "\n".join([_line(HEAD), _line(["---"] * len(HEAD)), *map(_line, rows)])
    return f"{TITLE}\n**{n_shown} of {len(BARS)} bars are shown.**\n\n{table}\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def _tried(trials: Sequence[Trial]) -> str:
    return "; ".join(dict.fromkeys(trial.tried for trial in trials if trial.tried)) or "-"


def _tests(trials: Sequence[Trial]) -> str:
    """Name of each test once, with the number of its variants; the file in front of the first of each file."""
    counts = Counter(trial.test.partition("[")[0] for trial in trials)
    shown, last_file = [], ""
    for test, n in counts.items():
        file, _, name = test.partition("::")
        shown.append((f"[{Path(file).name}](../{file})<br>" if file != last_file else "") + f"`{name}`")
        shown[-1] += f" x {n}" if n > 1 else ""
        last_file = file
    return "<br>".join(shown) or "-"


def _outcome(trials: Sequence[Trial]) -> str:
    """`passed` when every test passed; a bar with a failed or no passed test is not shown, one with skips in part."""
    counts = Counter(trial.outcome for trial in trials)
    if counts["failed"]:
        return f"FAILED: {counts['failed']} of {len(trials)} tests"
    if not counts["passed"]:
        return NOT_SHOWN
    return "passed" if counts["passed"] == len(trials) else f"in part: {counts['skipped']} of {len(trials)} skipped"


def main() -> None:
    """Write docs/reliability.md of the current folder from the file named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m mammo_ml.reporting.reliability_table FILE")
    try:
        text = reliability_table(read_trials(Path(sys.argv[1])))
    except BadInputError as error:
        sys.exit(str(error))
    DOCUMENT.write_text(text, encoding="utf-8")
    sys.stderr.write(f"{DOCUMENT} rewritten\n")


if __name__ == "__main__":
    main()
