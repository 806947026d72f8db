"""The whole card of a registered version: data, every honest figure, subgroups, and two checklists that admit gaps."""

import re

import pandas as pd
import pytest

from mammo_ml.models.bundle import BundleConfig
from mammo_ml.reporting.checklists import CLAIM, LISTS, OPEN, TRIPOD_AI, answers
from mammo_ml.reporting.full_card import Made, full_card
from tests.reporting.test_model_card import ANCESTORS, committed, config_of

FILMS = pd.DataFrame(
    [("mini_mias", "anna", "training"), ("mini_mias", "anna", "training"), ("cbis_ddsm", "berta", "pretraining")],
    columns=["dataset", "patient_id", "step"],
)
SUBGROUPS = pd.DataFrame(
    [
        ("films_by_patient", "kind", "CALC", "froc_mean", 19, 20, 25, 0.103, 0.031, 0.188),
        ("patches_at_random_leaky", "kind", "CALC", "auc_benign_vs_malignant", 19, 20, 25, 0.99, 0.98, 1.0),
    ],
    columns=["protocol", "subgroup", "value", "figure", "n_women", "n_films", "n_lesions", "point", "lo", "hi"],
)
PRIMARY = {"classifier": "by_patient.auc_macro", "detector": "films_by_patient.froc_mean"}


def card_of(kind: str, config: BundleConfig | None = None, **changes: object) -> str:
    facts = {"leak_free": True, "data_valid": True, "commit": "1a2b3c4d5e", "subgroups": SUBGROUPS} | changes
    made = Made(FILMS, PRIMARY[kind], **facts)  # type: ignore[arg-type]
    return full_card(f"mammo-{kind}", config or config_of(kind), committed(kind), made)


def lines_of(card: str, checklist: str) -> dict[int, str]:
    """Answer by number of one checklist's table."""
    table = card.partition(f"| {checklist} |")[2].partition("\n\n")[0]
    return {int(number): answer for number, answer in re.findall(r"^\| (\d+) \|.*\| (.*) \|$", table, re.MULTILINE)}


@pytest.mark.parametrize("kind", PRIMARY)
def test_every_honest_figure_stands_on_the_card_as_committed_and_no_leaky_one(kind: str) -> None:
    card, figures = card_of(kind), committed(kind)
    for name, value in figures.items():
        if "leaky" in name or name.endswith(("_lo", "_hi", "_baseline")) or ".n_" in name:
            continue
        bounds = f" [{figures[f'{name}_lo']:.3f}, {figures[f'{name}_hi']:.3f}]" if f"{name}_lo" in figures else ""
        assert f"| `{name}` | {value:.3f}{bounds} |" in card
    assert "leaky" not in card


def test_the_card_tells_data_subgroups_with_their_counts_checks_and_commit() -> None:
    card = card_of("detector")
    assert "| `mini_mias` | training | 2 | 1 |" in card
    assert "| kind: CALC | `films_by_patient.froc_mean` | 19 | 20 | 25 | 0.103 [0.031, 0.188] |" in card
    assert "Leak audit: passed" in card
    assert "Registered from commit 1a2b3c4d5e" in card
    assert card.startswith("# Model card: mammo-detector\n\n## Intended use")
    assert card.count("## Limits") == 1


def test_what_failed_or_is_unknown_is_said() -> None:
    card = card_of("classifier", leak_free=False, data_valid=False, commit="", subgroups=None)
    assert card.count("**FAILED**") == 2
    assert "unknown: no git" in card
    assert "Not recorded with this version." in card
    claim, tripod = (lines_of(card, name) for name in LISTS)
    assert claim[20] == "the woman; leak audit passed: NO"
    # without a commit nothing says which code; without subgroups nothing is known about fairness
    assert (claim[42], tripod[14]) == ("**open**", "**open**")


def test_the_checklists_have_every_item_and_are_filled_from_the_run() -> None:
    card = card_of("detector", config_of("detector", ancestry=ANCESTORS))
    claim, tripod = (lines_of(card, name) for name in LISTS)
    assert (list(claim), list(tripod)) == (list(range(1, 45)), list(range(1, 28)))
    value, low, high = (committed("detector")[f"films_by_patient.froc_mean{end}"] for end in ("", "_lo", "_hi"))
    assert claim[32] == f"`films_by_patient.froc_mean` {value:.3f} [{low:.3f}, {high:.3f}]"
    assert claim[35] == "judged: 161 women, 316 films"
    assert claim[24] == "started from `detector-cbis`"
    assert tripod[21] == "trained on 2 films of 1 women; started from `detector-cbis`"
    n_open = sum(answer == "**open**" for answer in claim.values())
    assert n_open > 5
    assert f"{44 - n_open} of 44 items of CLAIM 2024 are answered, {n_open} are open." in card


def test_what_no_run_can_answer_stays_open() -> None:
    for items, numbers in ((CLAIM, (11, 18, 30, 33, 44)), (TRIPOD_AI, (10, 17, 19, 27))):
        found = {number: answer for number, _, answer in answers(items, {})}
        assert {found[number] for number in numbers} == {OPEN}


def test_a_phantom_card_begins_with_saying_so() -> None:
    card = card_of("detector", config_of("detector", phantom=True))
    assert "synthetic films" in card.splitlines()[2]
    assert lines_of(card, "CLAIM 2024")[7] == "synthetic films, no women"
