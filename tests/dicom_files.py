"""DICOM files made on the spot by pydicom, for the tests of reading them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)

AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)  # rows run to the back, columns to the feet


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Stored values (int16) without any pattern, so that no two slices are alike."""
    return np.random.default_rng(seed).integers(-1000, 2000, shape).astype(np.int16)


def image_tags(pixels: np.ndarray, storage: UID = CTImageStorage, **tags: object) -> Dataset:
    """A grey-level image without a place: `pixels` (rows, columns) or (frames, rows, columns)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = storage
    dataset.SOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = "1.2.3.4"
    dataset.Modality = "CT"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored = dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW"
    set_tags(dataset, tags)
    return dataset


def slice_tags(
    pixels: np.ndarray,
    position: Sequence[float],
    orientation: Sequence[float] = AXIAL,
    **tags: object,
) -> Dataset:
    """A slice `pixels` (rows, columns): rows 0.5 mm apart, columns 0.75 mm, 2 mm thick."""
    dataset = image_tags(pixels)
    dataset.ImagePositionPatient = [float(x) for x in position]
    dataset.ImageOrientationPatient = [float(x) for x in orientation]
    dataset.PixelSpacing = [0.5, 0.75]
    dataset.SliceThickness = 2.0
    set_tags(dataset, tags)
    return dataset


def set_tags(dataset: Dataset, tags: dict[str, object]) -> None:
    """Set tags by keyword; None removes one."""
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)


def save(dataset: Dataset, path: Path, syntax: UID | None = None) -> Path:
    """Write a data set; `syntax` stores the values in another way (uncompressed ones only)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if syntax is not None:
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            swapped = np.frombuffer(dataset.PixelData, "<u2").astype(">u2")
            dataset.PixelData = swapped.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def save_stack(
    folder: Path,
    volume: np.ndarray,
    heights: Sequence[float] | None = None,
    **tags: object,
) -> list[Path]:
    """Axial slices of `volume` (slices, rows, columns) at `heights` mm (2 mm apart by default)."""
    if heights is None:
        heights = [2.0 * index for index in range(len(volume))]
    return [
        save(slice_tags(pixels, (10, -20, height), **tags), folder / f"{index:03d}.dcm")
        for index, (pixels, height) in enumerate(zip(volume, heights, strict=True))
    ]


def enhanced_tags(
    volume: np.ndarray,
    positions: Sequence[Sequence[float]],
    orientation: Sequence[float] = AXIAL,
    slopes: Sequence[float] | None = None,
) -> Dataset:
    """An enhanced multi-frame object: `volume` (frames, rows, columns), a position per frame."""
    dataset = image_tags(volume, EnhancedMRImageStorage)
    dataset.Modality = "MR"
    dataset.NumberOfFrames = len(volume)
    shared = Dataset()
    shared.PlaneOrientationSequence = Items([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [float(x) for x in orientation]
    shared.PixelMeasuresSequence = Items([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = [0.5, 0.75]
    shared.PixelMeasuresSequence[0].SliceThickness = 2.0
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for index, position in enumerate(positions):
        frame = Dataset()
        frame.PlanePositionSequence = Items([Dataset()])
        frame.PlanePositionSequence[0].ImagePositionPatient = [float(x) for x in position]
        if slopes is not None:
            frame.PixelValueTransformationSequence = Items([Dataset()])
            frame.PixelValueTransformationSequence[0].RescaleSlope = slopes[index]
            frame.PixelValueTransformationSequence[0].RescaleIntercept = 0
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Items(frames)
    return dataset
