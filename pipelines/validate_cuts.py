"""Check folds, patches and boxes, audit them, films and pre-training for leaks; a failure stops before any training."""

from mammo_ml import classifier, detector, leak_audit
from mammo_ml.copied_films import audit_copies, pairs_of_different_women
from mammo_ml.cutting import CutSet, PatchSet
from mammo_ml.data_quality import validate
from mammo_ml.datasets.catalog import FILMS, read_table
from mammo_ml.evaluation import write_metrics
from mammo_ml.imaging.canonical import check_films, eight_bits
from mammo_ml.imaging.readers import read_film
from mammo_ml.splits import N_FOLDS, read_folds, roles_of
from pipelines import stage


def validate_cuts() -> None:
    paths = stage.arguments(__doc__, "films", "films_table", "folds", "patches", "cuts", "suites", "docs", "out")
    folds, patches, cuts = read_folds(paths.folds), PatchSet.load(paths.patches), CutSet.load(paths.cuts)
    tables = {"folds": folds, "patches": patches.patches, "boxes": cuts.boxes}
    report = validate(tables, paths.suites, paths.docs, stage.dataset())
    print(f"Data Docs: {report.index.resolve().as_uri()}")
    report.raise_if_failed()
    items = {
        "patches": patches.patches.assign(
            item=patches.patches["patch_id"], pixel_key=leak_audit.pixel_keys(patches.pictures[:, 0])
        ),
        "cuts": cuts.cuts.assign(item=cuts.cuts["cut_id"], pixel_key=leak_audit.pixel_keys(cuts.pictures[:, 0])),
    }
    audit = leak_audit.merge(
        leak_audit.audit_roles(table, roles_of(folds, table["patient_id"], fold), f"{name}, fold {fold}")
        for name, table in items.items()
        for fold in range(N_FOLDS)
    )
    audit.raise_if_leaking()
    films = read_table(paths.films_table, FILMS)
    check_films(paths.films, films)
    with stage.bar(pairs_of_different_women(films), "copies of one film under two women", "pair") as advance:
        audit_copies(films, lambda path: eight_bits(read_film(paths.films / path)), advance).raise_if_leaking()
    starts = (
        classifier.start_of(stage.section("train_classifier", classifier.ClassifierRecipe)),
        detector.start_of(stage.section("train_detector", detector.DetectorRecipe)),
    )
    ancestry = leak_audit.merge(start.audit(films) for start in starts)
    ancestry.raise_if_leaking()
    metrics = {
        "validation": {"valid": 1.0, **report.to_metrics()},
        "leak_audit": {"leak_free": 1.0, **audit.figures, **_named(ancestry.figures)},
    }
    write_metrics(metrics, paths.out)


def _named(figures: dict[str, float]) -> dict[str, float]:
    """Figures of the audit of what the models were pre-trained on."""
    return {f"pretraining_{name}": value for name, value in figures.items()}


if __name__ == "__main__":
    stage.main(validate_cuts)
