"""Read the voxels of a file whose header is checked, and what the readers of headers share.

Voxels are decompressed with every checksum, and must have exactly the length that the header gives.
"""

import binascii
import bz2
import math
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from scans.geometry import Geometry
from utils.errors import UserError

DAMAGED = "cannot be read, it is damaged or incomplete; copy or download it again"
NOT_FINITE = "holds NaN or infinite values; replace them, or export the scan again"
BLOCK = 1 << 20  # bytes
GZIP_MAGIC = b"\x1f\x8b"
# The largest ratio of data to compressed data: 1032 by the format of deflate; for bzip2 its longest
# block (45.9 MB of equal bytes) over its shortest one (32 bytes).
LARGEST_RATIOS = {"gzip": 1032, "zlib": 1032, "bzip2": 1_500_000}
ENCODINGS = ("raw", "gzip", "zlib", "bzip2", "ascii", "hex")
LARGEST_HEADER = 16 * BLOCK  # bytes of a text header; segmentations with many names have long ones


class Decompressor(Protocol):
    """What the decompressors of zlib and bz2 have in common."""

    @property
    def eof(self) -> bool:
        """Whether the end of the compressed data was reached."""
        ...

    @property
    def unused_data(self) -> bytes:
        """Bytes after the end of the compressed data."""
        ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return at most `max_length` decompressed bytes."""
        ...


# Gets a line for each thing that is strange, but can be read; None stands for no warning.
Warn = Callable[[str | None], None]


@dataclass(frozen=True, eq=False)
class VoxelFile:
    """The content of a checked header.

    `shape`: voxels along x, y, z of the file. `geometry`: where they lie. `dtype`: as stored, byte
    order included. `data`: the files that hold the voxels, in their order (the header's own file
    for most). Each begins with `start` bytes and `lines` lines that are skipped; if `start` is -1,
    the voxels are the last bytes of the file. Then follow data in this `encoding`, whose first
    `skip` decoded bytes are no voxels. Voxels are `slope` * value + `intercept`.
    """

    path: Path
    shape: tuple[int, int, int]
    geometry: Geometry
    dtype: np.dtype
    data: tuple[Path, ...]
    encoding: str = "raw"
    start: int = 0
    lines: int = 0
    skip: int = 0
    slope: float = 1.0
    intercept: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The header's file, then those that hold voxels."""
        return tuple(dict.fromkeys((self.path, *self.data)))

    @property
    def bytes(self) -> int:
        """Length of all voxels."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_voxels(file: VoxelFile) -> np.ndarray:
    """Return the voxels (x, y, z of the file), in this machine's byte order and scaled.

    Raises UserError where data are damaged, too short or too long, or where a value is NaN or
    infinite.
    """
    length = checked_length(file)
    stored = np.empty(file.bytes, np.uint8)
    for number, path in enumerate(file.data):
        _read_data(file, path, target=stored[number * length : (number + 1) * length])
    array = stored.view(file.dtype)
    if not file.dtype.isnative:
        array = array.byteswap(inplace=True).view(file.dtype.newbyteorder("="))
    array = _scaled(file, array)
    if array.dtype.kind == "f" and not all_finite(array):
        raise UserError(f"{file.path}: {NOT_FINITE}")
    return array.reshape(file.shape, order="F")


def checked_length(file: VoxelFile) -> int:
    """Return the number of bytes of voxels that each data file holds.

    Raises UserError where the files cannot share the voxels evenly, or where one is too short for
    its share. No voxel is read, and no memory is taken for them: a damaged header may give any
    size.
    """
    if file.bytes % len(file.data):
        raise UserError(
            f"{file.path}: {len(file.data)} data files cannot share {file.bytes} bytes evenly; "
            "export the scan again"
        )
    length = file.bytes // len(file.data)
    for path in file.data:
        _check_enough(file, path, length)
    return length


def all_finite(array: np.ndarray) -> bool:
    """Whether a flat array has no NaN or infinite value; checked block by block to save memory."""
    return all(
        np.isfinite(array[start : start + BLOCK]).all() for start in range(0, array.size, BLOCK)
    )


def _scaled(file: VoxelFile, array: np.ndarray) -> np.ndarray:
    """The values with slope and intercept applied in float64.

    The result is float32 where that holds every stored value exactly, else float64.
    """
    if file.slope == 1 and file.intercept == 0:
        return array
    result_type = np.float64
    if array.dtype.itemsize <= 2 or array.dtype == np.float32:
        result_type = np.float32
    scaled = np.empty(array.size, result_type)
    for start in range(0, array.size, BLOCK):
        part = slice(start, start + BLOCK)
        with np.errstate(over="ignore"):  # infinite values are refused afterwards
            scaled[part] = array[part].astype(np.float64) * file.slope + file.intercept
    return scaled


def _check_enough(file: VoxelFile, path: Path, length: int) -> None:
    """UserError where the file cannot hold `length` bytes of voxels."""
    size = regular_size(path)
    if file.encoding == "raw" and not file.lines:
        expected = max(file.start, 0) + file.skip + length
        if size < expected:
            raise UserError(
                f"{path}: ends after {size} of {expected} bytes, it is incomplete; "
                "copy or download it again"
            )
    if size < _least_size(file, length):
        raise UserError(
            f"{path}: {size} bytes cannot hold {length} bytes of voxels, it is incomplete; "
            "copy or download it again"
        )


def _least_size(file: VoxelFile, length: int) -> float:
    """The least number of bytes that `length` bytes of voxels take in the file's encoding."""
    if file.encoding in LARGEST_RATIOS:
        return length / LARGEST_RATIOS[file.encoding]
    if file.encoding == "ascii":  # a digit and a space for each number, no space after the last one
        return 2 * (length // file.dtype.itemsize) - 1
    if file.encoding == "hex":
        return 2 * length
    return length


def regular_size(path: Path) -> int:
    """Return the size of a regular file in bytes; UserError for anything else, such as a pipe."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        raise UserError(f"{path}: no such file; put it there, or export the scan again") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is not a regular file; put a copy of the scan there")
    return status.st_size


def _read_data(file: VoxelFile, path: Path, target: np.ndarray) -> None:
    """Fill `target` (bytes) from a data file; UserError unless the data have exactly its length."""
    try:
        with open(path, "rb") as stream:
            stream.seek(_first_byte(file, path, target.size))
            for _ in range(file.lines):
                stream.readline()
            if file.encoding in ("ascii", "hex"):
                blocks = iter([_decoded_text(file, stream.read())])
            else:
                blocks = decoded_blocks(stream, file.encoding)
            count = _fill(target, blocks, skip=file.skip)
    except (EOFError, ValueError, zlib.error):
        raise UserError(f"{path}: {DAMAGED}") from None
    except OSError as error:
        if error.errno is None:  # bz2 raises it for damaged data
            raise UserError(f"{path}: {DAMAGED}") from None
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    expected = file.skip + target.size
    if count < expected:
        raise UserError(
            f"{path}: its data end after {count} of {expected} bytes, it is incomplete; "
            "copy or download it again"
        )
    if count > expected:
        raise UserError(
            f"{path}: holds more data than the {expected} bytes that the header gives; "
            "export the scan again"
        )


def _first_byte(file: VoxelFile, path: Path, length: int) -> int:
    if file.start >= 0:
        return file.start
    return os.path.getsize(path) - length


def _fill(target: np.ndarray, blocks: Iterator[bytes], skip: int) -> int:
    """Copy the bytes after the first `skip`; return how many there were in all.

    Reading stops at the first block that is too long.
    """
    position = -skip
    for block in blocks:
        begin = max(-position, 0)
        useful = block[begin : max(target.size - position, 0)]
        if useful:
            first = max(position, 0)
            target[first : first + len(useful)] = np.frombuffer(useful, np.uint8)
        position += len(block)
        if position > target.size:
            break
    return position + skip


def decoded_blocks(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yield the decoded data from the stream's position on, at most `BLOCK` bytes at a time.

    Raises EOFError, zlib.error or OSError for damaged data.
    """
    if encoding == "raw":
        while block := stream.read(BLOCK):
            yield block
    elif encoding == "gzip":
        yield from _members(stream, lambda: zlib.decompressobj(16 + zlib.MAX_WBITS), GZIP_MAGIC)
    elif encoding == "bzip2":
        yield from _members(stream, bz2.BZ2Decompressor, b"BZh")
    else:
        yield from _member(stream, zlib.decompressobj(32 + zlib.MAX_WBITS), b"")[0]


def _members(
    stream: BinaryIO, decompressor: Callable[[], Decompressor], magic: bytes
) -> Iterator[bytes]:
    """The data of all members; bytes after the last one are ignored, as gzip does."""
    rest = b""
    while True:
        blocks, current = _member(stream, decompressor(), rest)
        yield from blocks
        rest = current.unused_data
        if len(rest) < len(magic):
            rest += stream.read(BLOCK)
        if not rest.startswith(magic):
            return


def _member(
    stream: BinaryIO, current: Decompressor, compressed: bytes
) -> tuple[Iterator[bytes], Decompressor]:
    """The data of one compressed member, and its decompressor, which keeps the bytes after it.

    `compressed`: first bytes of the member that were read already.
    """

    def blocks() -> Iterator[bytes]:
        waiting = compressed
        while not current.eof:
            if not waiting and getattr(current, "needs_input", True):
                waiting = stream.read(BLOCK >> 2)
                if not waiting:
                    raise EOFError
            block = current.decompress(waiting, BLOCK)
            # zlib returns the input that it has not used, bz2 keeps it
            waiting = getattr(current, "unconsumed_tail", b"")
            yield block

    return blocks(), current


def _decoded_text(file: VoxelFile, content: bytes) -> bytes:
    """The bytes of voxels that are written as text; ValueError where the text is no number."""
    if file.encoding == "hex":
        return binascii.unhexlify(b"".join(content.split()))
    words = content.split()
    if file.dtype.kind == "f":
        return np.array([float(word) for word in words]).astype(file.dtype).tobytes()
    numbers = [int(word) for word in words]
    bounds = np.iinfo(file.dtype)
    if numbers and (min(numbers) < bounds.min or max(numbers) > bounds.max):
        raise ValueError("a number that its type does not hold")
    return np.array(numbers, file.dtype).tobytes()


# --- data files that a header names


def data_file(header: Path, name: str) -> Path:
    """Return the file that a header names.

    Raises UserError unless it is a regular file in the header's folder or below. If the header is a
    link, the folder of its target is allowed, too.
    """
    parts = re.split(r"[/\\]", name)
    if not name or "\0" in name or os.path.isabs(name) or ".." in parts or name[:1] in "/\\":
        raise UserError(
            f"{header}: names the data file {name[:80]!r}, which may only lie in its own folder or "
            "below; put it there"
        )
    real_header = Path(os.path.realpath(header))
    folders = [header.parent, real_header.parent]
    existing = [folder / name for folder in folders if (folder / name).exists()]
    path = (existing or [header.parent / name])[0]
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(folder)) for folder in folders):
        raise UserError(
            f"{header}: its data file {name} is a link that leads out of the folder; "
            "put a copy there"
        )
    regular_size(path)
    return path


