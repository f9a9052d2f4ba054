"""Read and check NRRD headers, attached and detached, with the geometry that ITK reads.

Also write label maps as NRRD.
"""

import gzip
import math
import re
from collections.abc import Mapping
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
from utils.files import replacing

TYPES = (
    dict.fromkeys(("signed char", "int8", "int8_t"), "i1")
    | dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1")
    | dict.fromkeys(("short", "short int", "signed short", "signed short int"), "i2")
    | dict.fromkeys(("int16", "int16_t"), "i2")
    | dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2")
    | dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4")
    | dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4")
    | dict.fromkeys(("longlong", "long long", "long long int", "signed long long"), "i8")
    | dict.fromkeys(("signed long long int", "int64", "int64_t"), "i8")
    | dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int"), "u8")
    | dict.fromkeys(("uint64", "uint64_t"), "u8")
    | {"float": "f4", "double": "f8"}
)
ENCODINGS = {
    "raw": "raw",
    "gzip": "gzip",
    "gz": "gzip",
    "bzip2": "bzip2",
    "bz2": "bzip2",
    "ascii": "ascii",
    "text": "ascii",
    "txt": "ascii",
    "hex": "hex",
}
# factors that bring x, y and z to ITK's world (LPS)
LPS = (1, 1, 1)
SPACES = {
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
    "left-posterior-superior": LPS,
    "lps": LPS,
}
SPATIAL_KINDS = ("domain", "space", "time")
MILLIMETRES = {
    "": 1.0,
    "mm": 1.0,
    "millimeter": 1.0,
    "millimeters": 1.0,
    "m": 1000.0,
    "cm": 10.0,
    "um": 1e-3,
    "µm": 1e-3,
    "micron": 1e-3,
}
# A field of another name is damage: it may have been one of the geometry.
FIELDS = (
    "content", "number", "type", "block size", "dimension", "space", "space dimension", "sizes",
    "spacings", "thicknesses", "axis mins", "axis maxs", "centerings", "centers", "labels", "units",
    "kinds", "min", "max", "old min", "old max", "data file", "endian", "encoding", "line skip",
    "byte skip", "sample units", "space units", "space origin", "space directions",
    "measurement frame",
)  # fmt: skip
# The step (mm) along each axis, None for an axis that is not spatial.
Vectors = list[list[float] | None]


def is_nrrd(start: bytes) -> bool:
    """Whether a file that starts like this is NRRD."""
    return start.startswith(b"NRRD000")


def read_nrrd_header(path: Path) -> VoxelFile:
    """Read and check a header; UserError where it is damaged or of another kind of image."""
    fields, rest, end = _fields(path)
    rank = one_number(path, fields, "dimension")
    sizes = whole_numbers(path, "sizes", required_field(path, fields, "sizes"))
    if not 1 <= rank <= 16 or len(sizes) != rank:
        raise UserError(
            f"{path}: the header gives {len(sizes)} sizes for {rank} axes, it is damaged; "
            "copy or download it again"
        )
    name = required_field(path, fields, "type").lower()
    if name not in TYPES:
        raise UserError(f"{path}: voxels of type {name[:40]!r}, numbers are expected; convert it")
    encoding = ENCODINGS.get(required_field(path, fields, "encoding").lower())
    if encoding is None:
        raise text_fault(path, "encoding", fields["encoding"])
    dtype = _with_byte_order(path, fields, dtype=np.dtype(TYPES[name]), encoding=encoding)
    vectors = _space_directions(path, fields, rank=rank)
    axes = _spatial_axes(path, fields, vectors=vectors, rank=rank)
    values = math.prod(sizes[axis] for axis in range(rank) if axis not in axes)
    shape = one_volume(path, [sizes[axis] for axis in axes], values=values)
    warnings: list[str] = []
    geometry = _geometry(path, fields, axes=axes[:3], vectors=vectors, warnings=warnings)
    data, start = _data(path, fields, listed=rest, end=end)
    skip = one_number(path, fields, "byte skip", default=0)
    lines = one_number(path, fields, "line skip", default=0)
    if lines < 0 or skip < -1 or (skip == -1 and (encoding != "raw" or data == (path,))):
        raise UserError(
            f"{path}: line skip {lines} and byte skip {skip} do not go with this file; "
            "export the scan again"
        )
    if skip == -1:  # the voxels are the last bytes
        start = -1
        lines = 0
    return VoxelFile(
        path=path,
        shape=shape,
        geometry=geometry,
        dtype=dtype,
        data=data,
        encoding=encoding,
        start=start,
        lines=lines,
        skip=max(skip, 0),
        warnings=tuple(warnings),
    )


