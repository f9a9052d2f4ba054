"""KiTS19: CT of kidneys with tumours (Heller et al., 2019), in CoGRNet's preparation.

Preparation: KiTS19: kidneys and their tumours.
"""

from dataclasses import dataclass
from pathlib import Path

from dataloaders.dataset_info import DatasetInfo
from datasets.prepare.abdomen import AbdomenPreparation
from datasets.prepare.prepared_files import RawCase
from datasets.templates import two_slices
from utils.errors import UserError
from utils.files import files_below

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
DATASET = TWO_SLICES = two_slices(
    info=INFO,
    patch_size=(128, 128, 64),
)


@dataclass(frozen=True)
class KiTS19Preparation(AbdomenPreparation):
    """`case_NNNNN/imaging.nii.gz` and `segmentation.nii.gz` anywhere below the source; 400 HU wide around 40.

    The official files have their slices along the first index (I, P, L), and so has the stored array.
    """

    size: tuple[int, int, int] = (192, 192, 64)
    info = INFO
    window = (-160, 400)
    stored = (0, 1, 2)

    def find(self, source: Path) -> list[RawCase]:
        cases: dict[str, RawCase] = {}
        for path in (
            path for path in files_below(source) if path.name in ("imaging.nii.gz", "imaging.nii")
        ):
            name, label = (
                path.parent.name,
                path.with_name(path.name.replace("imaging", "segmentation")),
            )
            if name in cases:
                raise UserError(
                    f"{path}: {name} lies in {cases[name].images[0].parent} too; take one of them away"
                )
            cases[name] = RawCase(name, (path,), label if label.is_file() else None)
        return list(cases.values())
