"""Read and check MetaImage headers (MHA, MHD), with the geometry that ITK reads."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from scans.geometry import Geometry, checked_geometry
from scans.voxel_file import (
    LARGEST_HEADER,
    VoxelFile,
    data_file,
    numbered_files,
    one_number,
    one_volume,
    real_numbers,
    required_field,
    text_fault,
    whole_numbers,
)
from utils.errors import UserError

TYPES = {
    "MET_CHAR": "i1", "MET_ASCII_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2",
    "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
# other names of a key, and the key
SYNONYMS = {
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
KEYS = (
    "NDims", "DimSize", "ElementType", "ElementSpacing", "ElementSize", "Offset",
    "TransformMatrix", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData", "HeaderSize",
    "ElementNumberOfChannels", "AnatomicalOrientation", "ElementDataFile",
)  # fmt: skip
OTHERS = (
    "ObjectType", "ObjectSubType", "Comment", "Name", "ID", "ParentID", "Color",
    "CenterOfRotation", "DistanceUnits", "CompressedDataSize", "CompressionLevel", "Modality",
    "SequenceID", "ElementMin", "ElementMax", "ElementNBits", "AcquisitionDate", "TransformType",
    "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset",
    "UltrasoundImageOrientation", "Kinds",
)  # fmt: skip
MILLIMETRES = {"mm": 1.0, "um": 0.001, "cm": 10.0, "?": 1.0}
SCALING = {"ElementToIntensityFunctionSlope": 1.0, "ElementToIntensityFunctionOffset": 0.0}
# ITK also copies the tags of a DICOM file, under keys such as 0008|0060
KEY = re.compile(r"\s*([^=]*?)\s*=\s*(.*?)\s*")
# An axis that runs along +x, +y, +z of ITK's world comes from the right, the front, the feet;
# one that runs backwards comes from the opposite side.
FROM = ("RL", "AP", "IS")


def is_meta(start: bytes) -> bool:
    """Whether a file that starts like this is MetaImage.

    It consists of lines `key = value`, among them some of MetaImage's keys.
    """
    text = start[:4096].decode("latin-1").lstrip()
    first = (text.splitlines() or [""])[0]
    return bool(KEY.fullmatch(first)) and bool(re.search(r"\b(NDims|ObjectType|DimSize)\s*=", text))


def read_meta_header(path: Path) -> VoxelFile:
    """Read and check a header; UserError where it is damaged or of another kind of image."""
    fields, listed, end = _fields(path)
    if fields.get("ObjectType", "Image") != "Image":
        raise UserError(
            f"{path}: holds a {fields['ObjectType'][:40]}, an image is expected; convert it"
        )
    rank = one_number(path, fields, "NDims")
    sizes = whole_numbers(path, "DimSize", required_field(path, fields, "DimSize"))
    if not 1 <= rank <= 10 or len(sizes) != rank:
        raise UserError(
            f"{path}: the header gives {len(sizes)} sizes for {rank} axes, it is damaged; "
            "copy or download it again"
        )
    channels = one_number(path, fields, "ElementNumberOfChannels", default=1)
    shape = one_volume(path, sizes, values=channels)
    dtype = _voxel_type(path, fields)
    warnings: list[str] = []
    geometry = _geometry(path, fields, rank, warnings=warnings)
    start = one_number(path, fields, "HeaderSize", default=0)
    encoding = _encoding(path, fields)
    if start < -1 or (start == -1 and encoding != "raw"):
        raise text_fault(path, "HeaderSize", fields["HeaderSize"])
    order = "<"
    if _is_true(path, fields, "BinaryDataByteOrderMSB"):
        order = ">"
    if encoding == "ascii":
        order = "="
    data = _data(path, fields, listed)
    if data == (path,) and start == 0:
        start = end
    return VoxelFile(
        path=path,
        shape=shape,
        geometry=geometry,
        dtype=dtype.newbyteorder(order),
        data=data,
        encoding=encoding,
        start=start,
        warnings=tuple(warnings),
    )


def _voxel_type(path: Path, fields: Mapping[str, str]) -> np.dtype:
    """The type of the stored values; UserError unless they are numbers that need no scaling."""
    name = required_field(path, fields, "ElementType")
    if name not in TYPES:
        raise UserError(f"{path}: voxels of type {name[:40]!r}, numbers are expected; convert it")
    for key, neutral in SCALING.items():
        if key in fields and real_numbers(path, key, fields[key]) != [neutral]:
            raise UserError(
                f"{path}: {key} {fields[key][:40]} is not supported; save scaled values"
            )
    return np.dtype(TYPES[name])


def _encoding(path: Path, fields: Mapping[str, str]) -> str:
    """The encoding of the voxels, as `VoxelFile` names it."""
    is_compressed = _is_true(path, fields, "CompressedData")
    if not _is_true(path, fields, "BinaryData", default=True):
        return "ascii"
    if is_compressed:
        return "zlib"
    return "raw"


def _fields(path: Path) -> tuple[dict[str, str], list[str], int]:
    """Read the header.

    Returns its fields, the lines after `ElementDataFile = LIST`, and the byte after the header.
    """
    fields: dict[str, str] = {}
    with open(path, "rb") as stream:
        while "ElementDataFile" not in fields:
            line = stream.readline(LARGEST_HEADER)
            if not line or stream.tell() > LARGEST_HEADER:
                raise UserError(
                    f"{path}: the header has no ElementDataFile, it is damaged; "
                    "copy or download it again"
                )
            text = line.decode("utf-8", "surrogateescape")
            if not text.strip():
                continue
            entry = KEY.fullmatch(text)
            if entry is None:
                raise UserError(
                    f"{path}: the header's line {text[:60]!r} is not understood; "
                    "export the scan again"
                )
            key = SYNONYMS.get(entry[1], entry[1])
            if key not in (*KEYS, *OTHERS) and get_close_matches(key, KEYS, cutoff=0.85):
                raise UserError(
                    f"{path}: the header's key {key[:40]!r} is misspelt or damaged; "
                    "export the scan again"
                )
            if key in fields and key in KEYS:
                raise UserError(f"{path}: the header gives {key} twice; export the scan again")
            fields[key] = entry[2]
        end = stream.tell()
        listed: list[str] = []
        if fields["ElementDataFile"].startswith("LIST"):
            names = stream.read(LARGEST_HEADER).decode("utf-8", "surrogateescape").splitlines()
            listed = [name.strip() for name in names if name.strip()]
    return fields, listed, end


def _is_true(path: Path, fields: Mapping[str, str], name: str, default: bool = False) -> bool:
    if name not in fields:
        return default
    letter = fields[name][:1].lower()
    if letter not in ("t", "1", "f", "0"):
        raise text_fault(path, name, fields[name])
    return letter in ("t", "1")


def _geometry(path: Path, fields: Mapping[str, str], rank: int, warnings: list[str]) -> Geometry:
    """The grid in ITK's world, where rows of TransformMatrix are the directions of the axes.

    AnatomicalOrientation only repeats the directions.
    """
    kept = min(rank, 3)
    spacing = _spacing(path, fields, rank, warnings=warnings)
    origin = np.zeros(3)
    if "Offset" in fields:
        origin[:kept] = _numbers(path, fields, "Offset", count=rank)[:kept]
    direction = np.eye(3)
    if "TransformMatrix" in fields:
        numbers = _numbers(path, fields, "TransformMatrix", count=rank * rank)
        rows = np.reshape(numbers, (rank, rank))
        direction[:kept, :kept] = rows[:kept, :kept].T
    lengths = np.linalg.norm(direction, axis=0)
    if not np.allclose(lengths, 1, atol=1e-3):
        raise text_fault(path, "TransformMatrix", fields["TransformMatrix"])
    with np.errstate(invalid="ignore"):  # infinite spacings are refused below
        columns = direction * spacing
    geometry = checked_geometry(path, columns, origin, warnings)
    unit = MILLIMETRES.get(fields.get("DistanceUnits", "mm").lower())
    if unit is None:
        raise text_fault(path, "DistanceUnits", fields["DistanceUnits"])
    if unit != 1:
        warnings.append(f"{path}: its header is not in millimetres, converted by {unit:g}")
    geometry = Geometry(spacing * unit, geometry.origin * unit, geometry.direction)
    letters = fields.get("AnatomicalOrientation", "").upper()
    if re.fullmatch("[RLAPIS]{3}", letters) and rank >= 3 and letters != _letters(geometry):
        warnings.append(
            f"{path}: AnatomicalOrientation is {letters}, "
            f"but TransformMatrix gives {_letters(geometry)}; TransformMatrix is used"
        )
    return geometry


def _spacing(path: Path, fields: Mapping[str, str], rank: int, warnings: list[str]) -> np.ndarray:
    """Spacing (3,) in the header's unit; 1, with a warning, where the header has none."""
    spacing = np.ones(3)
    for key in ("ElementSpacing", "ElementSize"):
        if key in fields:
            numbers = _numbers(path, fields, key, count=rank)[:3]
            spacing[: len(numbers)] = numbers
            if not (spacing > 0).all():
                raise text_fault(path, key, fields[key])
            return spacing
    warnings.append(
        f"{path}: the header gives no spacing, 1 mm is taken; export it with its spacing"
    )
    return spacing


