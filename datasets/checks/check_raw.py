"""Check a raw case: whether it can be prepared, and whether image and label are of one body."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

from dataloaders.fingerprint import fingerprint
from datasets.checks.case_check import CaseCheck, check_label
from datasets.checks.check_picture import draw_case, write_picture
from datasets.checks.header import differences, header_warning, is_unknown
from datasets.prepare.own_scans import check_not_constant, grid_fault
from datasets.prepare.prepared_files import RawCase
from scans.faults import collect, report_faults
from scans.geometry import Geometry, lay_onto, to_canonical, turn
from scans.reading import Scan, read_label, read_scan
from utils.errors import UserError

DECLARED = "declared in dataset.json"


def check_raw(case: RawCase, class_names: Mapping[int, str], picture: Path | None) -> CaseCheck:
    """Read the scans and the label, and compare them.

    `class_names`: by label value, of all values that a label may have. With `picture` draw them
    into that file.
    """
    errors: list[str] = []
    warnings: list[str] = []
    if case.fault:
        errors.append(case.fault)
    scans: list[Scan] = []
    for path in case.images:
        scans += _read(path, errors, warnings=warnings)
    result = CaseCheck(name=case.name, split=case.part)
    if scans:
        result = _check_scans(
            case, scans, class_names=class_names, picture=picture, errors=errors, warnings=warnings
        )
    elif case.label is not None:
        with report_faults(case.label, errors.append):
            read_label(case.label, tuple(class_names), DECLARED, collect(warnings))
    return replace(result, errors=tuple(errors), warnings=(*warnings, *result.warnings))


def _check_scans(
    case: RawCase,
    scans: list[Scan],
    class_names: Mapping[int, str],
    picture: Path | None,
    errors: list[str],
    warnings: list[str],
) -> CaseCheck:
    first = scans[0]
    result = CaseCheck(
        name=case.name,
        split=case.part,
        shape=first.shape,
        spacing_mm=tuple(first.geometry.spacing.tolist()),
        axes="".join(nibabel.aff2axcodes(first.geometry.affine)),
        low=float(first.array.min()),
        high=float(first.array.max()),
        images={str(scan.path): fingerprint(scan.array) for scan in scans},
    )
    for scan in scans[1:]:
        fault = grid_fault(scan, first)
        if fault and scan.shape == first.shape:
            fault += f" ({differences(scan.geometry, first.geometry) or 'place'})"
        if fault:
            errors.append(f"{fault}; resample the modalities to one grid")
    axes, flipped = to_canonical(first.geometry)
    image = turn(first.array, axes, flipped)
    label = None
    if case.label is not None:
        with report_faults(case.label, errors.append):
            raw = _read_label(case.label, tuple(class_names), first=first, warnings=warnings)
            label = turn(raw, axes, flipped)
            result = check_label(result, case.label, image=image, label=label, axes="xyz")
    if picture:
        figure = draw_case(
            image,
            label=label,
            spacing_mm=first.geometry.spacing[list(axes)].tolist(),
            directions="RAS",
            title=f"{case.name} ({case.part})",
            class_names=class_names,
        )
        write_picture(picture, figure)
    return result


def _read(path: Path, errors: list[str], warnings: list[str]) -> list[Scan]:
    """The scan, or nothing where it cannot be read."""
    warn = collect(warnings)
    with report_faults(path, errors.append):
        warn(header_warning(path))
        scan = read_scan(path, warn)
        try:
            check_not_constant(scan)
        except UserError as error:
            errors.append(str(error))
        if is_unknown(scan.geometry.affine):
            warn(
                f"{path}: its affine is the identity, so spacing and orientation are unknown; "
                "export the scan again with both"
            )
        return [scan]
    return []


def _read_label(
    path: Path, values: tuple[int, ...], first: Scan, warnings: list[str]
) -> np.ndarray:
    """The label on the grid of its image. Raises UserError where that is not possible."""
    warn = collect(warnings)
    warn(header_warning(path))
    label = read_label(path, values, DECLARED, warn)
    array, warning = lay_onto(str(path), label.array, label.geometry, first.shape, first.geometry)
    if not _same_spacing(label.geometry, first.geometry):
        spacing, expected = (
            " x ".join(f"{mm:g}" for mm in grid.spacing)
            for grid in (label.geometry, first.geometry)
        )
        raise UserError(
            f"{path}: spacing {spacing} mm, its image's {expected}; "
            "give it the image's header if their voxels fit"
        )
    if warning:
        warn(f"{warning} ({differences(label.geometry, first.geometry)} differ)")
    return array


def _same_spacing(label: Geometry, image: Geometry) -> bool:
    """Whether spacings agree, axis by axis of the files or of the body."""
    if np.allclose(label.spacing, image.spacing, rtol=1e-3):
        return True
    along_body = [grid.spacing[list(to_canonical(grid)[0])] for grid in (label, image)]
    return np.allclose(along_body[0], along_body[1], rtol=1e-3)
