"""A raw case, looked at: whether it can be prepared, and whether image and label are of one body."""

from pathlib import Path

import nibabel
import numpy as np

from dataloaders.fingerprint import fingerprint
from datasets.checks.case_check import CaseFound, look_at_label
from datasets.checks.check_picture import write_picture
from datasets.checks.header import differences, look_at_header, nowhere
from datasets.prepare.prepared_files import RawCase
from scans.faults import report_faults
from scans.geometry import Geometry, lay_onto, to_canonical, turn
from scans.reading import Scan, read_label, read_scan
from utils.errors import UserError

DECLARED = "declared in dataset.json"


def check_raw(case: RawCase, values: tuple[int, ...], picture: Path | None) -> CaseFound:
    """Read the scans and the label, which may hold `values`, and compare them; with `picture` draw
    them there.
    """
    errors = [case.fault] if case.fault else []
    warnings: list[str] = []
    about: dict = {}
    scans = [scan for path in case.images if (scan := _read(path, errors, warnings)) is not None]
    if scans:
        first = scans[0]
        axes, flipped = to_canonical(first.geometry)
        image = turn(first.array, axes, flipped)
        about = {
            "shape": first.shape,
            "spacing_mm": tuple(first.geometry.spacing.tolist()),
            "axes": "".join(nibabel.aff2axcodes(first.geometry.affine)),
            "low": float(first.array.min()),
            "high": float(first.array.max()),
            "images": {str(scan.path): fingerprint(scan.array) for scan in scans},
        }
        for scan in scans[1:]:
            errors += _grid_faults(scan, first)
        label = None
        if case.label is not None:
            with report_faults(case.label, errors.append):
                label = turn(
                    _read_label(case.label, values, first, errors, warnings), axes, flipped
                )
                about |= look_at_label(case.label, image, label, "xyz", warnings)
        if picture:
            write_picture(picture, image, label, first.geometry.spacing[list(axes)])
    elif case.label is not None:
        with report_faults(case.label, errors.append):
            read_label(case.label, values, DECLARED, warnings.append)
    return CaseFound(
        name=case.name, split=case.part, errors=tuple(errors), warnings=tuple(warnings), **about
    )


def _read(path: Path, errors: list[str], warnings: list[str]) -> Scan | None:
    with report_faults(path, errors.append):
        if said := look_at_header(path):
            warnings.append(said)
        scan = read_scan(path, warnings.append)
        if scan.array.min() == scan.array.max():
            errors.append(
                f"{path}: every voxel is {scan.array.flat[0]:g}, there is nothing to see; export "
                "it again"
            )
        if nowhere(scan.geometry):
            warnings.append(
                f"{path}: its affine is the identity, so spacing and orientation are unknown; "
                "export the scan again with both"
            )
        return scan
    return None


def _grid_faults(scan: Scan, first: Scan) -> list[str]:
    """Modalities must lie on one grid, which preparing demands as well."""
    if scan.shape != first.shape:
        sizes = [" x ".join(map(str, one.shape)) for one in (scan, first)]
        return [
            f"{scan.path}: has {sizes[0]} voxels, {first.path.name} {sizes[1]}; resample the "
            "modalities to one grid"
        ]
    if np.allclose(
        scan.geometry.affine, first.geometry.affine, atol=0.01 * first.geometry.spacing.min()
    ):
        return []
    differ = differences(scan.geometry, first.geometry) or "place"
    return [
        f"{scan.path}: lies on another grid than {first.path.name} ({differ}); resample the "
        "modalities to one grid"
    ]


def _read_label(
    path: Path, values: tuple[int, ...], first: Scan, errors: list[str], warnings: list[str]
) -> np.ndarray:
    """The label on the grid of its image; UserError where it cannot be laid there."""
    if said := look_at_header(path):
        warnings.append(said)
    truth = read_label(path, values, DECLARED, warnings.append)
    label, said = lay_onto(str(path), truth.array, truth.geometry, first.shape, first.geometry)
    if not (
        _same(truth.geometry, first.geometry, (0, 1, 2))
        or _same(truth.geometry, first.geometry, None)
    ):
        sizes = [
            " x ".join(f"{mm:g}" for mm in grid.spacing)
            for grid in (truth.geometry, first.geometry)
        ]
        raise UserError(
            f"{path}: spacing {sizes[0]} mm, its image's {sizes[1]}; give it the image's header if "
            "their voxels fit"
        )
    if said:
        warnings.append(f"{said} ({differences(truth.geometry, first.geometry)} differ)")
    return label


def _same(label: Geometry, image: Geometry, order: tuple[int, ...] | None) -> bool:
    """Whether spacings agree, axis by axis of the files or, without `order`, of the body."""
    spacings = [grid.spacing[list(order or to_canonical(grid)[0])] for grid in (label, image)]
    return bool(np.allclose(*spacings, rtol=1e-3))
