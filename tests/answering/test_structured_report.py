"""The DICOM structured report, read back by the library that made it and by one that did not."""

import io
import shutil
import subprocess

import highdicom as hd
import numpy as np
import pydicom
import pytest

from mammo_ml.answering.film_answers import FilmAnswer, FilmFacts, FoundBox, Lesions, ModelFacts, Told
from mammo_ml.answering.structured_report import structured_report
from mammo_ml.errors import BadInputError
from tests.answering.conftest import UIDS
from tests.imaging.dicom_files import PLANTED, dicom


def _answer(*boxes: tuple[float, ...], p_abnormal: float | None = 0.61) -> FilmAnswer:
    facts = {"sha256": "1" * 64, "width_px": 240, "height_px": 300, "pixel_spacing_mm": 0.2}
    return FilmAnswer(
        film=FilmFacts(file="c.dcm", pixel_spacing_from="the file", laterality="L", view="MLO", **facts),
        told=Told(),
        model=ModelFacts(
            name="mammo-locator", version=3, fold=None, kind="locator", content_sha256="2" * 64, dataset="mini_mias",
            phantom=False,
        ),
        seen_in_training=False,
        scores="score: probability that the middle of the box lies in a lesion.",
        warnings=[],
        notes=["a window was applied"],
        findings=Lesions(
            p_abnormal=p_abnormal, n_tiles=12, n_searched=3,
            boxes=[FoundBox(**dict(zip(FoundBox.model_fields, box, strict=True))) for box in boxes],
        ),
    )  # fmt: skip


@pytest.fixture
def film(tmp_path):
    (tmp_path / "c.dcm").write_bytes(dicom(**UIDS))
    return tmp_path / "c.dcm"


BOXES = ((20.5, 30.0, 60.0, 90.5, 0.72, 0.3, 0.4), (-4.0, 200.0, 50.0, 310.0, 0.1, 0.1, 0.05))


def test_every_box_is_a_region_on_the_film_with_its_score_in_percent(film):
    document = hd.sr.srread(io.BytesIO(structured_report(film, _answer(*BOXES))))
    assert document.SOPClassUID == pydicom.uid.ComprehensiveSRStorage
    assert document.StudyInstanceUID == UIDS["StudyInstanceUID"]
    report = document.content
    assert isinstance(report, hd.sr.MeasurementReport)
    groups = report.get_planar_roi_measurement_groups()
    outlines = [group.roi.value for group in groups]
    np.testing.assert_allclose(outlines[0], [(20.5, 30), (60, 30), (60, 90.5), (20.5, 90.5), (20.5, 30)])
    # regions of a report lie within the film
    np.testing.assert_allclose(outlines[1], [(0, 200), (50, 200), (50, 300), (0, 300), (0, 200)])
    scores = [group.get_measurements()[0] for group in groups]
    assert [(score.name.meaning, score.value, score.unit.value) for score in scores] == [
        ("Certainty of Finding", 72.0, "%"), ("Certainty of Finding", 10.0, "%"),
    ]  # fmt: skip
    assert [group.tracking_identifier for group in groups] == ["box 1", "box 2"]
    assert {group.finding_sites[0].laterality.meaning for group in groups} == {"Left"}
    (referred,) = {item.ReferencedSOPInstanceUID for item in document.CurrentRequestedProcedureEvidenceSequence[
        0
    ].ReferencedSeriesSequence[0].ReferencedSOPSequence}  # fmt: skip
    assert referred == "1.2.3.4"


@pytest.mark.parametrize("p_abnormal", [0.61, None])
def test_a_film_on_which_nothing_was_found_has_a_report_that_says_so(film, p_abnormal):
    document = hd.sr.srread(io.BytesIO(structured_report(film, _answer(p_abnormal=p_abnormal))))
    (whole,) = document.content.get_image_measurement_groups()
    told = {measured.name.meaning: measured.value for measured in whole.get_measurements()}
    assert told == {"Quantity": 0.0} | ({"Certainty of Finding": 61.0} if p_abnormal else {})


def test_the_report_says_what_made_it_and_holds_no_name(film):
    content = structured_report(film, _answer(*BOXES))
    assert PLANTED.encode() not in content
    for told in (b"Research use only", b"mammo-locator version 3", b"a window was applied", b"score: probability"):
        assert told in content
    assert pydicom.dcmread(io.BytesIO(content)).PatientID == ""  # it held her name


def test_an_identifier_that_is_no_name_is_kept_so_that_the_report_is_filed_with_the_film(tmp_path):
    (tmp_path / "c.dcm").write_bytes(dicom(PatientID="MRN 4711", **UIDS))
    report = pydicom.dcmread(io.BytesIO(structured_report(tmp_path / "c.dcm", _answer(*BOXES))))
    assert (report.PatientID, report.PatientName, report.PatientBirthDate) == ("MRN 4711", "", "")


def test_a_film_that_a_report_cannot_refer_to_is_refused_with_what_its_header_lacks(tmp_path):
    (tmp_path / "c.dcm").write_bytes(dicom())
    with pytest.raises(BadInputError) as caught:
        structured_report(tmp_path / "c.dcm", _answer())
    assert caught.value.problems == [f"the film's header has no {keyword}" for keyword in UIDS]
    (tmp_path / "c.dcm").write_bytes(dicom(StudyDate=f"{PLANTED}", **UIDS))
    with pytest.raises(BadInputError, match="does not allow one") as caught:
        structured_report(tmp_path / "c.dcm", _answer())
    assert PLANTED not in str(caught.value)


@pytest.mark.slow
@pytest.mark.may_skip(reason="needs dcmtk, which pip does not install")
def test_dcmtk_reads_the_report_and_finds_nothing_wrong(film, tmp_path):
    if shutil.which("dsrdump") is None:
        pytest.skip("dsrdump of dcmtk is not installed")
    (tmp_path / "report.dcm").write_bytes(structured_report(film, _answer(*BOXES)))
    done = subprocess.run(["dsrdump", "-v", "report.dcm"], cwd=tmp_path, capture_output=True, text=True, check=True)
    # what is wrong with a report it says, and goes on
    assert "E:" not in done.stderr
    assert "W:" not in done.stderr
    for told in ("Comprehensive SR Document", "Imaging Measurements", '"72.0"', "20.5/30", "Certainty of Finding"):
        assert told in done.stdout
    page = subprocess.run(["dsr2html", "report.dcm"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "Polyline" in page
