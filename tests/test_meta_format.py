"""MetaImage files (MHA, MHD) against SimpleITK: compression, byte order, skips, orientation, and
what is refused.
"""

import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from scans.reading import Scan, read_scan
from utils.errors import UserError

ARRAY = np.random.default_rng(0).integers(-900, 900, (5, 6, 7)).astype(np.int16)
VOXELS = ARRAY.tobytes(order="F")
FIELDS = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "CompressedData": "False",
    "Offset": "1 2 3",
    "ElementSpacing": "0.8 0.9 2.5",
    "DimSize": "5 6 7",
    "ElementType": "MET_SHORT",
}


def content(data: bytes = VOXELS, file: str = "LOCAL", **fields: str | None) -> bytes:
    """A file with these fields in addition to, or in place of, the usual ones; None removes one."""
    merged = {**FIELDS, **fields}
    lines = [f"{name} = {value}" for name, value in merged.items() if value is not None]
    return "\n".join([*lines, f"ElementDataFile = {file}", ""]).encode() + data


def read(folder: Path, data: bytes, name: str = "scan.mha") -> Scan:
    path = folder / name
    path.write_bytes(data)
    return read_scan(path)


def refusal(folder: Path, data: bytes, name: str = "scan.mha") -> str:
    with pytest.raises(UserError) as caught:
        read(folder, data, name)
    message = str(caught.value)
    assert name in message and "\n" not in message and len(message) < 400
    return message


def warnings_of(path: Path) -> list[str]:
    lines: list[str] = []
    read_scan(path, lines.append)
    return lines