def numbered_files(header: Path, pattern: str, first: int, last: int, step: int) -> list[Path]:
    """Return the files of a pattern such as slice%03d.raw, numbered from `first` to `last`."""
    parts = re.fullmatch(r"([^%]*)%(0?)([0-9]?)d([^%]*)", pattern)
    if parts is None or step == 0 or (last - first) / step < 0:
        raise UserError(
            f"{header}: names the data files {pattern[:80]!r} {first} to {last} by {step}; "
            "only a pattern such as slice%03d.raw is taken"
        )
    before, zero, width, after = parts.groups()
    count = (last - first) // step + 1
    if count > 1 << 16:
        raise UserError(f"{header}: names {count} data files; export the scan as one file")
    files: list[Path] = []
    for position in range(count):
        number = format(first + step * position, f"{zero}{width}d")
        files.append(data_file(header, f"{before}{number}{after}"))
    return files


# --- fields of text headers


def text_fault(path: Path, field: str, value: str) -> UserError:
    """Return the error for a field whose text cannot be understood."""
    return UserError(
        f"{path}: the header's {field} is {value[:80]!r}, which is not understood; "
        "export the scan again"
    )


def whole_numbers(path: Path, field: str, text: str) -> list[int]:
    """Return the integers of a field; UserError for any other text."""
    try:
        return [int(word) for word in text.split()]
    except ValueError:
        raise text_fault(path, field, text) from None


