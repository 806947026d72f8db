"""Make a data set of the CBIS-DDSM women that no pre-training has seen, to validate models on."""

import json
import shutil

from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table, write_table
from mammo_ml.datasets.cbis_ddsm_split import EXTERNAL_TEST, women
from mammo_ml.manifest import verify_manifest, write_manifest
from pipelines import stage

SOURCE = (
    "CBIS-DDSM, mass films of the official training split (Sawyer-Lee et al. 2016, doi 10.7937/K9/TCIA.2016.7O02S9CY), "
    "the women kept for external validation (mammo_ml/datasets/cbis_ddsm_split.csv)"
)
NOTES = [
    "Pixel spacing is estimated, right within about 15 %; so are sizes in mm and the scale that models see.",
    "Films were JPEG stretched to squares and given their shape back: fine texture is gone (docs/cbis-ddsm.md).",
]


def cbis_external_test() -> None:
    paths = stage.arguments(__doc__, "films", "catalog", "out")
    verify_manifest(paths.films)
    every_film = read_table(paths.catalog / "films.csv", FILMS)
    films = every_film[every_film["patient_id"].isin(women(EXTERNAL_TEST))]
    every_lesion = read_table(paths.catalog / "lesions.csv", LESIONS)
    lesions = every_lesion[every_lesion["film_id"].isin(films["film_id"])]
    shutil.rmtree(paths.out, ignore_errors=True)
    (paths.out / "films").mkdir(parents=True)
    with stage.bar(len(films), "films of women kept", "film") as advance:
        for path in films["path"]:
            shutil.copyfile(paths.films / path, paths.out / "films" / path)
            advance(1)
    write_manifest(paths.out / "films")
    write_table(films, paths.out / "catalog" / "films.csv")
    write_table(lesions, paths.out / "catalog" / "lesions.csv")
    facts = {
        "name": paths.out.name,
        "adapter": "pipelines/cbis_external_test.py",
        "collection": "cbis_ddsm",
        "films": len(films),
        "women": int(films["patient_id"].nunique()),
        "lesions": len(lesions),
        "labels": {str(label): int(count) for label, count in films["label"].value_counts().sort_index().items()},
        "spacing": "estimated from the height of the original scan",
        "source": SOURCE,
        "modality": "digitised film",
        "notes": NOTES,
    }
    (paths.out / "dataset.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    stage.main(cbis_external_test)
