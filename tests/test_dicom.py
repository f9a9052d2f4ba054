"""DICOM is read as its tags say, slice by slice, or refused in one line that says what is in it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import (
    AXIAL,
    SAGITTAL,
    enhanced_tags,
    image_tags,
    noise,
    save,
    save_stack,
    set_tags,
    slice_tags,
)
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
)

from commands.predict_input import find_inputs
from scans.dicom import read_dicom, series_files, series_folders
from scans.reading import read_header, read_scan, sha256
from utils.errors import UserError

VOLUME = noise((6, 5, 4))  # slices, rows, columns


def read(path: Path) -> sitk.Image:
    """The scan as an ITK image, for its own functions of places."""
    array, geometry = read_dicom(path)
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(geometry.spacing.tolist())
    image.SetOrigin(geometry.origin.tolist())
    image.SetDirection(geometry.direction.ravel().tolist())
    return image


def values(image: sitk.Image) -> np.ndarray:
    """(slices, rows, columns)."""
    return sitk.GetArrayFromImage(image)


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- which files are a series


def test_the_slices_come_back_as_stored(tmp_path):
    save_stack(tmp_path, VOLUME)
    np.testing.assert_array_equal(values(read(tmp_path)), VOLUME)


def test_a_series_in_several_folders_is_read_whole(tmp_path):
    for index, path in enumerate(save_stack(tmp_path / "all", VOLUME)):
        part = tmp_path / f"part_{index % 3}"
        part.mkdir(exist_ok=True)
        path.rename(part / path.name)
    np.testing.assert_array_equal(values(read(tmp_path)), VOLUME)


def test_names_without_an_ending_and_in_any_order_are_read(tmp_path):
    for index, path in enumerate(save_stack(tmp_path, VOLUME)):
        path.rename(tmp_path / f"IM{(7 * index) % 11:04d}")
    np.testing.assert_array_equal(values(read(tmp_path)), VOLUME)


def test_a_slice_that_is_a_link_to_nothing_is_not_left_out(tmp_path):
    save_stack(tmp_path, VOLUME)
    (tmp_path / "006.dcm").symlink_to("nowhere")
    (tmp_path / "notes.txt").symlink_to("nowhere")
    assert "006.dcm: named like a slice, but a link to nothing" in refusal(tmp_path)


def test_a_pipe_among_slices_is_refused_without_waiting(tmp_path):
    save_stack(tmp_path, VOLUME)
    os.mkfifo(tmp_path / "006.dcm")
    assert "not a regular file" in refusal(tmp_path)


def test_a_copied_file_is_read_once(tmp_path):
    paths = save_stack(tmp_path, VOLUME)
    shutil.copy(paths[2], tmp_path / "copy of 002.dcm")
    np.testing.assert_array_equal(values(read(tmp_path)), VOLUME)


def test_one_instance_number_for_all_slices_does_not_merge_them(tmp_path):
    save_stack(tmp_path, VOLUME, SOPInstanceUID="1.2.3.4.5")
    np.testing.assert_array_equal(values(read(tmp_path)), VOLUME)


def test_two_different_slices_at_one_position_are_refused_by_name(tmp_path):
    save_stack(tmp_path, VOLUME)
    save(slice_tags(VOLUME[0], (10, -20, 4)), tmp_path / "other.dcm")
    message = refusal(tmp_path)
    assert "slices are double, 002.dcm and other.dcm lie at one position" in message


def test_several_series_are_counted_and_described_without_the_patient(tmp_path):
    names = {"PatientName": "Mustermann", "SeriesDescription": "T1 axial", "SeriesNumber": 3}
    save_stack(tmp_path / "a", VOLUME, **names)
    save_stack(tmp_path / "b", VOLUME[:4], SeriesInstanceUID="1.2.3.5")
    message = refusal(tmp_path)
    assert (
        "2 DICOM series below it, expected one: CT 3 T1 axial (6 images); CT (4 images)" in message
    )
    assert "Mustermann" not in message


def test_a_single_picture_next_to_the_series_is_left_out(tmp_path):
    save_stack(tmp_path, VOLUME)
    scout = slice_tags(noise((9, 9)), (0, 0, 0), SAGITTAL, SeriesInstanceUID="1.2.3.5")
    save(scout, tmp_path / "scout.dcm")
    assert values(read(tmp_path)).shape == VOLUME.shape


def add_other_files(folder: Path) -> None:
    """What file managers, disks and other programs leave next to slices."""
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "._000.dcm").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    (folder / "LICENSE").write_text("text without an ending")
    (folder / "notes.txt").write_text("text")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._000.dcm").write_bytes(bytes(200))
    contours = Dataset()
    contours.SOPClassUID = RTStructureSetStorage
    contours.SOPInstanceUID = "1.2.3.9"
    contours.Modality = "RTSTRUCT"
    contours.SeriesInstanceUID = "1.2.3.6"
    contours.file_meta = image_tags(VOLUME).file_meta
    save(contours, folder / "contours.dcm")
    directory = Dataset()
    directory.SOPClassUID = "1.2.840.10008.1.3.10"
    directory.SOPInstanceUID = "1.2.3.10"
    directory.file_meta = image_tags(VOLUME).file_meta
    save(directory, folder / "DICOMDIR")


@pytest.mark.parametrize("ending", [".dcm", ""])
def test_other_files_do_not_change_what_is_read(tmp_path, ending):
    for path in save_stack(tmp_path, VOLUME):
        path.rename(path.with_suffix(ending))
    add_other_files(tmp_path)
    np.testing.assert_array_equal(values(read(tmp_path)), VOLUME)


def test_other_files_do_not_change_the_hash(tmp_path):
    save_stack(tmp_path, VOLUME)
    before = sha256(tmp_path)
    add_other_files(tmp_path)
    assert sha256(tmp_path) == before


def test_a_changed_slice_changes_the_hash(tmp_path):
    paths = save_stack(tmp_path, VOLUME)
    before = sha256(tmp_path)
    save(slice_tags(VOLUME[1], (10, -20, 0)), paths[0])
    assert sha256(tmp_path) != before


def test_the_files_of_a_series_are_its_slices(tmp_path):
    paths = save_stack(tmp_path, VOLUME)
    add_other_files(tmp_path)
    assert series_files(tmp_path) == paths


def test_a_folder_without_dicom_says_so(tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    assert "no DICOM series below it" in refusal(tmp_path)


# --- damaged files


@pytest.mark.parametrize("length", [0, 100, 140, 400, -20, -1])
@pytest.mark.parametrize("ending", [".dcm", ""])
def test_a_slice_that_ends_too_early_is_named(tmp_path, length, ending):
    paths = [path.rename(path.with_suffix(ending)) for path in save_stack(tmp_path, VOLUME)]
    last = paths[-1]
    last.write_bytes(last.read_bytes()[:length])
    message = refusal(tmp_path)
    assert str(last) in message
    assert "download it again" in message


def test_a_large_slice_that_ends_too_early_is_named(tmp_path):
    paths = save_stack(tmp_path, noise((2, 300, 300)))
    paths[1].write_bytes(paths[1].read_bytes()[:-1000])
    assert f"{paths[1]}: the DICOM file is damaged or ends too early" in refusal(tmp_path)


@pytest.mark.parametrize("change", [{"Rows": 4}, {"Columns": 5}, {"BitsAllocated": 8}])
def test_pixels_that_do_not_fit_their_tags_are_refused(tmp_path, change):
    changes = {"BitsStored": 8, "HighBit": 7, **change} if "BitsAllocated" in change else change
    save_stack(tmp_path, VOLUME, **changes)
    assert "bytes of pixels, but its tags give" in refusal(tmp_path)


def test_damaged_headers_never_end_in_a_traceback(tmp_path):
    path = save(slice_tags(noise((5, 4)), (0, 0, 0)), tmp_path / "000.dcm")
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for place in generator.integers(128, len(whole), 4):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            read(path)
        except UserError as error:
            assert "000.dcm" in str(error)


# --- values


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path):
    slopes = np.array([1, 0.3, 0.7, 100, 0.25, 2])
    intercepts = np.array([0, -5, 0, 10, 0, 0.5])
    for index, pixels in enumerate(VOLUME):
        scaling = {"RescaleSlope": slopes[index], "RescaleIntercept": intercepts[index]}
        save(slice_tags(pixels, (0, 0, 2 * index), **scaling), tmp_path / f"{index}.dcm")
    expected = VOLUME * slopes[:, None, None] + intercepts[:, None, None]
    np.testing.assert_allclose(values(read(tmp_path)), expected, rtol=1e-12)


def test_hounsfield_units_stay_whole_numbers(tmp_path):
    stored = np.full((3, 5, 4), 4095, np.uint16)
    bits = {"BitsStored": 12, "HighBit": 11}
    save_stack(tmp_path, stored, RescaleSlope=1, RescaleIntercept=-1024, **bits)
    array = values(read(tmp_path))
    assert array.dtype == np.int16
    assert (array == 3071).all()


def test_a_large_slope_does_not_overflow(tmp_path):
    stored = np.full((3, 5, 4), -30000, np.int16)
    save_stack(tmp_path, stored, RescaleSlope=1000, RescaleIntercept=0)
    assert (values(read(tmp_path)) == -30_000_000).all()


def test_slices_with_and_without_a_sign_are_both_right(tmp_path):
    save(slice_tags(np.full((5, 4), 60000, np.uint16), (0, 0, 0)), tmp_path / "0.dcm")
    save(slice_tags(np.full((5, 4), -30000, np.int16), (0, 0, 2)), tmp_path / "1.dcm")
    array = values(read(tmp_path))
    assert (array[0] == 60000).all()
    assert (array[1] == -30000).all()


def test_a_sign_in_fewer_bits_is_read(tmp_path):
    stored = np.full((3, 5, 4), 0x0FFF, np.uint16)  # -1 in 12 bits
    save_stack(tmp_path, stored, BitsStored=12, HighBit=11, PixelRepresentation=1)
    assert (values(read(tmp_path)) == -1).all()


def test_values_beyond_the_stored_bits_are_refused(tmp_path):
    stored = np.full((3, 5, 4), 5000, np.uint16)
    save_stack(tmp_path, stored, BitsStored=12, HighBit=11)
    assert "values need more than its 12 bits" in refusal(tmp_path)


def test_an_overlay_in_unused_bits_is_removed(tmp_path):
    stored = np.full((5, 4), 0x8123, np.uint16)
    tags = slice_tags(stored, (0, 0, 0), BitsStored=12, HighBit=11)
    tags.add_new((0x6000, 0x0102), "US", 15)
    path = save(tags, tmp_path / "0.dcm")
    assert (values(read(path)) == 0x0123).all()


def test_an_inverted_image_is_refused(tmp_path):
    save_stack(tmp_path, VOLUME, PhotometricInterpretation="MONOCHROME1", Modality="MR")
    assert "inverted image (MONOCHROME1" in refusal(tmp_path)


def test_hounsfield_units_do_not_depend_on_how_they_are_shown(tmp_path):
    save_stack(tmp_path, VOLUME, PhotometricInterpretation="MONOCHROME1", Modality="CT")
    np.testing.assert_array_equal(values(read(tmp_path)), VOLUME)


@pytest.mark.parametrize("kind, samples", [("RGB", 3), ("PALETTE COLOR", 1)])
def test_colours_are_refused(tmp_path, kind, samples):
    save_stack(tmp_path, VOLUME, PhotometricInterpretation=kind, SamplesPerPixel=samples)
    assert f"a colour image ({kind})" in refusal(tmp_path)


# --- how values are stored


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_order_of_bytes_is_read(tmp_path, syntax):
    for index, pixels in enumerate(VOLUME):
        save(slice_tags(pixels, (0, 0, 2 * index)), tmp_path / f"{index}.dcm", syntax)
    image = read(tmp_path)
    np.testing.assert_array_equal(values(image), VOLUME)
    assert image.GetSpacing() == (0.75, 0.5, 2.0)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_bigendian.dcm",
        "MR_small_expb.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_padded.dcm",
        "MR_small_RLE.dcm",
    ],
)
def test_a_real_slice_is_the_same_in_every_encoding(name):
    """pydicom brings one MR slice in all of them; its plain file is read by hand."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    plain = dcmread(folder / "MR_small.dcm")
    expected = np.frombuffer(plain.PixelData, "<i2").reshape(64, 64)
    np.testing.assert_array_equal(values(read(folder / name))[0], expected)


