"""NIfTI files against nibabel: voxels, geometry, scaling, byte order, pairs, units, and what is
refused.
"""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scans.reading import Scan, read_header, read_scan
from utils.errors import UserError

ARRAY = np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(np.int16)
PLACE = np.diag([-0.8, 0.9, 2.5, 1.0])
PLACE[:3, 3] = (10, -20, 30)


def content(array=ARRAY, sform=None, qform=None, kind=nibabel.Nifti1Image, **fields) -> bytes:
    """A file's bytes with exactly these header fields; without form a code is 0."""
    header = kind.header_class()
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    if sform is not None:
        header.set_sform(sform, 1)
    if qform is not None:
        header.set_qform(qform, 1)
    for name, value in fields.items():
        header[name] = value
    offset = 544 if kind is nibabel.Nifti2Image else 352
    header["vox_offset"] = offset
    padding = bytes(offset - header.sizeof_hdr)
    return header.binaryblock + padding + array.tobytes(order="F")


def read(folder: Path, data: bytes, name: str = "scan.nii") -> Scan:
    path = folder / name
    path.write_bytes(data)
    return read_scan(path)


def refusal(folder: Path, data: bytes, name: str = "scan.nii") -> str:
    with pytest.raises(UserError) as caught:
        read(folder, data, name)
    message = str(caught.value)
    assert name in message and "\n" not in message
    return message


def warnings_of(path: Path) -> list[str]:
    lines: list[str] = []
    read_scan(path, lines.append)
    return lines


def oblique() -> np.ndarray:
    turned, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turned * (0.8, 0.9, 2.5)
    affine[:3, 3] = (1, 2, 3)
    return affine


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NII.GZ", "a.NII", "no ending", "a.mha"])
@pytest.mark.parametrize("compressed", [False, True])
def test_the_content_decides_and_not_the_name(tmp_path, name, compressed):
    data = content(sform=PLACE)
    scan = read(tmp_path, gzip.compress(data) if compressed else data, name)
    assert np.array_equal(scan.array, ARRAY)


@pytest.mark.parametrize("forms", ["sform", "qform", "both", "none"])
def test_the_affine_is_the_one_that_nibabel_uses(tmp_path, forms):
    other = np.diag([1.1, -1.2, 3.0, 1.0])
    data = {
        "sform": content(sform=oblique(), pixdim=[1, 1, 1, 1, 0, 0, 0, 0]),
        "qform": content(qform=oblique()),
        "both": content(sform=oblique(), qform=other),
        "none": content(pixdim=[1, 0.8, 0.9, 2.5, 0, 0, 0, 0]),
    }[forms]
    scan = read(tmp_path, data)
    expected = nibabel.load(scan.path).affine
    assert np.allclose(scan.geometry.affine, expected, atol=1e-5)
    assert np.allclose(scan.geometry.spacing, nibabel.affines.voxel_sizes(expected), rtol=1e-5)


def test_spacing_that_agrees_with_pixdim_is_exactly_pixdim(tmp_path):
    scan = read(tmp_path, content(sform=oblique(), pixdim=[1, 0.8, 0.9, 2.5, 0, 0, 0, 0]))
    assert scan.geometry.spacing.tolist() == np.float32([0.8, 0.9, 2.5]).tolist()


def test_a_pixdim_that_disagrees_with_the_sform_is_a_warning(tmp_path):
    scan = read(tmp_path, content(sform=PLACE, pixdim=[1, 1, 1, 1, 0, 0, 0, 0]))
    (line,) = warnings_of(scan.path)
    assert "pixdim gives voxels of 1 x 1 x 1 mm, the sform 0.8 x 0.9 x 2.5 mm" in line


@pytest.mark.parametrize("size", [0, np.nan, np.inf, -1])
@pytest.mark.parametrize("form", ["qform", "none"])
def test_a_spacing_that_is_not_positive_and_finite_is_refused(tmp_path, size, form):
    sizes = [1, 0.8, 0.9, size, 0, 0, 0, 0]
    quaternion = {"qform_code": 1} if form == "qform" else {}
    assert "spacing" in refusal(tmp_path, content(pixdim=sizes, **quaternion))


def test_a_pixdim_of_zero_does_no_harm_where_the_sform_is_used(tmp_path):
    scan = read(tmp_path, content(sform=PLACE, pixdim=[1, 0, 0, 0, 0, 0, 0, 0]))
    assert np.allclose(scan.geometry.spacing, (0.8, 0.9, 2.5))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_sform_that_is_not_finite_is_refused(tmp_path, value):
    refusal(tmp_path, content(sform=PLACE, srow_x=[value, 0, 0, 0]))
    refusal(tmp_path, content(sform=PLACE, srow_x=[-0.8, 0, 0, value]))


def test_a_quaternion_that_is_no_rotation_is_refused(tmp_path):
    refusal(tmp_path, content(qform=PLACE, quatern_b=0.9, quatern_c=0.9))
    refusal(tmp_path, content(qform=PLACE, quatern_b=np.nan))


