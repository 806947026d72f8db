"""Whether a DICOM file says that it is a mammogram, and which breast, view and pixel edge it says it shows.

PS3.x are the parts of the DICOM standard; PS3.16's context groups (CID) list the codes.
"""

import re
from typing import Literal

from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset

from mammo_ml.imaging.dicom_header import HeaderError, codes, numbers, words

Origin = Literal["film scan", "digital", "unknown"]
Laterality = Literal["L", "R"]

_FOR_PROCESSING = (
    uid.DigitalMammographyXRayImageStorageForProcessing,
    uid.DigitalXRayImageStorageForProcessing,
)
_DIGITAL = (uid.DigitalMammographyXRayImageStorageForPresentation, uid.DigitalXRayImageStorageForPresentation)
_ACCEPTED_CLASSES = (
    *_DIGITAL,
    uid.ComputedRadiographyImageStorage,
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
)
_ACCEPTED_MODALITIES = {
    "MG": "",
    "RG": "radiographic film, scanned",
    "CR": "computed radiography, a storage plate",
    "DX": "digital radiography",
    "OT": "'other'",
}
"""Defined terms of Modality (PS3.3 section C.7.3.1.1.1) under which mammograms are found, with a word for the user."""
_OTHER_MODALITIES = {
    "CT": "computed tomography",
    "MR": "magnetic resonance",
    "US": "ultrasound",
    "PT": "positron emission tomography",
    "NM": "nuclear medicine",
    "XA": "angiography",
    "RF": "fluoroscopy",
    "PX": "a panoramic X-ray",
    "IO": "an X-ray of teeth",
    "SM": "microscopy",
    "GM": "microscopy",
    "XC": "a photograph",
    "ES": "endoscopy",
    "DOC": "a document",
    "SR": "a report",
    "PR": "a presentation state",
    "KO": "a selection of pictures",
    "SEG": "a segmentation",
}
_BREAST_CODES = {("SRT", "T-04000"), ("SNM3", "T-04000"), ("SCT", "76752008")}
"""Breast (CID 4013 and 4031)."""
_VIEWS = {
    **dict.fromkeys(("R-10226", "399368009"), "MLO"),
    **dict.fromkeys(("R-10242", "399162004"), "CC"),
    **dict.fromkeys(("R-10224", "399260004"), "ML"),
    **dict.fromkeys(("R-10228", "399352003"), "LM"),
    **dict.fromkeys(("R-10230", "399099002"), "LMO"),
    **dict.fromkeys(("R-10244", "399196006"), "FB"),
    **dict.fromkeys(("R-102D0", "399188001"), "SIO"),
    **dict.fromkeys(("R-40AAA", "441555000"), "ISO"),
    **dict.fromkeys(("R-1024A", "399192008", "Y-X1770"), "XCCL"),
    **dict.fromkeys(("R-1024B", "399101009", "Y-X1771"), "XCCM"),
}
"""Views by their codes in SNOMED RT and CT (CID 4014)."""
_SPECIMEN_CODES = {"G-8310", "127457009"}
_MODIFIERS = {
    **dict.fromkeys(("R-102D6", "399163009"), "magnified"),
    **dict.fromkeys(("R-102D7", "399055006"), "spot compression"),
    **dict.fromkeys(("R-102D5", "399209000"), "implant displaced"),
}
"""Modifiers of a view that change what a film shows (CID 4015)."""
_LEAST_MAGNIFICATION = 1.2
"""Below, the factor is that of a breast lying on the table, which every film has and none is corrected for."""
_SQUARE_WITHIN = 0.01


def kind_problems(header: Dataset) -> list[str]:
    """Reasons for which this is no mammogram that can be looked at; none of them quotes the header."""
    return [
        problem
        for problem in (_class_problem(header), _modality_problem(header), _part_problem(header), _frames(header))
        if problem
    ]


def _class_problem(header: Dataset) -> str:
    kinds = words(header, "SOPClassUID")
    if (kinds and kinds[0] in _FOR_PROCESSING) or words(header, "PresentationIntentType") == ["FOR PROCESSING"]:
        return (
            "it is raw, FOR PROCESSING: its grey values count X-rays, which each maker turns into a picture in its own "
            "way, and models learned from pictures. Give the one FOR PRESENTATION"
        )
    if not kinds or kinds[0] in _ACCEPTED_CLASSES:
        return ""
    # Names of the standard's own list; what is not on it is not repeated.
    name = UID_dictionary.get(kinds[0], ("an unknown kind",))[0]
    if "Tomosynthesis" in name:
        return "it is tomosynthesis, a stack of slices: give the film, or the two-dimensional view made from the stack"
    return f"it is no mammogram but: {name}"


def _modality_problem(header: Dataset) -> str:
    modality = "".join(words(header, "Modality"))
    if modality in _ACCEPTED_MODALITIES:
        return ""
    if not modality:
        return "it does not say its modality, so nothing says that it is a mammogram"
    what = _OTHER_MODALITIES.get(modality, "")
    return f"its modality is {modality}, {what}" if what else "its modality is none that holds mammograms"


def _part_problem(header: Dataset) -> str:
    """A mammogram by modality need not name the body part; anything else has to."""
    parts, regions = words(header, "BodyPartExamined"), codes(header, "AnatomicRegionSequence")
    says_breast = any(re.search("BREAST|MAMM", part) for part in parts)
    says_breast |= any((scheme, code) in _BREAST_CODES for scheme, code, _ in regions)
    if any(code in _SPECIMEN_CODES for _, code, _ in codes(header, "ViewCodeSequence")):
        return "it shows a specimen of tissue, not a breast"
    if says_breast:
        return ""
    if parts or regions:
        return "the body part it names is not the breast"
    if words(header, "Modality") == ["MG"] or view(header):
        return ""
    return "its modality does not make it a mammogram, and it does not say that it shows the breast"