def test_one_file_without_a_preamble_is_read(tmp_path):
    positions = [(0, 0, 2 * index) for index in range(6)]
    path = save(enhanced_tags(VOLUME, positions), tmp_path / "scan.dcm")
    expected = read_scan(path)
    path.write_bytes(path.read_bytes()[132:])
    scan = read_scan(path)
    assert np.array_equal(scan.array, expected.array)
    np.testing.assert_array_equal(scan.geometry.affine, expected.geometry.affine)


def test_files_without_a_preamble_are_read(tmp_path):
    for index, pixels in enumerate(VOLUME):
        tags = slice_tags(pixels, (0, 0, 2 * index))
        del tags.file_meta
        dcmwrite(tmp_path / f"{index}.dcm", tags, implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(values(read(tmp_path)), VOLUME)


def compressed_slice(path: Path, pixels: np.ndarray, compressor: str, **tags: object) -> Path:
    """A slice at the origin whose pixels SimpleITK compressed; its tags are written by pydicom."""
    writer = sitk.ImageFileWriter()
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.SetFileName(str(path))
    writer.Execute(sitk.GetImageFromArray(pixels[None]))
    dataset = dcmread(path)
    dataset.ImagePositionPatient = [0, 0, 0]
    dataset.ImageOrientationPatient = list(AXIAL)
    dataset.PixelSpacing = [0.5, 0.75]
    dataset.SliceThickness = 2
    set_tags(dataset, tags)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_compressed_slices_are_decoded_and_rescaled(tmp_path, compressor):
    pixels = noise((32, 24))
    scaling = {"RescaleSlope": 0.5, "RescaleIntercept": -3}
    path = compressed_slice(tmp_path / "0.dcm", pixels, compressor, **scaling)
    np.testing.assert_array_equal(values(read(path))[0], pixels * 0.5 - 3)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_compressed_slices_that_are_cut_are_refused(tmp_path, compressor):
    path = compressed_slice(tmp_path / "0.dcm", noise((32, 24)), compressor)
    dataset = dcmread(path)
    dataset.PixelData = dataset.PixelData[:-200] + b"\xfe\xff\xdd\xe0\0\0\0\0"
    fragment = int.from_bytes(dataset.PixelData[12:16], "little") - 200 + 8
    start = dataset.PixelData[:12] + fragment.to_bytes(4, "little")
    dataset.PixelData = start + dataset.PixelData[16 : 16 + fragment]
    dataset.save_as(path)
    with pytest.raises(UserError, match=r"0\.dcm: the compressed pixels are incomplete"):
        read(path)


def run_length_slice(path: Path, pixels: np.ndarray) -> Path:
    dataset = slice_tags(pixels, (0, 0, 0))
    dataset.compress(RLELossless)
    return save(dataset, path)


def test_run_length_coded_slices_are_read(tmp_path):
    pixels = noise((32, 24))
    path = run_length_slice(tmp_path / "0.dcm", pixels)
    np.testing.assert_array_equal(values(read(path))[0], pixels)


def test_run_length_coded_slices_that_are_cut_are_refused(tmp_path):
    path = run_length_slice(tmp_path / "0.dcm", noise((32, 24)))
    dataset = dcmread(path)
    fragment = dataset.PixelData[16:-100]
    dataset.PixelData = dataset.PixelData[:12] + len(fragment).to_bytes(4, "little") + fragment
    dataset.save_as(path)
    with pytest.raises(UserError, match=r"0\.dcm: the compressed pixels cannot be decoded"):
        read(path)


# --- geometry


def test_spacing_and_origin_are_those_of_the_tags(tmp_path):
    save_stack(tmp_path, VOLUME, heights=[-30 + 2.5 * index for index in range(6)])
    image = read(tmp_path)
    assert image.GetSpacing() == (0.75, 0.5, 2.5)
    assert image.GetOrigin() == (10, -20, -30)


def test_every_voxel_lies_where_its_slice_says(tmp_path):
    """Oblique slices, written from last to first: position + column and row steps, by hand."""
    along_row = np.array([0.6, 0.8, 0])
    along_column = np.array([0, 0, -1])
    normal = np.cross(along_row, along_column)
    for index, pixels in enumerate(VOLUME):
        position = np.array([5, 6, 7]) - 3 * index * normal
        orientation = [*along_row, *along_column]
        save(slice_tags(pixels, position, orientation), tmp_path / f"{index}.dcm")
    image = read(tmp_path)
    array = values(image)
    for index in range(6):
        position = np.array([5, 6, 7]) - 3 * index * normal
        point = position + 2 * 0.75 * along_row + 3 * 0.5 * along_column
        voxel = image.TransformPhysicalPointToIndex(point.tolist())
        assert array[voxel[::-1]] == VOLUME[index, 3, 2]


def test_the_axes_are_right_handed_whatever_the_order_of_files(tmp_path):
    save_stack(tmp_path, VOLUME, heights=[-2 * index for index in range(6)])
    image = read(tmp_path)
    assert np.linalg.det(np.reshape(image.GetDirection(), (3, 3))) == pytest.approx(1)
    np.testing.assert_array_equal(values(image), VOLUME[::-1])


def test_positions_rounded_to_a_tenth_are_read(tmp_path):
    heights = [round(1.25 * index, 1) for index in range(6)]
    save_stack(tmp_path, VOLUME, heights=heights)
    assert read(tmp_path).GetSpacing()[2] == pytest.approx(1.25, abs=0.02)


@pytest.mark.parametrize("angle", [0.5, 8, 15, -20])
def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path, angle):
    shift = np.tan(np.radians(angle))
    for index, pixels in enumerate(VOLUME):
        position = (0, 4 * index * shift, 4 * index)
        save(slice_tags(pixels, position), tmp_path / f"{index}.dcm")
    assert f"a slant of {abs(angle):.1f} degrees" in refusal(tmp_path)


