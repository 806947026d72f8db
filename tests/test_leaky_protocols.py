import numpy as np
import pandas as pd
import pytest

from mammo_ml.imaging.augmentation import CLASSIFIER_VIEWS, DETECTOR_VIEWS
from mammo_ml.leaky_protocols import (
    EXPOSURES,
    FIVE_FIXED,
    PROTOCOLS,
    SIX_FIXED,
    Protocol,
    exposure,
    honest,
    items_of,
    roles_under,
)
from mammo_ml.registry import CandidateFacts, GateParameters, RegistryFacts, decide
from mammo_ml.splits import make_folds

LEAKY = [protocol for protocol in PROTOCOLS.values() if protocol.split != "by_patient"]


def windows(n_women: int = 40) -> pd.DataFrame:
    """Two films a woman, a window each; one woman in two has a lesion on her first film."""
    rows = []
    for woman in range(n_women):
        for side in "LR":
            lesion = side == "L" and woman % 2 == 0
            label = ("benign", "malignant")[woman // 2 % 2] if lesion else "normal"
            rows.append(
                {
                    "patch_id": f"{woman}{side}",
                    "film_id": f"f{woman}{side}",
                    "patient_id": f"w{woman}",
                    "lesion_id": f"{woman}{side}" if lesion else None,
                    "label": label,
                    **dict(zip(("x1", "y1", "x2", "y2"), (0.0, 0.0, 256.0, 256.0), strict=True)),
                }
            )
    return pd.DataFrame(rows)


def folds_of(table: pd.DataFrame) -> pd.DataFrame:
    return make_folds(table.assign(density="F"), seed=20)


def split(protocol: Protocol, test_folds: tuple[int, ...] = (0,)) -> tuple[pd.DataFrame, dict[int, np.ndarray]]:
    table = windows()
    items = items_of(table, protocol.views, seed=1)
    return items, roles_under(protocol, items, folds_of(table), test_folds, seed=1)


def test_every_protocol_says_what_leaks_and_carries_leaky_in_its_name_unless_it_is_by_patient() -> None:
    for protocol in PROTOCOLS.values():
        assert protocol.can_be_promoted == ("leaky" not in protocol.name) == (not protocol.leaks)
        assert not protocol.leaks or (protocol.leaks[0].isupper() and protocol.leaks.endswith("."))
        assert (protocol.claimed is None) == (not protocol.source)
        assert honest(protocol).can_be_promoted
        assert honest(protocol).task == protocol.task


def test_the_claims_are_those_of_their_sources() -> None:
    claims = {protocol.source: protocol.claimed for protocol in LEAKY if protocol.source}
    assert claims == {
        "the reference slides": 0.7325,
        "the reference poster": 0.803,
        "NIT Calicut 2021": 0.942,
        "delmalih 2019": 0.987,
    }


def test_every_window_becomes_the_views_its_protocol_says_the_first_as_it_is() -> None:
    table = windows(4)
    counts = {"five_fixed": len(CLASSIFIER_VIEWS), "six_fixed": len(DETECTOR_VIEWS), "rotations_360": 360}
    for views, n in (counts | {"copies_20": 20}).items():
        items = items_of(table, views, seed=1)  # type: ignore[arg-type]
        assert items["item"].is_unique
        assert items.groupby("source").size().tolist() == [n] * len(table)
        first = items.groupby("source").first()
        assert (first["angle"] == 0).all()
        assert not first["mirrored"].any()
        pd.testing.assert_frame_equal(items, items_of(table, views, seed=1))  # type: ignore[arg-type]
    assert len(set(FIVE_FIXED)) == 5
    assert len(set(SIX_FIXED)) == 6
    assert not items_of(table, "copies_20", 1)["item"].equals(items_of(table, "copies_20", 2)["item"])


@pytest.mark.parametrize(
    ("name", "test_share", "train_share"),
    [
        ("patches_at_random_leaky", 0.2, 0.7),
        ("cuts_at_random_leaky", 0.2, 0.7),
        ("rotations_360_leaky", 0.2, 0.8),
        ("copies_90_10_leaky", 0.1, 0.9),
    ],
)
def test_items_drawn_at_random_go_where_the_source_sent_them(name: str, test_share: float, train_share: float) -> None:
    items, by_fold = split(PROTOCOLS[name])
    assert list(by_fold) == [0]
    assert (by_fold[0] == "test").mean() == pytest.approx(test_share, abs=0.001)
    assert (by_fold[0] == "train").mean() == pytest.approx(train_share, abs=0.001)
    again = roles_under(PROTOCOLS[name], items, folds_of(windows()), (0,), seed=1)
    np.testing.assert_array_equal(by_fold[0], again[0])


def test_nothing_of_a_test_item_was_in_training_by_patient_and_its_women_are_tested_as_they_are_once() -> None:
    for name in ("patches_by_patient", "crops_by_patient", "cuts_by_patient"):
        items, by_fold = split(PROTOCOLS[name], test_folds=(0, 3))
        assert list(by_fold) == [0, 3]
        for roles in by_fold.values():
            tested, trained = items[roles == "test"], items[roles == "train"]
            assert not exposure(tested, trained).fillna(False).to_numpy().any()
            assert (tested["angle"] == 0).all()
            assert tested["source"].is_unique
            assert set(tested["patient_id"]) | set(trained["patient_id"]) == set(items["patient_id"])


def test_by_film_the_other_breast_is_learned_from_and_nothing_else_is() -> None:
    items, by_fold = split(PROTOCOLS["patches_by_film_leaky"])
    tested, trained = items[by_fold[0] == "test"], items[by_fold[0] == "train"]

    shares = exposure(tested, trained).astype(float).mean()

    assert (shares["pixels"], shares["film"], shares["lesion"]) == (0, 0, 0)
    assert shares["woman"] > 0.5
    assert len(tested) == 16


def test_copies_drawn_one_by_one_leave_nothing_unseen() -> None:
    for protocol in LEAKY:
        if protocol.split != "by_film":
            items, by_fold = split(protocol)
            seen = exposure(items[by_fold[0] == "test"], items[by_fold[0] == "train"])
            assert seen.astype(float).mean().min() > 0.95, protocol.name


def test_the_shares_are_right_on_a_case_counted_by_hand() -> None:
    def item(source: int, film: str, woman: str, lesion: str | None, x1: float) -> dict[str, object]:
        own = {"source": source, "film_id": film, "patient_id": woman, "lesion_id": lesion}
        return own | {"x1": x1, "y1": 0.0, "x2": x1 + 10, "y2": 10.0}

    trained = pd.DataFrame([item(0, "a", "A", "a1", 0), item(1, "b", "B", None, 0)])
    tested = pd.DataFrame(
        [
            item(0, "a", "A", "a1", 0),  # the same window, turned
            item(2, "a", "A", "a2", 9),  # another lesion's window, 1 px of it learned
            item(3, "b", "B", None, 10),  # the same film, beside what was learned
            item(4, "c", "B", "c1", 0),  # the other breast
            item(5, "d", "D", None, 0),  # a woman never seen
        ]
    )

    found = exposure(tested, trained)

    assert list(found.columns) == list(EXPOSURES)
    assert found["pixels"].tolist() == [True, True, False, False, False]
    assert found["film"].tolist() == [True, True, True, False, False]
    assert found["woman"].tolist() == [True, True, True, True, False]
    assert found["lesion"].astype(object).where(found["lesion"].notna(), None).tolist() == [
        True,
        False,
        None,
        False,
        None,
    ]


@pytest.mark.parametrize("protocol", LEAKY, ids=lambda protocol: protocol.name)
def test_the_gate_refuses_every_leaky_protocol_whatever_its_figures(protocol: Protocol) -> None:
    candidate = CandidateFacts(
        name=f"mammo-{protocol.model}",
        version=1,
        kind=protocol.model,
        dataset="mini_mias",
        phantom=False,
        folds_sha256="a" * 64,
        protocol=protocol.name,
        leak_free=True,
        data_valid=True,
        faults=(),
        figures={"by_patient.auc_macro": 0.99},
        seconds_per_film=0.1,
    )
    registry = RegistryFacts("mini_mias", phantom=False, folds_sha256="a" * 64)

    decision = decide(candidate, GateParameters(), registry, override="the figure is so high")

    assert not decision.allowed
    assert "protocol is not leaky" in [condition.name for condition in decision.refused_by]
