"""NRRD files against pynrrd and SimpleITK: encodings, byte order, skips, axes that are not of
space, worlds, and what is refused.
"""

import bz2
import gzip
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from scans.geometry import Geometry
from scans.nrrd_format import write_nrrd
from scans.reading import Scan, read_scan
from utils.errors import UserError

ARRAY = np.random.default_rng(0).integers(-900, 900, (5, 6, 7)).astype(np.int16)
VOXELS = ARRAY.tobytes(order="F")
FIELDS = {
    "type": "short",
    "dimension": "3",
    "sizes": "5 6 7",
    "space": "left-posterior-superior",
    "space directions": "(0.8,0,0) (0,0.9,0) (0,0,2.5)",
    "space origin": "(1,2,3)",
    "endian": "little",
    "encoding": "raw",
}


def content(data: bytes = VOXELS, magic: str = "NRRD0004", **fields: str | None) -> bytes:
    """A file with these fields (underscores for spaces) in addition to, or in place of, the usual
    ones; None removes one.
    """
    merged = {**FIELDS, **{name.replace("_", " "): value for name, value in fields.items()}}
    lines = [f"{name}: {value}" for name, value in merged.items() if value is not None]
    return "\n".join([magic, *lines, "", ""]).encode() + data


def read(folder: Path, data: bytes, name: str = "scan.nrrd") -> Scan:
    path = folder / name
    path.write_bytes(data)
    return read_scan(path)


def refusal(folder: Path, data: bytes, name: str = "scan.nrrd") -> str:
    with pytest.raises(UserError) as caught:
        read(folder, data, name)
    message = str(caught.value)
    assert name in message and "\n" not in message and len(message) < 400
    return message


def warnings_of(path: Path) -> list[str]:
    lines: list[str] = []
    read_scan(path, lines.append)
    return lines


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">i2", np.float32, np.int64])
@pytest.mark.parametrize("detached", [False, True])
def test_what_pynrrd_writes_is_read(tmp_path, encoding, dtype, detached):
    array = (ARRAY / 9).astype(dtype)
    header = {"encoding": encoding, "space": "left-posterior-superior"}
    header |= {"space directions": np.diag([0.8, 0.9, 2.5]), "space origin": [1, 2, 3]}
    path = tmp_path / ("scan.nhdr" if detached else "scan.nrrd")
    nrrd.write(str(path), array, header, detached_header=detached)
    scan = read_scan(path)
    expected, _ = nrrd.read(str(path))
    assert np.allclose(scan.array, expected, rtol=1e-6) and scan.array.dtype.isnative
    assert np.allclose(scan.geometry.spacing, (0.8, 0.9, 2.5))
    assert np.allclose(scan.geometry.origin, (1, 2, 3))


def test_hexadecimal_voxels_are_read(tmp_path):
    text = VOXELS.hex("\n", 40).encode()
    assert np.array_equal(read(tmp_path, content(text, encoding="hex")).array, ARRAY)


@pytest.mark.parametrize("space, signs", [
    ("left-posterior-superior", (1, 1, 1)), ("LPS", (1, 1, 1)), ("right-anterior-superior", (-1, -1, 1)), ("RAS", (-1, -1, 1)),
    ("left-anterior-superior", (1, -1, 1)), ("LAS", (1, -1, 1)),
])  # fmt: skip
def test_every_world_becomes_itks(tmp_path, space, signs):
    turned = "(0,0.8,0) (0,0,-0.9) (2.5,0,0)"
    scan = read(tmp_path, content(space=space, space_directions=turned))
    columns = np.array([[0, 0.8, 0], [0, 0, -0.9], [2.5, 0, 0]]).T * np.array(signs)[:, None]
    assert np.allclose(scan.geometry.direction * scan.geometry.spacing, columns)
    assert np.allclose(scan.geometry.origin, np.array([1, 2, 3]) * signs)
    image = sitk.ReadImage(str(scan.path))
    assert np.allclose(image.GetOrigin(), scan.geometry.origin)
    assert np.allclose(image.GetDirection(), scan.geometry.direction.ravel())


def test_a_left_handed_world_is_refused(tmp_path):
    assert "space" in refusal(tmp_path, content(space="3D-left-handed"))


def test_spacings_without_directions_are_read(tmp_path):
    scan = read(
        tmp_path,
        content(space=None, space_directions=None, space_origin=None, spacings="0.8 0.9 2.5"),
    )
    assert np.allclose(scan.geometry.spacing, (0.8, 0.9, 2.5)) and not warnings_of(scan.path)


