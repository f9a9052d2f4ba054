"""Small raw scans in the layouts of the downloads and of nnU-Net, made on the spot."""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

# direction matrices (ITK's world) of arrays whose axes run as the letters say
ORIENTATIONS = {
    "RAS": [[-1, 0, 0], [0, -1, 0], [0, 0, 1]],
    "LPS": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "LAS": [[1, 0, 0], [0, -1, 0], [0, 0, 1]],
    "PSR": [[0, 0, -1], [1, 0, 0], [0, 1, 0]],
    "IPL": [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
}


def write_scan(
    path: Path, array: np.ndarray, spacing=(1, 1, 1), origin=(0, 0, 0), direction=None
) -> Path:
    """An array in index order x, y, z as a file of the format that its name says."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing([float(mm) for mm in spacing])
    image.SetOrigin([float(mm) for mm in origin])
    image.SetDirection(
        np.asarray(ORIENTATIONS["LPS"] if direction is None else direction, float).ravel()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def blob(
    shape: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...], value: int = 1
) -> np.ndarray:
    """A label (uint8) that is `value` from `low` to `high`, both included."""
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = value
    return label


def noise(
    shape: tuple[int, ...], label: np.ndarray | None = None, seed: int = 0, step: int = 100
) -> np.ndarray:
    """Whole intensities (int16), brighter where the label is."""
    image = np.random.default_rng(seed).integers(0, 40, shape).astype(np.int16)
    return image if label is None else image + step * label.astype(np.int16)


def acdc_patient(
    root: Path,
    patient: str,
    frames: tuple[str, str] = ("01", "12"),
    shape: tuple[int, ...] = (20, 24, 3),
) -> None:
    for number, frame in enumerate(frames):
        label = blob(shape, (5, 6, 0), (12, 15, 2), 1 + number)
        seed = 2 * int(patient.removeprefix("patient")) + number
        path = root / "training" / patient / f"{patient}_frame{frame}.nii.gz"
        write_scan(path, noise(shape, label, seed), (1.5, 1.25, 10))
        write_scan(path.with_name(f"{patient}_frame{frame}_gt.nii.gz"), label, (1.5, 1.25, 10))


def la_scan(
    root: Path,
    name: str,
    shape: tuple[int, ...] = (60, 50, 6),
    low=(20, 18, 1),
    high=(39, 30, 4),
    label: bool = True,
    spacing: tuple[float, ...] = (0.625,) * 3,
) -> None:
    truth = blob(shape, low, high, 255)
    image = noise(shape, truth // 255)
    write_scan(root / "Training Set" / name / "lgemri.nrrd", image, spacing)
    if label:
        write_scan(root / "Training Set" / name / "laendo.nrrd", truth, spacing)


def body(shape: tuple[int, ...], value: int = 40) -> np.ndarray:
    """HU (int16) of an ellipse of tissue in air, the same on every slice along the last axis."""
    x, y = (
        np.linspace(-1, 1, n)[:, None] if axis == 0 else np.linspace(-1, 1, n)
        for axis, n in enumerate(shape[:2])
    )
    plane = np.where(x**2 / 0.5 + y**2 / 0.4 < 1, value, -1000).astype(np.int16)
    return np.repeat(plane[:, :, None], shape[2], 2) + noise(shape, seed=1) % 7


def pancreas_scan(
    root: Path, number: str, spacing, shape=(150, 140, 60), direction=None
) -> tuple[np.ndarray, np.ndarray]:
    label = blob(shape, (60, 62, 20), (99, 91, 39))
    image = body(shape) + 60 * label.astype(np.int16)
    write_scan(root / f"PANCREAS_{number}.nii.gz", image, spacing, direction=direction)
    write_scan(root / "TCIA_labels" / f"label{number}.nii.gz", label, spacing, direction=direction)
    return image, label


def abdominal_scan(root: Path, dataset: str) -> tuple[str, np.ndarray, np.ndarray]:
    """A scan of KiTS19 or LiTS with an organ and a tumour; its name, image and label as x, y, z."""
    shape = (96, 90, 40)
    label = blob(shape, (30, 32, 15), (50, 48, 24)) + blob(shape, (34, 36, 18), (40, 40, 20))
    image = body(shape) + 60 * label.astype(np.int16)
    image[:, :, :12] = -1000  # slices without body count as body everywhere
    if dataset == "LiTS":
        name = "volume-127"
        write_scan(root / name / "volume-127.nii", image, (0.7, 0.8, 3))
        write_scan(root / name / "segmentation-127.nii", label, (0.7, 0.8, 3))
        return name, image, label
    name = "case_00034"
    for array, file in ((image, "imaging.nii.gz"), (label, "segmentation.nii.gz")):
        # the slices of KiTS19's files come first
        write_scan(
            root / name / file,
            array.transpose(2, 1, 0),
            (3, 0.8, 0.7),
            direction=ORIENTATIONS["IPL"],
        )
    return name, image, label


def write_raw_dataset(
    root: Path,
    cases: dict[str, int],
    values=(1, 5, 7),
    spacing=(1.2, 0.9, 1.1),
    shape=(26, 24, 20),
    **about,
) -> Path:
    """nnU-Net's layout with two modalities: `cases` says how many lie in imagesTr, imagesUn and
    imagesTs (all with labels but Un). No two scans are equal.
    """
    first_seeds = {"imagesTr": 0, "imagesUn": 100, "imagesTs": 200}
    for folder, count in cases.items():
        for number in range(count):
            own_case(
                root,
                folder,
                f"{folder[6:].lower()}{number}",
                values,
                spacing,
                (shape[0] + number, *shape[1:]),
                first_seeds[folder] + number,
            )
    labels = {"background": 0, **{f"organ {value}": value for value in values}}
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": labels,
        "numTraining": cases.get("imagesTr", 0),
        "file_ending": ".nii.gz",
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps({**content, **about}))
    return root


def own_case(
    root: Path, folder: str, name: str, values, spacing, shape, seed: int = 0, direction=None
) -> None:
    label = np.zeros(shape, np.uint8)
    for k, value in enumerate(values):
        label |= blob(shape, (3 + 7 * k, 5, 4), (8 + 7 * k, 14 + k, 10), value)
    for channel in (0, 1):
        image = noise(shape, label, 10 * seed + channel, 10 + 10 * channel)
        write_scan(
            root / folder / f"{name}_{channel:04d}.nii.gz", image, spacing, (5, -7, 9), direction
        )
    if folder != "imagesUn":
        write_scan(
            root / f"labels{folder[6:]}" / f"{name}.nii.gz", label, spacing, (5, -7, 9), direction
        )


def series(folder: Path, number: int, skip: int | None = None, uid: str = "1.2.3") -> None:
    """CT slices as a DICOM series, 2 mm apart, one left out."""
    folder.mkdir(parents=True)
    for k in range(number):
        if k == skip:
            continue
        image = sitk.GetImageFromArray(noise((16, 16, 1), seed=k).T)
        image.SetOrigin((0, 0, 2.0 * k))
        for key, value in {
            "0008|0060": "CT",
            "0020|000e": uid,
            "0020|000d": "1.2",
            "0020|0032": f"0\\0\\{2.0 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(k),
            "0008|0018": f"{uid}.{k}",
        }.items():
            image.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"1-{k:03d}.dcm"))
        writer.Execute(image)
