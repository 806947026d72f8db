"""Copy pre-trained weights into the package, with what they learned from and how they were made: `make starter`.

No stage: what a study made becomes an input of the project's own graph only when a person decides so.
"""

import argparse
import json
from pathlib import Path

from mammo_ml.pretrained import STARTER_FOLDER, ship

STUDIES = Path("data/studies")
MADE_BY = {
    "detector_small": STUDIES / "pretrain_detector" / "small",
    "detector_six_layer_cnn": STUDIES / "pretrain_detector" / "six_layer_cnn",
    "classifier_compact": STUDIES / "pretrain_classifier" / "compact",
    "classifier_exact": STUDIES / "pretrain_classifier" / "exact",
}
"""By starter: the output of the stage that makes it. SSD300 on VGG16 is too large to be shipped."""


def main() -> None:
    """Ship every starter named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("starters", nargs="+", metavar="STARTER", choices=MADE_BY, help=", ".join(MADE_BY))
    for name in parser.parse_args().starters:
        films = ship(MADE_BY[name], STARTER_FOLDER / name).films
        print(json.dumps({"starter": name, "films": len(films), "women": films["patient_id"].nunique()}))


if __name__ == "__main__":
    main()