@pytest.mark.parametrize("spacing", ["0", "-1", "nan", "inf", "wide"])
def test_a_spacing_that_is_not_positive_and_finite_is_refused(tmp_path, spacing):
    bare = {"space": None, "space_directions": None, "space_origin": None}
    assert "spacing" in refusal(tmp_path, content(spacings=f"1 1 {spacing}", **bare))
    refusal(tmp_path, content(space_directions=f"(1,0,0) (0,1,0) (0,0,{spacing.strip('-1') or 0})"))


def test_no_spacing_at_all_is_a_warning(tmp_path):
    scan = read(tmp_path, content(space=None, space_directions=None, space_origin=None))
    assert any("gives no spacing, 1 mm is taken" in line for line in warnings_of(scan.path))


BARE = {"space": None, "space_directions": None, "space_origin": None}


@pytest.mark.parametrize("centerings", [None, "cell cell cell", "node node node", "cell node ???"])
def test_axis_mins_place_the_scan_as_itk_has_it(tmp_path, centerings):
    fields = {"spacings": "0.8 0.9 2.5", "axis_mins": "5 6 -7", "centerings": centerings}
    scan = read(tmp_path, content(**BARE, **fields))
    expected = sitk.ReadImage(str(scan.path)).GetOrigin()
    np.testing.assert_allclose(scan.geometry.origin, expected)


def test_axis_maxs_without_spacings_are_refused(tmp_path):
    fields = {"axis_mins": "0 0 0", "axis_maxs": "4 5.4 17.5"}
    assert "axis maxs, but no spacings" in refusal(tmp_path, content(**BARE, **fields))


def test_a_space_without_directions_is_refused_unless_it_is_itks(tmp_path):
    bare = {"space_directions": None, "space_origin": None, "spacings": "0.8 0.9 2.5"}
    assert "no space directions" in refusal(tmp_path, content(space="RAS", **bare))
    assert np.array_equal(
        read(tmp_path, content(space="LPS", **bare)).geometry.direction, np.eye(3)
    )


@pytest.mark.parametrize("encoding, data", [("bzip2", bz2.compress(VOXELS)), ("ascii", b"1 2 3")])
def test_a_header_with_impossible_sizes_is_not_blamed_on_memory(tmp_path, encoding, data):
    message = refusal(tmp_path, content(data, encoding=encoding, sizes="99999 99999 99999"))
    assert "cannot hold" in message and "memory" not in message


def test_the_longest_runs_of_bzip2_are_read(tmp_path):
    array = np.zeros((400, 300, 200), np.uint8)
    data = bz2.compress(array.tobytes())
    fields = {"type": "uint8", "sizes": "400 300 200", "encoding": "bzip2"}
    assert not read(tmp_path, content(data, **fields)).array.any()


def test_slanted_axes_are_refused(tmp_path):
    slanted = "(0.8,0,0) (0,0.9,0) (0.9,0,2.5)"
    assert "not at right angles" in refusal(tmp_path, content(space_directions=slanted))


def test_other_units_become_millimetres(tmp_path):
    scan = read(
        tmp_path,
        content(space_units='"m" "m" "m"', space_directions="(8e-4,0,0) (0,9e-4,0) (0,0,2.5e-3)"),
    )
    assert np.allclose(scan.geometry.spacing, (0.8, 0.9, 2.5))
    assert "unit" in refusal(tmp_path, content(space_units='"inch" "inch" "inch"'))


def test_a_single_value_a_voxel_may_have_an_axis(tmp_path):
    fields = {"dimension": "4", "kinds": "list domain domain domain"}
    fields["space_directions"] = "none (0.8,0,0) (0,0.9,0) (0,0,2.5)"
    scan = read(tmp_path, content(sizes="1 5 6 7", **fields))
    assert np.array_equal(scan.array, ARRAY)
    assert np.allclose(scan.geometry.spacing, (0.8, 0.9, 2.5))
    assert "has 2 values per voxel" in refusal(
        tmp_path, content(VOXELS * 2, sizes="2 5 6 7", **fields)
    )


def test_several_volumes_are_refused(tmp_path):
    bare = {"space": None, "space_directions": None, "space_origin": None}
    series = content(VOXELS * 2, dimension="4", sizes="5 6 7 2", **bare)
    assert "has 4 axes (5 x 6 x 7 x 2)" in refusal(tmp_path, series)
    one = content(dimension="4", sizes="5 6 7 1", spacings="1 1 1 nan", **bare)
    assert np.array_equal(read(tmp_path, one).array, ARRAY)


@pytest.mark.parametrize(
    "encoding, pack", [("raw", bytes), ("gzip", gzip.compress), ("bzip2", bz2.compress)]
)
def test_lines_are_skipped_before_and_bytes_after_decompression(tmp_path, encoding, pack):
    (tmp_path / "scan.raw").write_bytes(b"a line\nanother\n" + pack(b"12345" + VOXELS))
    header = content(b"", encoding=encoding, data_file="scan.raw", line_skip="2", byte_skip="5")
    assert np.array_equal(read(tmp_path, header, "scan.nhdr").array, ARRAY)