@pytest.mark.parametrize("ending", ["mha", "mhd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.uint16, np.int32, np.int64, np.float32, np.float64]
)
def test_what_itk_writes_is_read_with_its_geometry(tmp_path, ending, compressed, dtype):
    turned, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    image = sitk.GetImageFromArray((ARRAY / 9).astype(dtype).T)
    image.SetSpacing((0.8, 0.9, 2.5))
    image.SetOrigin((1, -2, 3))
    image.SetDirection(turned.ravel().tolist())
    path = tmp_path / f"scan.{ending}"
    sitk.WriteImage(image, str(path), useCompression=compressed)
    scan = read_scan(path)
    assert np.array_equal(scan.array, (ARRAY / 9).astype(dtype)) and scan.array.dtype == dtype
    assert np.allclose(scan.geometry.spacing, (0.8, 0.9, 2.5))
    assert np.allclose(scan.geometry.origin, (1, -2, 3))
    assert np.allclose(scan.geometry.direction, turned)
    assert not warnings_of(path)


def test_rows_of_the_matrix_are_directions_of_axes(tmp_path):
    scan = read(tmp_path, content(TransformMatrix="0 1 0 0 0 1 -1 0 0"))
    assert np.array_equal(scan.geometry.direction.T, [[0, 1, 0], [0, 0, 1], [-1, 0, 0]])
    image = sitk.ReadImage(str(scan.path))
    assert np.allclose(image.GetDirection(), scan.geometry.direction.ravel())


@pytest.mark.parametrize("letters, warned", [("AIL", False), ("RAI", True), ("???", False)])
def test_an_orientation_that_contradicts_the_matrix_is_a_warning(tmp_path, letters, warned):
    fields = {"TransformMatrix": "0 1 0 0 0 1 -1 0 0", "AnatomicalOrientation": letters}
    scan = read(tmp_path, content(**fields))
    said = [line for line in warnings_of(scan.path) if "TransformMatrix is used" in line]
    assert bool(said) is warned


@pytest.mark.parametrize("name", ["Offset", "Position", "Origin"])
def test_every_name_of_the_origin_is_known(tmp_path, name):
    fields = {"Offset": None, name: "4 5 6"}
    assert np.allclose(read(tmp_path, content(**fields)).geometry.origin, (4, 5, 6))


def test_slanted_axes_and_a_matrix_of_other_lengths_are_refused(tmp_path):
    assert "not at right angles" in refusal(
        tmp_path, content(TransformMatrix="1 0 0 0 1 0 0 0.34 0.94")
    )
    assert "TransformMatrix" in refusal(tmp_path, content(TransformMatrix="2 0 0 0 1 0 0 0 1"))


@pytest.mark.parametrize("name", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
def test_big_endian_voxels_are_read(tmp_path, name):
    data = ARRAY.astype(">i2").tobytes(order="F")
    assert np.array_equal(read(tmp_path, content(data, **{name: "True"})).array, ARRAY)


def test_voxels_as_text_are_read(tmp_path):
    text = " ".join(map(str, ARRAY.ravel(order="F"))).encode()
    assert np.array_equal(read(tmp_path, content(text, BinaryData="False")).array, ARRAY)


@pytest.mark.parametrize("size", ["8", "-1"])
def test_a_header_within_the_voxel_file_is_skipped(tmp_path, size):
    (tmp_path / "scan.raw").write_bytes(b"8 bytes." + VOXELS)
    header = content(b"", "scan.raw", HeaderSize=size)
    assert np.array_equal(read(tmp_path, header, "scan.mhd").array, ARRAY)


@pytest.mark.parametrize("names", ["slice%03d.raw 1 7 1", "LIST"])
def test_a_file_a_slice_is_read(tmp_path, names):
    for z in range(7):
        (tmp_path / f"slice{z + 1:03d}.raw").write_bytes(ARRAY[:, :, z].tobytes(order="F"))
    listed = "\n".join(f"slice{z + 1:03d}.raw" for z in range(7)).encode()
    header = content(listed if names == "LIST" else b"", names)
    assert np.array_equal(read(tmp_path, header, "scan.mhd").array, ARRAY)


@pytest.mark.parametrize(
    "pattern",
    [
        "%n%n%n%n 1 2 1",
        "a%s.raw 1 7 1",
        "a%d%d.raw 1 7 1",
        "a%999999d.raw 1 7 1",
        "a%d.raw 1 7 0",
        "a%d.raw 1 999999999 1",
    ],
)
def test_any_other_pattern_is_refused(tmp_path, pattern):
    refusal(tmp_path, content(b"", pattern), "scan.mhd")


def test_a_2d_image_and_a_single_volume_of_a_series_are_read(tmp_path):
    flat = read(
        tmp_path,
        content(VOXELS[:60], NDims="2", DimSize="5 6", ElementSpacing="0.8 0.9", Offset="1 2"),
    )
    assert flat.shape == (5, 6, 1) and np.array_equal(flat.array[:, :, 0], ARRAY[:, :, 0])
    one = read(
        tmp_path,
        content(NDims="4", DimSize="5 6 7 1", ElementSpacing="0.8 0.9 2.5 1", Offset="1 2 3 0"),
    )
    assert np.array_equal(one.array, ARRAY) and np.allclose(one.geometry.spacing, (0.8, 0.9, 2.5))


def test_what_a_dicom_file_said_is_no_fault_of_the_header(tmp_path):
    fields = {"0008|0060": "MR", "ITK_InputFilterName": "GDCMImageIO", "Comment": "a = b"}
    assert np.array_equal(read(tmp_path, content(**fields)).array, ARRAY)


def test_no_spacing_is_a_warning(tmp_path):
    scan = read(tmp_path, content(ElementSpacing=None))
    assert any("gives no spacing, 1 mm is taken" in line for line in warnings_of(scan.path))


def test_bytes_after_the_compressed_voxels_are_no_harm(tmp_path):
    data = content(zlib.compress(VOXELS) + b"rest", CompressedData="True")
    assert np.array_equal(read(tmp_path, data).array, ARRAY)


FAULTS = {
    "negative number of axes": {"NDims": "-3"},
    "number of axes and sizes disagree": {"NDims": "2"},
    "sizes beyond all memory": {"DimSize": "4294967296 4294967296 4294967296"},
    "negative size": {"DimSize": "5 -6 7"},
    "size that is no number": {"DimSize": "5 6 x"},
    "no size": {"DimSize": None},
    "more voxels than there are": {"DimSize": "5 6 8"},
    "fewer voxels than there are": {"DimSize": "5 6 6"},
    "no type": {"ElementType": None},
    "array type": {"ElementType": "MET_SHORT_ARRAY"},
    "several values a voxel": {"ElementNumberOfChannels": "3"},
    "spacing of zero": {"ElementSpacing": "1 1 0"},
    "negative spacing": {"ElementSpacing": "1 -1 1"},
    "spacing that is not finite": {"ElementSpacing": "1 1 nan"},
    "spacing of two axes": {"ElementSpacing": "1 1"},
    "origin that is not finite": {"Offset": "inf 0 0"},
    "singular matrix": {"TransformMatrix": "1 0 0 1 0 0 0 0 1"},
    "no yes or no": {"CompressedData": "maybe"},
    "another object": {"ObjectType": "Tube"},
    "scaling": {"ElementToIntensityFunctionSlope": "2"},
    "misspelt key": {"TransformMatr1x": "0 1 0 0 0 1 -1 0 0"},
    "no such unit": {"DistanceUnits": "inch"},
    "negative skip": {"HeaderSize": "-2"},
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_header_is_refused(tmp_path, kind):
    refusal(tmp_path, content(**FAULTS[kind]))


def test_centimetres_become_millimetres(tmp_path):
    scan = read(tmp_path, content(DistanceUnits="cm"))
    assert np.allclose(scan.geometry.spacing, (8, 9, 25))
    assert np.allclose(scan.geometry.origin, (10, 20, 30))
    assert any("not in millimetres" in line for line in warnings_of(scan.path))


def test_a_size_given_twice_is_refused(tmp_path):
    assert "twice" in refusal(tmp_path, b"NDims = 3\n" + content())


def test_a_header_without_end_is_refused(tmp_path):
    refusal(tmp_path, content(b"").split(b"ElementDataFile")[0])
