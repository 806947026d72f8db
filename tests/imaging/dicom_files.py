"""DICOM files made for tests: a mammogram of a patient with a name, changed in what each test is about."""

import io
import warnings
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

PLANTED = "Mustermann"
"""The patient's name, identifier, address …: a word that no message, note or log line may hold."""
PATIENT = {
    **{"PatientName": f"{PLANTED}^Erika", "PatientID": f"{PLANTED}-1", "OtherPatientIDs": f"{PLANTED}-2"},
    **{"PatientAddress": f"{PLANTED} street", "AccessionNumber": f"{PLANTED}3", "StudyDescription": f"of {PLANTED}"},
    **{"ReferringPhysicianName": f"Dr^{PLANTED}", "ImageComments": f"{PLANTED} again", "StudyID": PLANTED},
    **{"PatientBirthDate": "19610417", "StudyDate": "20010203", "InstitutionName": f"{PLANTED} clinic"},
}


def film_pixels(bits: int = 12, height: int = 300, width: int = 240) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """A breast at the left edge, from 0 to the highest value."""
    y, x = np.mgrid[:height, :width]
    share = np.clip(1.2 - np.hypot(x / (0.7 * width), (y - 0.5 * height) / (0.45 * height)), 0, 1)
    white = 2**bits - 1
    return np.round(share / share.max() * white).astype(np.uint8 if bits <= 8 else np.uint16)


def data_set(pixels: NDArray[Any], bits: int = 12, **changes: Any) -> Dataset:
    """The elements of a mammogram FOR PRESENTATION; a change to None takes an element out."""
    content = Dataset()
    signed = pixels.dtype.kind == "i"
    elements = PATIENT | {
        **{"SOPClassUID": uid.DigitalMammographyXRayImageStorageForPresentation, "SOPInstanceUID": "1.2.3.4"},
        **{"Modality": "MG", "PresentationIntentType": "FOR PRESENTATION", "BodyPartExamined": "BREAST"},
        **{"ImageLaterality": "L", "ViewPosition": "MLO", "ImagerPixelSpacing": [0.1, 0.1]},
        **{"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"},
        **{"Rows": pixels.shape[0], "Columns": pixels.shape[1]},
        **{"BitsAllocated": pixels.dtype.itemsize * 8, "BitsStored": bits, "HighBit": bits - 1},
        **{"PixelRepresentation": int(signed)},
    }
    with warnings.catch_warnings():  # of values that are wrong on purpose
        warnings.simplefilter("ignore")
        for keyword, value in (elements | changes).items():
            if value is not None:
                setattr(content, keyword, value)
    return content


def saved(content: Dataset, pixel_data: bytes | None, syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    """Bytes of the file with these elements and this value of Pixel Data."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.UID(syntax)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = uid.SecondaryCaptureImageStorage, "1.2.3.4"
    content.file_meta = meta
    if pixel_data is not None:
        content.PixelData = pixel_data + b"\0" * (len(pixel_data) % 2)
        content["PixelData"].VR = "OB" if uid.UID(syntax).is_compressed and not uid.UID(syntax).is_deflated else "OW"
        content["PixelData"].is_undefined_length = content["PixelData"].VR == "OB"
    file = io.BytesIO()
    with warnings.catch_warnings():  # of values that are wrong on purpose
        warnings.simplefilter("ignore")
        content.save_as(file, enforce_file_format=True)
    return file.getvalue()


def dicom(pixels: NDArray[Any] | None = None, bits: int = 12, **changes: Any) -> bytes:
    """An uncompressed file."""
    shown = film_pixels(bits) if pixels is None else pixels
    return saved(data_set(shown, bits, **changes), shown.tobytes())


def compressed(pixels: NDArray[Any], bits: int, syntax: str, **changes: Any) -> bytes:
    """A file in a compressed transfer syntax."""
    return saved(data_set(pixels, bits, **changes), encapsulate([stream(pixels, bits, syntax)]), syntax)


def stream(pixels: NDArray[Any], bits: int, syntax: str) -> bytes:
    """One picture, compressed."""
    if syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        return bytes(imagecodecs.jpeg8_encode(pixels, 99, bitspersample=bits))
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        return bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=bits))
    if syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        return bytes(imagecodecs.jpegls_encode(pixels, level=2 if syntax == uid.JPEGLSNearLossless else 0))
    if syntax in (uid.JPEG2000Lossless, uid.JPEG2000):
        return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, bitspersample=bits))
    return run_lengths(pixels)


def run_lengths(pixels: NDArray[Any]) -> bytes:
    """RLE as in PS3.5 annex G."""
    planes = pixels.astype(pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(pixels.size, -1).T
    parts = []
    for plane in planes:
        rows = plane.reshape(pixels.shape)
        part = b"".join(bytes(imagecodecs.packbits_encode(row.tobytes())) for row in rows)
        parts.append(part + b"\0" * (len(part) % 2))
    offsets = np.zeros(16, "<u4")
    offsets[0] = len(parts)
    offsets[1 : 1 + len(parts)] = 64 + np.cumsum([0, *map(len, parts[:-1])])
    return offsets.tobytes() + b"".join(parts)


def lookup(entries: NDArray[Any], first: int, bits: int) -> Sequence:
    """A sequence of one lookup table."""
    table = Dataset()
    table.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    table.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return Sequence([table])


def coded(scheme: str, value: str, modifier: tuple[str, str] | None = None) -> Sequence:
    """A code sequence of one entry, with a modifier of a view where one is given."""
    item = Dataset()
    item.CodingSchemeDesignator, item.CodeValue, item.CodeMeaning = scheme, value, "in words"
    if modifier:
        item.ViewModifierCodeSequence = coded(*modifier)
    return Sequence([item])


def png(pixels: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
