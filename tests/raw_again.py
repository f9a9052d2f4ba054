"""Published HDF5 files turned back into the raw scans that they could have been made of, to be
prepared again.

ACDC: the public volumes are float32(k / N) with whole k, so k (and any smallest value) is a raw
scan. LA: the public files are crops of z-scored scans of whole numbers; the crop is laid into a
scan whose other voxels give the mean and deviation that the values tell of.
"""

from pathlib import Path

import h5py
import numpy as np

from tests.raw_scans import write_scan

SPACING = {"ACDC": (1.5625, 1.5625, 10.0), "LA": (0.625, 0.625, 0.625)}


def whole_numbers(image: np.ndarray) -> np.ndarray:
    """The whole k with float32(k / N) equal to `image`, of the smallest N, between which there is
    nothing in common.
    """
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
    paths = (
        [whole]
        if whole.is_file()
        else sorted((root / "data" / "slices").glob(f"{case}_slice_*.h5"), key=slice_number)
    )
    assert paths == [whole] or [slice_number(path) for path in paths] == list(
        range(1, len(paths) + 1)
    )
    pairs = []
    for path in paths:
        with h5py.File(path) as file:
            pairs.append((file["image"][()], file["label"][()]))
    return (
        pairs[0] if paths == [whole] else tuple(np.stack(part) for part in zip(*pairs, strict=True))
    )


def slice_number(path: Path) -> int:
    return int(path.stem.rsplit("_", 1)[1])


def write_acdc(root: Path, case: str, download: Path) -> None:
    """`patientXXX_frameYY.nii.gz` and its label as the download has them, the frame numbered as
    patient090's are (04 and 11).
    """
    image, label = acdc_volume(root, case)
    patient, frame = case.split("_frame")
    frame = {"01": "04", "02": "11"}[frame]
    lowest = int(patient[-3:]) % 7
    path = download / "training" / patient / f"{patient}_frame{frame}.nii.gz"
    turned = np.diag([-1.0, -1.0, 1.0])
    write_scan(
        path,
        (whole_numbers(image) + lowest).astype(np.int16).T,
        SPACING["ACDC"],
        (3, -20, 7),
        turned,
    )
    write_scan(
        path.with_name(path.name.replace(".nii", "_gt.nii")),
        label.T,
        SPACING["ACDC"],
        (3, -20, 7),
        turned,
    )


def la_whole_numbers(image: np.ndarray) -> np.ndarray:
    """The cropped scan's raw values, whole numbers, up to an offset: its z-scored values lie on a
    lattice.
    """
    values = np.unique(image).astype(np.float64)
    step = np.diff(values).min()
    for _ in range(3):  # the step gets sharper as the number of steps is known
        k = np.rint((values - values[0]) / step)
        step = (values[-1] - values[0]) / k[-1]
    return np.rint((image.astype(np.float64) - values[0]) / step).astype(np.int64)


def la_sums(image: np.ndarray, raw: np.ndarray, voxels: int) -> tuple[int, int]:
    """Sum and sum of squares that the whole scan of `voxels` must have so that z-scoring its raw
    values gives exactly `image`.
    """
    pairs = np.unique(np.stack([raw.ravel(), image.ravel().astype(np.float64)]), axis=1)
    k, z = pairs
    _, mean = np.polyfit(z, k, 1)
    below = (z + np.nextafter(z.astype(np.float32), np.float32(-np.inf))) / 2
    above = (z + np.nextafter(z.astype(np.float32), np.float32(np.inf))) / 2
    guess = round(mean * voxels)
    for offset in range(200_000):
        total = guess + (offset + 1) // 2 * (-1) ** offset
        away = k - total / voxels
        ends = np.sort(
            np.stack([away / below, away / above]), 0
        )  # the deviations that give each value
        low, high = ends[0].max(), ends[1].min()
        if low < high:
            least, most = (round((end**2 + (total / voxels) ** 2) * voxels) for end in (low, high))
            for squares in range(least - 2, most + 3):
                if (squares - total) % 2:
                    continue  # a sum and its sum of squares are both even or both odd
                deviation = np.sqrt(squares / voxels - (total / voxels) ** 2)
                if (np.float32(away / deviation) == z.astype(np.float32)).all():
                    return total, squares
    raise AssertionError("no whole-numbered scan of this size gives this image")


def filling(count: int, total: int, squares: int) -> np.ndarray:
    """`count` whole numbers with that sum and sum of squares."""
    low, more = divmod(total, count)
    values = np.full(count, low, np.int64)
    values[:more] += 1
    rest = squares - int((values**2).sum())
    assert rest >= 0 and rest % 2 == 0
    pairs, place = rest // 2, more  # a pair of equal values moved apart by d adds 2 d * d
    widest = int(np.sqrt(2 * pairs / (count - more))) + 2
    many, pairs = divmod(pairs, widest * widest)
    values[place : place + many] += widest
    values[place + many : place + 2 * many] -= widest
    place += 2 * many
    while pairs:
        d = int(np.sqrt(pairs))
        values[place] += d
        values[place + 1] -= d
        place, pairs = place + 2, pairs - d * d
    assert place <= count and values.sum() == total and (values**2).sum() == squares
    return values


def write_la(root: Path, case: str, download: Path) -> None:
    """`<case>/lgemri.nrrd` and `laendo.nrrd` of 576 or 640 squared x 88, the crop somewhere inside."""
    with h5py.File(root / "2018LA_Seg_Training Set" / case / "mri_norm2.h5") as file:
        image, label = file["image"][()], file["label"][()]
    raw = la_whole_numbers(image)
    for side in (576, 640):
        shape = (side, side, image.shape[2])
        voxels = int(np.prod(shape))
        try:
            total, squares = la_sums(image, raw, voxels)
        except AssertionError:
            continue
        rest = filling(voxels - raw.size, total - int(raw.sum()), squares - int((raw**2).sum()))
        inside = np.zeros(shape, bool)
        start = (sum(map(ord, case)) % 200 + 60, 150)
        box = tuple(slice(a, a + n) for a, n in zip((*start, 0), image.shape, strict=True))
        inside[box] = True
        scan, truth = np.empty(shape, np.int16), np.zeros(shape, np.uint8)
        scan[box], scan[~inside] = raw, rest
        truth[box] = label * 255
        folder = download / "Training Set" / case
        write_scan(folder / "lgemri.nrrd", scan, SPACING["LA"])
        write_scan(folder / "laendo.nrrd", truth, SPACING["LA"])
        return
    raise AssertionError(f"{case}: neither size fits")
