"""Predicting a scan that is an array in memory, as predict.py predicts a file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from commands.predict_back import WayBack, identical, way_back
from commands.predict_case import label_map
from commands.predict_model import Model
from commands.predict_uncertainty import UncertaintyMaps
from datasets.prepare.prepared_files import RawCase
from scans.geometry import LPS_TO_RAS, Geometry, checked_geometry
from scans.reading import Scan
from utils.errors import UserError

ARRAY = Path("array")  # names the scan in messages
SAME_SPACING = 1e-3  # relative difference of two spacings that are one, up to rounding


@dataclass(frozen=True, eq=False)
class ArrayPrediction:
    """`classes`: class numbers (uint8) on the array's spatial axes.

    `probabilities`: (K, spatial axes) float32, or None. `uncertainty`: maps (float32) by kind.
    """

    classes: np.ndarray
    probabilities: np.ndarray | None
    uncertainty: Mapping[str, np.ndarray]


def predict_array(
    model: Model,
    array: ArrayLike,
    spacing: Sequence[float] | None,
    affine: ArrayLike | None,
    with_probabilities: bool,
    largest_component: bool,
    warn: Callable[[str], None],
) -> ArrayPrediction:
    """Predict one scan, or a picture if neither `spacing` nor `affine` is given.

    The arguments are those of `fewlabels.Model.predict`. Raises UserError for an array that the
    networks cannot take.
    """
    values = _checked_array(array)
    if spacing is not None:
        spacing = _numbers("spacing", spacing, dims=1).tolist()
    if affine is not None:
        affine = _numbers("affine", affine, dims=2)
    if affine is None and spacing is None:
        image = _prepared_picture(model, values)
        back = identical(image.shape[1:])
    else:
        image, back = _prepared_scan(model, values, spacing=spacing, affine=affine, warn=warn)
    probabilities = None
    if with_probabilities:
        probabilities = np.zeros((model.info.classes, *back.shape), np.float32)
        probabilities[0] = 1  # what lies outside of the box is background
    maps = UncertaintyMaps(model.uncertainty, model.info.classes, back)
    classes = label_map(
        model,
        image,
        back=back,
        probabilities=probabilities,
        maps=maps,
        largest_component=largest_component,
    )
    prediction = ArrayPrediction(classes, probabilities=probabilities, uncertainty=maps.arrays)
    if affine is None and spacing is None:
        return _without_axis(prediction, 0)  # of a picture
    if spacing is not None and len(spacing) == 2:
        return _without_axis(prediction, 2)  # of a single slice
    return prediction


def _checked_array(array: ArrayLike) -> np.ndarray:
    """The array in this machine's byte order and a type that the preparation takes."""
    try:
        values = np.asarray(array)
    except ValueError as error:
        raise UserError(f"array: not an array ({error}); give one with a single shape") from None
    if values.dtype.kind not in "biuf" or values.size == 0:
        raise UserError(
            f"array: has type {values.dtype} and shape {values.shape}; give numbers, at least one "
            f"voxel"
        )
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    elif values.dtype.kind == "f" and values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError("array: holds NaN or infinite values; replace them")
    return values


def _numbers(name: str, values: ArrayLike, dims: int) -> np.ndarray:
    """The values as a float64 array of that many axes.

    UserError that begins with `name` for anything else.
    """
    try:
        numbers = np.asarray(values, float)
    except (TypeError, ValueError):
        raise UserError(f"{name}={values!r}: numbers are expected") from None
    if numbers.ndim != dims:
        raise UserError(f"{name}: has shape {numbers.shape}; give an array of {dims} axes")
    return numbers


def _prepared_picture(model: Model, values: np.ndarray) -> np.ndarray:
    if model.info.dims != 2:
        raise UserError(
            "spacing: is missing; the network takes volumes, so give the size of a voxel in mm, or "
            "the scan's affine"
        )
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3:
        raise UserError(
            f"array: has shape {values.shape}, a picture is (rows, columns) or (channels, rows, "
            f"columns); for a volume give the spacing too"
        )
    if len(values) != model.info.channels:
        raise UserError(
            f"array: has shape {values.shape}, but without spacing and affine it is a picture with "
            f"{model.info.channels} channels; for a volume give the spacing or the affine"
        )
    return model.prepared_picture(values, ARRAY)