def test_itk_skips_the_same_lines_and_bytes(tmp_path):
    (tmp_path / "scan.raw").write_bytes(b"a line\nanother\n" + gzip.compress(b"12345" + VOXELS))
    header = content(b"", encoding="gzip", data_file="scan.raw", line_skip="2", byte_skip="5")
    read(tmp_path, header, "scan.nhdr")
    image = sitk.ReadImage(str(tmp_path / "scan.nhdr"))
    assert np.array_equal(sitk.GetArrayFromImage(image).T, ARRAY)


def test_a_byte_skip_of_minus_one_takes_the_end_of_the_file(tmp_path):
    (tmp_path / "scan.raw").write_bytes(b"anything" + VOXELS)
    header = content(b"", data_file="./scan.raw", byte_skip="-1")
    assert np.array_equal(read(tmp_path, header, "scan.nhdr").array, ARRAY)


@pytest.mark.parametrize("names", ["slice%d.raw 1 7 1", "slice%d.raw 7 1 -1", "LIST"])
def test_a_file_a_slice_is_read(tmp_path, names):
    backwards = "-1" in names
    for z in range(7):
        number = 7 - z if backwards else z + 1
        (tmp_path / f"slice{number}.raw").write_bytes(ARRAY[:, :, z].tobytes(order="F"))
    header = content(b"", data_file=None)[:-1] + f"data file: {names}\n".encode()
    if names == "LIST":
        header += "".join(f"slice{z + 1}.raw\n" for z in range(7)).encode()
    assert np.array_equal(read(tmp_path, header, "scan.nhdr").array, ARRAY)


def test_comments_keys_and_windows_line_ends_are_read(tmp_path):
    data = content(b"").replace(b"NRRD0004\n", b"NRRD0005\n# a: comment\nsome key:=a: value\n")
    assert np.array_equal(read(tmp_path, data.replace(b"\n", b"\r\n") + VOXELS).array, ARRAY)


def test_several_gzip_members_and_what_follows_them_are_no_harm(tmp_path):
    members = gzip.compress(VOXELS[:100]) + gzip.compress(VOXELS[100:])
    for rest in (b"", b"\0" * 99, b"a note"):
        assert np.array_equal(read(tmp_path, content(members + rest, encoding="gzip")).array, ARRAY)


FAULTS = {
    "no sizes": {"sizes": None},
    "sizes and dimension disagree": {"sizes": "5 6"},
    "size of zero": {"sizes": "5 0 7"},
    "negative size": {"sizes": "5 -6 7"},
    "sizes beyond all memory": {"sizes": "4294967296 4294967296 4294967296"},
    "more voxels than there are": {"sizes": "5 6 8"},
    "fewer voxels than there are": {"sizes": "5 6 6"},
    "no type": {"type": None},
    "block": {"type": "block"},
    "no byte order": {"endian": None},
    "no such byte order": {"endian": "middle"},
    "no such encoding": {"encoding": "zip"},
    "directions of another number of axes": {"space_directions": "(1,0,0) (0,1,0)"},
    "directions that are no numbers": {"space_directions": "(a,0,0) (0,1,0) (0,0,1)"},
    "singular directions": {"space_directions": "(1,0,0) (1,0,0) (0,0,1)"},
    "origin that is not finite": {"space_origin": "(nan,0,0)"},
    "a field that does not exist": {"spaze_origin": "(4,5,6)"},
    "a skip within the header's file": {"byte_skip": "-1"},
    "a negative line skip": {"line_skip": "-2"},
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_header_is_refused(tmp_path, kind):
    refusal(tmp_path, content(**FAULTS[kind]))


@pytest.mark.parametrize("text", [b"1 2 3", b"1 2 x", b" ".join([b"300000"] * 210)])
def test_text_that_is_not_the_voxels_is_refused(tmp_path, text):
    refusal(tmp_path, content(text, encoding="ascii"))
    refusal(tmp_path, content(text, encoding="hex"))


def test_a_written_label_map_is_read_by_others(tmp_path):
    turned, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    geometry = Geometry(np.array([0.8, 0.9, 2.5]), np.array([1.0, 2, 3]), turned)
    labels = (ARRAY % 5).astype(np.uint16)
    write_nrrd(tmp_path / "labels.nrrd", labels, geometry)
    image = sitk.ReadImage(str(tmp_path / "labels.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(image).T, labels)
    assert np.allclose(image.GetSpacing(), geometry.spacing)
    assert np.allclose(image.GetOrigin(), geometry.origin)
    assert np.allclose(image.GetDirection(), turned.ravel())
