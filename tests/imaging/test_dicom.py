"""DICOM files as films: grey, breast, view and pixel edge; hostile and damaged files are in tests/faults."""

import os
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing

from mammo_ml.errors import BadInputError
from mammo_ml.imaging.canonical import eight_bits
from mammo_ml.imaging.dicom import DescribedFilm, parse_dicom, with_spacing
from mammo_ml.imaging.plausibility import not_a_mammogram
from tests.imaging.dicom_files import coded, compressed, data_set, dicom, film_pixels, lookup, saved

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def problems(data: bytes) -> str:
    with pytest.raises(BadInputError) as caught:
        parse_dicom(data, "f.dcm")
    assert all(problem.startswith("f.dcm: ") for problem in caught.value.problems)
    return "; ".join(caught.value.problems)


def test_a_plain_file_is_the_film_it_was_made_from():
    film = parse_dicom(dicom(), "f.dcm")
    np.testing.assert_array_equal(film.pixels, film_pixels())
    assert (film.max_value, film.pixel_spacing_mm, film.laterality, film.view) == (4095, 0.1, "L", "MLO")
    assert (film.origin, film.notes) == ("digital", ())


EXACT = {
    "implicit": (uid.ImplicitVRLittleEndian, 12),
    "deflated": (uid.DeflatedExplicitVRLittleEndian, 16),
    "RLE of 8 bits": (uid.RLELossless, 8),
    "RLE of 16 bits": (uid.RLELossless, 16),
    "lossless JPEG of 8 bits": (uid.JPEGLossless, 8),
    "lossless JPEG of 16 bits": (uid.JPEGLosslessSV1, 16),
    "JPEG-LS of 12 bits": (uid.JPEGLSLossless, 12),
    "JPEG 2000 of 12 bits": (uid.JPEG2000Lossless, 12),
    "JPEG 2000 of 16 bits": (uid.JPEG2000Lossless, 16),
}
LOSSY = {
    "JPEG of 8 bits": (uid.JPEGBaseline8Bit, 8),
    "JPEG of 8 bits as extended": (uid.JPEGExtended12Bit, 8),
    "JPEG of 12 bits": (uid.JPEGExtended12Bit, 12),
    "JPEG-LS near lossless": (uid.JPEGLSNearLossless, 12),
    "JPEG 2000": (uid.JPEG2000, 12),
}


@pytest.mark.parametrize(("syntax", "bits"), EXACT.values(), ids=EXACT)
def test_a_film_stored_without_loss_is_read_without_loss(syntax, bits):
    pixels = film_pixels(bits)
    plain = uid.UID(syntax).is_deflated or not uid.UID(syntax).is_compressed
    data = saved(data_set(pixels, bits), pixels.tobytes(), syntax) if plain else compressed(pixels, bits, syntax)
    np.testing.assert_array_equal(parse_dicom(data, "f.dcm").pixels, pixels)


@pytest.mark.parametrize(("syntax", "bits"), LOSSY.values(), ids=LOSSY)
def test_a_film_stored_with_loss_is_read_within_a_hundredth_of_white(syntax, bits):
    pixels = film_pixels(bits)
    film = parse_dicom(compressed(pixels, bits, syntax), "f.dcm")
    assert film.max_value == 2**bits - 1
    assert np.abs(film.to_unit() - pixels / film.max_value).max() < 0.01


def test_signed_pixels_run_from_their_lowest_to_their_highest_value():
    signed = (RAMP.astype(np.int32) - 2048).astype(np.int16)
    film = parse_dicom(dicom(signed), "f.dcm")
    np.testing.assert_allclose(film.to_unit(), RAMP / 4095, atol=1e-4)


def test_black_stored_as_the_highest_value_is_inverted_with_a_word():
    film = parse_dicom(dicom(4095 - RAMP, PhotometricInterpretation="MONOCHROME1"), "f.dcm")
    np.testing.assert_array_equal(film.pixels, RAMP)
    assert any("MONOCHROME1" in note for note in film.notes)


def test_rescaling_downwards_turns_the_polarity_once():
    film = parse_dicom(dicom(4095 - RAMP, RescaleSlope="-1", RescaleIntercept="0"), "f.dcm")
    np.testing.assert_allclose(film.to_unit(), RAMP / 4095, atol=1e-4)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(1500.0, 1000.0), (2048.5, 3000.0), (0.0, 1.0), (4000.0, 300.0)])
