"""CDD-CESM's low-energy films of malignant cases with boxes (Khaled et al. 2021, doi 10.7937/29kw-ae92).

Density is the woman's where a film's own is `_`. The kind is that of the film's tags when they name one kind alone,
else MISC: a mask does not say which finding it is round. The edge of a pixel is in no file: the films were reduced to
512 px. The GE Senographe DS has pixels of 0.1 mm and films average 2355 px in height before (the set's description),
so 0.46 mm is taken; films were cropped by hand, so a film may be off by a third.
"""

from pathlib import Path

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
    number,
    publish,
    severity_words,
    table,
    word,
)

SPACING_MM = 0.46
_KINDS = {"mass": "MASS", "calcification": "CALC", "distortion": "ARCH", "asymmetr": "ASYM"}


class Cesm:
    """images/, images.csv and boxes_from_masks.csv."""

    name = "cdd_cesm"
    collection = "cdd_cesm"
    needs: tuple[str, ...] = ("images/*.jp*g", "images.csv", "boxes_from_masks.csv")

    def recognise(self, folder: Path) -> str | None:
        """Why the folder is of this form; None when it is not."""
        return f"CDD-CESM: it holds {', '.join(self.needs)}" * holds(folder, self.needs) or None

    def read(self, folder: Path, out: Path, dataset: str, spacing_mm: float | None, report: Report) -> Read:
        """Write the films into `out`; problems are collected, not raised."""
        found = Found(
            f"estimated: {SPACING_MM} mm for every film, which may be off by a third (cropped and reduced to 512 px)",
            "CDD-CESM, Khaled et al. 2021, doi 10.7937/29kw-ae92, CC BY 4.0",
            "contrast-enhanced",
            notes=[
                "Low-energy images of a contrast-enhanced device, malignant cases alone; no normal or benign films.",
                "Boxes are those of components of loose masks, skin thickening among them: good for sensitivity only.",
            ],
        )
        columns = ("file", "patient_id", "side", "view", "density_acr", "tags", "pathology")
        rows = list(table(folder / "images.csv", columns, found.problems))
        densities = {cells["patient_id"]: cells["density_acr"] for _, cells in rows if cells["density_acr"] != "_"}
        kinds, left_out = {}, []
        for where, cells in rows:
            density = cells["density_acr"] if cells["density_acr"] != "_" else densities.get(cells["patient_id"], "_")
            if density == "_":
                left_out.append(cells["file"])
                continue
            named = {kind for part, kind in _KINDS.items() if part in cells["tags"].lower()}
            kinds[cells["file"]] = named.pop() if len(named) == 1 else "MISC"
            word(where, "pathology", cells["pathology"], severity_words(), found.problems)
            found.films.append(
                FoundFilm(
                    where,
                    Path(cells["file"]).stem,
                    Path("images") / cells["file"],
                    f"P{cells['patient_id']}",
                    word(where, "side", cells["side"], SIDES, found.problems),
                    word(where, "view", cells["view"], VIEWS, found.problems),
                    word(where, "density_acr", density, BIRADS, found.problems),
                    lambda shape: SPACING_MM,
                )
            )
        if left_out:
            found.notes.append(
                f"{len(left_out)} films left out, no film of the woman has a density: {', '.join(left_out)}"
            )
        boxes = table(folder / "boxes_from_masks.csv", ("file", "x", "y", "w", "h", "pathology"), found.problems)
        for where, cells in boxes:
            if cells["file"] in left_out:
                continue
            if cells["file"] not in kinds:
                found.problems.append(f"{where}: film {cells['file']} has no row in images.csv")
                continue
            x, y, w, h = (number(where, column, cells[column], found.problems) for column in "xywh")
            severity = word(where, "pathology", cells["pathology"], severity_words(), found.problems)
            film_id = Path(cells["file"]).stem
            found.lesions.append(FoundLesion(where, film_id, kinds[cells["file"]], severity, (x, y, x + w, y + h)))
        return publish(found, folder, out, dataset, spacing_mm, report)
