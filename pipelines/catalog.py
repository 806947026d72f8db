"""Turn the data set's own files into films.csv and lesions.csv."""

from mammo_ml.datasets import mini_mias
from mammo_ml.datasets.catalog import write_table
from mammo_ml.imaging.breast import breast_box, breast_mask
from mammo_ml.imaging.canonical import eight_bits
from mammo_ml.imaging.readers import read_pgm
from mammo_ml.manifest import verify_manifest
from pipelines import stage


def catalog() -> None:
    paths = stage.arguments(__doc__, "films", "out")
    verify_manifest(paths.films)
    files = sorted(paths.films.glob("*.pgm"))
    boxes = {}
    with stage.bar(len(files), "breast masks", "film") as advance:
        for file in files:
            boxes[file.stem] = breast_box(breast_mask(eight_bits(read_pgm(file))))
            advance(1)
    films, lesions = mini_mias.build_tables(paths.films, stage.dataset(), boxes)
    write_table(films, paths.out / "films.csv")
    write_table(lesions, paths.out / "lesions.csv")


if __name__ == "__main__":
    stage.main(catalog)
