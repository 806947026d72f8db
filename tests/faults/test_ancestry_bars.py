"""Bar L6 along a model's ancestry: no model is tested on what its weights were pre-trained, trained or tuned on."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mammo_ml.datasets.cbis_ddsm_split import pretraining_films, women
from mammo_ml.errors import BadInputError
from mammo_ml.leak_audit import audit_ancestry, audit_roles, pixel_keys

Plant = Callable[[pd.DataFrame, pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]]
FILMS = ("LEFT_CC", "LEFT_MLO", "RIGHT_CC", "RIGHT_MLO")


def _films(part: str) -> pd.DataFrame:
    """Four films of every woman of a part of CBIS-DDSM, under the names and in the columns of its catalog."""
    names = [(f"{woman}_{film}", woman) for woman in sorted(women(part)) for film in FILMS]
    films = pd.DataFrame(names, columns=["film_id", "patient_id"]).assign(dataset="cbis_ddsm")
    return films.assign(sha256=[f"{part}{n}".encode().hex().ljust(64, "0") for n in range(len(films))])


def _mini_mias() -> pd.DataFrame:
    numbers = np.arange(1, 323)
    return pd.DataFrame(
        {
            "film_id": [f"mdb{n:03d}" for n in numbers],
            "patient_id": [f"p{(n + 1) // 2:03d}" for n in numbers],
            "dataset": "mini_mias",
            "sha256": [f"{n:064x}" for n in numbers],
        }
    )


@pytest.fixture(scope="module")
def learned() -> pd.DataFrame:
    """What a model has learned from that was pre-trained on the 80 % and then trained on mini-MIAS."""
    pretraining = pretraining_films(_films("pretraining")).assign(step="pretraining")
    return pd.concat([pretraining, _mini_mias().assign(step="training")], ignore_index=True)


@pytest.fixture(scope="module")
def tested() -> pd.DataFrame:
    return _films("external_test")


@pytest.mark.bar("L6")
def test_l6_a_model_pretrained_on_its_part_may_be_tested_on_every_woman_kept(learned, tested):
    audit = audit_ancestry(learned, tested, "external validation")
    audit.raise_if_leaking()
    assert set(audit.figures.values()) == {0.0}


def _add(table: pd.DataFrame, row: pd.Series, **changed: str) -> pd.DataFrame:
    return pd.concat([table, row.to_frame().T.assign(**changed)], ignore_index=True)


def _her_other_view(step: str) -> Plant:
    """An ancestor saw one film of a tested woman; the test set holds only her others."""
    return lambda learned, tested: (_add(learned, tested.iloc[0], step=step), tested.drop(index=0))


LEAKS: dict[str, tuple[Plant, int]] = {
    "the other film of a tested woman in pre-training": (_her_other_view("pretraining"), 1),
    "the other film of a tested woman in training": (_her_other_view("training"), 1),
    # her woman, her film and its bytes
    "a film that hyper-parameters were tuned on": (lambda a, b: (_add(a, b.iloc[0], step="training"), b), 3),
    "a pre-training film in the test set": (lambda a, b: (a, _add(b, a.iloc[0].drop("step"))), 3),
    "a tested film in training under another name": (
        lambda a, b: (_add(a, b.iloc[0], film_id="mdb999", patient_id="p999", dataset="mini_mias", step="training"), b),
        1,
    ),
    "every film of the test set in pre-training": (
        lambda a, b: (pd.concat([a, b.assign(step="pretraining")]), b),
        138 + 2 * 138 * len(FILMS),
    ),
    "mini-MIAS tested by a model trained on it": (lambda a, b: (a, _mini_mias()), 161 + 2 * 322),
}


@pytest.mark.bar("L6")
@pytest.mark.parametrize("name", LEAKS)
def test_l6_a_leak_through_an_ancestor_is_refused_and_every_shared_thing_named(name, learned, tested, record_property):
    plant, n_shared = LEAKS[name]
    with pytest.raises(BadInputError) as caught:
        audit_ancestry(*plant(learned, tested), "external validation").raise_if_leaking()
    assert len(caught.value.problems) == n_shared
    assert all(line.startswith("external validation: ") and "on both sides" in line for line in caught.value.problems)
    record_property("tried", f"{name}: {n_shared} found")


@pytest.mark.bar("L6")
def test_l6_not_one_woman_kept_for_external_validation_gets_into_pretraining(record_property):
    allowed = _films("pretraining")
    kept = _films("external_test").groupby("patient_id").head(1)
    for _, film in kept.iterrows():
        with pytest.raises(BadInputError) as caught:
            pretraining_films(_add(allowed.head(4), film))
        assert caught.value.problems == [
            f"film {film.film_id}: woman {film.patient_id} is kept for external validation (external_test)"
        ]
    record_property("tried", f"each of the {len(kept)} women kept for external validation among pre-training films")


@pytest.mark.bar("L6")
def test_l6_an_augmented_copy_of_a_test_film_in_training_is_refused_and_names_both(record_property):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16), dtype=np.uint8)
    copies = [np.rot90(view, turn) for view in (pictures[1], np.fliplr(pictures[1])) for turn in range(4)]
    for copy in copies:
        items = pd.DataFrame(
            {
                "item": ["a", "copy", "b"],
                "patient_id": ["p001", "p002", "p003"],
                "film_id": ["mdb001", "mdb003", "mdb005"],
                "pixel_key": pixel_keys(np.stack([pictures[0], copy, pictures[1]])),
            }
        )
        with pytest.raises(BadInputError) as caught:
            audit_roles(items, np.array(["train", "train", "test"]), "fold 0").raise_if_leaking()
        assert caught.value.problems == ["fold 0: one picture is on both sides: b (test), copy (train)"]
    record_property("tried", f"{len(copies)} rotations and mirrorings of a test picture in training")
