"""Read the pixels of DICOM slices, and rescale each slice by its own slope and intercept."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID, RLELossless

from scans.dicom_tags import (
    DAMAGED,
    OVERLAY_BITS,
    PIXEL_LAYOUT,
    DicomFile,
    Slice,
    readable_values,
    transfer_syntax,
)
from utils.errors import UserError, writing
from utils.files import scratch
from utils.isolated import call_isolated

BATCH = 200  # files that one process decodes: bounds the memory that they take
SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")
MULTI_FRAME_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7.3")  # grey values of 16 bits
END_OF_CODE = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000
INTEGERS = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64)


def read_values(place: Path, slices: Sequence[Slice]) -> np.ndarray:
    """Return the rescaled values of the slices, (slices, rows, columns).

    Whole numbers where all slices share one whole slope and intercept, of the smallest type that
    holds every value that can occur; float64 otherwise. Raises UserError where pixels are missing,
    cannot be decoded, or do not fit their tags.
    """
    indices: dict[DicomFile, list[int]] = {}
    for index, one in enumerate(slices):
        indices.setdefault(one.file, []).append(index)
    files = list(indices)
    for file in files:
        with readable_values(file.path):
            _check_layout(file)
    columns, rows = slices[0].size
    values = np.empty((len(slices), rows, columns), _value_type(slices))
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        decoded = _decode_isolated(place, batch)
        for file in batch:
            with readable_values(file.path):
                stored = _stored_values(file, decoded.get(file.path))
            for index in indices[file]:
                one = slices[index]
                _rescale(stored[one.frame], one, result=values[index])
    return values


def decode(paths: Sequence[Path]) -> list[np.ndarray]:
    """Decompress the pixels of DICOM files by GDCM: (frames, rows, columns) of each.

    GDCM gets the pixels only, without the tags for place and rescaling, so that it changes no
    value. Raises UserError for pixels that are incomplete or damaged.
    """
    with scratch("dicom") as folder, writing(folder, "free space, or set TMPDIR to another folder"):
        return [_decode_one(path, folder / "pixels.dcm") for path in paths]


def _check_layout(file: DicomFile) -> None:
    """UserError unless pixels are integers of 8, 16 or 32 bits that start at the lowest bit."""
    syntax = transfer_syntax(file.tags)
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise UserError(
            f"{file.path}: stored in a manufacturer's own way (transfer syntax {syntax}), which is "
            "not supported; export it again in a standard one"
        )
    bits, used, _ = _bits(file)
    high_bit = int(file.tags.get("HighBit", used - 1))
    if bits not in (8, 16, 32) or not 1 <= used <= bits or high_bit != used - 1:
        raise UserError(
            f"{file.path}: pixels of {bits} bits (BitsStored {used}, HighBit {high_bit}) are not "
            "supported; convert it to NIfTI"
        )


def _bits(file: DicomFile) -> tuple[int, int, bool]:
    """BitsAllocated, BitsStored, and whether the values have a sign."""
    bits = int(file.tags.get("BitsAllocated") or 0)
    used = int(file.tags.get("BitsStored") or bits)
    return bits, used, bool(file.tags.get("PixelRepresentation") or 0)


def _stored_type(file: DicomFile) -> np.dtype:
    bits, _, is_signed = _bits(file)
    kind = "u"
    if is_signed:
        kind = "i"
    return np.dtype(f"{kind}{bits // 8}")


def _decode_isolated(place: Path, files: Sequence[DicomFile]) -> dict[Path, np.ndarray]:
    """The values of the files that need a codec, decoded in a child process: codecs can crash."""
    paths = [file.path for file in files if _needs_codec(file)]
    if not paths:
        return {}
    arrays = call_isolated(place, decode, paths)  # one process for all: starting one takes time
    return dict(zip(paths, arrays, strict=True))


def _needs_codec(file: DicomFile) -> bool:
    syntax = transfer_syntax(file.tags)
    return syntax.is_encapsulated and syntax != RLELossless


def _decode_one(path: Path, temporary: Path) -> np.ndarray:
    source = _read_pixels(path)
    count = int(source.get("NumberOfFrames") or 1)
    syntax = transfer_syntax(source)
    frames = list(generate_frames(source.PixelData, number_of_frames=count))
    # padding may follow the end marker
    is_complete = [code.rstrip(b"\0\xff").endswith(END_OF_CODE) for code in frames]
    if len(frames) != count or not all(is_complete):
        raise UserError(f"{path}: the compressed pixels are incomplete, the file {DAMAGED}")
    _save_pixels_only(source, count, syntax, temporary)
    try:
        image = sitk.ReadImage(str(temporary))
    except RuntimeError:
        raise UserError(
            f"{path}: the compressed pixels ({syntax.name}) cannot be decoded; "
            "copy or download the file again, or convert it to NIfTI"
        ) from None
    array = sitk.GetArrayFromImage(image)
    expected = (count, int(source.Rows), int(source.Columns))
    if array.shape != expected:
        raise UserError(f"{path}: the compressed pixels do not fit Rows and Columns; it {DAMAGED}")
    return array


def _save_pixels_only(source: Dataset, frames: int, syntax: UID, target: Path) -> None:
    bare = Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = syntax
    bare.SOPClassUID = SECONDARY_CAPTURE
    if frames > 1:
        bare.SOPClassUID = MULTI_FRAME_CAPTURE
        bare.NumberOfFrames = frames
    bare.SOPInstanceUID = UID("1.2.3")
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID
    for keyword in PIXEL_LAYOUT:
        if keyword in source:
            setattr(bare, keyword, source.get(keyword))
    bare.PixelData = source.PixelData
    bare["PixelData"].VR = "OB"
    bare["PixelData"].is_undefined_length = True
    bare.save_as(target, enforce_file_format=True)


def _read_pixels(path: Path) -> Dataset:
    wanted = [*PIXEL_LAYOUT, "NumberOfFrames", "PixelData"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, force=True, specific_tags=wanted)


def _stored_values(file: DicomFile, decoded: np.ndarray | None) -> np.ndarray:
    """The values as they are stored, (frames, rows, columns); `decoded` if a codec was needed."""
    if decoded is not None:
        array = decoded.astype(_stored_type(file))
    elif transfer_syntax(file.tags) == RLELossless:
        array = _run_length_decoded(file)
    else:
        array = _uncompressed(file)
    return _used_bits(file, array)


def _shape(file: DicomFile) -> tuple[int, int, int]:
    return file.frames, int(file.tags.Rows), int(file.tags.Columns)


def _run_length_decoded(file: DicomFile) -> np.ndarray:
    tags = _read_pixels(file.path)
    tags.file_meta.TransferSyntaxUID = RLELossless
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = tags.pixel_array
    except Exception:  # pydicom raises many types on damaged data
        raise UserError(
            f"{file.path}: the compressed pixels cannot be decoded, it {DAMAGED}"
        ) from None
    return array.reshape(_shape(file))


def _uncompressed(file: DicomFile) -> np.ndarray:
    stored_type = _stored_type(file)
    shape = _shape(file)
    data = _pixel_bytes(file)
    count = math.prod(shape)
    expected = count * stored_type.itemsize
    has_padding = not any(data[expected:])  # zeros after the pixels
    if len(data) < expected or not has_padding:
        raise UserError(
            f"{file.path}: {len(data)} bytes of pixels, but its tags give {expected}; it {DAMAGED}"
        )
    is_word = file.tags.get_item("PixelData", keep_deferred=True).VR == "OW"
    if transfer_syntax(file.tags).is_little_endian:
        array = np.frombuffer(data, stored_type.newbyteorder("<"), count=count)
    elif stored_type.itemsize == 1 and is_word:  # bytes in swapped pairs
        array = np.frombuffer(data, ">u2").astype("<u2").view(stored_type)[:count]
    else:
        array = np.frombuffer(data, stored_type.newbyteorder(">"), count=count)
    return array.astype(stored_type, copy=False).reshape(shape)


def _pixel_bytes(file: DicomFile) -> bytes:
    element = file.tags.get_item("PixelData", keep_deferred=True)
    if not isinstance(element, RawDataElement) or element.value is not None:
        return element.value
    with open(file.path, "rb") as stream:
        stream.seek(element.value_tell)
        return stream.read(element.length)


def _used_bits(file: DicomFile, array: np.ndarray) -> np.ndarray:
    """The values in the lowest BitsStored bits, with their sign.

    The bits above repeat the sign, are 0, or hold an overlay. Anything else means that BitsStored
    is wrong, and the values would be cut.
    """
    bits, used, is_signed = _bits(file)
    if used == bits:
        return array
    unused = bits - used
    cut = np.left_shift(array, unused)
    values = np.right_shift(cut, unused)  # repeats the sign of signed types
    has_overlay = any(file.tags[tag].value for tag in OVERLAY_BITS if tag in file.tags)
    if has_overlay or np.array_equal(values, array):
        return values
    without_sign = array & ((1 << used) - 1)
    if is_signed and np.array_equal(without_sign, array):
        return values
    raise UserError(
        f"{file.path}: values need more than its {used} bits (BitsStored); export the series again"
    )


def _value_type(slices: Sequence[Slice]) -> np.dtype:
    """The smallest integer type for all values that can occur, or float64."""
    scalings = {(one.slope, one.intercept) for one in slices}
    (slope, intercept), *others = scalings
    if others or not slope.is_integer() or not intercept.is_integer():
        return np.dtype(np.float64)
    # each step of the rescaling must fit
    limits = [slope, intercept]
    for file in {one.file for one in slices}:
        for stored in _stored_limits(file):
            scaled = stored * slope
            limits += [stored, scaled, scaled + intercept]
    for candidate in INTEGERS:
        information = np.iinfo(candidate)
        if information.min <= min(limits) and max(limits) <= information.max:
            return np.dtype(candidate)
    return np.dtype(np.float64)


def _stored_limits(file: DicomFile) -> tuple[int, int]:
    """Smallest and largest value that the stored bits can hold."""
    _, used, is_signed = _bits(file)
    if is_signed:
        return -(1 << (used - 1)), (1 << (used - 1)) - 1
    return 0, (1 << used) - 1


def _rescale(stored: np.ndarray, one: Slice, result: np.ndarray) -> None:
    """Write `stored` * slope + intercept into `result`, whose type holds every step."""
    if one.slope == 1:
        result[...] = stored
    else:
        np.multiply(stored, result.dtype.type(one.slope), out=result, casting="same_kind")
    if one.intercept != 0:
        np.add(result, result.dtype.type(one.intercept), out=result)