@pytest.mark.parametrize("slope", [0, np.nan])
def test_a_slope_of_zero_means_that_the_intercept_is_ignored(tmp_path, slope):
    scan = read(tmp_path, content(sform=PLACE, scl_slope=slope, scl_inter=-1024))
    assert np.array_equal(scan.array, ARRAY)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_slope_and_intercept_are_applied(tmp_path, dtype):
    array = ARRAY.astype(dtype)
    scan = read(tmp_path, content(array, sform=PLACE, scl_slope=0.25, scl_inter=-1024))
    assert np.allclose(scan.array, ARRAY * 0.25 - 1024, rtol=1e-7)


def test_a_good_slope_with_a_bad_intercept_is_refused(tmp_path):
    data = content(sform=PLACE, scl_slope=2, scl_inter=np.nan)
    assert "scl_inter" in refusal(tmp_path, data)


def test_values_that_scaling_makes_infinite_are_refused(tmp_path):
    data = content(sform=PLACE, scl_slope=3e38, scl_inter=0)
    assert "NaN or infinite" in refusal(tmp_path, data)


@pytest.mark.parametrize("skew, warned", [(2e-5, False), (2e-4, True)])
def test_a_small_shear_is_straightened(tmp_path, skew, warned):
    affine = np.diag([1.0, 1.2, 2.0, 1.0])
    affine[0, 1] = skew * 1.2
    scan = read(tmp_path, content(sform=affine))
    direction = scan.geometry.direction
    assert np.allclose(direction.T @ direction, np.eye(3), atol=1e-12)
    corner = affine @ [4, 5, 6, 1]
    assert np.allclose(scan.geometry.affine @ [4, 5, 6, 1], corner, atol=2e-3)
    assert any("right angle" in line for line in warnings_of(scan.path)) is warned


def test_a_large_shear_is_refused(tmp_path):
    affine = np.diag([1.0, 1.2, 2.0, 1.0])
    affine[0, 1] = 2e-3 * 1.2
    assert "not at right angles" in refusal(tmp_path, content(sform=affine))


@pytest.mark.parametrize("unit, factor, word", [(1, 1000, "metres"), (3, 0.001, "micrometres")])
def test_other_units_of_length_become_millimetres(tmp_path, unit, factor, word):
    scan = read(tmp_path, content(sform=PLACE / factor, xyzt_units=unit | 8))
    assert np.allclose(scan.geometry.affine[:3], PLACE[:3], rtol=1e-6)
    assert any(word in line for line in warnings_of(scan.path))


def test_an_unknown_unit_is_refused(tmp_path):
    assert "xyzt_units" in refusal(tmp_path, content(sform=PLACE, xyzt_units=5))


@pytest.mark.parametrize("compressed", [False, True])
def test_nifti_2_is_read(tmp_path, compressed):
    data = content(sform=PLACE, kind=nibabel.Nifti2Image)
    scan = read(tmp_path, gzip.compress(data) if compressed else data)
    assert np.array_equal(scan.array, ARRAY) and np.allclose(scan.geometry.affine, PLACE)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_big_endian_files_are_read(tmp_path, kind):
    path = tmp_path / "scan.nii"
    header = kind.header_class(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(kind(ARRAY, PLACE, header), path)
    assert path.read_bytes()[:2] == b"\0\0"
    scan = read_scan(path)
    assert np.array_equal(scan.array, ARRAY) and scan.array.dtype.isnative
    assert np.allclose(scan.geometry.affine, PLACE)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_pairs_are_read_by_either_name(tmp_path, kind, ending):
    nibabel.save(kind(ARRAY, PLACE), tmp_path / f"scan.img{ending}")
    for name in (f"scan.hdr{ending}", f"scan.img{ending}"):
        scan = read_scan(tmp_path / name)
        assert np.array_equal(scan.array, ARRAY) and np.allclose(scan.geometry.affine, PLACE)


def test_a_pair_in_capital_letters_is_read(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(ARRAY, PLACE), tmp_path / "scan.img")
    for ending in ("hdr", "img"):
        (tmp_path / f"scan.{ending}").rename(tmp_path / f"SCAN.{ending.upper()}")
    assert np.array_equal(read_scan(tmp_path / "SCAN.HDR").array, ARRAY)


def test_a_header_without_its_voxels_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(ARRAY, PLACE), tmp_path / "scan.img")
    (tmp_path / "scan.img").unlink()
    with pytest.raises(UserError, match="which is missing"):
        read_scan(tmp_path / "scan.hdr")


def test_an_analyze_file_is_refused(tmp_path):
    nibabel.save(nibabel.AnalyzeImage(ARRAY, np.eye(4)), tmp_path / "scan.img")
    with pytest.raises(UserError, match="Analyze"):
        read_scan(tmp_path / "scan.hdr")


