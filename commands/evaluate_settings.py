"""The flags of evaluate.py."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import FlagCreatePairsOff

from utils.errors import UserError


@dataclass(frozen=True)
class ScoringSettings:
    """Whose predictions to score against which labels."""

    predictions: Path
    """Folder of label maps (NIfTI, NRRD, MHA), named as the labels; CASE_pred.nii.gz is understood too."""
    labels: Path
    """Folder of the true labels, CASE.nii.gz, such as nnU-Net's labelsTs. Every one needs a prediction."""
    output: Path | None = None
    """Folder for metrics.csv and summary.json; default: --predictions."""
    classes: Path | None = None
    """nnU-Net's dataset.json, or a plan.json, whose classes are scored. Default: one that lies in --labels or beside it, or in
    --predictions; else the values that the labels hold."""
    subset: FlagCreatePairsOff[bool] = False
    """Score the cases that have a prediction, as of one fold; labels without one are left out, and counted."""
    ignore_geometry: FlagCreatePairsOff[bool] = False
    """Compare voxel by voxel where the headers of prediction and label say that they lie at different places, as nnU-Net does."""
    workers: int = 0
    """Processes; 0: one a processor. Each holds one case at a time."""

    def check(self) -> None:
        for flag, folder in (("--predictions", self.predictions), ("--labels", self.labels)):
            if not folder.is_dir():
                raise UserError(f"{flag} {folder}: no such folder")
        if self.predictions.resolve() == self.labels.resolve():
            raise UserError(
                f"--predictions {self.predictions}: is the folder of the labels too; name two folders"
            )
        if self.workers < 0:
            raise UserError(
                f"--workers {self.workers}: a number of processes, or 0 for one a processor"
            )