def _prepared_scan(
    model: Model,
    values: np.ndarray,
    spacing: Sequence[float] | None,
    affine: ArrayLike | None,
    warn: Callable[[str], None],
) -> tuple[np.ndarray, WayBack]:
    axes = 3 if spacing is None else len(spacing)
    if axes not in (2, 3):
        raise UserError(f"spacing: has {axes} values; give one for each spatial axis, 2 or 3")
    channels = model.info.channels
    if values.ndim == axes:
        values = values[None]
    if values.ndim != axes + 1 or len(values) != channels:
        raise UserError(
            f"array: has shape {np.shape(values)} with {axes} spatial axes; the network takes "
            f"{channels} channels, which come first"
        )
    if axes == 2:
        values = values[..., None]
        if spacing is not None:
            spacing = (*spacing, _slice_distance(model, affine))
    warnings: list[str] = []
    geometry = _geometry(spacing, affine, warnings)
    for line in warnings:
        warn(line)
    names = (ARRAY,)
    if channels > 1:
        names = tuple(Path(f"array[{number}]") for number in range(channels))
    scans = tuple(
        Scan(name, array=channel, geometry=geometry, sha256="")
        for name, channel in zip(names, values, strict=True)
    )
    case = RawCase("array", names, part="predict", scans=scans)

    def warn_of(line: str | None) -> None:
        if line:
            warn(line)

    image, attributes = model.prepared(case, warn_of)
    return image, way_back(image.shape[1:], attributes, model.info.dims, model.box)


def _slice_distance(model: Model, affine: ArrayLike | None) -> float:
    """The third spacing (mm) of a single slice, which is across z.

    It is that of the plan, so that the slice is not resampled along z.
    """
    if affine is not None:
        raise UserError(
            "affine: is for volumes; give a slice as an array with a third axis of length 1"
        )
    if model.info.dims != 2:
        raise UserError("array: is a single slice, but the network takes volumes; give three axes")
    if model.plan is None:
        return 1.0
    if model.plan.axes[0] != "z":
        raise UserError(
            f"array: the network's slices lie across {model.plan.axes[0]}, not z; give a volume, "
            "or a third axis of length 1"
        )
    return model.plan.spacing_mm[2] or 1.0


def _geometry(
    spacing: Sequence[float] | None, affine: ArrayLike | None, warnings: list[str]
) -> Geometry:
    """The grid of an array of three axes.

    Without `affine` they run to the patient's right, front and head.
    """
    if affine is None:
        matrix = np.eye(4)
        matrix[:3, :3] = np.diag(np.asarray(spacing, float))
        if not (matrix.diagonal() > 0).all():
            raise UserError(f"spacing={tuple(spacing or ())}: must be finite and positive")
    else:
        matrix = np.asarray(affine, float)
        if matrix.shape != (4, 4):
            raise UserError(f"affine: has shape {matrix.shape}; give (4, 4), as nibabel does")
    geometry = checked_geometry(
        ARRAY,
        columns=LPS_TO_RAS @ matrix[:3, :3],
        origin=LPS_TO_RAS @ matrix[:3, 3],
        warnings=warnings,
    )
    if spacing is not None and not np.allclose(geometry.spacing, spacing, rtol=SAME_SPACING):
        raise UserError(
            f"spacing={tuple(spacing)}: the affine has {tuple(geometry.spacing.tolist())}; "
            "give only one of the two"
        )
    return geometry


def _without_axis(prediction: ArrayPrediction, axis: int) -> ArrayPrediction:
    """Remove one of the three spatial axes, which was added for the preparation."""
    probabilities = prediction.probabilities
    if probabilities is not None:
        probabilities = probabilities.take(0, axis + 1)
    maps: dict[str, np.ndarray] = {}
    for kind, array in prediction.uncertainty.items():
        maps[kind] = array.take(0, axis)
    classes = prediction.classes.take(0, axis)
    return ArrayPrediction(classes, probabilities=probabilities, uncertainty=maps)
