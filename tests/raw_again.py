"""Published HDF5 files turned back into the raw scans that they could have been made of, to be prepared again.

ACDC: the public volumes are float32(k / N) with whole k, so k (and any smallest value) is a raw scan. LA: the public files are crops of
z-scored scans of whole numbers; the crop is laid into a scan whose other voxels give the mean and deviation that the values tell of.
"""

from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk

SPACING = {"ACDC": (1.5625, 1.5625, 10.0), "LA": (0.625, 0.625, 0.625)}


def write_scan(path: Path, array: np.ndarray, spacing=(1, 1, 1), origin=(0, 0, 0), direction=np.eye(3)) -> Path:
    """An array in index order x, y, z as a file of the format that its name says."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing([float(mm) for mm in spacing])
    image.SetOrigin([float(mm) for mm in origin])
    image.SetDirection(np.asarray(direction, float).ravel())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def whole_numbers(image: np.ndarray) -> np.ndarray:
    """The whole k with float32(k / N) equal to `image`, of the smallest N, between which there is nothing in common."""
    values = np.unique(image).astype(np.float64)
    few = values[np.linspace(0, len(values) - 1, 40).astype(int)]
    for start in range(1, 1 << 16, 4096):
        n = np.arange(start, start + 4096)[:, None]
        fits = (np.float32(np.rint(few * n) / n) == few).all(1)
        for candidate in n[fits, 0]:
            if (np.float32(np.rint(values * candidate) / candidate) == values).all():
                return np.rint(image.astype(np.float64) * candidate).astype(np.int32)
    raise AssertionError("no whole numbers below 65536 give this image")


def acdc_volume(root: Path, case: str) -> tuple[np.ndarray, np.ndarray]:
    """Image and label (slices, y, x) of a case: its volume, or its slices put together."""
    whole = root / "data" / f"{case}.h5"
    paths = [whole] if whole.is_file() else sorted((root / "data" / "slices").glob(f"{case}_slice_*.h5"), key=slice_number)
    assert paths == [whole] or [slice_number(path) for path in paths] == list(range(1, len(paths) + 1))
    pairs = []
    for path in paths:
        with h5py.File(path) as file:
            pairs.append((file["image"][()], file["label"][()]))
    return pairs[0] if paths == [whole] else tuple(np.stack(part) for part in zip(*pairs, strict=True))


def slice_number(path: Path) -> int:
    return int(path.stem.rsplit("_", 1)[1])


def write_acdc(root: Path, case: str, download: Path) -> None:
    """`patientXXX_frameYY.nii.gz` and its label as the download has them, the frame numbered as patient090's are (04 and 11)."""
    image, label = acdc_volume(root, case)
    patient, frame = case.split("_frame")
    frame = {"01": "04", "02": "11"}[frame]
    lowest = int(patient[-3:]) % 7
    path = download / "training" / patient / f"{patient}_frame{frame}.nii.gz"
    turned = np.diag([-1.0, -1.0, 1.0])
    write_scan(path, (whole_numbers(image) + lowest).astype(np.int16).T, SPACING["ACDC"], (3, -20, 7), turned)
    write_scan(path.with_name(path.name.replace(".nii", "_gt.nii")), label.T, SPACING["ACDC"], (3, -20, 7), turned)