def test_a_2d_image_gets_a_third_axis(tmp_path):
    scan = read(tmp_path, content(ARRAY[:, :, 0], sform=PLACE))
    assert scan.shape == (5, 6, 1) and np.array_equal(scan.array[:, :, 0], ARRAY[:, :, 0])
    assert np.allclose(scan.geometry.affine, PLACE)


def test_a_2d_image_without_thickness_is_one_millimetre_thick(tmp_path):
    flat = ARRAY[:, :, 0]
    scan = read(tmp_path, content(flat, qform=np.eye(4), pixdim=[1, 0.8, 0.9, 0, 0, 0, 0, 0]))
    assert np.allclose(scan.geometry.spacing, (0.8, 0.9, 1))
    flattened = PLACE.copy()
    flattened[:3, 2] = 0
    assert np.allclose(
        read(tmp_path, content(flat, sform=flattened)).geometry.spacing[:2], (0.8, 0.9)
    )


@pytest.mark.parametrize("shape", [(5, 6, 7, 1), (5, 6, 7, 1, 1)])
def test_one_volume_of_a_series_is_read(tmp_path, shape):
    scan = read(tmp_path, content(ARRAY.reshape(shape), sform=PLACE))
    assert np.array_equal(scan.array, ARRAY)


def test_several_volumes_and_several_values_a_voxel_are_refused(tmp_path):
    series = np.stack([ARRAY, ARRAY], axis=3)
    assert "has 4 axes (5 x 6 x 7 x 2)" in refusal(tmp_path, content(series, sform=PLACE))
    vectors = np.stack([ARRAY] * 3, axis=3)[:, :, :, None]
    assert "has 3 values per voxel" in refusal(tmp_path, content(vectors, sform=PLACE))
    colours = np.zeros((5, 6, 7), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    assert "has 3 values per voxel" in refusal(tmp_path, content(colours, sform=PLACE))
    assert "complex" in refusal(tmp_path, content(ARRAY.astype(np.complex64), sform=PLACE))


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.uint32, np.int64, np.uint64])
def test_every_integer_type_keeps_its_largest_value(tmp_path, dtype):
    array = np.full((2, 2, 2), np.iinfo(dtype).max, dtype)
    scan = read(tmp_path, content(array, sform=PLACE))
    assert scan.array.dtype == dtype and (scan.array == np.iinfo(dtype).max).all()


def test_header_extensions_come_before_the_voxels(tmp_path):
    image = nibabel.Nifti1Image(ARRAY, PLACE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"some words " * 9))
    nibabel.save(image, tmp_path / "scan.nii.gz")
    assert np.array_equal(read_scan(tmp_path / "scan.nii.gz").array, ARRAY)


DAMAGE = {
    "negative size": {"dim": [3, 5, -6, 7, 1, 1, 1, 1]},
    "no axes": {"dim": [0, 5, 6, 7, 1, 1, 1, 1]},
    "larger than the file": {"dim": [3, 5, 6, 8, 1, 1, 1, 1]},
    "smaller than the file": {"dim": [3, 5, 6, 6, 1, 1, 1, 1]},
    "unknown type": {"datatype": 77},
    "type and bits disagree": {"datatype": 16},
    "magic": {"magic": b"n+7"},
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_header_is_refused(tmp_path, kind, compressed):
    data = content(sform=PLACE, **DAMAGE[kind])
    refusal(tmp_path, gzip.compress(data) if compressed else data)


@pytest.mark.parametrize("offset", [10, 351, 352.5, 1e9, np.nan])
def test_an_offset_that_cannot_be_is_refused(tmp_path, offset):
    data = bytearray(content(sform=PLACE))
    data[108:112] = np.float32(offset).tobytes()
    refusal(tmp_path, bytes(data))


def test_the_header_of_a_scan_is_read_without_its_voxels(tmp_path):
    path = tmp_path / "scan.nii"
    whole = content(array=np.full(ARRAY.shape, np.nan, np.float32), sform=PLACE)
    path.write_bytes(whole)
    assert "NaN" in refusal(tmp_path, whole)
    shape, geometry = read_header(path)
    assert shape == ARRAY.shape and np.allclose(geometry.affine, PLACE)


def test_the_header_of_a_scan_that_ends_too_early_gives_no_shape(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(content(sform=PLACE)[:400])
    with pytest.raises(UserError, match="ends after 400 of"):
        read_header(path)


def test_the_qform_is_not_looked_at_where_the_sform_is_used(tmp_path):
    path = tmp_path / "scan.nii"
    data = bytearray(content(sform=PLACE, qform=PLACE))
    data[80:84] = np.float32(-1.0).tobytes()  # pixdim[1], without which the qform is nothing
    path.write_bytes(data)
    assert np.allclose(read_scan(path).geometry.affine, PLACE)


def test_a_broken_qform_is_a_warning_where_the_sform_is_used(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(content(sform=PLACE, qform=PLACE, quatern_b=5))
    assert np.allclose(read_scan(path).geometry.affine, PLACE)
    assert any("qform is not a rotation; the sform is used" in line for line in warnings_of(path))
