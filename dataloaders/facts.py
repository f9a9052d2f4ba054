"""What is true of a data set whatever is done with it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloaders.hdf5 import read_list


@dataclass(frozen=True)
class DatasetFacts:
    """Facts of one data set; `class_names` start with the background.

    `file`: where a case's HDF5 file lies below the root; `flat_file` another place for it, as CoGRNet has LA. `unlabelled_list`: given
    where `train_list` names the labelled cases alone. `list_suffix`: CoGRNet's name for the data set, train_<suffix>.txt being its list.
    `axes`: order of a stored volume's axes; in memory 3-D data sets are always x, y, z and ACDC's volumes slices first. `zscore`:
    whether images are z-scored when they are read. `file_classes`: how many class numbers its labels may hold; `foreground`: which of
    them are the object where there is one (else each is its own class). `planes`: the two planes of CoGRNet's annotation, each an
    axis of the stored volume and the published slice number, None for the middle of the axis.
    """

    name: str
    class_names: tuple[str, ...]
    channels: int
    dims: int
    file: str
    train_list: str
    test_list: str
    unlabelled_list: str | None = None
    flat_file: str | None = None
    list_suffix: str | None = None
    axes: str = "zyx"
    zscore: bool = False
    file_classes: int = 2
    foreground: tuple[int, ...] = ()
    planes: tuple[tuple[int, int | None], ...] = ()

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def path(self, root: Path, case: str) -> Path:
        path = root / self.file.format(case)
        if self.flat_file and not path.is_file():
            flat = root / self.flat_file.format(case)
            return flat if flat.is_file() else path
        return path

    def read_list(self, root: Path, name: str) -> list[str]:
        """The case names of one of the data set's lists; see `dataloaders.hdf5.read_list`."""
        return read_list(root, self.name, name, f"{Path(name).stem}_{self.list_suffix}.txt" if self.list_suffix else "")

    @property
    def swapped(self) -> bool:
        """Whether a stored volume's axes are turned round when it is read."""
        return self.dims == 3 and self.axes == "zyx"

    def list_name(self, split: str) -> str:
        """File name of the list `test` or `val`; the published protocols have a validation list for ACDC alone."""
        return self.test_list if split == "test" else f"val.{self.test_list.split('.')[1]}"

    def task_label(self, label: np.ndarray) -> np.ndarray:
        """A stored label as the class numbers of `class_names` (uint8)."""
        return np.isin(label, self.foreground).astype(np.uint8) if self.foreground else label


ACDC = DatasetFacts(
    name="ACDC",
    class_names=("background", "right ventricle", "myocardium", "left ventricle"),
    channels=1,
    dims=2,
    file="data/{}.h5",
    train_list="train_slices.list",
    test_list="test.list",
    file_classes=4,
)
LA = DatasetFacts(
    name="LA",
    class_names=("background", "left atrium"),
    channels=1,
    dims=3,
    file="2018LA_Seg_Training Set/{}/mri_norm2.h5",
    flat_file="{}.h5",
    list_suffix="la",
    train_list="train.list",
    test_list="test.list",
    axes="xyz",
    planes=((2, 43), (1, None)),
)
PANCREAS = DatasetFacts(
    name="Pancreas",
    class_names=("background", "pancreas"),
    channels=1,
    dims=3,
    file="data/{}.h5",
    train_list="train_lab.txt",
    unlabelled_list="train_unlab.txt",
    test_list="test.txt",
    axes="xyz",
)
KITS19 = DatasetFacts(
    name="KiTS19",
    list_suffix="kits",
    class_names=("background", "kidney and tumour"),
    channels=1,
    dims=3,
    zscore=True,
    file="{}.h5",
    train_list="train.txt",
    test_list="test.txt",
    file_classes=3,
    foreground=(1, 2),
    planes=((0, 34), (1, 119)),
)
LITS = DatasetFacts(
    name="LiTS",
    list_suffix="lits",
    class_names=("background", "liver"),
    channels=1,
    dims=3,
    zscore=True,
    file="{}.h5",
    train_list="train.txt",
    test_list="test.txt",
    file_classes=3,
    foreground=(1,),
    planes=((0, 45), (1, 75)),
)
