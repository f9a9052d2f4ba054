"""LiTS: livers and their tumours."""

import re
from dataclasses import dataclass
from pathlib import Path

from preparation.abdomen import AbdomenPreparation
from preparation.files import RawCase
from recipes.lits import PAGE
from utils.errors import UserError
from utils.files import files_below

LITS = PAGE.facts
FILE = re.compile(r"(volume|segmentation)-(\d+)\.nii(\.gz)?")


@dataclass(frozen=True)
class LiTSPreparation(AbdomenPreparation):
    """`volume-N.nii` and `segmentation-N.nii` anywhere below the source, not always in one folder; 300 HU wide around 50.

    The files' slices lie along their last index; the stored array has them first. CoGRNet trains on 176 x 176 x 64, DeSCO on 192 x 192.
    """

    size: tuple[int, int, int] = (176, 176, 64)
    facts = LITS
    window = (-100, 300)
    stored = (2, 1, 0)

    def find(self, source: Path) -> list[RawCase]:
        found: dict[str, dict[str, Path]] = {"volume": {}, "segmentation": {}}
        for path in files_below(source):
            if name := FILE.fullmatch(path.name):
                other = found[name[1]].setdefault(name[2], path)
                if other != path:
                    raise UserError(f"{path}: the same number as {other}; take one of them away")
        return [
            RawCase(f"volume-{n}", (path,), found["segmentation"].get(n))
            for n, path in found["volume"].items()
        ]
