"""What a person reads about a registered version before using it."""

import json
from pathlib import Path

import pytest

from mammo_ml.models.bundle import Ancestor, BundleConfig, Preprocessing
from mammo_ml.reporting.model_card import card
from mammo_ml.tracking import flat_figures

ROOT = Path(__file__).parents[2]
ANCESTORS = (
    Ancestor(name="detector-cbis", weights_sha256="c" * 64, dataset="cbis_ddsm", command="dvc repro pretrain_detector"),
    Ancestor(name="photographs", weights_sha256="d" * 64, dataset="coco", command="python -m fetch"),
)


def config_of(kind: str, *, phantom: bool = False, ancestry: tuple[Ancestor, ...] = ()) -> BundleConfig:
    return BundleConfig(
        kind=kind, network={}, preprocessing=Preprocessing(), calibration={}, aggregation={}, thresholds={},
        dataset="phantom" if phantom else "mini_mias", phantom=phantom, folds_sha256="a" * 64, ancestry=ancestry,
    )  # fmt: skip


def committed(kind: str) -> dict[str, float]:
    path = ROOT / "reports" / f"evaluate_{kind}" / "metrics.json"
    return flat_figures(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("kind", "primary"), [("classifier", "by_patient.auc_macro"), ("detector", "films_by_patient.froc_mean")]
)
def test_the_card_shows_the_primary_figure_with_its_interval_and_what_knowing_nothing_scores(
    kind: str, primary: str
) -> None:
    figures = committed(kind)
    value, low, high, nothing = (figures[primary + suffix] for suffix in ("", "_lo", "_hi", "_baseline"))
    (line,) = [line for line in card(config_of(kind), figures).splitlines() if f"`{primary}`" in line]
    assert line.endswith(f"| {value:.3f} [{low:.3f}, {high:.3f}] | {nothing:.3f} |")


def test_leaky_figures_never_stand_on_a_card() -> None:
    assert "leaky" not in card(config_of("classifier"), committed("classifier"))


def test_the_card_says_what_it_is_for_and_whose_figures_these_are() -> None:
    text = card(config_of("classifier"), committed("classifier"))
    assert "Not a medical device, not for diagnosis" in text
    assert "a model that had seen no film of hers" in text
    assert "never judged on one of them" in text
    assert "no pre-training" in text
    assert "161 women, 468 patches" in text


def test_a_phantom_says_so_and_a_real_model_does_not() -> None:
    assert "synthetic films" in card(config_of("detector", phantom=True), {})
    assert "synthetic films" not in card(config_of("detector"), {})


def test_every_ancestor_is_named_with_its_data_the_nearest_first() -> None:
    text = card(config_of("detector", ancestry=ANCESTORS), committed("detector"))
    assert text.index("`detector-cbis` (weights `cccccccccccc`), trained on `cbis_ddsm`") < text.index("`coco`")
    assert "no pre-training" not in text


def test_an_undefined_figure_and_missing_ones_are_told() -> None:
    text = card(config_of("classifier"), {"by_patient.auc_macro": float("nan")})
    assert "| undefined [not recorded, not recorded] | not recorded |" in text
    assert "None of the headline figures was recorded" in card(config_of("classifier"), {})


def test_a_card_fits_the_description_that_mlflow_stores() -> None:
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

    limit = SqlModelVersion.__table__.c.description.type.length
    longest = max(
        len(card(config_of(kind, ancestry=ANCESTORS), committed(kind))) for kind in ("classifier", "detector")
    )
    assert longest < limit