def test_windows_are_those_of_pydicom(function, center, width):
    content = data_set(RAMP, WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
    expected = apply_windowing(RAMP.astype(np.float64), content) / 4095
    film = parse_dicom(saved(content, RAMP.tobytes()), "f.dcm")
    np.testing.assert_allclose(film.to_unit(), expected, atol=2e-5)
    assert any("window was applied" in note for note in film.notes)


def test_a_window_follows_rescaling_and_the_first_of_several_is_taken():
    changes = {"RescaleSlope": "2", "RescaleIntercept": "-1000", "WindowCenter": [3095, 1], "WindowWidth": [8190, 5]}
    film = parse_dicom(dicom(RAMP, **changes, VOILUTFunction="LINEAR_EXACT"), "f.dcm")
    np.testing.assert_allclose(film.to_unit(), RAMP / 4095, atol=1e-4)
    assert any("2 ways to show it" in note for note in film.notes)


@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (2047.5, 4096)])
def test_a_window_over_all_values_leaves_a_film_as_stored(center, width):
    film = parse_dicom(dicom(RAMP, WindowCenter=center, WindowWidth=width), "f.dcm")
    np.testing.assert_array_equal(film.pixels, RAMP)
    assert film.notes == ()


def test_a_table_of_values_of_interest_goes_before_a_window_and_ends_flat():
    table = lookup(np.arange(0, 1024, 2), first=1000, bits=10)
    film = parse_dicom(dicom(RAMP, VOILUTSequence=table, WindowCenter=1, WindowWidth=5), "f.dcm")
    expected = np.clip((RAMP.astype(int) - 1000) * 2, 0, 1022) / 1023
    np.testing.assert_allclose(film.to_unit(), expected, atol=1e-4)


def test_a_modality_table_comes_before_the_window():
    table = lookup(np.arange(4096)[::-1], first=0, bits=12)
    film = parse_dicom(dicom(4095 - RAMP, ModalityLUTSequence=table, WindowCenter=2048, WindowWidth=4096), "f.dcm")
    np.testing.assert_allclose(film.to_unit(), RAMP / 4095, atol=1e-4)


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_in_either_polarity(polarity):
    film = parse_dicom(
        dicom(RAMP, PhotometricInterpretation=polarity, PixelPaddingValue=0, PixelPaddingRangeLimit=9), "f.dcm"
    )
    assert film.pixels.ravel()[:10].max() == 0
    assert film.pixels.ravel()[[10, 4095]].max() > 4000


