"""Pictures of the worst, median and best case, which are embedded in the page.

They show the image, the truth and the prediction of each group.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imsave
from scipy import ndimage

from dataloaders.cases import read_volume
from dataloaders.dataset_info import DatasetInfo
from datasets.base import data_root
from datasets.registry import all_datasets
from evaluation.class_values import ClassValues
from reporting.groups import Group
from reporting.tested_run import Result
from scans.geometry import Geometry, canonical, turn
from scans.reading import read_label, read_scan
from scans.scan_files import by_case
from utils.axes import other_axes
from utils.errors import UserError
from utils.files import shown
from utils.pictures import overlay
from utils.provenance import sha256

SIDE = 320  # pixels of a picture's longer side
# a volume whose slices are thicker than this many pixel widths is shown only in its axial plane
THICK = 3.0
MARGIN = 0.35  # around the structure on each side, as a fraction of its size
VIEWS = ("sagittal", "coronal", "axial")
AXIAL = 2


@dataclass(frozen=True, eq=False)
class SourceCase:
    """A case as stored.

    `image`, `label`: intensities (None if they are not available) and class numbers, both (x, y,
    z). `spacing`: in mm, or 1. `affine`: from indices to NIfTI's world, None if it is not known.
    `is_flat`: whether only slices along the last axis are shown.
    """

    image: np.ndarray | None
    truth: np.ndarray
    spacing: Sequence[float]
    affine: np.ndarray | None
    is_flat: bool


@dataclass(frozen=True, eq=False)
class CaseScene:
    """One case with its predictions, all arrays (x, y, z).

    They are in canonical orientation if the affine is known.

    `planes`: axes of the planes that are shown.
    """

    image: np.ndarray | None
    truth: np.ndarray
    predictions: tuple[np.ndarray, ...]
    spacing: tuple[float, ...]
    is_oriented: bool
    planes: tuple[int, ...]


@dataclass(frozen=True)
class Heading:
    """Text of a picture: heading, description, and for a prediction its penalised Dice."""

    heading: str
    words: str
    dice: float | None = None


@dataclass(frozen=True)
class Panel:
    """A picture as a data URI, with its heading, its description and its penalised Dice.

    The image and the truth have no Dice.
    """

    heading: str
    words: str
    source: str
    dice: float | None


def chosen_cases(groups: Sequence[Group]) -> dict[str, int]:
    """Numbers of the worst, the median and the best case by penalised Dice.

    Dice is averaged over classes and groups.
    """
    dice = _case_dice(groups, "honest")
    if np.isnan(dice).any():
        dice = _case_dice(groups, "as_published")
    order = np.argsort(dice, kind="stable")
    chosen = {"worst": int(order[0])}
    if len(order) > 2:
        chosen["median"] = int(order[len(order) // 2])
    chosen["best"] = int(order[-1])
    return chosen


def panels(groups: Sequence[Group], number: int, root_path: Path | None) -> list[list[Panel]]:
    """The pictures of case `number`, for each plane: image, truth, and the first run of each group.

    Raises UserError where the files are not available.
    """
    case = groups[0].results[0].cases[number]
    scene = _scene(groups, case, root_path=root_path)
    headings = _headings(groups, number, has_image=scene.image is not None)
    rows = []
    for axis in scene.planes:
        row = []
        for heading, picture in zip(headings, _draw_plane(scene, axis), strict=True):
            panel = Panel(
                heading.heading,
                f"{case}, {VIEWS[axis]}: {heading.words}",
                source=_data_uri(picture),
                dice=heading.dice,
            )
            row.append(panel)
        rows.append(row)
    return rows


def _case_dice(groups: Sequence[Group], convention: str) -> np.ndarray:
    """Dice of each case, averaged over classes, seeds and groups."""
    return np.mean([group.per_case(convention, "dice")[:, 0] for group in groups], axis=0)


def _headings(groups: Sequence[Group], number: int, has_image: bool) -> list[Heading]:
    headings = []
    if has_image:
        headings.append(Heading("image", "the image"))
    headings.append(Heading("truth", "the true label"))
    for group in groups:
        run = group.name
        if group.seeds[0] is not None:
            run += f", seed {group.seeds[0]}"
        dice: float | None = float(group.results[0].values["honest"]["dice"][number].mean())
        if np.isnan(dice):
            dice = None
        words = f"predicted by {run}, the true outline in white"
        headings.append(Heading(group.name, words, dice=dice))
    return headings


def _scene(groups: Sequence[Group], case: str, root_path: Path | None) -> CaseScene:
    first = groups[0].results[0]
    if "labels" in first.summary:
        source = _scored_case(first.summary, case)
    else:
        source = _prepared_case(first, case, root_path=root_path)
    shape = source.truth.shape
    predictions = [_prediction(group.results[0], case, shape=shape) for group in groups]
    axes: Sequence[int] = (0, 1, 2)
    flips: Sequence[bool] = (False, False, False)
    if source.affine is not None:
        axes, flips = canonical(source.affine)
    image = source.image
    if image is not None:
        image = turn(image, axes, flipped=flips)
    planes = (AXIAL, 1)
    if source.is_flat:
        planes = (AXIAL,)
    return CaseScene(
        image=image,
        truth=turn(source.truth, axes, flipped=flips),
        predictions=tuple(turn(array, axes, flipped=flips) for array in predictions),
        spacing=tuple(float(source.spacing[axis]) for axis in axes),
        is_oriented=source.affine is not None,
        planes=planes,
    )


def _prepared_case(result: Result, case: str, root_path: Path | None) -> SourceCase:
    """A case of the prepared data that a test read."""
    info = _info(result)
    root = root_path
    if root is None:
        recorded = result.summary.get("root_path")
        root = Path(recorded) if recorded else data_root(info.name, None)
    volume = read_volume(info, info.path(root, case), name=case)
    image = volume.image[0]
    truth = volume.label
    spacing = volume.spacing_mm or (1.0, 1.0, 1.0)
    is_flat = info.dims == 2
    if is_flat:  # stored slices first
        image = image.T
        truth = truth.T
        spacing = spacing[::-1]
    return SourceCase(image, truth, spacing=spacing, affine=volume.affine, is_flat=is_flat)


def _info(result: Result) -> DatasetInfo:
    """The description of the data set, as the run's checkpoints hold it, or of a public data set of
    that name.

    Raises UserError for any other name: a summary.json must not make a file run as the description
    of a data set.
    """
    if result.stages:
        last = list(result.stages.values())[-1]
        return DatasetInfo.from_plain(last.info)
    name = result.summary.get("dataset", "")
    public = all_datasets("DATASET")
    if name not in public:
        raise UserError(
            f"{result.folder}: the run's checkpoints no longer exist, and only they describe "
            f"the data set {shown(name)}; use --no_pictures"
        )
    return public[name].info


def _scored_case(summary: Mapping[str, Any], case: str) -> SourceCase:
    """A case that evaluate.py scored, with the image if imagesTs (Tr) is next to labelsTs (Tr)."""
    labels = Path(summary["labels"])
    truth, geometry = _class_numbers(_file(labels, case), summary)
    return SourceCase(
        image=_scored_image(labels, case, shape=truth.shape),
        truth=truth,
        spacing=geometry.spacing.tolist(),
        affine=geometry.affine,
        is_flat=max(geometry.spacing) > THICK * min(geometry.spacing),
    )


def _scored_image(labels: Path, case: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The image of a case in the folder of images next to that of labels.

    None if there is none of this shape.
    """
    folder = labels.with_name(labels.name.replace("labels", "images"))
    if folder == labels or not folder.is_dir():
        return None
    files = by_case(folder)
    path = files.get(f"{case}_0000") or files.get(case)
    if path is None:
        return None
    scan = read_scan(path)
    if scan.shape != shape:
        return None
    return scan.array