def _fields(path: Path) -> tuple[dict[str, str], list[str], int]:
    """Read the header.

    Returns its fields, the lines after `data file: LIST`, and the byte after the header.
    """
    fields: dict[str, str] = {}
    listed: list[str] = []
    known = {name.replace(" ", ""): name for name in FIELDS}
    with open(path, "rb") as stream:
        stream.readline(1024)  # the magic line
        while True:
            line = stream.readline(LARGEST_HEADER)
            if stream.tell() > LARGEST_HEADER:
                raise UserError(f"{path}: the header has no end; copy or download it again")
            text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
            if not text.strip():
                return fields, listed, stream.tell()
            if fields.get("data file", "").startswith("LIST"):
                listed.append(text.strip())
                continue
            if text.startswith("#") or ":=" in text.split(": ")[0]:
                continue
            word, separator, value = text.partition(":")
            name = known.get(word.strip().lower().replace(" ", ""), "")
            if not separator or not name or name in fields:
                raise UserError(
                    f"{path}: the header's line {text[:60]!r} is not understood; "
                    "export the scan again"
                )
            fields[name] = value.strip()


def _with_byte_order(
    path: Path, fields: Mapping[str, str], dtype: np.dtype, encoding: str
) -> np.dtype:
    if dtype.itemsize == 1 or encoding == "ascii":
        return dtype
    orders = {"little": "<", "big": ">"}
    order = required_field(path, fields, "endian").lower()
    if order not in orders:
        raise text_fault(path, "endian", order)
    return np.dtype(f"{orders[order]}{dtype.str[1:]}")


def _space_directions(path: Path, fields: Mapping[str, str], rank: int) -> Vectors | None:
    """A vector for each axis; None if the header has no space directions."""
    if "space directions" not in fields:
        return None
    words = re.findall(r"\([^)]*\)|none", fields["space directions"].lower())
    if len(words) != rank:
        raise text_fault(path, "space directions", fields["space directions"])
    vectors: Vectors = []
    for word in words:
        vector = None
        if word != "none":
            vector = _vector(path, "space directions", text=word)
        vectors.append(vector)
    return vectors


def _vector(path: Path, field: str, text: str) -> list[float]:
    return real_numbers(path, field, text.strip().strip("()").replace(",", " "))


def _spatial_axes(
    path: Path, fields: Mapping[str, str], vectors: Vectors | None, rank: int
) -> list[int]:
    """The axes that are not those of several values per voxel."""
    kinds = fields.get("kinds", "").lower().split()
    axes: list[int] = []
    for axis in range(rank):
        is_spatial = True
        if vectors is not None:
            is_spatial = vectors[axis] is not None
        elif len(kinds) == rank:
            is_spatial = kinds[axis] in (*SPATIAL_KINDS, "???", "none")
        if is_spatial:
            axes.append(axis)
    if not axes:
        raise text_fault(path, "space directions", fields.get("space directions", ""))
    return axes


def _geometry(
    path: Path,
    fields: Mapping[str, str],
    axes: list[int],
    vectors: Vectors | None,
    warnings: list[str],
) -> Geometry:
    """The grid by the space directions, else by the spacings only."""
    columns = np.eye(3)
    origin = np.zeros(3)
    unit = 1.0
    signs = np.array(_to_lps(path, fields))
    if "space origin" in fields:
        position = _vector(path, "space origin", text=fields["space origin"])
        origin = _three(path, position, field="space origin") * signs
    if vectors is not None:
        columns = _directed_columns(path, axes, vectors=vectors) * signs[:, None]
        unit = _unit(path, fields.get("space units", ""))
    elif "spacings" in fields:
        columns = _spaced_columns(path, fields, axes=axes)
        if tuple(signs) != LPS:
            raise UserError(
                f"{path}: the header has a space ({fields['space']}), but no space directions, "
                "so the axes' directions are unknown; export the scan again"
            )
        if "axis mins" in fields:
            origin = _axis_origin(path, fields, axes=axes, spacing=np.diag(columns))
        unit = _unit(path, fields.get("units", ""))
    elif "axis maxs" in fields:
        raise UserError(
            f"{path}: the header gives axis maxs, but no spacings; "
            "export the scan again with its spacing"
        )
    else:
        warnings.append(
            f"{path}: the header gives no spacing, 1 mm is taken; export it with its spacing"
        )
    if unit != 1:
        warnings.append(f"{path}: its header is not in millimetres, converted by {unit:g}")
    return checked_geometry(path, columns * unit, origin=origin * unit, warnings=warnings)


def _directed_columns(path: Path, axes: list[int], vectors: Vectors) -> np.ndarray:
    """The steps (3, 3) by the space directions; a 2-D image gets a third step of length 1."""
    columns = np.eye(3)
    for column, axis in enumerate(axes):
        columns[:, column] = _three(path, vectors[axis], field="space directions")
    if len(axes) == 2 and columns[2, 0] == columns[2, 1] == 0:
        columns[:, 2] = (0, 0, 1)
    elif len(axes) == 2:
        normal = np.cross(columns[:, 0], columns[:, 1])
        columns[:, 2] = normal / max(np.linalg.norm(normal), 1e-30)
    return columns


