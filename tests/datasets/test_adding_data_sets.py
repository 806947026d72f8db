"""Folders in every known form become data sets of a workspace; a bad one is refused whole, with every fault named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom import uid
from typer.testing import CliRunner

from mammo_ml.cli import app
from mammo_ml.datasets import adding
from mammo_ml.datasets.coco import to_coco
from mammo_ml.datasets.phantom import PhantomParameters, draw, plan
from mammo_ml.datasets.workspace_sets import DataSet, read_set
from mammo_ml.errors import BadInputError
from mammo_ml.external.audit import audit_names
from mammo_ml.imaging.readers import write_pgm
from tests.datasets.cbis_files import write_cbis_jpegs
from tests.imaging.dicom_files import dicom

SEEN = ["film_id", "sha256", "dataset", "patient_id", "step"]
ROOT = Path(__file__).resolve().parents[2]
HEADER = "file,patient_id,laterality,view,breast density,pixel_spacing_mm,pathology,kind,x1,y1,x2,y2,mask\n"
FILMS = [draw(film, seed=1) for film in plan(PhantomParameters(women=20, seed=1))[:3]]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with expectations, where DVC is not asked."""
    place = tmp_path / "workspace"
    shutil.copytree(ROOT / "expectations", place / "expectations")
    monkeypatch.setattr(adding, "_put_under_dvc", lambda workspace, target: None)
    return place


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A user's folder: three films, a box, a mask, a film without lesions."""
    folder = tmp_path / "user"
    folder.mkdir()
    for n, pixels in enumerate(FILMS):
        write_pgm(folder / f"f{n}.pgm", pixels)
    mask = np.zeros(FILMS[1].shape, np.uint8)
    mask[400:440, 300:330] = 255
    write_pgm(folder / "mask.pgm", mask)
    rows = [
        "f0.pgm,w0,L,MLO,B,0.2,malignant,MASS,300,400,340,450,",
        "f1.pgm,w1,R,MLO,3,0.2,benign,CALC,,,,,mask.pgm",
        "f2.pgm,w2,L,MLO,C,0.2,normal,,,,,,",
    ]
    (folder / "films.csv").write_text(HEADER + "\n".join(rows) + "\n")
    return folder


def added(folder: Path, workspace: Path, name: str = "mine", **said: object) -> DataSet:
    target = adding.add(folder, workspace, adding.Wish(name, **said), lambda *_: None, lambda *_: True)
    assert target is not None
    return read_set(target)


def refusal(folder: Path, workspace: Path, name: str = "mine", **said: object) -> str:
    with pytest.raises(BadInputError) as caught:
        added(folder, workspace, name, **said)
    left = workspace / "data" / "datasets"
    assert [path.name for path in left.glob("*")] in ([], ["mine"]), "nothing half-added"
    return str(caught.value)


