"""MetaImage headers (MHA, MHD): checked, with the geometry that ITK reads."""

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
    "MET_CHAR": "i1", "MET_ASCII_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
# names that mean the same, the first one is what the code goes by
SYNONYMS = {
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
KEYS = (
    "NDims", "DimSize", "ElementType", "ElementSpacing", "ElementSize", "Offset", "TransformMatrix", "BinaryData",
    "BinaryDataByteOrderMSB", "CompressedData", "HeaderSize", "ElementNumberOfChannels", "AnatomicalOrientation", "ElementDataFile",
)  # fmt: skip
OTHERS = (
    "ObjectType", "ObjectSubType", "Comment", "Name", "ID", "ParentID", "Color", "CenterOfRotation", "DistanceUnits", "CompressedDataSize",
    "CompressionLevel", "Modality", "SequenceID", "ElementMin", "ElementMax", "ElementNBits", "AcquisitionDate", "TransformType",
    "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "UltrasoundImageOrientation", "Kinds",
)  # fmt: skip
MILLIMETRES = {"mm": 1.0, "um": 0.001, "cm": 10.0, "?": 1.0}
SCALING = {"ElementToIntensityFunctionSlope": 1.0, "ElementToIntensityFunctionOffset": 0.0}
# ITK also writes what a DICOM file said, under keys such as 0008|0060
KEY = re.compile(r"\s*([^=]*?)\s*=\s*(.*?)\s*")
# an axis that runs along +x, +y, +z of ITK's world comes from the right, the front, the feet
FROM = ("RL", "AP", "IS")


def is_meta(start: bytes) -> bool:
    """Whether a file that starts like this is MetaImage: lines `key = value`, some of its own keys among them."""
    text = start[:4096].decode("latin-1").lstrip()
    first = text.splitlines()[0] if text else ""
    return bool(KEY.fullmatch(first)) and bool(re.search(r"\b(NDims|ObjectType|DimSize)\s*=", text))


def read_meta_header(path: Path) -> VoxelFile:
    """What the header says; UserError where it is damaged or of another kind of image."""
    fields, listed, end = _fields(path)
    if fields.get("ObjectType", "Image") != "Image":
        raise UserError(
            f"{path}: holds a {fields['ObjectType'][:40]}, an image is expected; convert it"
        )
    rank = one_number(path, fields, "NDims")
    sizes = whole_numbers(path, "DimSize", required_field(path, fields, "DimSize"))
    if not 1 <= rank <= 10 or len(sizes) != rank:
        raise UserError(
            f"{path}: the header gives {len(sizes)} sizes for {rank} axes, it is damaged; copy or download it again"
        )
    shape = one_volume(path, sizes, one_number(path, fields, "ElementNumberOfChannels", 1))
    name = required_field(path, fields, "ElementType")
    if name not in TYPES:
        raise UserError(f"{path}: voxels of type {name[:40]!r}, numbers are expected; convert it")
    for key, neutral in SCALING.items():
        if key in fields and real_numbers(path, key, fields[key]) != [neutral]:
            raise UserError(
                f"{path}: {key} {fields[key][:40]} is not supported; save scaled values"
            )
    warnings: list[str] = []
    geometry = _geometry(path, fields, rank, warnings)
    encoding, start = "raw", one_number(path, fields, "HeaderSize", 0)
    if _is_true(path, fields, "CompressedData"):
        encoding = "zlib"
    if not _is_true(path, fields, "BinaryData", default=True):
        encoding = "ascii"
    if start < -1 or (start == -1 and encoding != "raw"):
        raise text_fault(path, "HeaderSize", fields["HeaderSize"])
    order = ">" if _is_true(path, fields, "BinaryDataByteOrderMSB") else "<"
    data = _data(path, fields, listed)
    if data == (path,) and start == 0:
        start = end
    return VoxelFile(
        path=path,
        shape=shape,
        geometry=geometry,
        dtype=np.dtype(TYPES[name]).newbyteorder("=" if encoding == "ascii" else order),
        data=data,
        encoding=encoding,
        start=start,
        warnings=tuple(warnings),
    )


def _fields(path: Path) -> tuple[dict[str, str], list[str], int]:
    """The header's fields, the lines after `ElementDataFile = LIST`, and the byte after the header."""
    fields: dict[str, str] = {}
    with open(path, "rb") as stream:
        while "ElementDataFile" not in fields:
            line = stream.readline(LARGEST_HEADER)
            if not line or stream.tell() > LARGEST_HEADER:
                raise UserError(
                    f"{path}: the header has no ElementDataFile, it is damaged; copy or download it again"
                )
            text = line.decode("utf-8", "surrogateescape")
            if not text.strip():
                continue
            found = KEY.fullmatch(text)
            if found is None:
                raise UserError(
                    f"{path}: the header's line {text[:60]!r} is not understood; export the scan again"
                )
            key = SYNONYMS.get(found[1], found[1])
            if key not in (*KEYS, *OTHERS) and get_close_matches(key, KEYS, cutoff=0.85):
                raise UserError(
                    f"{path}: the header's key {key[:40]!r} is misspelt or damaged; export the scan again"
                )
            if key in fields and key in KEYS:
                raise UserError(f"{path}: the header gives {key} twice; export the scan again")
            fields[key] = found[2]
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
    """Rows of TransformMatrix are the directions of the axes, in ITK's world; AnatomicalOrientation only repeats them."""
    kept = min(rank, 3)
    spacing = np.ones(3)
    if "ElementSpacing" in fields or "ElementSize" in fields:
        key = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
        spacing[:kept] = _numbers(path, fields, key, rank)[:kept]
        if not (spacing > 0).all():
            raise text_fault(path, key, fields[key])
    else:
        warnings.append(
            f"{path}: the header gives no spacing, 1 mm is taken; export it with its spacing"
        )
    origin = np.zeros(3)
    if "Offset" in fields:
        origin[:kept] = _numbers(path, fields, "Offset", rank)[:kept]
    direction = np.eye(3)
    if "TransformMatrix" in fields:
        rows = np.array(_numbers(path, fields, "TransformMatrix", rank * rank)).reshape(rank, rank)
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
    said = fields.get("AnatomicalOrientation", "").upper()
    if re.fullmatch("[RLAPIS]{3}", said) and rank >= 3 and said != _letters(geometry):
        warnings.append(
            f"{path}: AnatomicalOrientation is {said}, but TransformMatrix gives {_letters(geometry)}; TransformMatrix is used"
        )
    return geometry


def _numbers(path: Path, fields: Mapping[str, str], name: str, count: int) -> list[float]:
    numbers = real_numbers(path, name, fields[name])
    if len(numbers) != count:
        raise text_fault(path, name, fields[name])
    return numbers


def _letters(geometry: Geometry) -> str:
    """Where each axis comes from, as AnatomicalOrientation has it."""
    letters = ""
    for column in geometry.direction.T:
        world = int(np.abs(column).argmax())
        letters += FROM[world][0 if column[world] > 0 else 1]
    return letters


def _data(path: Path, fields: Mapping[str, str], listed: list[str]) -> tuple[Path, ...]:
    """The files with the voxels."""
    name = fields["ElementDataFile"]
    if name.upper() == "LOCAL":
        return (path,)
    if re.fullmatch(r"LIST(\s+\d+D?)?", name):
        if not listed:
            raise UserError(f"{path}: the header lists no data file; export the scan again")
        return tuple(data_file(path, one) for one in listed)
    if "%" in name:
        words = name.split()
        if len(words) != 4 or not all(re.fullmatch(r"-?\d{1,9}", word) for word in words[1:]):
            raise text_fault(path, "ElementDataFile", name)
        first, last, step = (int(word) for word in words[1:])
        return tuple(numbered_files(path, words[0], first, last, step))
    return (data_file(path, name),)
