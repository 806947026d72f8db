"""Turn CBIS-DDSM's own files into films.csv and lesions.csv."""

from mammo_ml.datasets import cbis_ddsm
from mammo_ml.datasets.catalog import write_table
from mammo_ml.imaging.breast import breast_box, breast_mask, chest_wall_side
from mammo_ml.imaging.canonical import eight_bits
from mammo_ml.imaging.readers import read_film
from mammo_ml.manifest import verify_manifest
from pipelines import stage


def catalog_cbis_ddsm() -> None:
    paths = stage.arguments(__doc__, "films", "out")
    verify_manifest(paths.films)
    files = sorted(paths.films.glob("*.pgm"))
    boxes, sides = {}, {}
    with stage.bar(len(files), "breast masks", "film") as advance:
        for file in files:
            mask = breast_mask(eight_bits(read_film(file)))
            boxes[file.stem], sides[file.stem] = breast_box(mask), chest_wall_side(mask)
            advance(1)
    films, lesions = cbis_ddsm.build_tables(paths.films, cbis_ddsm.DATASET, boxes, sides)
    write_table(films, paths.out / "films.csv")
    write_table(lesions, paths.out / "lesions.csv")


if __name__ == "__main__":
    stage.main(catalog_cbis_ddsm)
