"""Promoting and rolling back in a real store, on toys; the gate itself is tested in test_gate.py."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mammo_ml import registry
from mammo_ml.errors import BadInputError
from mammo_ml.models.bundle import read_bundle
from mammo_ml.registry import Decision, audit, format_decision, promotion
from mammo_ml.registry.files import run_file
from mammo_ml.tracking import Store
from tests.registry.toys import GATE, overwrite, toy_evidence
from tests.toy_models import METRICS, NAME, REGISTER


def promote(workspace: Path, number: int | None = None, **options: Any) -> Decision:
    return registry.promote(NAME, workspace, GATE, number=number, **options)


def aliases(workspace: Path) -> dict[str, str]:
    return {key: str(value) for key, value in Store(workspace).client.get_registered_model(NAME).aliases.items()}


def lines(workspace: Path) -> list[dict[str, Any]]:
    return [dict(line.content) for line in audit.audit_of(Store(workspace), NAME).lines]


def refused(decision: Decision) -> list[str]:
    return [condition.name for condition in decision.refused_by]


def test_a_dry_run_changes_nothing(workspace: Path) -> None:
    before = Store(workspace).client.get_registered_model(NAME)
    assert promote(workspace, 1, dry_run=True).allowed
    after = Store(workspace).client.get_registered_model(NAME)
    assert (after.aliases, after.tags) == (before.aliases, before.tags)


def test_the_first_champion_needs_no_comparison_and_leaves_a_line(workspace: Path) -> None:
    decision = promote(workspace, 1)
    assert decision.allowed
    assert aliases(workspace)["champion"] == "1"
    (line,) = lines(workspace)
    assert (line["action"], line["outcome"], line["from"], line["to"]) == ("promote", "promoted", None, 1)
    assert 0.5 < line["figures"]["by_patient.auc_macro_lo"] < line["figures"]["by_patient.auc_macro"]
    assert "audit.000001" in Store(workspace).client.get_model_version(NAME, "1").tags
    number, folder = registry.bundle_of(NAME, workspace)
    assert number == registry.champion(NAME, workspace) == 1
    assert read_bundle(folder).content_sha256 == read_bundle(workspace / "bundle_1").content_sha256


def test_a_better_version_takes_the_place_and_a_worse_one_is_refused_and_recorded(workspace: Path) -> None:
    assert promote(workspace, 1).allowed
    better = promote(workspace, 2)
    assert better.allowed
    assert better.champion == 1
    names = [condition.name for condition in better.conditions]
    assert {"no worse: density D", "no worse: density F", "no worse: density G"} < set(names)
    worse = promote(workspace, 3)
    assert {"no worse than champion", "point estimate not lower"} <= set(refused(worse))
    assert aliases(workspace)["champion"] == "2"
    last = lines(workspace)[-1]
    assert (last["outcome"], last["from"], last["to"]) == ("refused", 2, 3)
    assert "is not above -0.020" in last["failed"]["no worse than champion"]
    assert last["figures"]["difference"] < 0
    assert worse.attempts == registry.Attempts(versions=4, evaluations=4, promotions=2)


def test_the_challenger_is_promoted_where_no_version_is_named(workspace: Path) -> None:
    assert promote(workspace).version == 4
    assert aliases(workspace)["champion"] == "4"


def test_the_champion_is_not_promoted_again(workspace: Path) -> None:
    assert promote(workspace, 1).allowed
    assert refused(promote(workspace, 1)) == ["is not champion yet"]


def test_a_version_without_tables_to_compare_is_refused_with_the_remedy_unless_overridden(workspace: Path) -> None:
    assert promote(workspace, 1).allowed
    decision = promote(workspace, 4)
    assert refused(decision) == ["no worse than champion"]
    text = format_decision(decision)
    assert "version 4: it was registered without predictions.csv, items.csv" in text
    assert "evaluate and register it again: `dvc repro`, then `mammo-ml track`" in text
    assert promote(workspace, 4, override="no tables yet").allowed
    assert aliases(workspace)["champion"] == "4"
    line = lines(workspace)[-1]
    assert (line["reason"], list(line["overridden"])) == ("no tables yet", ["no worse than champion"])
    assert Store(workspace).client.get_model_version(NAME, "4").tags["override"] == "no tables yet"


def test_an_override_does_not_make_a_leaky_version_champion(workspace: Path) -> None:
    leaky = {"protocol": "patches_at_random_leaky"}
    number = registry.register(workspace / "bundle_1", "mammo-leaky", METRICS, workspace, **REGISTER, tags=leaky)
    decision = registry.promote("mammo-leaky", workspace, GATE, number=number, override="I insist")
    assert refused(decision) == ["protocol is not leaky"]
    assert "champion" not in Store(workspace).client.get_registered_model("mammo-leaky").aliases


def stored(workspace: Path, number: int, file: str) -> Path:
    store = Store(workspace)
    return run_file(store, store.client.get_model_version(NAME, str(number)).run_id, file)


def test_a_tampered_or_missing_table_is_named_and_never_overridden(workspace: Path) -> None:
    assert promote(workspace, 1).allowed
    for number, file in ((2, "predictions.csv"), (3, "metrics.json")):
        path = stored(workspace, number, file)
        overwrite(path, path.read_bytes().replace(b"0.1", b"0.2"))
        decision = promote(workspace, number, override="I insist")
        assert "files are intact" in refused(decision)
        assert f"{file} was changed" in format_decision(decision)
    stored(workspace, 2, "items.csv").unlink()
    assert "items.csv is missing" in format_decision(promote(workspace, 2, override="I insist"))
    assert aliases(workspace)["champion"] == "1"


def test_a_champion_whose_tables_were_changed_cannot_be_compared_with(workspace: Path) -> None:
    assert promote(workspace, 1).allowed
    overwrite(stored(workspace, 1, "predictions.csv"), b"")
    decision = promote(workspace, 2)
    assert refused(decision) == ["no worse than champion"]
    assert "version 1: predictions.csv was changed" in format_decision(decision)


def test_predictions_that_do_not_give_the_figures_beside_them_are_told(workspace: Path) -> None:
    evidence = [workspace / "evidence_2" / "predictions.csv", workspace / "evidence_2" / "items.csv"]
    assert registry.register(workspace / "bundle_1", NAME, METRICS, workspace, **REGISTER, evidence=evidence) == 5
    assert promote(workspace, 1).allowed
    decision = promote(workspace, 5)
    assert refused(decision) == ["no worse than champion"]
    assert "metrics.json says 0.7000" in format_decision(decision)


def test_models_judged_on_other_women_are_not_compared(workspace: Path, tmp_path: Path) -> None:
    evidence, metrics = toy_evidence(tmp_path / "fewer", skill=2.0, women=20)
    assert registry.register(workspace / "bundle_1", NAME, metrics, workspace, **REGISTER, evidence=evidence) == 5
    assert promote(workspace, 1).allowed
    assert "different women: 20 and 24" in format_decision(promote(workspace, 5))


def test_of_two_who_promote_at_once_one_is_told(workspace: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: promote(workspace, 1).allowed, range(2)))
    assert sorted(both) == [False, True]
    assert [line["outcome"] for line in lines(workspace)] == ["promoted", "refused"]


def test_a_decision_is_taken_anew_when_the_champion_changed_meanwhile(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide, decided = promotion.decide, []

    def interrupted(*arguments: Any) -> Decision:
        decided.append(decide(*arguments))
        if len(decided) == 1:
            assert promote(workspace, 2).allowed
        return decided[-1]

    monkeypatch.setattr(promotion, "decide", interrupted)
    decision = promote(workspace, 3)
    assert decided[0].allowed, "without a champion it would have been"
    assert (decision.allowed, decision.champion) == (False, 2)
    assert aliases(workspace)["champion"] == "2"


def test_the_workspace_says_which_data_set_the_registry_is_for(workspace: Path) -> None:
    assert "this registry holds phantom (phantom)" in format_decision(promote(workspace, 2, dry_run=True))
    assert "data set belongs here" in refused(promote(workspace, 1, dataset="mini_mias", dry_run=True))
    (workspace / "params.yaml").unlink()
    with pytest.raises(BadInputError, match="key 'dataset' is missing"):
        promote(workspace, 2, dry_run=True)


def test_a_model_or_version_that_does_not_exist_is_told(workspace: Path) -> None:
    with pytest.raises(BadInputError, match="mammo-unknown"):
        registry.promote("mammo-unknown", workspace, GATE, dataset="phantom")
    with pytest.raises(BadInputError, match="`mammo-ml models` lists"):
        promote(workspace, 99)
    with pytest.raises(BadInputError, match="no 'nobody'"):
        registry.bundle_of(NAME, workspace, "nobody")


# ----------------------------------------------------------------------------------------------------------- roll back


def test_rolling_back_walks_back_through_the_champions(workspace: Path) -> None:
    for number in (1, 2):
        assert promote(workspace, number).allowed
    assert promote(workspace, 3, override="try it").allowed
    assert registry.rollback(NAME, workspace, "worse in practice") == registry.Rollback(NAME, 3, 2)
    assert lines(workspace)[-1]["reason"] == "worse in practice"
    assert registry.rollback(NAME, workspace) == registry.Rollback(NAME, 2, 1)
    assert registry.champion(NAME, workspace) == 1
    with pytest.raises(BadInputError, match="no other champion before"):
        registry.rollback(NAME, workspace)
    assert promote(workspace, 2).allowed
    assert registry.rollback(NAME, workspace).to == 1


def test_a_version_whose_files_were_changed_is_not_rolled_back_to(workspace: Path) -> None:
    for number in (1, 2):
        assert promote(workspace, number).allowed
    weights = registry.bundle_of(NAME, workspace, 1)[1] / "weights.safetensors"
    overwrite(weights, weights.read_bytes()[:-1])
    with pytest.raises(BadInputError, match=r"weights\.safetensors was changed"):
        registry.rollback(NAME, workspace)
    assert registry.champion(NAME, workspace) == 2


def test_rolling_back_without_any_champion_is_told(workspace: Path) -> None:
    with pytest.raises(BadInputError, match="had no other champion before"):
        registry.rollback(NAME, workspace)


# ------------------------------------------------------------------------------------------------------- moved by hand


def by_hand(workspace: Path, number: int) -> None:
    Store(workspace).client.set_registered_model_alias(NAME, "champion", str(number))


def mended_by_rollback(workspace: Path) -> None:
    assert registry.rollback(NAME, workspace).to == 1
    assert registry.champion(NAME, workspace) == 1


def mended_by_the_gate(workspace: Path) -> None:
    assert promote(workspace, 2).champion == 1
    assert registry.champion(NAME, workspace) == 2


@pytest.mark.parametrize("mend", [mended_by_rollback, mended_by_the_gate])
def test_an_alias_moved_by_hand_is_refused_until_it_is_mended(workspace: Path, mend: Callable[[Path], None]) -> None:
    assert promote(workspace, 1).allowed
    by_hand(workspace, 2)
    for ask in (registry.champion, registry.bundle_of, registry.load_model):
        with pytest.raises(
            BadInputError, match="version 2 has the alias 'champion', but the audit says version 1"
        ) as told:
            ask(NAME, workspace)
    assert "`mammo-ml rollback mammo-classifier` gives it back to version 1" in str(told.value)
    assert "`mammo-ml promote mammo-classifier --version 2` asks the gate" in str(told.value)
    assert registry.bundle_of(NAME, workspace, 2)[0] == 2, "as a version it can be had"
    assert "version 2 was given the alias by hand" in format_decision(promote(workspace, 3, dry_run=True))
    mend(workspace)


def test_a_first_champion_set_by_hand_is_refused_until_the_gate_has_seen_it(workspace: Path) -> None:
    by_hand(workspace, 1)
    with pytest.raises(BadInputError, match="the audit knows of no champion"):
        registry.champion(NAME, workspace)
    assert promote(workspace, 1).allowed
    assert registry.champion(NAME, workspace) == 1


def test_a_removed_alias_is_told_and_given_back(workspace: Path) -> None:
    assert promote(workspace, 1).allowed
    Store(workspace).client.delete_registered_model_alias(NAME, "champion")
    with pytest.raises(BadInputError, match="version 1 was champion until its alias was removed"):
        registry.champion(NAME, workspace)
    assert registry.rollback(NAME, workspace) == registry.Rollback(NAME, None, 1)


def test_no_champion_at_all_is_told_with_what_to_do(workspace: Path) -> None:
    with pytest.raises(BadInputError, match="promote it: `mammo-ml promote mammo-classifier`"):
        registry.champion(NAME, workspace)