def _spaced_columns(path: Path, fields: Mapping[str, str], axes: list[int]) -> np.ndarray:
    """The steps (3, 3) by the spacings, along x, y and z."""
    columns = np.eye(3)
    spacings = real_numbers(path, "spacings", text=fields["spacings"])
    if len(spacings) <= max(axes):
        raise text_fault(path, "spacings", value=fields["spacings"])
    for column, axis in enumerate(axes):
        columns[column, column] = spacings[axis]
        if spacings[axis] <= 0:
            raise text_fault(path, "spacings", value=fields["spacings"])
    return columns


def _axis_origin(
    path: Path, fields: Mapping[str, str], axes: list[int], spacing: np.ndarray
) -> np.ndarray:
    """The centre of voxel 0 (3,) by the axis mins.

    It lies there, or, where samples are cells (the default), half a voxel further.
    """
    mins = real_numbers(path, "axis mins", fields["axis mins"])
    if len(mins) <= max(axes):
        raise text_fault(path, "axis mins", fields["axis mins"])
    centers = fields.get("centerings", fields.get("centers", "")).lower().split()
    origin = np.zeros(3)
    for column, axis in enumerate(axes):
        origin[column] = mins[axis]
        is_node = axis < len(centers) and centers[axis] == "node"
        if not is_node:
            origin[column] += spacing[column] / 2
    return origin


def _three(path: Path, vector: list[float] | None, field: str) -> np.ndarray:
    """A vector of two, three or four numbers (the fourth is time) as three."""
    if vector is None or not 2 <= len(vector) <= 4:
        raise text_fault(path, field, str(vector))
    return np.array([*vector, 0.0][:3])


def _to_lps(path: Path, fields: Mapping[str, str]) -> tuple[int, int, int]:
    """Signs from the header's world to ITK's; as in ITK, a space without name is ITK's."""
    space = fields.get("space", "").lower().removesuffix("-time")
    if space in ("rast", "last", "lpst"):
        space = space[:3]
    if space in SPACES:
        return SPACES[space]
    if space in ("", "scanner-xyz", "scannerxyz", "3d-right-handed", "3dr"):
        return LPS
    raise text_fault(path, "space", fields["space"])


def _unit(path: Path, text: str) -> float:
    """Millimetres in the header's unit of length; `text` has the unit of each axis in quotes."""
    units = re.findall(r'"([^"]*)"', text)
    names = {unit.strip().lower() for unit in units[:3]}
    if not names <= MILLIMETRES.keys():
        raise text_fault(path, "unit of length", ", ".join(units))
    factors = {MILLIMETRES[name] for name in names} or {1.0}
    if len(factors) > 1:
        raise text_fault(path, "unit of length", ", ".join(units))
    return factors.pop()


def _data(
    path: Path, fields: Mapping[str, str], listed: list[str], end: int
) -> tuple[tuple[Path, ...], int]:
    """The files with the voxels, and the byte at which they begin."""
    if "data file" not in fields:
        return (path,), end
    name = fields["data file"]
    if re.fullmatch(r"LIST(\s+\d+)?", name):
        if not listed:
            raise UserError(f"{path}: the header lists no data file; export the scan again")
        return tuple(data_file(path, line) for line in listed), 0
    numbers = re.fullmatch(r"(\S*%\S*)\s+(-?\d{1,9})\s+(-?\d{1,9})\s+(-?\d{1,9})(\s+\d+)?", name)
    if numbers:
        first, last, step = (int(numbers[group]) for group in (2, 3, 4))
        return tuple(numbered_files(path, numbers[1], first=first, last=last, step=step)), 0
    return (data_file(path, name),), 0


def write_nrrd(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """Write a label map (unsigned integers, x, y, z) or a map of float32 with its geometry.

    An existing file is replaced when the new one is complete.
    """
    kind = "float"
    if labels.dtype.kind == "u":
        kind = f"uint{8 * labels.dtype.itemsize}"
    steps = (geometry.direction * geometry.spacing).T
    lines = [
        "NRRD0004",
        f"type: {kind}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, labels.shape))}",
        f"space directions: {' '.join(map(_vector_text, steps))}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector_text(geometry.origin)}",
        "",
        "",
    ]
    header = "\n".join(lines).encode()
    stored = labels.astype(labels.dtype.newbyteorder("<"), copy=False).tobytes(order="F")
    with replacing(path) as unfinished:
        unfinished.write_bytes(header + gzip.compress(stored, mtime=0))


def _vector_text(vector: np.ndarray) -> str:
    """A vector as NRRD writes it, for example (1.0,0.0,0.5)."""
    numbers = ",".join(repr(number) for number in vector.tolist())
    return f"({numbers})"