def _prediction(result: Result, case: str, shape: tuple[int, ...]) -> np.ndarray:
    """The prediction of a case as class numbers.

    Raises UserError where it is missing or not the one that was scored.
    """
    if "predictions" in result.summary:
        path = _file(Path(result.summary["predictions"]), case)
        array, _ = _class_numbers(path, result.summary)
    else:
        path = result.folder / f"{case}_pred.nii.gz"
        if not path.is_file():
            raise UserError(f"{path}: no such prediction; run the test script again")
        array = read_scan(path).array.astype(np.uint8)
    if array.shape != shape:
        raise UserError(
            f"{result.folder}: the prediction of {case} has the shape {array.shape}, "
            f"but the case has {shape}; run the test again"
        )
    scored = result.summary.get("prediction_sha256", {}).get(case)
    if scored is not None and scored != sha256(path):
        raise UserError(
            f"{path}: has changed since it was scored; run the test or evaluate.py again"
        )
    return array


def _file(folder: Path, case: str) -> Path:
    """The scan of a case. Raises UserError where it does not exist."""
    path = None
    if folder.is_dir():
        path = by_case(folder).get(case)
    if path is None:
        raise UserError(f"{folder}: {case} is no longer there; score the predictions again")
    return path


def _class_numbers(path: Path, summary: Mapping[str, Any]) -> tuple[np.ndarray, Geometry]:
    """A label map as class numbers, where regions overlap the later class, and its geometry."""
    classes: dict[str, tuple[int, ...]] = {}
    for name, value in summary["classes"].items():
        classes[name] = tuple(value) if isinstance(value, list) else (value,)
    scan = read_label(path, tuple(range(65536)), "label maps hold whole numbers")
    numbers = np.zeros(scan.shape, np.uint8)
    for number, values in enumerate(ClassValues(classes).values.values(), 1):
        numbers[np.isin(scan.array, values)] = number
    return numbers, scan.geometry