def _numbers(path: Path, fields: Mapping[str, str], name: str, count: int) -> list[float]:
    numbers = real_numbers(path, name, fields[name])
    if len(numbers) != count:
        raise text_fault(path, name, fields[name])
    return numbers


def _letters(geometry: Geometry) -> str:
    """The side that each axis comes from, as letters of AnatomicalOrientation."""
    letters = ""
    for column in geometry.direction.T:
        world = int(np.abs(column).argmax())
        letters += FROM[world][int(column[world] <= 0)]
    return letters


def _data(path: Path, fields: Mapping[str, str], listed: list[str]) -> tuple[Path, ...]:
    """The files with the voxels."""
    name = fields["ElementDataFile"]
    if name.upper() == "LOCAL":
        return (path,)
    if re.fullmatch(r"LIST(\s+\d+D?)?", name):
        if not listed:
            raise UserError(f"{path}: the header lists no data file; export the scan again")
        return tuple(data_file(path, line) for line in listed)
    if "%" in name:
        words = name.split()
        if len(words) != 4 or not all(re.fullmatch(r"-?\d{1,9}", word) for word in words[1:]):
            raise text_fault(path, "ElementDataFile", name)
        first, last, step = (int(word) for word in words[1:])
        return tuple(numbered_files(path, words[0], first=first, last=last, step=step))
    return (data_file(path, name),)
