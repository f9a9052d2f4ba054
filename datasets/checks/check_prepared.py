"""Check a prepared case: what training would refuse, and what it would learn without a warning."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from dataloaders.dataset_info import DatasetInfo
from dataloaders.fingerprint import fingerprint
from dataloaders.hdf5 import content_fault, opened, read_attribute, read_case
from datasets.checks.case_check import CaseCheck, check_label
from datasets.checks.check_picture import draw_case, write_picture
from datasets.checks.header import is_unknown
from datasets.prepare.published import PublishedPreparation
from scans.faults import collect, report_faults
from utils.errors import UserError


def check_prepared(
    info: DatasetInfo,
    case: str,
    split: str,
    paths: Sequence[Path],
    label: bool | None,
    preparation: type[PublishedPreparation] | None,
    picture: Path | None,
) -> CaseCheck:
    """Read the files of a case: its volume, or the slices that are trained on.

    `label`: whether the case must have one, None where it may; False never opens it. `preparation`:
    of a published data set. With `picture` draw the case into that file.
    """
    is_sliced = info.dims == 2 and split in ("train", "unlabelled")
    dims = 2 if is_sliced else 3
    errors: list[str] = []
    warnings: list[str] = []
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    result = CaseCheck(name=case, split=split)
    for path in paths:
        with report_faults(path, errors.append):
            has_label = _has_label(path) if label is None else label
            image, truth, attributes = read_case(path, info, dims, label=has_label)
            if fault := content_fault(path):
                errors.append(f"{fault}; prepare the case again")
            images.append(image)
            if truth is not None:
                labels.append(truth)
            result = replace(result, preparation=attributes.get("preparation", ""))
            result = _with_grid(
                result, info, path=path, attributes=attributes, dims=dims, warnings=warnings
            )
    if images:
        first = paths[0]
        errors += _constant_channels(info, first, images)
        low = float(min(image.min() for image in images))
        high = float(max(image.max() for image in images))
        if preparation is not None:
            settings = json.loads(result.preparation or "{}")
            collect(warnings)(preparation.variant_warning(first, settings, low=low, high=high))
        result = replace(result, low=low, high=high)
        result = _check_arrays(
            result,
            info,
            path=first,
            images=images,
            labels=labels,
            is_sliced=is_sliced,
            picture=picture,
        )
    return replace(result, errors=tuple(errors), warnings=(*warnings, *result.warnings))


def _has_label(path: Path) -> bool:
    with opened(path) as file:
        return "label" in file


def _constant_channels(info: DatasetInfo, path: Path, images: Sequence[np.ndarray]) -> list[str]:
    """An error for each channel whose voxels are equal in all images."""
    errors = []
    for channel in range(info.channels):
        extremes = set()
        for image in images:
            extremes |= {image[channel].min(), image[channel].max()}
        if len(extremes) == 1:
            what = "the image"
            if info.channels > 1:
                what = f"channel {channel}"
            errors.append(
                f"{path}: {what} is constant (every voxel is {images[0][channel].flat[0]:g}); "
                "prepare the case again"
            )
    return errors


def _check_arrays(
    result: CaseCheck,
    info: DatasetInfo,
    path: Path,
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    is_sliced: bool,
    picture: Path | None,
) -> CaseCheck:
    """Add what the arrays of all files show, and draw them."""
    image = _volume(images, axis=1, is_sliced=is_sliced)
    result = replace(result, shape=image.shape[1:], images={str(path): fingerprint(image)})
    label = None
    if labels and len(labels) == len(images):
        label = _volume(labels, axis=0, is_sliced=is_sliced)
        result = check_label(result, path, image=image[0], label=label, axes=info.axes)
        if len({one.shape for one in labels}) > 1:
            # slices of several sizes: only their voxels together mean something
            result = replace(result, voxels=_counted(labels), spreads=None)
    if picture:
        order = [info.axes.index(axis) for axis in "xyz"]
        directions = ""
        if result.axes:
            directions = "".join(result.axes[axis] for axis in order)
        names = dict(enumerate(info.class_names))
        names |= dict.fromkeys(info.foreground, info.class_names[1])
        spacing = None
        if result.spacing_mm is not None and len(result.spacing_mm) == 3:
            spacing = [result.spacing_mm[axis] for axis in order]
        if label is not None:
            label = label.transpose(order)
        figure = draw_case(
            image[0].transpose(order),
            label=label,
            spacing_mm=spacing,
            directions=directions,
            title=f"{result.name} ({result.split})",
            class_names=names,
        )
        write_picture(picture, figure)
    return result


def _volume(arrays: Sequence[np.ndarray], axis: int, is_sliced: bool) -> np.ndarray:
    """The slices as one volume with the slices along `axis`; only the first if sizes differ."""
    if not is_sliced:
        return arrays[0]
    if len({array.shape for array in arrays}) > 1:
        return np.expand_dims(arrays[0], axis)
    return np.stack(arrays, axis)


def _counted(labels: Sequence[np.ndarray]) -> dict[int, int]:
    counts = np.zeros(256, np.int64)
    for label in labels:
        counts += np.bincount(label.ravel(), minlength=256)
    return {value: int(count) for value, count in enumerate(counts) if count}


def _with_grid(
    result: CaseCheck,
    info: DatasetInfo,
    path: Path,
    attributes: dict[str, Any],
    dims: int,
    warnings: list[str],
) -> CaseCheck:
    """Add spacing and axes that the file records, in stored order.

    Raises UserError for a spacing that is not positive and for a singular affine.
    """
    spacing = read_attribute(path, attributes, "spacing_mm", (dims,))
    if spacing is not None:
        if not (spacing > 0).all():
            raise UserError(
                f"{path}: spacing_mm is {spacing}, expected positive numbers; prepare the case "
                "again"
            )
        result = replace(result, spacing_mm=tuple(spacing.tolist()))
    affine = None
    if dims == 3:
        affine = read_attribute(path, attributes, "affine", (4, 4))
    if affine is None:
        return result
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(affine[:3, :3])) <= 1e-3 * lengths.prod():
        raise UserError(
            f"{path}: its affine is singular, the axes span no volume; prepare the case again"
        )
    collect(warnings)(_affine_warning(info, path, affine=affine, spacing=spacing))
    axes = "".join(nibabel.aff2axcodes(affine))
    if info.axes != "xyz":
        axes = axes[::-1]
    return replace(result, axes=axes)


def _affine_warning(
    info: DatasetInfo, path: Path, affine: np.ndarray, spacing: np.ndarray | None
) -> str | None:
    if is_unknown(affine):
        return (
            f"{path}: its affine is the identity, so predictions will not overlay the scan; "
            "prepare it from a complete header"
        )
    if spacing is None:
        return None
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    expected = spacing if info.axes == "xyz" else spacing[::-1]
    if np.allclose(expected, lengths, rtol=1e-2):
        return None
    sizes, recorded = (" x ".join(f"{mm:.3g}" for mm in each) for each in (lengths, spacing))
    return (
        f"{path}: its affine has voxels of {sizes} mm, spacing_mm is {recorded}; "
        "prepare the case again"
    )