def _draw_plane(scene: CaseScene, axis: int) -> list[np.ndarray]:
    """Pictures (H, W, 3) of the slice with the largest truth.

    They are cropped to the structures, with sides to scale.
    """
    index = _largest_slice(scene, axis)
    labels = [array.take(index, axis) for array in (scene.truth, *scene.predictions)]
    spacing = [scene.spacing[k] for k in range(3) if k != axis]
    box = _box(np.any([label > 0 for label in labels], axis=0), spacing)
    factors = _factors(box, spacing)
    flips_columns = scene.is_oriented or axis != AXIAL
    grey = np.zeros(labels[0][box].shape)
    if scene.image is not None:
        grey = scene.image.take(index, axis)[box].astype(float)
    low, high = np.percentile(grey, (0.5, 99.5))
    grey = _zoomed(grey.clip(low, high), factors)
    grey = _upright(grey, flips_columns)
    enlarged = [_enlarged(label[box], factors) for label in labels]
    outline = _upright(_outline(enlarged[0]), flips_columns)
    truth, *predictions = [_upright(label, flips_columns) for label in enlarged]
    pictures = []
    if scene.image is not None:
        pictures.append(overlay(grey, np.zeros_like(truth)))
    pictures.append(overlay(grey, truth))
    for prediction in predictions:
        picture = overlay(grey, prediction)
        picture[outline] = 255
        pictures.append(picture)
    return pictures


def _largest_slice(scene: CaseScene, axis: int) -> int:
    """The slice where the truth is largest.

    If it is empty, the first prediction that is not; else the middle.
    """
    others = other_axes(3, axis)
    for array in (scene.truth, *scene.predictions):
        areas = np.count_nonzero(array, axis=others)
        if areas.any():
            return int(areas.argmax())
    return scene.truth.shape[axis] // 2


def _factors(box: tuple[slice, slice], spacing: Sequence[float]) -> list[float]:
    """Zoom factors of both axes that make the longer side of the box SIDE pixels."""
    sides = [step * (part.stop - part.start) for step, part in zip(spacing, box, strict=True)]
    scale = SIDE / max(sides)
    return [step * scale for step in spacing]


def _upright(picture: np.ndarray, flips_columns: bool) -> np.ndarray:
    """The slice with its first axis horizontal; `flips_columns` if its second axis runs upwards."""
    if flips_columns:
        picture = picture[:, ::-1]
    return picture.T


def _box(mask: np.ndarray, spacing: Sequence[float]) -> tuple[slice, slice]:
    """The part of a slice where `mask` is True, with a margin and nearly square.

    The whole slice where it is empty.
    """
    ends = [_ends(mask, axis) for axis in (0, 1)]
    sizes = [(high - low + 1) * step for (low, high), step in zip(ends, spacing, strict=True)]
    parts = []
    for axis in (0, 1):
        low, high = ends[axis]
        target = max(sizes[axis], 0.85 * max(sizes)) / spacing[axis] * (1 + 2 * MARGIN)
        room = round((target - (high - low + 1)) / 2)
        parts.append(slice(max(low - room, 0), min(high + 1 + room, mask.shape[axis])))
    return parts[0], parts[1]


def _ends(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """First and last index along `axis` where the mask is True.

    The whole axis where it is empty.
    """
    occupied = np.flatnonzero(mask.any(1 - axis))
    if not len(occupied):
        return 0, mask.shape[axis] - 1
    return int(occupied[0]), int(occupied[-1])


def _zoomed(array: np.ndarray, factors: Sequence[float]) -> np.ndarray:
    zoomed = ndimage.zoom(array, factors, order=1, mode="nearest", grid_mode=True)
    return np.asarray(zoomed)


def _enlarged(label: np.ndarray, factors: Sequence[float]) -> np.ndarray:
    """Class numbers at picture size with smooth borders.

    A pixel has the class with the largest share of it.
    """
    numbers = np.unique(label)
    shares = [_zoomed((label == number).astype(np.float32), factors) for number in numbers]
    return numbers[np.argmax(np.stack(shares), axis=0)]


def _outline(label: np.ndarray) -> np.ndarray:
    """Pixels at a border between classes."""
    edge = np.zeros(label.shape, bool)
    edge[1:] |= label[1:] != label[:-1]
    edge[:, 1:] |= label[:, 1:] != label[:, :-1]
    return edge


def _data_uri(picture: np.ndarray) -> str:
    stream = io.BytesIO()
    imsave(stream, picture, format="jpeg", pil_kwargs={"quality": 88})
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
