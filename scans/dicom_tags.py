"""Read and check the tags of DICOM files, without the pixels."""

import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from utils.errors import UserError

# pydicom warns of values that break the standard; what matters here is checked here
config.settings.reading_validation_mode = config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

MAGIC = b"DICM"
PREAMBLE = 128  # bytes before MAGIC
DEFERRED = 1 << 16  # bytes; pydicom skips larger values and reads them only when they are used
SLICE_ENDINGS = (".dcm", ".dicom", ".dic", ".ima")
DAMAGED = "is damaged or ends too early; copy or download it again"
LARGEST = 1e30  # no slope or intercept in any unit is larger
UNDEFINED_LENGTH = 0xFFFFFFFF  # of compressed pixels
US_VOLUME = "Enhanced US Volume Storage"

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# where enhanced multi-frame objects hold a tag, for each frame or for all
GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
TOMOGRAPHY = ("CT", "MR", "PT")  # modalities whose slices always have a place
# where Siemens stores the number of slices of a mosaic, and its own name
MOSAIC_TAG = (0x0019, 0x100A)
CREATOR_TAG = (0x0019, 0x0010)
SIEMENS = "SIEMENS MR HEADER"
# what images at one position may differ in
MARKS = (
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "EchoTime",
    "EffectiveEchoTime",
    "EchoNumbers",
    "DiffusionBValue",
    "InversionTime",
    "FlipAngle",
    "ImageType",
    "FrameType",
    "AcquisitionNumber",
    "AcquisitionTime",
    "ContentTime",
)
# where old software declares that unused bits of the pixels hold an overlay
OVERLAY_BITS = [(0x6000 + 2 * number, 0x0102) for number in range(16)]
PIXEL_LAYOUT = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
USED_TAGS = [
    Tag(keyword)
    for keyword in (
        "SOPClassUID",
        "SOPInstanceUID",
        "SeriesInstanceUID",
        "SeriesNumber",
        "SeriesDescription",
        "Modality",
        "NumberOfFrames",
        *PIXEL_LAYOUT,
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "ImagerPixelSpacing",
        "SliceThickness",
        "RescaleSlope",
        "RescaleIntercept",
        "ModalityLUTSequence",
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        *MARKS,
        *PIXELS,
        *OVERLAY_BITS,
        MOSAIC_TAG,
        CREATOR_TAG,
    )
]


@dataclass(frozen=True, eq=False)
class DicomFile:
    """The tags of a DICOM file, without its pixels.

    `is_image`: whether it is an image at all. `series` and `instance` are its UIDs, empty where it
    has none. `frames`: the number of images in it. `description` of its series, and the name of
    the object's `kind`, for messages.
    """

    path: Path
    tags: Dataset
    is_image: bool
    series: str
    instance: str
    frames: int
    description: str
    kind: str


@dataclass(frozen=True, eq=False)
class Slice:
    """One image of a file, placed in the patient (millimetres, DICOM's axes: left, back, head).

    `position` (3,): the centre of the first pixel. `along_row`, `along_column` (3,): unit vectors
    of rising column and row index. `spacing`: distance of columns, distance of rows. `is_placed`:
    false for pictures without a place in the patient, such as radiographs and ultrasound; they get
    the origin and the axes of an axial slice.
    """

    file: DicomFile
    frame: int
    size: tuple[int, int]  # columns, rows
    is_placed: bool
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    spacing: tuple[float, float]
    thickness: float | None
    slope: float
    intercept: float

    @property
    def name(self) -> str:
        """For messages: the file, and the frame of several."""
        if self.file.frames == 1:
            return self.file.path.name
        return f"{self.file.path.name} frame {self.frame + 1}"

    def marks(self) -> dict[str, str]:
        """Times, echoes, b-values and the like, as text."""
        datasets = [self.file.tags]
        for group in _functional_groups(self.file.tags, self.frame):
            datasets += _items(group)
        values: dict[str, str] = {}
        for dataset in datasets:
            values |= {key: str(dataset.get(key)) for key in MARKS if key in dataset}
        return values