@pytest.mark.parametrize("planar", [0, 1])
def test_three_equal_channels_are_grey_and_others_are_colour(planar):
    grey = film_pixels(8)
    axis = 0 if planar else 2
    changes = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": planar}
    same = saved(data_set(grey, 8, **changes), np.stack([grey] * 3, axis).tobytes())
    np.testing.assert_array_equal(parse_dicom(same, "f.dcm").pixels, grey)
    other = saved(data_set(grey, 8, **changes), np.stack([grey, grey, grey // 2], axis).tobytes())
    assert "it is in colour" in problems(other)


def spacing(**changes: object) -> tuple[float | None, str]:
    film = parse_dicom(dicom(**{"ImagerPixelSpacing": None, **changes}), "f.dcm")
    return film.pixel_spacing_mm, " ".join(film.notes)


def test_the_pixel_edge_is_that_at_the_detector_or_on_the_film():
    assert spacing() == (None, "")
    assert spacing(PixelSpacing=[0.07, 0.07]) == (0.07, "")
    assert spacing(NominalScannedPixelSpacing=[0.05, 0.05], PixelSpacing=[0.05, 0.05]) == (0.05, "")
    found, note = spacing(ImagerPixelSpacing=[0.1, 0.1], PixelSpacing=[0.093, 0.093])
    assert found == 0.1
    assert "0.093 mm as corrected" in note
    assert "corrected for magnification" in spacing(PixelSpacing=[0.1, 0.1], PixelSpacingCalibrationType="GEOMETRY")[1]
    assert "not the edge of a pixel" in spacing(SpatialResolution="0.05")[1]


def test_a_magnified_view_shows_smaller_pixels_and_an_ordinary_one_is_left_alone():
    found, note = spacing(ImagerPixelSpacing=[0.1, 0.1], EstimatedRadiographicMagnificationFactor="1.8")
    assert found == pytest.approx(0.1 / 1.8)
    assert "magnified 1.8 times" in note
    assert spacing(ImagerPixelSpacing=[0.1, 0.1], EstimatedRadiographicMagnificationFactor="1.05") == (0.1, "")


def test_a_given_pixel_edge_goes_before_the_files():
    film = with_spacing(parse_dicom(dicom(), "f.dcm"), 0.05)
    assert film.pixel_spacing_mm == 0.05
    assert film.notes == ("the given pixel edge of 0.05 mm was used, the file says 0.1 mm",)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive number of mm"):
            with_spacing(film, wrong)


def test_breast_and_view_come_from_either_element():
    film = parse_dicom(
        dicom(ImageLaterality=None, Laterality="R", ViewPosition=None, ViewCodeSequence=coded("SRT", "R-10242")), "f"
    )
    assert (film.laterality, film.view) == ("R", "CC")
    film = parse_dicom(dicom(ViewCodeSequence=coded("SCT", "399192008")), "f")
    assert film.view == "XCCL"
    film = parse_dicom(dicom(ImageLaterality=None, ViewPosition="AP"), "f")
    assert (film.laterality, film.view) == (None, None)


def test_what_is_unusual_about_a_film_is_said():
    changes = {"BurnedInAnnotation": "YES", "BreastImplantPresent": "YES", "PartialView": "YES"}
    changes |= {"ViewCodeSequence": coded("SCT", "399368009", ("SCT", "399055006"))}
    changes |= {"LossyImageCompression": "01", "LossyImageCompressionRatio": [10], "ImageType": ["DERIVED", "TOMO_2D"]}
    notes = parse_dicom(dicom(**changes), "f.dcm").notes
    words = ("spot compression", "may name the patient", "implant", "part of the breast", "tomosynthesis", "10 : 1")
    assert [word for word in words if not any(word in note for note in notes)] == []


@pytest.mark.parametrize("modality", ["RG", "CR", "DX", "OT"])
def test_scanned_films_and_plates_are_taken_with_a_word_when_they_say_breast(modality):
    changes = {"SOPClassUID": uid.SecondaryCaptureImageStorage, "PresentationIntentType": None, "Modality": modality}
    film = parse_dicom(dicom(**changes, ConversionType="DF"), "f.dcm")
    assert film.origin == "film scan"
    assert "its modality is not mammography" in film.notes[0]
    changes |= {"BodyPartExamined": None, "ViewPosition": None}
    assert "does not say that it shows the breast" in problems(dicom(**changes))
    assert parse_dicom(dicom(**changes, AnatomicRegionSequence=coded("SRT", "T-04000")), "f.dcm").laterality == "L"


REFUSED = {
    "raw, by class": ({"SOPClassUID": uid.DigitalMammographyXRayImageStorageForProcessing}, "FOR PROCESSING"),
    "raw, by intent": ({"PresentationIntentType": "FOR PROCESSING"}, "it is raw"),
    "tomosynthesis": ({"SOPClassUID": uid.BreastTomosynthesisImageStorage}, "a stack of slices"),
    "frames": ({"NumberOfFrames": 60}, "it holds 60 pictures"),
    "CT": ({"SOPClassUID": uid.CTImageStorage, "Modality": "CT"}, "modality is CT, computed tomography"),
    "MR": ({"SOPClassUID": uid.MRImageStorage, "Modality": "MR"}, "it is no mammogram but: MR Image Storage"),
    "US": ({"SOPClassUID": uid.UltrasoundImageStorage, "Modality": "US"}, "modality is US, ultrasound"),
    "no modality": ({"Modality": None}, "does not say its modality"),
    "unknown modality": ({"Modality": "ZZ"}, "none that holds mammograms"),
    "chest": ({"Modality": "DX", "BodyPartExamined": "CHEST"}, "the body part it names is not the breast"),
    "specimen": ({"ViewCodeSequence": coded("SRT", "G-8310")}, "a specimen"),
    "both breasts": ({"ImageLaterality": "B"}, "both breasts"),
    "left and right": ({"Laterality": "R"}, "the left breast, and that it shows the right one"),
    "oblong pixels": ({"ImagerPixelSpacing": [0.1, 0.2]}, "not square but 0.1 x 0.2 mm"),
    "one spacing": ({"ImagerPixelSpacing": [0.1]}, "not two positive numbers"),
    "no spacing at all": ({"ImagerPixelSpacing": [0, 0]}, "not two positive numbers"),
    "aspect ratio": ({"PixelAspectRatio": [1, 2]}, "not square"),
    "no rows": ({"Rows": None}, "does not say Rows"),
    "rows of nothing": ({"Rows": 0}, "not 1 to"),
    "huge": ({"Rows": 65535, "Columns": 65535}, "are 4,294,836,225, not 1 to 42,000,000"),
    "one bit": ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "1 of 1 bits"),
    "32 bits": ({"BitsAllocated": 32}, "12 of 32 bits"),
    "more stored than room": ({"BitsStored": 17, "HighBit": 16}, "17 of 16 bits"),
    "high bits": ({"HighBit": 15}, "High Bit"),
    "RGB of one sample": ({"PhotometricInterpretation": "RGB"}, "1 values each, photometric interpretation RGB"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "not grey"),
    "no photometric": ({"PhotometricInterpretation": None}, "not grey"),
    "fewer rows": ({"Rows": 299}, "480 too many"),
    "more rows": ({"Rows": 301}, "480 missing"),
    "window of no width": ({"WindowCenter": 5, "WindowWidth": 0}, "its window is 0 wide"),
    "window without center": ({"WindowWidth": 5}, "no center"),
    "window by another function": (
        {"WindowCenter": 5, "WindowWidth": 5, "VOILUTFunction": "CUBIC"},
        "a function other than",
    ),
    "short table": ({"VOILUTSequence": lookup(np.arange(9), 0, 3)}, "9 entries of 3 bits"),
    "table above its bits": ({"VOILUTSequence": lookup(np.arange(300), 0, 8)}, "values above 255"),
    "slope of 0": ({"RescaleSlope": "0", "RescaleIntercept": "0"}, "the slope not 0"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_film_or_no_mammogram_is_refused_in_words(changes, words):
    assert words in problems(dicom(**changes))


def test_every_reason_is_given_at_once():
    data = dicom(Modality="CT", BodyPartExamined="HEAD", NumberOfFrames=9, ImagerPixelSpacing=[1, 2], Rows=None)
    with pytest.raises(BadInputError) as caught:
        parse_dicom(data, "f.dcm")
    assert len(caught.value.problems) == 5


def test_files_that_are_no_dicom_lack_parts_or_are_stored_otherwise_are_refused():
    data = dicom()
    assert "lacks the preamble" in problems(data[132:])
    assert "begins like a program" in problems(b"MZ" + data[2:])
    assert "it holds no pixels" in problems(saved(data_set(film_pixels()), None))
    big_endian = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0")
    assert "a way not accepted (Explicit VR Big Endian)" in problems(big_endian)
    pixels = film_pixels(8)
    other = compressed(pixels, 8, uid.JPEGBaseline8Bit, Rows=pixels.shape[0] + 1)
    assert "its compressed pixels are 300 x 240 of 8 bits, its header says 301 x 240" in problems(other)


def film_of(name: str) -> DescribedFilm:
    return parse_dicom((Path(os.environ["MAMMO_EXTERNAL"]) / "dicom" / name).read_bytes(), name)


@pytest.mark.external
def test_the_real_files_are_read_with_what_they_say():
    wavelets, cosines = film_of("MG1_J2KI.dcm"), film_of("MG1_JPLY.dcm")
    for film in (wavelets, cosines):
        assert film.pixels.shape == (4664, 3064)
        assert (film.origin, film.laterality, film.view) == ("film scan", "L", "MLO")
        assert film.pixel_spacing_mm is None
        # The grey base of the film was not cut off: its ground is brighter than on any film of the data sets.
        assert not_a_mammogram(film) == []
    # One film compressed in two ways: they differ by what both lose, not by their decoding.
    difference = np.abs(eight_bits(wavelets).astype(int) - eight_bits(cosines))
    assert difference.mean() < 1
    assert np.percentile(difference, 99.9) <= 5
    tested = film_of("MG_Explicit_Little.dcm")  # a pattern for testing spacings, in a mammogram's header
    assert not_a_mammogram(tested) == ["there is hardly any contrast on it"]
    assert tested.pixel_spacing_mm == pytest.approx(0.5 / 1.5)
    assert (tested.origin, tested.laterality, tested.view) == ("digital", "R", "CC")


def test_an_empty_data_set_lacks_everything_and_says_so():
    found = problems(saved(Dataset(), None))
    assert "does not say its modality" in found
    assert "Rows, Columns, BitsAllocated, BitsStored, SamplesPerPixel" in found
