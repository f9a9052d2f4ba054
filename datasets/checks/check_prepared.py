"""A prepared case, looked at: what training would refuse, and what it would learn without a word."""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

from dataloaders.dataset_info import DatasetInfo
from dataloaders.fingerprint import fingerprint
from dataloaders.hdf5 import content_fault, opened, read_attribute, read_case
from datasets.checks.case_check import CaseFound, look_at_label
from datasets.checks.check_picture import write_picture
from datasets.checks.header import nothing_known
from scans.faults import report_faults
from utils.errors import UserError


def check_prepared(
    info: DatasetInfo,
    case: str,
    split: str,
    paths: Sequence[Path],
    label: bool | None,
    picture: Path | None,
) -> CaseFound:
    """Read the files of a case: its volume, or the slices that are trained on.

    `label`: whether it must have one, None where it may; False never opens it. With `picture` draw
    it there.
    """
    sliced = info.dims == 2 and split in ("train", "unlabelled")
    errors, warnings, images, labels = [], [], [], []
    about: dict = {}
    for path in paths:
        with report_faults(path, errors.append):
            image, truth, attributes = read_case(
                path, info, 2 if sliced else 3, _has_label(path) if label is None else label
            )
            if fault := content_fault(path):
                errors.append(f"{fault}; prepare the case again")
            images.append(image)
            labels += [] if truth is None else [truth]
            about["preparation"] = attributes.get("preparation", "")
            about |= _place(info, path, attributes, 2 if sliced else 3, warnings)
    if images:
        first = paths[0]
        low, high = (
            float(min(image.min() for image in images)),
            float(max(image.max() for image in images)),
        )
        about |= {"low": low, "high": high}
        errors += [
            f"{first}: every voxel of {'it' if info.channels == 1 else f'channel {channel}'} is "
            f"{images[0][channel].flat[0]:g}, there is "
            "nothing to see; prepare the case again"
            for channel in range(info.channels)
            if len(
                {
                    value
                    for image in images
                    for value in (image[channel].min(), image[channel].max())
                }
            )
            == 1
        ]
        if said := other_variant(info, first, about["preparation"], low, high):
            warnings.append(said)
        whole = len({image.shape for image in images}) == 1
        image = (np.stack(images, 1) if sliced else images[0]) if whole else images[0][:, None]
        about |= {"shape": image.shape[1:], "images": {str(first): fingerprint(image)}}
        truth = None
        if labels and len(labels) == len(images):
            truth = (np.stack(labels) if sliced else labels[0]) if whole else labels[0][None]
            about |= look_at_label(first, image[0], truth, info.axes, warnings)
            if not whole:  # pictures of many sizes: only what they hold together says something
                about |= {"voxels": _counted(labels), "spreads": None}
        if picture:
            order = [info.axes.index(axis) for axis in "xyz"]
            spacing = about.get("spacing_mm")
            spacing = [spacing[axis] for axis in order] if spacing and len(spacing) == 3 else None
            write_picture(
                picture,
                image[0].transpose(order),
                None if truth is None else truth.transpose(order),
                spacing,
            )
    return CaseFound(
        name=case, split=split, errors=tuple(errors), warnings=tuple(warnings), **about
    )


def _has_label(path: Path) -> bool:
    with opened(path) as file:
        return "label" in file


def _counted(labels: Sequence[np.ndarray]) -> dict[int, int]:
    counts = sum(np.bincount(label.ravel(), minlength=256) for label in labels)
    return {value: int(count) for value, count in enumerate(counts) if count}


def _place(info: DatasetInfo, path: Path, attributes: dict, dims: int, warnings: list[str]) -> dict:
    """Spacing and axes where the file says them, in stored order; UserError for an affine that
    places nothing.
    """
    about = {}
    spacing = read_attribute(path, attributes, "spacing_mm", (dims,))
    if spacing is not None:
        if not (spacing > 0).all():
            raise UserError(
                f"{path}: spacing_mm is {spacing}, expected positive numbers; prepare the case "
                "again"
            )
        about["spacing_mm"] = tuple(spacing.tolist())
    affine = read_attribute(path, attributes, "affine", (4, 4)) if dims == 3 else None
    if affine is None:
        return about
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(affine[:3, :3])) <= 1e-3 * lengths.prod():
        raise UserError(
            f"{path}: its affine is singular, the axes span no volume; prepare the case again"
        )
    if nothing_known(affine):
        warnings.append(
            f"{path}: its affine is the identity, so predictions will not overlay the scan; "
            "prepare it from a whole header"
        )
    elif spacing is not None and not np.allclose(
        spacing if info.axes == "xyz" else spacing[::-1], lengths, rtol=1e-2
    ):
        shown = [" x ".join(f"{mm:.3g}" for mm in values) for values in (lengths, spacing)]
        warnings.append(
            f"{path}: its affine has voxels of {shown[0]} mm, spacing_mm says {shown[1]}; prepare "
            "the case again"
        )
    return about | {
        "axes": "".join(nibabel.aff2axcodes(affine))[:: 1 if info.axes == "xyz" else -1]
    }


def other_variant(
    info: DatasetInfo, path: Path, preparation: str, low: float, high: float
) -> str | None:
    """A warning for a file of the Pancreas preparation that the recipe does not train on."""
    if info.name != "Pancreas":
        return None
    if (
        json.loads(preparation or "{}").get("variant") != "mcnet"
        and low >= -1e-3
        and high <= 1 + 1e-3
    ):
        return None
    return (
        f"{path}: holds {low:.3g} to {high:.3g}, as MC-Net prepared it; the Pancreas recipe trains "
        "on CoraNet's files, 0 to 1: "
        "prepare_data.py --variant coranet, into a folder of its own"
    )
