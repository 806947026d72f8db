"""What was found on a DICOM film as a DICOM structured report: TID 1500 "Measurement Report" (PS3.16), by highdicom.

Each box is a planar region of interest (TID 1410) on the film, with its score as "Certainty of Finding" in percent; the
film as a whole is a measurement group (TID 1501). Of the film's header only `KEPT` goes into the report: never a name.
"""

import io
import re
import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from mammo_ml import __version__
from mammo_ml.answering.film_answers import FilmAnswer, FoundBox, Laterality, Lesions
from mammo_ml.errors import BadInputError, raise_if_any

NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
KEPT = (*NEEDED, "PatientID", "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber", "Rows", "Columns")
"""What a report needs to be filed with the film it is about (PS3.3, patient and study modules)."""
EMPTY = ("PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber")
"""Attributes that a report has, if need be without a value (type 2)."""
REMEDY = "A report refers to its film by its header: leave sr out of --format for this film."
IDENTIFIERS = ("PatientID", "StudyID", "AccessionNumber")
"""Free text: some hold the patient's name."""
SERIES_NUMBER = 9500
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
COMMENT = Code("121106", "DCM", "Comment")
LESION = Code("52988006", "SCT", "Lesion")
QUANTITY = Code("246205007", "SCT", "Quantity")
PERCENT = Code("%", "UCUM", "Percent")
NO_UNITS = Code("1", "UCUM", "no units")
MAMMOGRAPHY = Code("71651007", "SCT", "Mammography")


def structured_report(path: Path, answer: FilmAnswer) -> bytes:
    """DICOM file (Comprehensive SR) about the film in a DICOM file.

    Raises:
        BadInputError: when the film's header lacks what a report refers to it by, or holds it in no valid form.
    """
    what = f"DICOM structured report for {answer.film.file}"
    film = _identity(path, what)
    try:
        return _document(film, answer)
    except Exception as error:  # of any type: a damaged header fails in every way, in words that may quote it
        problem = f"the film's header does not allow one ({type(error).__name__})"
    raise BadInputError(what, [problem], REMEDY)


def _document(film: Dataset, answer: FilmAnswer) -> bytes:
    report = _measurement_report(film, answer)
    document = sr.ComprehensiveSR(
        evidence=[film],
        content=report,
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="mammo-ml",
        manufacturer_model_name=answer.model.label,
        software_versions=__version__,
        series_description="mammo-ml, research use only",
        is_complete=True,
    )
    content = io.BytesIO()
    document.save_as(content, enforce_file_format=True)
    return content.getvalue()


def _identity(path: Path, what: str) -> Dataset:
    """What is kept of the film's header."""
    with warnings.catch_warnings():
        # they would quote the header
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*KEPT, "PatientName"])
    problems = [f"the film's header has no {keyword}" for keyword in NEEDED if not header.get(keyword)]
    raise_if_any(what, problems, REMEDY)
    kept, name = Dataset(), str(header.get("PatientName", "") or "")
    for keyword in KEPT:
        if keyword in header:
            kept.add(header[keyword])
    for keyword in EMPTY:
        if keyword not in kept:
            setattr(kept, keyword, "")
    for keyword in IDENTIFIERS:
        setattr(kept, keyword, _without_name(str(kept.get(keyword, "") or ""), name))
    return kept


def _without_name(identifier: str, patient_name: str) -> str:
    """An identifier, unless it holds a word of the patient's name."""
    words = [word for word in re.split(r"[\W_]+", patient_name.casefold()) if len(word) > 1]
    return "" if any(word in identifier.casefold() for word in words) else identifier


def _measurement_report(film: Dataset, answer: FilmAnswer) -> sr.MeasurementReport:
    found = answer.findings
    assert isinstance(found, Lesions)
    device = sr.DeviceObserverIdentifyingAttributes(
        # one device is one model: the same files, the same UID
        uid=pydicom.uid.generate_uid(entropy_srcs=[answer.model.content_sha256]),
        name="mammo-ml",
        manufacturer_name="mammo-ml",
        model_name=answer.model.label,
        serial_number=answer.model.content_sha256[:16],
    )
    observer = sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    algorithm = sr.AlgorithmIdentification(name=answer.model.name, version=_version(answer))
    sites = [_site(answer.film.laterality)]
    regions = [_region(film, number, box, algorithm, sites) for number, box in enumerate(found.boxes, 1)]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=MAMMOGRAPHY,
        imaging_measurements=[_whole_film(film, found, algorithm, sites), *regions],
        title=codes.DCM.ImagingMeasurementReport,
    )
    for text in (answer.notice, answer.scores, *answer.warnings, *answer.notes):
        item = sr.TextContentItem(COMMENT, text, sr.RelationshipTypeValues.CONTAINS)
        report[0].ContentSequence.append(item)
    return report


def _version(answer: FilmAnswer) -> str:
    return str(answer.model.version) if answer.model.fold is None else f"fold {answer.model.fold}"


def _site(laterality: Laterality | None) -> sr.FindingSite:
    side = {"L": codes.SCT.Left, "R": codes.SCT.Right, None: None}[laterality]
    return sr.FindingSite(anatomic_location=codes.SCT.Breast, laterality=side)


def _whole_film(
    film: Dataset, found: Lesions, algorithm: sr.AlgorithmIdentification, sites: list[sr.FindingSite]
) -> sr.MeasurementsAndQualitativeEvaluations:
    measured = [sr.Measurement(name=QUANTITY, value=len(found.boxes), unit=NO_UNITS)]
    if found.p_abnormal is not None:
        measured.append(sr.Measurement(name=CERTAINTY, value=_percent(found.p_abnormal), unit=PERCENT))
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=hd.UID(), identifier="whole film"),
        finding_type=LESION,
        algorithm_id=algorithm,
        finding_sites=sites,
        measurements=measured,
        source_images=[sr.SourceImageForMeasurementGroup(film.SOPClassUID, film.SOPInstanceUID)],
    )


def _region(
    film: Dataset, number: int, box: FoundBox, algorithm: sr.AlgorithmIdentification, sites: list[sr.FindingSite]
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    # closed; column and row from the top left corner of the first pixel, as our boxes (PS3.3 C.18.6.1.2)
    corners = [(box.x1, box.y1), (box.x2, box.y1), (box.x2, box.y2), (box.x1, box.y2), (box.x1, box.y1)]
    limits = (float(film.Columns), float(film.Rows))
    outline = np.clip(np.array(corners), 0.0, limits)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=hd.UID(), identifier=f"box {number}"),
        referenced_region=sr.ImageRegion(
            graphic_type=sr.GraphicTypeValues.POLYLINE,
            graphic_data=outline,
            source_image=sr.SourceImageForRegion(film.SOPClassUID, film.SOPInstanceUID),
        ),
        finding_type=LESION,
        algorithm_id=algorithm,
        finding_sites=sites,
        measurements=[sr.Measurement(name=CERTAINTY, value=_percent(box.score), unit=PERCENT)],
    )


def _percent(probability: float) -> float:
    return round(100 * probability, 3)