def real_numbers(path: Path, field: str, text: str) -> list[float]:
    """Return the numbers of a field; UserError for any other text."""
    try:
        return [float(word) for word in text.split()]
    except ValueError:
        raise text_fault(path, field, text) from None


def one_volume(path: Path, sizes: list[int], values: int = 1) -> tuple[int, int, int]:
    """Return three sizes: further axes of length 1 are dropped, a 2-D image gets a third axis.

    Raises UserError unless they are positive and those of one volume with one value per voxel.
    """
    if any(side <= 0 for side in sizes):
        shown = " x ".join(str(side)[:20] for side in sizes)
        raise UserError(
            f"{path}: the header gives sizes of {shown}, they must be positive; "
            "export the scan again"
        )
    if values != 1:
        raise UserError(
            f"{path}: has {values} values per voxel, one is expected; save a grey-level image"
        )
    kept = list(sizes)
    while len(kept) > 3 and kept[-1] == 1:
        kept.pop()
    if len(kept) not in (2, 3):
        shown = " x ".join(map(str, kept))
        raise UserError(
            f"{path}: has {len(kept)} axes ({shown}), one 3-D volume is expected; "
            "save volumes one by one"
        )
    first, second, third = [*kept, 1][:3]
    return first, second, third


def required_field(path: Path, fields: Mapping[str, str], name: str) -> str:
    """Return the text of a header's field; UserError if the header lacks it."""
    if name not in fields:
        raise UserError(
            f"{path}: the header has no {name}, it is damaged; copy or download it again"
        )
    return fields[name]


def one_number(path: Path, fields: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return the integer of a header's field, or the default if the header lacks it.

    Raises UserError for any other text.
    """
    if default is not None and name not in fields:
        return default
    numbers = whole_numbers(path, name, required_field(path, fields, name))
    if len(numbers) != 1:
        raise text_fault(path, name, fields[name])
    return numbers[0]
