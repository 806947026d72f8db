import numpy as np
import pandas as pd
import pytest

from mammo_ml.copied_films import audit_copies, pairs_of_different_women
from mammo_ml.datasets.phantom import PhantomParameters, draw, plan
from mammo_ml.errors import BadInputError

N_FILMS = 12


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    films = plan(PhantomParameters(women=20, seed=1))[:N_FILMS]
    return {film.film_id: draw(film, seed=1) for film in films}


def table(pictures: dict[str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "film_id": list(pictures),
            "path": list(pictures),
            "patient_id": [f"p{number // 2}" for number in range(len(pictures))],
            "height_px": [picture.shape[0] for picture in pictures.values()],
            "width_px": [picture.shape[1] for picture in pictures.values()],
        }
    )


def test_phantom_films_are_no_copies_of_each_other(pictures: dict[str, np.ndarray]) -> None:
    done: list[int] = []
    audit = audit_copies(table(pictures), pictures.__getitem__, done.append)
    assert audit.leak_free
    assert audit.figures == {"copied_films": 0.0}
    assert sum(done) == pairs_of_different_women(table(pictures)) == N_FILMS * (N_FILMS - 1) // 2 - N_FILMS // 2


def test_a_turned_film_of_another_woman_stops_with_both_named(pictures: dict[str, np.ndarray]) -> None:
    names = list(pictures)
    planted = pictures | {names[9]: np.ascontiguousarray(np.rot90(pictures[names[0]])[:, ::-1])}
    with pytest.raises(BadInputError) as caught:
        audit_copies(table(planted), planted.__getitem__).raise_if_leaking()
    message = str(caught.value)
    assert f"film {names[0]} (woman p0) and film {names[9]} (woman p4) are copies: similarity" in message
    assert "give both rows of films.csv the same patient_id" in message
    # though the other film of that woman is like it
    assert message.count("are copies") == 1


def test_two_films_of_one_woman_may_be_alike(pictures: dict[str, np.ndarray]) -> None:
    names = list(pictures)
    audit = audit_copies(
        table(pictures | {names[1]: pictures[names[0]]}), (pictures | {names[1]: pictures[names[0]]}).__getitem__
    )
    assert audit.leak_free
