"""The benchmark on mini-MIAS: what anyone's predictions are judged against (docs/benchmark.md).

The truth comes from the catalogue of a workspace or straight from the archive; the folds, and the places of patches,
are committed tables.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Literal

import pandas as pd

from mammo_ml.datasets import mini_mias, mini_mias_archive
from mammo_ml.datasets.catalog import FILMS, LABELS, LESIONS, read_table, write_table
from mammo_ml.errors import MammoError, raise_if_any
from mammo_ml.imaging.breast import breast_box, breast_mask
from mammo_ml.imaging.canonical import eight_bits
from mammo_ml.imaging.readers import read_pgm
from mammo_ml.splits import committed_folds

Task = Literal["classifier", "detector"]
LESIONS_SHA256 = "e02e33f4ac18e13c147cb5104a750a5dbdee9387e6a2ea6147d555456def4158"
"""Of lesions.csv as `write_table` writes it: a truth that was edited gives figures nobody can compare."""
PROTOCOLS: Mapping[Task, str] = {"classifier": "by_patient", "detector": "films_by_patient"}
"""Name in metrics.json of the protocol that the benchmark is."""
NO_TRUTH = (
    "the truth is not here: {folder} has no films.csv and lesions.csv.\n"
    "Set MIAS_ARCHIVE to the path of mini-MIAS's all-mias.tar.gz and leave --truth out, or run "
    "`mammo-ml repro catalog` first."
)


@dataclass(frozen=True)
class Benchmark:
    """What predictions are judged against.

    Attributes:
        films: films.csv.
        lesions: lesions.csv.
        patches: patch_id, film_id, label and its window x1 … y2 (px of the film file).
        folds: patient_id, fold.
    """

    films: pd.DataFrame
    lesions: pd.DataFrame
    patches: pd.DataFrame
    folds: pd.DataFrame

    @property
    def unlocated(self) -> set[str]:
        """Abnormal films on which a detection can be called neither right nor wrong."""
        return set(self.lesions.loc[~self.lesions["has_location"], "film_id"])

    def facts_of(self, film_ids: pd.Series) -> pd.DataFrame:
        """patient_id, fold and label of these films, row by row; null where a film is unknown."""
        known = self.films.set_index("film_id")
        women = film_ids.map(known["patient_id"])
        fold = women.map(self.folds.set_index("patient_id")["fold"])
        return pd.DataFrame({"patient_id": women, "fold": fold, "label": film_ids.map(known["label"])})


def benchmark_patches(lesions: pd.DataFrame) -> pd.DataFrame:
    """One patch of each located lesion, each followed by its normal ones: their places are a committed table."""
    patches = pd.read_csv(committed_file("patches"), dtype={"patch_id": "str", "film_id": "str"})
    of_lesions = patches["patch_id"].map(lesions.set_index("lesion_id")["severity"])
    patches.insert(2, "label", of_lesions.fillna(LABELS[0]))
    return patches


def load_benchmark(catalog: Path, archive: str | None) -> Benchmark:
    """The benchmark's truth: the tables of a catalogue where they are, else made from the archive (10 s).

    Args:
        catalog: folder of films.csv and lesions.csv.
        archive: path or URL of the archive, as MIAS_ARCHIVE gives it; it is unpacked and thrown away.

    Raises:
        MammoError: when neither is there.
        BadInputError: when the tables are not those of mini-MIAS as this version reads it.
    """
    if all((catalog / name).is_file() for name in ("films.csv", "lesions.csv")):
        films, lesions = read_table(catalog / "films.csv", FILMS), read_table(catalog / "lesions.csv", LESIONS)
    elif archive:
        films, lesions = _from_archive(archive)
    else:
        raise MammoError(NO_TRUTH.format(folder=catalog))
    _check_tables(str(catalog), films, lesions)
    folds = committed_folds(mini_mias.DATASET)
    assert folds is not None
    return Benchmark(films, lesions, benchmark_patches(lesions), folds)


def _from_archive(archive: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    with tempfile.TemporaryDirectory() as folder:
        films = Path(folder) / "films"
        path = mini_mias_archive.obtain_archive(archive, Path(folder))
        mini_mias_archive.unpack(path, films, mini_mias_archive.official_manifest())
        boxes = {file.stem: breast_box(breast_mask(eight_bits(read_pgm(file)))) for file in films.glob("*.pgm")}
        return mini_mias.build_tables(films, mini_mias.DATASET, boxes)


def _check_tables(where: str, films: pd.DataFrame, lesions: pd.DataFrame) -> None:
    official = mini_mias_archive.official_manifest()
    problems = []
    if dict(zip(films["film_id"], films["sha256"], strict=True)) != official:
        sets = ", ".join(sorted(set(films["dataset"])))
        problems.append(f"films.csv does not list the {len(official)} films of mini-MIAS (its data set: {sets})")
    with tempfile.TemporaryDirectory() as folder:
        write_table(lesions, Path(folder) / "lesions.csv")
        if sha256_of(Path(folder) / "lesions.csv") != LESIONS_SHA256:
            problems.append("lesions.csv is not what this version makes of the official Info.txt")
    raise_if_any(where, problems, "Make the tables again: `mammo-ml repro catalog` with MIAS_ARCHIVE set.")


def committed_file(name: str) -> Path:
    """One of mini-MIAS's committed tables, `folds` or `patches`."""
    return Path(str(files("mammo_ml.datasets") / f"{mini_mias.DATASET}_{name}.csv"))


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes."""
    return sha256(path.read_bytes()).hexdigest()
