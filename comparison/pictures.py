"""Worst, median and best case: image, truth and what each group predicted, as pictures inside the page."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.image import imsave
from scipy import ndimage

from comparison.groups import Group
from comparison.results import Result
from dataloaders.cases import read_volume
from dataloaders.facts import DatasetFacts
from preparation.geometry import canonical, turn
from preparation.scans import read_label, read_scan
from programs.scoring import by_case
from programs.scoring_classes import Classes
from recipes.page import data_root
from recipes.registry import pages
from utils.errors import UserError
from utils.files import shown
from utils.pictures import overlay
from utils.provenance import sha256

SIDE = 320  # pixels of a picture's longer side
THICK = 3.0  # slices that many times as thick as pixels are wide are looked at from above alone
MARGIN = 0.35  # of the structure's size, on each side


@dataclass(frozen=True, eq=False)
class Scene:
    """One case, arrays (x, y, z): the image if it is at hand, the truth's and each group's class numbers; spacing in mm, or 1."""

    image: np.ndarray | None
    truth: np.ndarray
    predictions: tuple[np.ndarray, ...]
    spacing: tuple[float, ...]
    upright: bool
    planes: tuple[int, ...]


@dataclass(frozen=True)
class Panel:
    """A picture as a data URI, its heading, what it shows in words, and of a prediction the honest Dice of the case."""

    heading: str
    words: str
    source: str
    dice: float | None


def chosen_cases(groups: Sequence[Group]) -> dict[str, int]:
    """Number of the worst, the median and the best case by honest Dice, the mean over classes and all groups."""
    dice = np.mean([group.per_case("honest", "dice")[:, 0] for group in groups], axis=0)
    if np.isnan(dice).any():
        dice = np.mean([group.per_case("as_published", "dice")[:, 0] for group in groups], axis=0)
    order = np.argsort(dice, kind="stable")
    chosen = {"worst": int(order[0]), "median": int(order[len(order) // 2]), "best": int(order[-1])}
    return {word: case for word, case in chosen.items() if len(order) > 2 or word != "median"}


def panels(groups: Sequence[Group], number: int, root_path: Path | None) -> list[list[Panel]]:
    """For each plane the pictures of case `number`: image, truth, each group's first run. UserError where they are not at hand."""
    case = groups[0].results[0].cases[number]
    scene = _scene(groups, case, root_path)
    heads = [("image", "the image", None)] * (scene.image is not None) + [
        ("truth", "the true label", None)
    ]
    for group in groups:
        dice = float(group.results[0].values["honest"]["dice"][number].mean())
        seed = group.seeds[0]
        words = f"predicted by {group.name}{'' if seed is None else f', seed {seed}'}, the true outline in white"
        heads.append((group.name, words, None if np.isnan(dice) else dice))
    rows = []
    for axis in scene.planes:
        view = ("sagittal", "coronal", "axial")[axis]
        pictures = zip(heads, _plane(scene, axis), strict=True)
        rows.append(
            [
                Panel(head, f"{case}, {view}: {words}", _data_uri(one), dice)
                for (head, words, dice), one in pictures
            ]
        )
    return rows


def _scene(groups: Sequence[Group], case: str, root_path: Path | None) -> Scene:
    first = groups[0].results[0]
    if "labels" in first.summary:
        image, truth, spacing, affine = _raw(first.summary, case)
        flat = max(spacing) > THICK * min(spacing)
    else:
        image, truth, spacing, affine, flat = _prepared(first, case, root_path)
    shown = [truth, *(_prediction(group.results[0], case, truth.shape) for group in groups)]
    axes, flips = ((0, 1, 2), (False,) * 3) if affine is None else canonical(affine)
    image = None if image is None else turn(image, axes, flips)
    truth, *predicted = (turn(array, axes, flips) for array in shown)
    spacing = tuple(float(spacing[axis]) for axis in axes)
    return Scene(
        image, truth, tuple(predicted), spacing, affine is not None, (2,) if flat else (2, 1)
    )


def _prepared(result: Result, case: str, root_path: Path | None) -> tuple:
    """A case of the data that a test read: image, truth (x, y, z), spacing, affine, whether it is seen slice by slice."""
    stage = next(reversed(result.stages.values()), None)
    facts = DatasetFacts.from_plain(stage.facts) if stage else _public_facts(result)
    noted = result.summary.get("root_path")
    root = root_path or (Path(noted) if noted else data_root(facts.name, None))
    found = read_volume(facts, facts.path(root, case), case)
    if facts.dims == 2:
        image, truth, spacing = (
            found.image[0].T,
            found.label.T,
            found.spacing_mm and found.spacing_mm[::-1],
        )
    else:
        image, truth, spacing = found.image[0], found.label, found.spacing_mm
    return image, truth, spacing or (1.0, 1.0, 1.0), found.affine, facts.dims == 2


def _public_facts(result: Result) -> DatasetFacts:
    """Those of one of the public data sets; a summary.json cannot name a file to be run as a page."""
    name = result.summary.get("dataset", "")
    if name not in pages("PAGE"):
        raise UserError(
            f"{result.folder}: the run's checkpoints are gone, and only they describe the data set {shown(name)}"
        )
    return pages("PAGE")[name].facts


