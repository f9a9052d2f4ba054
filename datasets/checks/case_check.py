"""What a check finds out about one case."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from datasets.prepare.flips import flip_warning, flipped_axes, spreads


@dataclass(frozen=True, kw_only=True)
class CaseFound:
    """`shape` and `spacing_mm` in the order of the file's axes; `axes`: where those run, such as
    RAS; `low`, `high`: the image's range; `voxels`: of each label value, None without label;
    `images`: fingerprint by file, empty for a blank one; `spreads`: of `datasets.prepare.flips`, by
    the axes that are flipped; `preparation`: the settings that a prepared file was made with. What
    could not be found out is None or empty.
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

    def plain(self) -> dict:
        """Plain types, for check.json."""
        return {key: value for key, value in asdict(self).items() if key != "preparation"}


def look_at_label(
    path: Path, image: np.ndarray, label: np.ndarray, axes: str, warnings: list[str]
) -> dict:
    """`voxels` and `spreads` of a label that lies on its image, both with these axes; what is to be
    said goes to `warnings`.
    """
    found = spreads(image, label)
    most = int(label.max()) + 1
    counts = sum(
        np.bincount(part.ravel(), minlength=most) for part in label
    )  # part by part: it counts in 8 bytes a voxel
    voxels = {value: int(count) for value, count in enumerate(counts) if count}
    if set(voxels) <= {0}:
        warnings.append(
            f"{path}: the label is empty; draw it, or give the case as one without label"
        )
        return {"voxels": voxels}
    if said := flip_warning(path, image, found, axes):
        warnings.append(said)
    return {
        "voxels": voxels,
        "spreads": {flipped_axes(flips, axes): round(spread, 6) for flips, spread in found.items()},
    }
