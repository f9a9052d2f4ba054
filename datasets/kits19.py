"""KiTS19: CT of kidneys with tumours (Heller et al., 2019), in CoGRNet's preparation."""

from dataclasses import dataclass
from pathlib import Path

from dataloaders.dataset_info import DatasetInfo
from datasets.prepare.abdomen import AbdomenPreparation
from datasets.prepare.prepared_files import RawCase
from datasets.prepare.published import Size, cases_in_folders
from datasets.templates import two_slices

INFO = DatasetInfo(
    name="KiTS19",
    class_names=("background", "kidney and tumour"),
    dims=3,
    zscore=True,
    file="{}.h5",
    list_suffix="kits",
    train_list="train.txt",
    test_list="test.txt",
    file_classes=3,
    foreground=(1, 2),
    planes=((0, 34), (1, 119)),
)


@dataclass(frozen=True)
class KiTS19Preparation(AbdomenPreparation):
    """Kidneys and their tumours, windowed 400 HU wide around 40.

    Reads `case_NNNNN/imaging.nii.gz` and `segmentation.nii.gz` anywhere below the source. The
    official files have their slices along the first axis (I, P, L), and so has the stored array.
    """

    size: Size = (192, 192, 64)
    info = INFO
    window = (-160, 400)
    stored = (0, 1, 2)

    def find(self, source: Path) -> list[RawCase]:
        """Find the folder of each case."""
        return cases_in_folders(source, "imaging", label="segmentation", endings=r"\.nii(\.gz)?")


DATASET = two_slices(info=INFO, patch_size=(128, 128, 64), preparation=KiTS19Preparation)
TWO_SLICES = DATASET
