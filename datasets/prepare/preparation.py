"""The flags of prepare_data.py, and what a data set's preparation offers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from datasets.prepare.prepared_files import Output, RawCase


@dataclass(frozen=True)
class PrepareSettings:
    dataset: Literal["ACDC", "LA", "Pancreas", "KiTS19", "LiTS", "own"]
    """The data set; own: nnU-Net's raw layout, imagesUn/ being cases without label."""
    source: Path
    """Folder of the download; files are found wherever they lie below it."""
    root_path: Path
    """Folder to write: what training takes as --root_path."""
    crop: Literal["published", "none"] = "published"
    """LA, Pancreas, KiTS19 and LiTS are cropped by the label; none keeps the whole scan, which scans without label need."""
    variant: Literal["coranet", "mcnet"] | None = None
    """Pancreas: CoraNet's preparation (default; what BCP trains on) or MC-Net's."""
    size: tuple[int, int, int] | None = None
    """KiTS19 (192 192 64) and LiTS (176 176 64; DeSCO has 192 192 64): voxels in a row, in a column, slices."""
    dims: Literal[2, 3] | None = None
    """own: train on slices (2) or volumes (3). Default: 2 where slices are more than three times as thick as pixels are wide, or few."""
    cases: tuple[str, ...] | None = None
    """Prepare these cases alone, by the names they get; default: those that the published lists name, own: all."""
    workers: int = 0
    """Processes; 0: one a processor. Each holds one scan at a time."""
    redo: bool = False
    """Prepare every case again. Without it finished cases are kept, and files made with other settings or from other scans are an
    error."""


class Preparation(Protocol):
    """How one data set is prepared; `settings` is what its files depend on beside their sources."""

    @property
    def settings(self) -> dict: ...

    def find(self, source: Path) -> list[RawCase]:
        """Every case below the folder."""

    def listed(self, line: str) -> str:
        """The name of the case that a line of a published list stands for."""

    def mark(self, case: RawCase) -> str:
        """The file, below the root, that is written last for a case."""

    def prepare(self, case: RawCase, warn: Callable[[str | None], None]) -> Iterator[Output]:
        """Read a case and yield its files; UserError for what the user can mend."""

    def write_lists(self, root: Path) -> list[str]:
        """Write the case lists; what is to be said of them."""
