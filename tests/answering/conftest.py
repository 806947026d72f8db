"""A small locator of random weights, and phantom films as PGM, PNG and DICOM, made once."""

from pathlib import Path

import pytest
from numpy.typing import NDArray
from PIL import Image

from mammo_ml.answering.film_models import LoadedModel, model_of
from mammo_ml.datasets.phantom import PhantomParameters, draw, plan
from mammo_ml.imaging.readers import write_pgm
from mammo_ml.locator import Calibration
from mammo_ml.locator_bundle import open_bundle, write_locator
from mammo_ml.metrics.calibration import VectorScaling
from mammo_ml.models.bundle import read_bundle
from tests.imaging.dicom_files import dicom
from tests.served_models import small_bundle

UIDS = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.2"}


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `classifier`, `detector` and `locator`."""
    folder = tmp_path_factory.mktemp("bundles")
    parts = {kind: read_bundle(small_bundle(folder / kind, kind)) for kind in ("classifier", "detector")}
    scaling = Calibration(VectorScaling.identity(3), VectorScaling.identity(2), VectorScaling.identity(2))
    write_locator(folder / "locator", parts["classifier"], parts["detector"], scaling, 0.0)
    return folder


@pytest.fixture(scope="session")
def locator(bundles: Path) -> LoadedModel:
    return model_of(open_bundle(bundles / "locator"), "mammo-locator", 7, ("locator", "detector"))


@pytest.fixture(scope="session")
def phantom() -> NDArray:
    return draw(plan(PhantomParameters(women=20, seed=1))[0], seed=1)


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory, phantom: NDArray) -> Path:
    """The same phantom as a.pgm, deep/b.png (which does not say its spacing) and deep/c.dcm. Only to be read."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "deep").mkdir()
    write_pgm(folder / "a.pgm", phantom)
    Image.fromarray(phantom).save(folder / "deep" / "b.png")
    (folder / "deep" / "c.dcm").write_bytes(dicom(phantom, 8, ImagerPixelSpacing=[0.2, 0.2], **UIDS))
    return folder