def test_a_users_table_and_its_way_through_coco(user: Path, workspace: Path) -> None:
    mine = added(user, workspace)
    assert list(mine.films["density"]) == ["B", "C", "C"]
    assert mine.lesions[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == [[300, 400, 340, 450], [300, 400, 330, 440]]
    assert mine.facts["labels"] == {"normal": 1, "benign": 1, "malignant": 1}
    assert (workspace / "data/datasets/mine/contact_sheet.png").stat().st_size > 10_000
    again = user.parent / "coco"
    shutil.copytree(mine.films_folder, again)
    (again / "manifest.json").unlink()
    (again / "annotations.json").write_text(json.dumps(to_coco(mine.films, mine.lesions)))
    shutil.rmtree(workspace / "data")
    same = added(again, workspace)
    assert same.films.equals(mine.films)
    assert same.lesions.drop(columns="source").equals(mine.lesions.drop(columns="source"))
    assert same.facts["adapter"] == "coco"


def test_every_fault_of_a_table_is_named_with_its_row_in_one_refusal(user: Path, workspace: Path) -> None:
    write_pgm(user / "small.pgm", np.full((50, 50), 255, np.uint8))
    (user / "chest.dcm").write_bytes(dicom(Modality="CT"))
    rows = [
        "f0.pgm,w0,L,MLO,B,0.2,malignant,MASS,300,400,99999,450,",
        "f1.pgm,w1,R,MLO,C,0.2,benign,CALC,,,,,small.pgm",
        '"f2.pgm\n",w2,L,MLO,C,0.2,cancer,MASS,,,,,',
        "gone.pgm,w3,L,MLO,C,0.2,normal,,,,,,",
        "chest.dcm,w4,L,MLO,C,0.2,normal,,,,,,",
    ]
    (user / "films.csv").write_text(HEADER + "\n".join(rows) + "\n")
    told = refusal(user, workspace)
    assert "films.csv line 2: box 300, 400, 99999, 450 is not inside its film" in told
    assert "films.csv line 3: mask small.pgm is 50 x 50 px, its film" in told
    assert "films.csv line 4: pathology 'cancer' is not one of" in told
    assert "films.csv line 6: gone.pgm: no such file" in told, "a line break inside quotes counts as a line"
    assert "films.csv line 7: chest.dcm: its modality is CT" in told


@pytest.mark.parametrize("name", ["../mine", "a/b", "Mine", ""])
def test_a_name_that_is_no_name_is_refused_before_anything_is_read(name: str, tmp_path: Path, workspace: Path) -> None:
    with pytest.raises(BadInputError, match=r"is not made of a-z, 0-9 and _, a letter first"):
        adding.add(tmp_path, workspace, adding.Wish(name), lambda *_: None, lambda *_: True)
    assert not (workspace / "data").exists()


def test_without_a_person_to_look_nothing_is_added_unless_it_is_said_so(user: Path, workspace: Path) -> None:
    done = CliRunner().invoke(app, ["dataset", "add", str(user), "--workspace", str(workspace)])
    assert done.exit_code == 1
    assert "give --yes to add the set unseen" in done.output
    assert not (workspace / "data").exists()


def test_faults_of_coco_are_named_by_the_place_in_the_file(user: Path, workspace: Path) -> None:
    (user / "films.csv").unlink()
    film = {"patient_id": "w", "laterality": "L", "view": "MLO", "density": "B", "pixel_spacing_mm": 0.2}
    images = [
        film | {"id": 1, "file_name": "f0.pgm"},
        film | {"id": 2, "file_name": "f1.pgm", "density": "thick", "patient_id": ""},
        film | {"id": 3, "file_name": "../f2.pgm"},
    ]
    marks = [
        {"image_id": 1, "category_id": 1, "bbox": [300, 400, 40, 50]},
        {"image_id": 1, "category_id": 2, "bbox": [300, 400, 40, 50]},
        {"image_id": 9, "category_id": 1, "bbox": [300, 400, 40, 50]},
    ]
    categories = [{"id": 1, "name": "malignant MASS"}, {"id": 2, "name": "cancer"}]
    (user / "marks.json").write_text(json.dumps({"images": images, "annotations": marks, "categories": categories}))
    told = refusal(user, workspace)
    assert "marks.json images[1]: density 'thick' is not one of" in told
    assert "marks.json images[1]: patient_id is missing" in told
    assert "marks.json images[2]: ../f2.pgm lies outside the folder" in told
    assert "marks.json annotations[1]: pathology 'cancer' is not one of" in told
    assert "marks.json annotations[2]: its image_id or category_id is not in the file" in told


def test_a_taken_name_and_films_of_another_set(user: Path, workspace: Path) -> None:
    added(user, workspace)
    assert "name 'mine' is taken by data/datasets/mine" in refusal(user, workspace)
    assert "film f0 (films.csv line 2): the same pixels as data/datasets/mine/films/f0.pgm" in refusal(
        user, workspace, "other"
    )


def test_films_that_the_workspace_itself_has(user: Path, workspace: Path) -> None:
    own = workspace / "data" / "ingest"
    own.mkdir(parents=True)
    write_pgm(own / "mdb001.pgm", FILMS[2])
    assert "film f2 (without lesions): the same pixels as data/ingest/mdb001.pgm" in refusal(user, workspace)


def test_no_adapter_knows_the_folder(tmp_path: Path, workspace: Path) -> None:
    told = refusal(tmp_path, workspace)
    for line in ("csv: no films.csv", "cdd_cesm: no images/*.jp*g", "cbis_ddsm_dicom: no *_case_description_*_set.csv"):
        assert line in told


def test_a_person_who_says_no_leaves_nothing(user: Path, workspace: Path) -> None:
    assert adding.add(user, workspace, adding.Wish("mine"), lambda *_: None, lambda *_: False) is None
    assert not list((workspace / "data/datasets").iterdir())


AS_PUBLISHED = {"SOPClassUID": uid.SecondaryCaptureImageStorage, "PresentationIntentType": None} | dict.fromkeys(
    ("ImagerPixelSpacing", "ImageLaterality", "ViewPosition")
)
"""Captures that state no spacing, side or view, which the CSV files do."""


def tcia(folder: Path, density: str, mask: np.ndarray, pathology: str = "BENIGN_WITHOUT_CALLBACK") -> None:
    """One film with a lesion, as TCIA publishes them: another picture lies beside the mask."""
    names = {
        "Mass-Training_P_00001_LEFT_MLO": [FILMS[0]],
        "Mass-Training_P_00001_LEFT_MLO_1": [FILMS[0][:80, :70], mask],
    }
    for name, pictures in names.items():
        for n, pixels in enumerate(pictures, 1):
            path = folder / name / "08-07-2016-DDSM" / "1.0" / f"1-{n}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(dicom(np.ascontiguousarray(pixels), 8, **AS_PUBLISHED))
    film, roi = (f"{name}/1.3.6/1.3.7/000000.dcm" for name in names)
    (folder / "mass_case_description_train_set.csv").write_text(
        f"patient_id,{density},left or right breast,image view,abnormality id,abnormality type,mass shape,mass margins,"
        "assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path\n"
        f'P_00001,3,LEFT,MLO,1,mass,OVAL,SPICULATED,4,{pathology},4,{film},{roi},"{roi}\n"\n'
    )


def test_cbis_ddsm_of_tcia(tmp_path: Path, workspace: Path) -> None:
    mask = np.zeros(FILMS[0].shape, np.uint8)
    mask[400:440, 300:330] = 255
    tcia(tmp_path / "tcia", "breast_density", mask)  # the table above writes `breast density`
    got = added(tmp_path / "tcia", workspace)
    assert (got.facts["adapter"], got.facts["collection"]) == ("cbis_ddsm_dicom", "cbis_ddsm")
    seen = pd.DataFrame([("x", "2" * 64, "cbis_ddsm", "P_00001", "pretraining")], columns=SEEN)
    assert "woman P_00001 of cbis_ddsm is on both sides" in audit_names(seen, got, "mine").problems[0]
    film, lesion = got.films.iloc[0], got.lesions.iloc[0]
    assert (film["density"], film["laterality"], film["view"], film["pixel_spacing_mm"]) == ("C", "L", "MLO", 0.05)
    assert (lesion["kind"], lesion["severity"]) == ("MASS", "benign")
    assert lesion[["x1", "y1", "x2", "y2"]].tolist() == [300, 400, 330, 440]


def test_cbis_ddsm_of_tcia_with_a_mask_of_another_size(tmp_path: Path, workspace: Path) -> None:
    tcia(tmp_path / "tcia", "breast_density", np.zeros((90, 60), np.uint8), "CANCER")
    told = refusal(tmp_path / "tcia", workspace)
    assert "line 2: mask folder Mass-Training_P_00001_LEFT_MLO_1 holds pictures of 70 x 80, 60 x 90 px" in told
    assert "line 2: pathology 'CANCER' is not one of" in told


def test_cbis_ddsm_as_jpeg_is_taken_for_the_same_collection(tmp_path: Path, workspace: Path) -> None:
    got = added(write_cbis_jpegs(tmp_path / "cbis"), workspace)
    assert (got.facts["adapter"], got.facts["collection"], len(got.films)) == ("cbis_ddsm_jpeg", "cbis_ddsm", 4)


def test_cdd_cesm(tmp_path: Path, workspace: Path) -> None:
    folder = tmp_path / "cesm"
    (folder / "images").mkdir(parents=True)
    films = {"P1_R_DM_CC": FILMS[0], "P1_R_DM_MLO": FILMS[1], "P2_L_DM_CC": FILMS[2]}
    for name, pixels in films.items():
        Image.fromarray(pixels).save(folder / "images" / f"{name}.jpg", quality=95)
    (folder / "images.csv").write_text(
        "file,patient_id,side,view,age,density_acr,tags,pathology\n"
        'P1_R_DM_CC.jpg,1,R,CC,39,D,"mass, spiculated",Malignant\n'
        "P1_R_DM_MLO.jpg,1,R,MLO,39,_,mass$calcification,Malignant\n"
        "P2_L_DM_CC.jpg,2,L,CC,50,_,mass,Malignant\n"
    )
    (folder / "boxes_from_masks.csv").write_text(
        "file,x,y,w,h,pathology\nP1_R_DM_CC.jpg,300,400,40,50,Malignant\nP1_R_DM_MLO.jpg,300,400,40,50,Malignant\n"
        "P2_L_DM_CC.jpg,300,400,40,50,Malignant\n"
    )
    got = added(folder, workspace)
    assert list(got.films["film_id"]) == ["P1_R_DM_CC", "P1_R_DM_MLO"]
    assert list(got.films["density"]) == ["D", "D"], "that of another film of the woman"
    assert list(got.lesions["kind"]) == ["MASS", "MISC"], "of two findings nothing says which one the mask is round"
    assert got.lesions[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == [[300, 400, 340, 450]] * 2
    assert "1 films left out, no film of the woman has a density: P2_L_DM_CC.jpg" in " ".join(got.facts["notes"])


@pytest.mark.slow
def test_the_commands_put_a_set_under_dvc(user: Path, tmp_path: Path) -> None:
    place = tmp_path / "workspace"
    shutil.copytree(ROOT / "expectations", place / "expectations")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=place, check=True)
    run, there = CliRunner().invoke, ["--workspace", str(place)]
    done = run(app, ["dataset", "add", str(user), "--name", "mine", "--yes", *there])
    assert done.exit_code == 0, done.output
    assert "Recognised by the adapter csv" in done.output
    assert (place / "data/datasets/mine.dvc").is_file()
    assert "mine" in run(app, ["dataset", "list", *there]).output
    assert "contact_sheet.png" in run(app, ["dataset", "show", "mine", *there]).output
    file = tmp_path / "mine.json"
    assert run(app, ["dataset", "export", "mine", "--coco", str(file), *there]).exit_code == 0
    assert len(json.loads(file.read_text())["annotations"]) == 2
    assert "there is no data set 'other'; known: mine" in run(app, ["dataset", "show", "other", *there]).output
    assert run(app, ["dataset", "template"]).output.startswith("file,patient_id")