def test_orientations_rounded_to_three_digits_are_no_tilt(tmp_path):
    angle = 0.03
    shift = np.tan(np.radians(angle))
    for index in range(120):
        position = (0, index * shift, index)
        save(slice_tags(VOLUME[index % 6], position), tmp_path / f"{index:03}.dcm")
    image = read(tmp_path)
    assert image.GetSize()[2] == 120 and image.GetSpacing()[2] == pytest.approx(1)


def test_a_sagittal_stack_at_a_slant_is_refused_with_its_angle(tmp_path):
    shift = np.tan(np.radians(8))
    for index, pixels in enumerate(VOLUME):
        position = (3 * index, 3 * index * shift, 0)
        save(slice_tags(pixels, position, SAGITTAL), tmp_path / f"{index}.dcm")
    assert "a slant of 8.0 degrees" in refusal(tmp_path)


def test_a_slice_shifted_within_its_plane_is_named(tmp_path):
    save_stack(tmp_path, VOLUME)
    save(slice_tags(VOLUME[3], (13, -20, 6)), tmp_path / "003.dcm")
    assert "003.dcm is shifted by 3 mm" in refusal(tmp_path)


def test_orientations_that_change_are_counted(tmp_path):
    for index, pixels in enumerate(VOLUME):
        orientation = AXIAL if index < 3 else SAGITTAL
        save(slice_tags(pixels, (0, 0, 2 * index), orientation), tmp_path / f"{index}.dcm")
    assert "slices have 2 orientations" in refusal(tmp_path)


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path):
    paths = save_stack(tmp_path, VOLUME)
    paths[2].unlink()
    message = refusal(tmp_path)
    assert "slices are missing (1), 001.dcm and 003.dcm are 4 mm apart, the others 2 mm" in message