def read_tags(path: Path) -> DicomFile | None:
    """Read the tags of a DICOM file; None for any other file.

    Raises UserError for a DICOM file that is damaged or ends too early.
    """
    try:
        start = _first_bytes(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from None
    has_magic = start[PREAMBLE:] == MAGIC
    if not has_magic and not _may_lack_preamble(start):
        return None
    try:
        tags = _parse(path)
    except Exception:  # pydicom raises many types on damaged files
        if not has_magic:
            return None
        raise UserError(f"{path}: the DICOM file {DAMAGED}") from None
    if not has_magic and not str(tags.get("SOPClassUID", "")).startswith("1.2.840.10008."):
        return None
    with readable_values(path):
        is_image = _is_image(path, tags)
        if is_image:
            _check_ends(path, tags)
        return DicomFile(
            path=path,
            tags=tags,
            is_image=is_image,
            series=str(tags.get("SeriesInstanceUID") or ""),
            instance=str(tags.get("SOPInstanceUID") or ""),
            frames=int(tags.get("NumberOfFrames") or 1),
            description=_description(tags),
            kind=_storage(tags).name,
        )


def is_slice_name(path: Path, endings: set[str]) -> bool:
    """Whether a file that is not DICOM has a slice's name, so that it may be a damaged slice.

    `endings` are those of the series' other files. A number, or none, counts as no ending: text
    files such as LICENSE have none either, so the content decides about them.
    """
    ending = name_ending(path)
    if ending in SLICE_ENDINGS:
        return True
    return ending in endings and not _is_text(path)


def name_ending(path: Path) -> str:
    """The file name's ending in lower case; empty where it is a number, as at the end of a UID."""
    ending = path.suffix.lower()
    if ending[1:].isdigit():
        return ""
    return ending


def slices_of(file: DicomFile) -> list[Slice]:
    """Return the images of a file with their places and rescaling, in the file's order.

    Raises UserError where a tag that places them is missing or no number, where the image has
    colours, is a montage of several slices, or has a rescaling that is not linear.
    """
    with readable_values(file.path):
        _check_grey_values(file)
        _check_not_mosaic(file)
        _check_frames(file)
        return [_slice(file, frame) for frame in range(file.frames)]


@contextmanager
def readable_values(path: Path) -> Iterator[None]:
    """UserError where a tag of `path` that is used in the block has a value of a wrong form.

    pydicom converts values when they are used, and raises many types where it cannot.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:100]
        raise UserError(
            f"{path}: a DICOM tag has a value of a wrong form ({text}); export the series again"
        ) from None


def _description(tags: Dataset) -> str:
    """Modality, number and description of the series; nothing of the patient."""
    parts = [str(tags.get(key) or "") for key in ("Modality", "SeriesNumber", "SeriesDescription")]
    text = " ".join(part for part in parts if part)
    printable = "".join(character for character in text if character.isprintable())
    return printable[:60] or "without description"


def _first_bytes(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(PREAMBLE + len(MAGIC))


def _may_lack_preamble(start: bytes) -> bool:
    """Whether the bytes may begin a DICOM data set of old software, which wrote no preamble.

    Such a file begins with an element of group 0002 or 0008, little or big endian.
    """
    return start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08") and len(start) > PREAMBLE


def _parse(path: Path) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tags = pydicom.dcmread(path, force=True, defer_size=DEFERRED, specific_tags=USED_TAGS)
        if transfer_syntax(tags) == DeflatedExplicitVRLittleEndian:  # values cannot be skipped
            tags = pydicom.dcmread(path, force=True)
    return tags


def transfer_syntax(tags: Dataset) -> UID:
    """How the file's values are stored; files without that entry are implicit little endian."""
    syntax = tags.file_meta.get("TransferSyntaxUID")
    if syntax:
        return UID(str(syntax))
    is_implicit, is_little = tags.original_encoding
    if is_implicit is False and is_little:
        return ExplicitVRLittleEndian
    if is_little is False:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian


def _is_image(path: Path, tags: Dataset) -> bool:
    """Whether the object is an image with pixels, by its class.

    Raises UserError for an image without pixels: its file ends too early.
    """
    storage = _storage(tags)
    is_standard = storage.startswith("1.2.840.10008.")
    if is_standard and "Image Storage" not in storage.name and storage.name != US_VOLUME:
        return False  # structure sets, reports, presentation states, DICOMDIR, segmentations
    if any(keyword in tags for keyword in PIXELS):
        return True
    if storage and not is_standard and "Rows" not in tags:
        return False  # a manufacturer's own objects
    raise UserError(f"{path}: the DICOM file has no pixels, it {DAMAGED}")


def _storage(tags: Dataset) -> UID:
    """The object's class, empty where it is not stated."""
    return UID(str(tags.get("SOPClassUID") or tags.file_meta.get("MediaStorageSOPClassUID") or ""))


def _check_ends(path: Path, tags: Dataset) -> None:
    """UserError where pixels that were skipped are not all in the file."""
    for keyword in PIXELS:
        if keyword not in tags:
            continue
        element = tags.get_item(keyword, keep_deferred=True)
        if not isinstance(element, RawDataElement) or element.value is not None:
            continue
        if element.length != UNDEFINED_LENGTH:
            end = element.value_tell + element.length
            if end > path.stat().st_size:
                raise UserError(f"{path}: the DICOM file {DAMAGED}")


def _is_text(path: Path) -> bool:
    """Whether a file holds text; an empty one does not."""
    with open(path, "rb") as stream:
        start = stream.read(4096)
    if not start or b"\0" in start:
        return False
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4  # a character cut in two
    return True


def _check_grey_values(file: DicomFile) -> None:
    tags = file.tags
    samples = tags.get("SamplesPerPixel") or 1
    kind = str(tags.get("PhotometricInterpretation") or "MONOCHROME2").strip()
    if samples != 1 or not kind.startswith("MONOCHROME"):
        raise UserError(f"{file.path}: a colour image ({kind}); save a grey-level image")
    # in CT and PET the rescaled values are physical units, so this is only a way to display them
    if kind == "MONOCHROME1" and tags.get("Modality") not in ("CT", "PT"):
        raise UserError(
            f"{file.path}: an inverted image (MONOCHROME1: large values are dark); "
            "export it as MONOCHROME2"
        )
    if "ModalityLUTSequence" in tags:
        raise UserError(
            f"{file.path}: values have to be looked up in a table (ModalityLUTSequence), which is "
            "not supported; convert the series to NIfTI"
        )
    if "PixelData" not in tags:
        raise UserError(
            f"{file.path}: pixels are floating-point numbers, which is not supported; "
            "convert the series to NIfTI"
        )


def _check_not_mosaic(file: DicomFile) -> None:
    types = [str(part).upper() for part in _values(file.tags.get("ImageType"))]
    is_siemens = CREATOR_TAG in file.tags and file.tags[CREATOR_TAG].value == SIEMENS
    if "MOSAIC" in types or (is_siemens and MOSAIC_TAG in file.tags):
        raise UserError(
            f"{file.path}: a Siemens mosaic, one picture of many slices; "
            "convert the series to NIfTI with dcm2niix"
        )


def _check_frames(file: DicomFile) -> None:
    """UserError for several images in one file that are not placed one by one."""
    count = len(file.tags.get("PerFrameFunctionalGroupsSequence") or [])
    if file.frames < 1 or (file.frames > 1 and count != file.frames):
        raise UserError(
            f"{file.path}: {file.frames} images in one file, {count} of them with a position "
            f"({file.kind}); convert it to NIfTI"
        )


def _values(value: object) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"a {type(value).__name__} is not a list of values")


