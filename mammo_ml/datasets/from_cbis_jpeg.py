"""CBIS-DDSM's mass films as JPEG with boxes, by `cbis_ddsm`: spacing, sides and densities are its rules."""

from pathlib import Path

import pandas as pd

from mammo_ml.datasets import cbis_ddsm
from mammo_ml.datasets.adapter import Read, Report, holds
from mammo_ml.datasets.cbis_ddsm_source import TABLES
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.breast import breast_box, breast_mask, chest_wall_side
from mammo_ml.imaging.canonical import eight_bits
from mammo_ml.imaging.readers import read_film


class CbisJpeg:
    """JPEG films stretched to squares, images.csv, boxes.csv and two files of TCIA."""

    name = "cbis_ddsm_jpeg"
    collection = cbis_ddsm.DATASET
    needs: tuple[str, ...] = (*TABLES, f"{cbis_ddsm.JPEGS}/*.jp*g")

    def recognise(self, folder: Path) -> str | None:
        """Why the folder is of this form; None when it is not."""
        return (
            f"CBIS-DDSM masses as JPEG with boxes: it holds {', '.join(self.needs)}" * holds(folder, self.needs) or None
        )

    def read(self, folder: Path, out: Path, dataset: str, spacing_mm: float | None, report: Report) -> Read:
        """Write the films into `out`, each in its own shape."""
        facts = {
            "spacing": "estimated from the height of the original film and its scanner, right within about 15 %",
            "source": "CBIS-DDSM, Sawyer-Lee et al. 2016, doi 10.7937/K9/TCIA.2016.7O02S9CY, CC BY 3.0",
            "modality": "film",
            "notes": ["Mass films of the official training split; no normal films."],
        }
        try:
            cbis_ddsm.ingest(folder, out, lambda done, total: report(done, 2 * total))
            boxes, sides = {}, {}
            files = sorted(out.glob("*.pgm"))
            for done, file in enumerate(files, 1):
                mask = breast_mask(eight_bits(read_film(file)))
                boxes[file.stem], sides[file.stem] = breast_box(mask), chest_wall_side(mask)
                report(len(files) + done, 2 * len(files))  # each film is read twice: written, then measured
            films, lesions = cbis_ddsm.build_tables(out, dataset, boxes, sides)
        except BadInputError as error:
            return Read(pd.DataFrame(), pd.DataFrame(), facts, error.problems)
        if spacing_mm is not None:
            return Read(films, lesions, facts, [f"--spacing-mm {spacing_mm:g}: this form has a spacing of its own"])
        return Read(films, lesions, facts, [])