def _raw(summary: Mapping, case: str) -> tuple:
    """A case that evaluate.py scored: image if imagesTs (Tr) lies beside labelsTs (Tr), truth, spacing, affine."""
    labels = Path(summary["labels"])
    truth = _classes(_file(labels, case), summary)
    image, folder = None, labels.with_name(labels.name.replace("labels", "images"))
    if folder != labels and folder.is_dir():
        files = by_case(folder)
        path = files.get(f"{case}_0000") or files.get(case)
        scan = read_scan(path) if path else None
        image = scan.array if scan is not None and scan.shape == truth[0].shape else None
    return image, truth[0], truth[1].spacing, truth[1].affine


def _prediction(result: Result, case: str, shape: tuple[int, ...]) -> np.ndarray:
    if "predictions" in result.summary:
        path = _file(Path(result.summary["predictions"]), case)
        array, _ = _classes(path, result.summary)
    else:
        path = result.folder / f"{case}_pred.nii.gz"
        if not path.is_file():
            raise UserError(f"{path}: no such prediction; run the test script again")
        array = read_scan(path).array.astype(np.uint8)
    if array.shape != shape:
        raise UserError(
            f"{result.folder}: the prediction of {case} has the shape {array.shape}, the case {shape}; run the test again"
        )
    scored = result.summary.get("prediction_sha256", {}).get(case)
    if scored is not None and scored != sha256(path):
        raise UserError(
            f"{path}: has changed since it was scored; run the test or evaluate.py again"
        )
    return array


def _file(folder: Path, case: str) -> Path:
    path = by_case(folder).get(case) if folder.is_dir() else None
    if path is None:
        raise UserError(f"{folder}: {case} is no longer there; score the predictions again")
    return path


def _classes(path: Path, summary: Mapping) -> tuple[np.ndarray, object]:
    """A label map as class numbers (later ones over earlier ones), and its geometry."""
    classes = {
        name: tuple(value) if isinstance(value, list) else (value,)
        for name, value in summary["classes"].items()
    }
    scan = read_label(path, tuple(range(65536)), "label maps hold whole numbers")
    numbers = np.zeros(scan.shape, np.uint8)
    for number, values in enumerate(Classes(classes).values.values(), 1):
        numbers[np.isin(scan.array, values)] = number
    return numbers, scan.geometry


def _plane(scene: Scene, axis: int) -> list[np.ndarray]:
    """Pictures (H, W, 3) of the plane where the truth is largest, cut to where something is, sides to scale."""
    others = tuple(k for k in range(3) if k != axis)
    for array in (scene.truth, *scene.predictions):
        areas = np.count_nonzero(array, axis=others)
        if areas.any():
            break
    place = int(areas.argmax()) if areas.any() else scene.truth.shape[axis] // 2
    labels = [array.take(place, axis) for array in (scene.truth, *scene.predictions)]
    spacing = [scene.spacing[k] for k in others]
    box = _box(np.any([label > 0 for label in labels], axis=0), spacing)
    scale = SIDE / max(
        step * (part.stop - part.start) for step, part in zip(spacing, box, strict=True)
    )
    factors = [step * scale for step in spacing]
    turned = (
        (lambda picture: picture[:, ::-1].T)
        if scene.upright or axis != 2
        else (lambda picture: picture.T)
    )
    grey = (
        np.zeros(labels[0][box].shape)
        if scene.image is None
        else scene.image.take(place, axis)[box].astype(float)
    )
    grey = ndimage.zoom(
        grey.clip(*np.percentile(grey, (0.5, 99.5))),
        factors,
        order=1,
        mode="nearest",
        grid_mode=True,
    )
    truth, *predicted = (_enlarged(label[box], factors) for label in labels)
    outline = _outline(truth)
    pictures = [] if scene.image is None else [overlay(turned(grey), np.zeros_like(turned(truth)))]
    pictures.append(overlay(turned(grey), turned(truth)))
    for label in predicted:
        picture = overlay(turned(grey), turned(label))
        picture[turned(outline)] = 255
        pictures.append(picture)
    return pictures


def _box(found: np.ndarray, spacing: Sequence[float]) -> tuple[slice, slice]:
    """The part of a plane that holds something, with a margin and nearly square; all of the plane where nothing is."""
    ends = [
        np.flatnonzero(found.any(1 - axis))[[0, -1]]
        if found.any()
        else np.array([0, found.shape[axis] - 1])
        for axis in (0, 1)
    ]
    sizes = [(high - low + 1) * step for (low, high), step in zip(ends, spacing, strict=True)]
    box = []
    for (low, high), step, size, limit in zip(ends, spacing, sizes, found.shape, strict=True):
        wanted = max(size, 0.85 * max(sizes)) / step * (1 + 2 * MARGIN)
        room = round((wanted - (high - low + 1)) / 2)
        box.append(slice(max(low - room, 0), min(high + 1 + room, limit)))
    return tuple(box)


def _enlarged(label: np.ndarray, factors: Sequence[float]) -> np.ndarray:
    """Class numbers at picture size with smooth borders: the class with the largest share of each pixel."""
    numbers = np.unique(label)
    shares = [
        ndimage.zoom(
            (label == k).astype(np.float32), factors, order=1, mode="nearest", grid_mode=True
        )
        for k in numbers
    ]
    return numbers[np.argmax(shares, axis=0)]


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