@pytest.mark.parametrize("gap", [2.3, 3, 7.4])
def test_uneven_distances_are_refused_with_the_distances(tmp_path, gap):
    save_stack(tmp_path, VOLUME, heights=[0, 2, 4, 6, 8, 8 + gap])
    message = refusal(tmp_path)
    assert f"slice distances are uneven, 2 to {gap} mm, 004.dcm and 005.dcm" in message


def test_a_cine_is_refused_with_what_changes(tmp_path):
    for index, pixels in enumerate(VOLUME):
        tags = slice_tags(pixels, (0, 0, 0), TriggerTime=10 * index)
        save(tags, tmp_path / f"{index}.dcm")
    message = refusal(tmp_path)
    assert "all 6 images lie at one position and differ in TriggerTime (6 values)" in message


def test_several_echoes_are_refused_with_what_changes(tmp_path):
    for index, pixels in enumerate(VOLUME):
        tags = slice_tags(pixels, (0, 0, 2 * (index // 2)), EchoTime=5 + index % 2)
        save(tags, tmp_path / f"{index}.dcm")
    message = refusal(tmp_path)
    assert "2 images at each of 3 positions and differ in EchoTime (2 values)" in message


def test_a_mosaic_is_refused(tmp_path):
    save_stack(tmp_path, VOLUME, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    assert "a Siemens mosaic" in refusal(tmp_path)


def test_slices_of_different_sizes_are_named(tmp_path):
    save_stack(tmp_path, VOLUME)
    save(slice_tags(noise((5, 6)), (10, -20, 12)), tmp_path / "006.dcm")
    assert "000.dcm and 006.dcm have 4 x 5 and 6 x 5 pixels" in refusal(tmp_path)


def test_slices_of_different_spacings_are_named(tmp_path):
    save_stack(tmp_path, VOLUME)
    save(slice_tags(VOLUME[0], (10, -20, 12), PixelSpacing=[0.5, 0.8]), tmp_path / "006.dcm")
    assert "000.dcm and 006.dcm have 0.75 x 0.5 and 0.8 x 0.5 mm" in refusal(tmp_path)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"ImageOrientationPatient": None}, "has no ImageOrientationPatient"),
        (
            {"ImagePositionPatient": None, "ImageOrientationPatient": None},
            "has no ImagePositionPatient",
        ),
        ({"ImagePositionPatient": None}, "has no ImagePositionPatient"),
        ({"ImagePositionPatient": [1, 2]}, "ImagePositionPatient should be 3 numbers"),
        ({"PixelSpacing": None}, "has no PixelSpacing"),
        ({"PixelSpacing": None, "ImagerPixelSpacing": [1, 1]}, "measured at the detector"),
        ({"PixelSpacing": [0, 1]}, "PixelSpacing is not positive"),
        (
            {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
            "not a pair of directions at right angles",
        ),
        (
            {"RescaleSlope": 0, "RescaleIntercept": 0},
            "RescaleSlope 0.0 or RescaleIntercept 0.0 cannot be right",
        ),
    ],
)
def test_tags_that_do_not_place_a_slice_are_named(tmp_path, changes, reason):
    save_stack(tmp_path, VOLUME, **changes)
    assert reason in refusal(tmp_path)


def test_pictures_without_a_place_form_no_volume(tmp_path):
    place = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    save_stack(tmp_path, VOLUME, Modality="US", **place)
    assert "images without ImagePositionPatient form no volume" in refusal(tmp_path)


# --- one file


def test_one_slice_is_as_thick_as_its_tag_says(tmp_path):
    path = save(slice_tags(VOLUME[0], (1, 2, 3)), tmp_path / "0.dcm")
    image = read(path)
    assert image.GetSize() == (4, 5, 1)
    assert image.GetSpacing() == (0.75, 0.5, 2.0)
    assert image.GetOrigin() == (1, 2, 3)


def test_one_slice_without_thickness_is_refused(tmp_path):
    path = save(slice_tags(VOLUME[0], (1, 2, 3), SliceThickness=None), tmp_path / "0.dcm")
    with pytest.raises(UserError, match="one slice without SliceThickness"):
        read(path)


def test_a_radiograph_is_read_without_a_place(tmp_path):
    tags = image_tags(VOLUME[0], ComputedRadiographyImageStorage, PixelSpacing=[0.2, 0.1])
    tags.Modality = "CR"
    image = read(save(tags, tmp_path / "0.dcm"))
    np.testing.assert_array_equal(values(image)[0], VOLUME[0])
    assert image.GetSpacing()[:2] == (0.1, 0.2)


def test_a_file_without_an_image_is_refused(tmp_path):
    add_other_files(tmp_path)
    with pytest.raises(
        UserError, match=r"contours\.dcm: a DICOM object without an image .*RT Structure Set"
    ):
        read(tmp_path / "contours.dcm")


def test_frames_are_ordered_by_their_positions(tmp_path):
    order = [3, 0, 5, 1, 4, 2]
    positions = [(1, 2, 3 + 2.5 * index) for index in order]
    path = save(enhanced_tags(VOLUME[order], positions), tmp_path / "0.dcm")
    np.testing.assert_array_equal(values(read(path)), VOLUME)


def test_frames_have_the_spacing_of_their_positions(tmp_path):
    positions = [(1, 2, 3 + 2.5 * index) for index in range(6)]
    image = read(save(enhanced_tags(VOLUME, positions), tmp_path / "0.dcm"))
    assert image.GetSpacing() == (0.75, 0.5, 2.5)
    assert image.GetOrigin() == (1, 2, 3)


def test_frames_are_turned_as_their_orientation_says(tmp_path):
    positions = [(2 * index, 2, 3) for index in range(6)]
    path = save(enhanced_tags(VOLUME, positions, SAGITTAL), tmp_path / "0.dcm")
    direction = np.reshape(read(path).GetDirection(), (3, 3))
    np.testing.assert_allclose(direction, [[0, 0, -1], [1, 0, 0], [0, -1, 0]])


def test_each_frame_is_rescaled_by_its_own_slope(tmp_path):
    slopes = [1, 0.5, 2, 0.25, 3, 10]
    positions = [(0, 0, 2 * index) for index in range(6)]
    path = save(enhanced_tags(VOLUME, positions, slopes=slopes), tmp_path / "0.dcm")
    expected = VOLUME * np.array(slopes)[:, None, None]
    np.testing.assert_array_equal(values(read(path)), expected)


def test_a_makers_own_groups_do_not_replace_the_standard_ones(tmp_path):
    """Philips adds a private sequence to each frame, with other spacings and slopes."""
    tags = enhanced_tags(VOLUME, [(0, 0, 2 * index) for index in range(6)])
    for frame in tags.PerFrameFunctionalGroupsSequence:
        private = Dataset()
        private.PixelSpacing = [9, 9]
        private.RescaleSlope = 7
        frame.add_new((0x2005, 0x0010), "LO", "Philips MR Imaging DD 005")
        frame.add_new((0x2005, 0x100F), "SQ", [private])
    image = read(save(tags, tmp_path / "0.dcm"))
    assert image.GetSpacing() == (0.75, 0.5, 2)
    np.testing.assert_array_equal(values(image), VOLUME)


def test_a_folder_with_one_multi_frame_file_is_a_scan(tmp_path):
    positions = [(0, 0, 2 * index) for index in range(6)]
    save(enhanced_tags(VOLUME, positions), tmp_path / "0.dcm")
    np.testing.assert_array_equal(read_scan(tmp_path).array, VOLUME.T)


@pytest.mark.parametrize(
    "heights, reason",
    [
        ([0, 2, 4, 6, 8, 11], "uneven, 2 to 3 mm, 0.dcm frame 5 and 0.dcm frame 6"),
        ([0, 2, 4, 6, 10, 12], "slices are missing (1), 0.dcm frame 4 and 0.dcm frame 5"),
        ([0, 0, 0, 0, 0, 0], "all 6 images lie at one position"),
        ([0, 0, 2, 2, 4, 4], "2 images at each of 3 positions"),
    ],
)
def test_frames_that_form_no_volume_are_refused(tmp_path, heights, reason):
    positions = [(0, 0, height) for height in heights]
    save(enhanced_tags(VOLUME, positions), tmp_path / "0.dcm")
    assert reason in refusal(tmp_path)


def test_frames_without_positions_are_refused(tmp_path):
    tags = image_tags(VOLUME, SecondaryCaptureImageStorage, NumberOfFrames=6)
    save(tags, tmp_path / "0.dcm")
    message = refusal(tmp_path)
    assert "6 images in one file, 0 of them with a position (Secondary Capture" in message


# --- folders to predict


def test_each_folder_with_a_series_is_found(tmp_path):
    first = save_stack(tmp_path / "a", VOLUME)
    second = save_stack(tmp_path / "b" / "c", VOLUME, SeriesInstanceUID="1.2.3.5")
    assert series_folders([*first, *second]) == [tmp_path / "a", tmp_path / "b" / "c"]


def test_a_series_in_two_folders_is_found_once(tmp_path):
    paths = save_stack(tmp_path / "patient" / "a", VOLUME)
    (tmp_path / "patient" / "b").mkdir()
    moved = paths.pop().rename(tmp_path / "patient" / "b" / "last.dcm")
    assert series_folders([*paths, moved]) == [tmp_path / "patient"]


def test_scans_that_share_their_series_number_stay_apart(tmp_path):
    first = save_stack(tmp_path / "a", VOLUME)
    second = save_stack(tmp_path / "b", VOLUME)
    assert series_folders([*first, *second]) == [tmp_path / "a", tmp_path / "b"]


def test_the_folder_of_a_damaged_slice_is_found(tmp_path):
    path = save_stack(tmp_path / "a", VOLUME)[0]
    path.write_bytes(path.read_bytes()[:-10])
    assert series_folders([path]) == [tmp_path / "a"]


def test_a_series_in_two_folders_is_one_case_to_predict(tmp_path):
    for index, path in enumerate(save_stack(tmp_path / "in" / "patient" / "a", VOLUME)):
        if index % 2:
            (tmp_path / "in" / "patient" / "b").mkdir(exist_ok=True)
            path.rename(tmp_path / "in" / "patient" / "b" / path.name)
    (case,) = find_inputs(tmp_path / "in", 1, False, tmp_path / "out", False)
    assert case.images == (tmp_path / "in" / "patient",)


def test_a_multi_frame_file_is_a_case_to_predict(tmp_path):
    positions = [(0, 0, 2 * index) for index in range(6)]
    path = save(enhanced_tags(VOLUME, positions), tmp_path / "scan.dcm")
    (case,) = find_inputs(path, 1, False, tmp_path / "out", False)
    assert (case.name, case.images) == ("scan", (path,))


def test_one_slice_is_no_case_to_predict(tmp_path):
    path = save_stack(tmp_path, VOLUME)[0]
    with pytest.raises(UserError, match="for a DICOM series name the folder"):
        find_inputs(path, 1, False, tmp_path / "out", False)


def test_shape_and_place_are_known_without_reading_pixels(tmp_path):
    save_stack(tmp_path, VOLUME)
    shape, geometry = read_header(tmp_path)
    scan = read_scan(tmp_path)
    assert shape == scan.shape
    np.testing.assert_array_equal(geometry.affine, scan.geometry.affine)
