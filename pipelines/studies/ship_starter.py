"""Copy pre-trained weights into the package, with what they learned from and how they were made: `make starter`.

No stage: what a study made becomes an input of the project's own graph only when a person decides so.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from mammo_ml.datasets.cbis_ddsm import DATASET
from mammo_ml.pretrained import STARTER_FOLDER, write_starter

STUDIES = Path("data/studies")
MADE_BY = {
    "detector_small": ("pretrain_detector@small", STUDIES / "pretrain_detector" / "small"),
    "detector_six_layer_cnn": ("pretrain_detector@six_layer_cnn", STUDIES / "pretrain_detector" / "six_layer_cnn"),
    "classifier_compact": ("pretrain_classifier@compact", STUDIES / "pretrain_classifier" / "compact"),
    "classifier_exact": ("pretrain_classifier@exact", STUDIES / "pretrain_classifier" / "exact"),
}
"""By starter: the stage that makes it, and the folder it writes."""


def main() -> None:
    """Ship every starter named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("starters", nargs="+", metavar="STARTER", choices=MADE_BY, help=", ".join(MADE_BY))
    for name in parser.parse_args().starters:
        made_by, folder = MADE_BY[name]
        films = pd.read_csv(folder / "films.csv", dtype="str", keep_default_na=False)
        ancestor = {"name": name, "dataset": DATASET, "command": f"dvc repro pipelines/studies/dvc.yaml:{made_by}"}
        write_starter(STARTER_FOLDER / name, folder / "weights.safetensors", films, ancestor)
        print(json.dumps({"starter": name, "films": len(films), "women": films["patient_id"].nunique()}))


if __name__ == "__main__":
    main()