def _frames(header: Dataset) -> str:
    n_frames = numbers(header, "NumberOfFrames") or [1.0]
    return f"it holds {n_frames[0]:,.0f} pictures; a film is one" if n_frames != [1.0] else ""


def kind_notes(header: Dataset) -> list[str]:
    """What a reader of the result should know about the kind of picture."""
    notes = []
    if what := _ACCEPTED_MODALITIES.get("".join(words(header, "Modality")), ""):
        notes.append(f"its modality is not mammography but {what}; read as a mammogram, for it says that it is one")
    for _, _, item in codes(header, "ViewCodeSequence"):
        found = {_MODIFIERS.get(code, "") for _, code, _ in codes(item, "ViewModifierCodeSequence")} - {""}
        notes += [f"a special view: {name}" for name in sorted(found)]
    yes_or_no = {
        "BurnedInAnnotation": "text is burned into its pixels, which may name the patient",
        "BreastImplantPresent": "an implant is present",
        "PartialView": "it shows a part of the breast",
    }
    notes += [what for keyword, what in yes_or_no.items() if words(header, keyword) == ["YES"]]
    if any(re.search("TOMO|GENERATED_2D", kind) for kind in words(header, "ImageType")):
        notes.append("a view made from tomosynthesis, not an exposure")
    if words(header, "LossyImageCompression") == ["01"]:
        ratios = numbers(header, "LossyImageCompressionRatio")
        notes.append("compressed with loss" + (f", {ratios[-1]:g} : 1" if ratios else ""))
    return notes


def origin(header: Dataset) -> Origin:
    """Whether the picture is a scanned film or digital from the start, where the header tells."""
    film = words(header, "DetectorType") == ["FILM"] or words(header, "ConversionType") == ["DF"]
    if film or words(header, "Modality") == ["RG"]:
        return "film scan"
    kinds = words(header, "SOPClassUID")
    digital = bool(kinds) and kinds[0] in (*_DIGITAL, uid.ComputedRadiographyImageStorage)
    return "digital" if digital or words(header, "Modality") in (["CR"], ["DX"]) else "unknown"


def laterality(header: Dataset) -> Laterality | None:
    """Which breast: Image Laterality (0020,0062), else Laterality of the series (0020,0060); None where neither says.

    Raises:
        HeaderError: both breasts are on it, or the two elements contradict each other.
    """
    image, series = words(header, "ImageLaterality"), words(header, "Laterality")
    if image == ["B"]:
        raise HeaderError("it shows both breasts; a film shows one")
    said = {value[0] for value in (*image, *series) if value in ("L", "R", "LEFT", "RIGHT")}
    if len(said) == 2:
        raise HeaderError("it says that it shows the left breast, and that it shows the right one")
    return ("L" if said == {"L"} else "R") if said else None


def view(header: Dataset) -> str | None:
    """View as in CID 4014: MLO, CC, ML, …; from View Code Sequence (0054,0220), else View Position (0018,5101)."""
    by_code = [_VIEWS[code] for _, code, _ in codes(header, "ViewCodeSequence") if code in _VIEWS]
    by_name = [name for name in words(header, "ViewPosition") if name in _VIEWS.values()]
    return next(iter([*by_code, *by_name]), None)


def pixel_spacing(header: Dataset) -> tuple[float | None, list[str]]:
    """Edge of a pixel in mm, None where the header does not say, and notes.

    Film scans are measured on the film, so digital ones are measured at the detector: Imager Pixel Spacing
    (0018,1164), else Nominal Scanned Pixel Spacing (0018,2010), else Pixel Spacing (0028,0030), which may be corrected
    for magnification (PS3.3 section 10.7.1). A magnified view alone is divided by its factor.

    Raises:
        HeaderError: pixels are not square, or a spacing is no positive number.
    """
    notes: list[str] = []
    ratio = numbers(header, "PixelAspectRatio")
    if ratio and (len(ratio) != 2 or abs(ratio[0] - ratio[1]) > _SQUARE_WITHIN * abs(ratio[0])):
        raise HeaderError("its pixels are not square")
    for keyword in ("ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelSpacing"):
        if edges := numbers(header, keyword):
            break
    else:
        if numbers(header, "SpatialResolution"):
            notes.append("it states its scanner's resolution, which is not the edge of a pixel")
        return None, notes
    if len(edges) != 2 or min(edges) <= 0:
        raise HeaderError(f"its {keyword} is not two positive numbers")
    if max(edges) > (1 + _SQUARE_WITHIN) * min(edges):
        raise HeaderError(f"its pixels are not square but {edges[0]:g} x {edges[1]:g} mm")
    spacing, corrected = edges[0], numbers(header, "PixelSpacing")
    if keyword == "PixelSpacing" and words(header, "PixelSpacingCalibrationType"):
        notes.append("the edge of a pixel is corrected for magnification, which those of film scans are not")
        return spacing, notes
    if corrected and abs(corrected[0] - spacing) > _SQUARE_WITHIN * spacing:
        notes.append(f"pixels are {spacing:g} mm at the detector, which was used, and {corrected[0]:g} mm as corrected")
    factor = numbers(header, "EstimatedRadiographicMagnificationFactor")
    if factor and factor[0] >= _LEAST_MAGNIFICATION:
        notes.append(f"magnified {factor[0]:g} times, so a pixel of {spacing:g} mm shows {spacing / factor[0]:.4g} mm")
        spacing /= factor[0]
    return spacing, notes