def _slice(file: DicomFile, frame: int) -> Slice:
    tags = file.tags
    groups = list(_functional_groups(tags, frame))
    position_tag = _find("ImagePositionPatient", groups, tags)
    orientation_tag = _find("ImageOrientationPatient", groups, tags)
    has_place = position_tag is not None or orientation_tag is not None
    is_placed = has_place or file.frames > 1 or tags.get("Modality") in TOMOGRAPHY
    position = [0.0, 0.0, 0.0]
    orientation = list(AXIAL)
    if is_placed:
        position = _numbers(file, position_tag, "ImagePositionPatient", count=3)
        orientation = _numbers(file, orientation_tag, "ImageOrientationPatient", count=6)
    along_row, along_column = _unit_vectors(file, orientation)
    thickness = _optional_number(file, groups, keyword="SliceThickness")
    slope, intercept = _rescaling(file, groups)
    rows = int(tags.get("Rows") or 0)
    columns = int(tags.get("Columns") or 0)
    if rows == 0 or columns == 0:
        raise UserError(f"{file.path}: Rows or Columns is missing, the DICOM file {DAMAGED}")
    return Slice(
        file=file,
        frame=frame,
        size=(columns, rows),
        is_placed=is_placed,
        position=np.array(position),
        along_row=along_row,
        along_column=along_column,
        spacing=_pixel_spacing(file, groups),
        thickness=thickness,
        slope=slope,
        intercept=intercept,
    )


