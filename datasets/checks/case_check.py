"""The result of checking one case, and the part that raw and prepared labels share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from datasets.prepare.flips import flip_warning, flipped_axes, spreads


@dataclass(frozen=True, kw_only=True)
class CaseCheck:
    """The result of checking one case; what is unknown is None or empty.

    `shape` and `spacing_mm`: in the order of the file's axes. `axes`: their directions, such as
    RAS. `low`, `high`: the image's range. `voxels`: number by label value, None without label.
    `images`: fingerprint by file, empty for a blank one. `spreads`: of `datasets.prepare.flips`, by
    the axes that are flipped. `preparation`: the settings that a prepared file was made with.
    """

    name: str
    split: str
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] | None = None
    axes: str = ""
    low: float | None = None
    high: float | None = None
    voxels: Mapping[int, int] | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    spreads: Mapping[str, float] | None = None
    preparation: str = ""

    def plain(self) -> dict[str, Any]:
        """The result as plain types, for check.json."""
        content = asdict(self)
        del content["preparation"]
        return content


def check_label(
    case: CaseCheck, path: Path, image: np.ndarray, label: np.ndarray, axes: str
) -> CaseCheck:
    """Add `voxels`, `spreads` and warnings of a label on its image, both with these axes."""
    spread_of = spreads(image, label)
    values = int(label.max()) + 1
    counts = np.zeros(values, np.int64)
    for plane in label:  # bincount needs 8 bytes for each voxel
        counts += np.bincount(plane.ravel(), minlength=values)
    voxels = {value: int(count) for value, count in enumerate(counts) if count}
    if not any(voxels):
        warning = f"{path}: the label is empty; draw it, or prepare the case as one without label"
        return replace(case, voxels=voxels, warnings=(*case.warnings, warning))
    warnings = case.warnings
    warning = flip_warning(path, image, spread_of, axes=axes)
    if warning:
        warnings = (*warnings, warning)
    named_spreads = {
        flipped_axes(flips, axes): round(spread, 6) for flips, spread in spread_of.items()
    }
    return replace(case, voxels=voxels, spreads=named_spreads, warnings=warnings)
