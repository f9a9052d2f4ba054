"""LiTS: CT of the liver (Bilic et al., 2023), in CoGRNet's preparation."""

import re
from dataclasses import dataclass
from pathlib import Path

from dataloaders.dataset_info import DatasetInfo
from datasets.prepare.abdomen import AbdomenPreparation
from datasets.prepare.prepared_files import RawCase
from datasets.prepare.published import Size, add_file
from datasets.templates import two_slices
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
FILE = re.compile(r"(volume|segmentation)-(\d+)\.nii(\.gz)?")


@dataclass(frozen=True)
class LiTSPreparation(AbdomenPreparation):
    """Livers and their tumours, windowed 300 HU wide around 50.

    Reads `volume-N.nii` and `segmentation-N.nii` anywhere below the source, not always in one
    folder. The files' slices lie along their last axis; the stored array has them first. CoGRNet
    trains on 176 x 176 x 64, DeSCO on 192 x 192.
    """

    size: Size = (176, 176, 64)
    info = INFO
    window = (-100, 300)
    stored = (2, 1, 0)

    def find(self, source: Path) -> list[RawCase]:
        """Find the volumes and the segmentations of the same number."""
        images: dict[str, Path] = {}
        labels: dict[str, Path] = {}
        for path in files_below(source):
            name = FILE.fullmatch(path.name)
            if name is None:
                continue
            files = images if name[1] == "volume" else labels
            add_file(files, name[2], path)
        return [
            RawCase(f"volume-{number}", images=(path,), label=labels.get(number))
            for number, path in images.items()
        ]


DATASET = two_slices(info=INFO, patch_size=(176, 176, 64), preparation=LiTSPreparation)
TWO_SLICES = DATASET
