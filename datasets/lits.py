"""LiTS: CT of the liver (Bilic et al., 2023), in CoGRNet's preparation.

Preparation: LiTS: livers and their tumours.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from dataloaders.dataset_info import DatasetInfo
from datasets.prepare.abdomen import AbdomenPreparation
from datasets.prepare.prepared_files import RawCase
from datasets.templates import two_slices
from utils.errors import UserError
from utils.files import files_below

INFO = DatasetInfo(
    name="LiTS",
    class_names=("background", "liver"),
    dims=3,
    zscore=True,
    file="{}.h5",
    list_suffix="lits",
    train_list="train.txt",
    test_list="test.txt",
    file_classes=3,
    foreground=(1,),
    planes=((0, 45), (1, 75)),
)
DATASET = TWO_SLICES = two_slices(
    info=INFO,
    patch_size=(176, 176, 64),
)


FILE = re.compile(r"(volume|segmentation)-(\d+)\.nii(\.gz)?")


@dataclass(frozen=True)
class LiTSPreparation(AbdomenPreparation):
    """`volume-N.nii` and `segmentation-N.nii` anywhere below the source, not always in one folder; 300 HU wide around 50.

    The files' slices lie along their last index; the stored array has them first. CoGRNet trains on 176 x 176 x 64, DeSCO on 192 x 192.
    """

    size: tuple[int, int, int] = (176, 176, 64)
    info = INFO
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
