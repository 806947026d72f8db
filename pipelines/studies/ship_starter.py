"""Copy pre-trained weights into the package, with what they learned from and how they were made: `make starter`.

No stage: what a study made becomes an input of the project's own graph only when a person decides so.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from mammo_ml.datasets.cbis_ddsm import DATASET
from mammo_ml.pretrained import STARTER_FOLDER, write_starter

STUDY = Path("data/studies/pretrain_detector")


def main() -> None:
    """Ship the weights of every base given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bases", nargs="+", metavar="BASE", help="a base that stage pretrain_detector has trained")
    for base in parser.parse_args().bases:
        films = pd.read_csv(STUDY / base / "films.csv", dtype="str", keep_default_na=False)
        command = f"dvc repro pipelines/studies/dvc.yaml:pretrain_detector@{base}"
        name = f"detector_{base}"
        ancestor = {"name": name, "dataset": DATASET, "command": command}
        write_starter(STARTER_FOLDER / name, STUDY / base / "weights.safetensors", films, ancestor)
        print(json.dumps({"starter": name, "films": len(films), "women": films["patient_id"].nunique()}))


if __name__ == "__main__":
    main()