def _functional_groups(tags: Dataset, frame: int) -> Iterator[Dataset]:
    """The data sets of an enhanced multi-frame object for one frame, then those of all frames."""
    of_frames = tags.get("PerFrameFunctionalGroupsSequence") or []
    if frame < len(of_frames):
        yield of_frames[frame]
    yield from tags.get("SharedFunctionalGroupsSequence") or []


def _items(group: Dataset) -> list[Dataset]:
    """The data sets one level below a functional group."""
    items: list[Dataset] = []
    for element in group:
        if element.VR == "SQ":
            items += element.value
    return items


def _find(keyword: str, groups: list[Dataset], tags: Dataset) -> object:
    """The value of a tag: of the frame, of all frames, or at the top level; else None."""
    for group in groups:
        for item in group.get(GROUPS[keyword]) or []:
            if keyword in item:
                return item.get(keyword)
    return tags.get(keyword)


def _numbers(file: DicomFile, value: object, keyword: str, count: int) -> list[float]:
    """`count` finite numbers; UserError where the tag has something else."""
    if value is None or value == "":
        raise UserError(
            f"{file.path}: has no {keyword}, so its place in the patient is unknown; "
            "export the series again, or convert it to NIfTI"
        )
    try:
        numbers = [float(part) for part in _values(value)]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise UserError(
            f"{file.path}: {keyword} should be {count} numbers; export the series again"
        )
    return numbers


def _rescaling(file: DicomFile, groups: list[Dataset]) -> tuple[float, float]:
    """Slope and intercept; 1 and 0 where they are missing."""
    slope = _optional_number(file, groups, keyword="RescaleSlope")
    if slope is None:
        slope = 1.0
    intercept = _optional_number(file, groups, keyword="RescaleIntercept")
    if intercept is None:
        intercept = 0.0
    if slope == 0 or max(abs(slope), abs(intercept)) > LARGEST:
        raise UserError(
            f"{file.path}: RescaleSlope {slope} or RescaleIntercept {intercept} cannot be right; "
            "export the series again"
        )
    return slope, intercept


def _optional_number(file: DicomFile, groups: list[Dataset], keyword: str) -> float | None:
    """The number of a tag, None where it is missing."""
    value = _find(keyword, groups, tags=file.tags)
    if value is None or value == "":
        return None
    return _numbers(file, [value], keyword, count=1)[0]


def _pixel_spacing(file: DicomFile, groups: list[Dataset]) -> tuple[float, float]:
    value = _find("PixelSpacing", groups, file.tags)
    if not value and file.tags.get("ImagerPixelSpacing"):
        raise UserError(
            f"{file.path}: has no PixelSpacing; ImagerPixelSpacing is measured at the detector, "
            "not in the patient; convert it to NIfTI with the right spacing"
        )
    between_rows, between_columns = _numbers(file, value, "PixelSpacing", count=2)
    if between_rows <= 0 or between_columns <= 0:
        raise UserError(f"{file.path}: PixelSpacing is not positive; export the series again")
    return between_columns, between_rows


def _unit_vectors(file: DicomFile, orientation: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The two directions of ImageOrientationPatient, made orthogonal and of length 1."""
    rounding = 1e-3
    along_row = np.array(orientation[:3])
    along_column = np.array(orientation[3:])
    lengths = np.linalg.norm([along_row, along_column], axis=1)
    if np.abs(lengths - 1).max() > rounding or abs(along_row @ along_column) > rounding:
        raise UserError(
            f"{file.path}: ImageOrientationPatient is not a pair of directions at right angles; "
            "export the series again"
        )
    along_row = along_row / lengths[0]
    along_column = along_column - (along_column @ along_row) * along_row
    return along_row, along_column / np.linalg.norm(along_column)
