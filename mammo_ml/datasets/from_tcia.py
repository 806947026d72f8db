"""CBIS-DDSM as TCIA publishes it (doi 10.7937/K9/TCIA.2016.7O02S9CY): DICOM folders and CSV files.

Written from the published form; tested on small files made in it. Density 1 to 4 are BI-RADS A to D (doi
10.1038/sdata.2017.177); a film of density 0 is left out and named. BENIGN_WITHOUT_CALLBACK is benign. The first part of
a path names a film's or mask's folder; the parts after it differ between the CSV files and the download, so the one
film in the folder is taken, and of a lesion's folder the file of its film's size: the other is the cropped picture, and
some rows name the two the wrong way round. Box: that of the mask. Spacing: no header states it; by height, as
`cbis_ddsm` tells the scanners apart.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from mammo_ml.datasets.adapter import (
    BIRADS,
    SIDES,
    VIEWS,
    Found,
    FoundFilm,
    FoundLesion,
    Read,
    Report,
    holds,
    publish,
    severity_words,
    table,
    word,
)
from mammo_ml.datasets.cbis_ddsm import COARSE_BELOW_PX, COARSE_PITCH_MM, DATASET, FINE_PITCH_MM
from mammo_ml.errors import BadInputError

_CSV = "*_case_description_*_set.csv"
_KINDS = {"MASS": "MASS", "CALCIFICATION": "CALC"}
_COLUMNS = (
    "patient_id",
    "breast_density",
    "left_or_right_breast",
    "image_view",
    "abnormality_type",
    "pathology",
    "image_file_path",
    "roi_mask_file_path",
)


class Tcia:
    """<mass|calc>_case_description_<train|test>_set.csv and folders of DICOM files."""

    name = "cbis_ddsm_dicom"
    collection = DATASET
    needs: tuple[str, ...] = (_CSV, "**/*.dcm")

    def recognise(self, folder: Path) -> str | None:
        """Why the folder is of this form; None when it is not."""
        return f"CBIS-DDSM of TCIA: it holds {', '.join(self.needs)}" * holds(folder, self.needs) or None

    def read(self, folder: Path, out: Path, dataset: str, spacing_mm: float | None, report: Report) -> Read:
        """Write the films into `out`; problems are collected, not raised."""
        found = Found(
            "estimated from the height of the film, which tells its scanner",
            "CBIS-DDSM, Sawyer-Lee et al. 2016, doi 10.7937/K9/TCIA.2016.7O02S9CY, CC BY 3.0",
            "film",
            notes=["No normal films."],
        )
        folders: dict[str, list[Path]] = {}
        for path in sorted(folder.rglob("*.dcm")):
            for part in path.relative_to(folder).parts[:-1]:
                folders.setdefault(part, []).append(path.relative_to(folder))
        films, left_out = set[str](), set[str]()
        for file in sorted(folder.glob(_CSV)):
            for where, cells in table(file, _COLUMNS, found.problems):
                film_id = "_".join(cells[column] for column in ("patient_id", "left_or_right_breast", "image_view"))
                if cells["breast_density"] == "0":
                    left_out.add(film_id)
                    continue
                if film_id not in films:
                    films.add(film_id)
                    _add_film(where, film_id, cells, folders, found)
                kind = word(where, "abnormality_type", cells["abnormality_type"], _KINDS, found.problems)
                severity = word(where, "pathology", cells["pathology"], severity_words(), found.problems)
                name = cells["roi_mask_file_path"].split("/")[0]
                mask = partial(_mask, where, folder, name, folders.get(name, []))
                found.lesions.append(FoundLesion(where, film_id, kind, severity, mask=mask))
        if left_out:
            found.notes.append(f"rows of density 0 left out, of {', '.join(sorted(left_out))}")
        return publish(found, folder, out, dataset, spacing_mm, report)


def _add_film(where: str, film_id: str, cells: dict[str, str], folders: dict[str, list[Path]], found: Found) -> None:
    name = cells["image_file_path"].split("/")[0]
    files = folders.get(name, [])
    if len(files) != 1:
        found.problems.append(f"{where}: folder {name} holds {len(files)} DICOM files; one film is expected")
        return
    found.films.append(
        FoundFilm(
            where,
            film_id,
            files[0],
            cells["patient_id"],
            word(where, "left or right breast", cells["left_or_right_breast"], SIDES, found.problems),
            word(where, "image view", cells["image_view"], VIEWS, found.problems),
            word(where, "breast_density", cells["breast_density"], BIRADS, found.problems),
            lambda shape: COARSE_PITCH_MM if shape[0] < COARSE_BELOW_PX else FINE_PITCH_MM,
        )
    )


def _mask(where: str, folder: Path, name: str, files: list[Path], shape: tuple[int, int]) -> NDArray[np.bool_]:
    sizes = []
    for file in files:
        try:
            content = pydicom.dcmread(folder / file)
            if (content.Rows, content.Columns) == shape:
                return np.asarray(content.pixel_array) > 0
        except Exception as error:  # of any type: damaged files fail in every way
            raise BadInputError(name, [f"{where}: mask {file} cannot be read ({type(error).__name__})"]) from None
        sizes.append(f"{content.Columns} x {content.Rows}")
    told = f"holds pictures of {', '.join(sizes)} px, its film is {shape[1]} x {shape[0]}" if sizes else "is missing"
    raise BadInputError(name, [f"{where}: mask folder {name} {told}"])
