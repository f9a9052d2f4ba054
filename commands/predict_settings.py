"""The flags of predict.py, and the choice of networks that the Python door shares with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from commands.predict_uncertainty import Kind
from evaluation.slices import Interpolation
from evaluation.speed import AccelerateFlag, Amp
from evaluation.windows import Blend
from utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which networks predict, and how.

    Network, patch size, preparation and label values come from the checkpoint.
    """

    checkpoint: tuple[Path, ...]
    """One checkpoint or several, whose probabilities are averaged; ours, or published ones with
    --dataset. Of a run's folder the best checkpoint is used: that of self_train, or of the stage
    that was written last. Of a stage's folder that of the stage."""
    network: str | None = None
    """Network of checkpoints that hold several: student, other, ema_teacher ..., or mean for the
    mean of all learners' softmaxes. Default: the one that was selected in training."""
    dataset: str | None = None
    """Data set of a published checkpoint: ACDC, LA, Pancreas, KiTS19 or LiTS."""
    tta: Literal["none", "mirror"] = "none"
    """mirror: the mean over all flips of the image, 4 times the work in 2-D, 8 times in 3-D."""
    largest_component: bool = False
    """Keep only the largest component of each class, as LA's published test does."""
    box: tuple[int, ...] = ()
    """LA, Pancreas, KiTS19, LiTS, whose training scans were cropped to the label: the part of the
    scan to predict, start and end of each of the file's three axes, in voxels."""
    variant: str | None = None
    """Pancreas: the preparation that the network was trained on; default coranet."""
    size: tuple[int, int, int] | None = None
    """KiTS19, LiTS: the size that the network was trained on, as in prepare_data.py."""
    patch_size: tuple[int, ...] = ()
    """Size of the network's input. Default: that of the checkpoint; for a published checkpoint the
    published one."""
    stride: tuple[int, ...] = ()
    """Volumes: stride of the sliding window, in voxels per axis. Default: half a window. The
    published tests have smaller strides, such as 18 18 4."""
    blend: Blend | None = None
    """Volumes: how windows that overlap are averaged. uniform: all voxels of a window have the same
    weight, as in the published tests. gaussian: the weight falls towards the window's border, which
    gives smoother surfaces. Default: gaussian for networks of own data, uniform for those of public
    data sets."""
    interpolation: Interpolation | None = None
    """Slices: how predictions are resized from the network's size to that of the scan. linear
    (default): the probabilities, by linear interpolation. nearest: by nearest neighbour, as in the
    published test."""
    batch: int = 0
    """Windows or slices that go through the network at a time; 0: 4 windows or 16 slices. Fewer
    take less memory."""
    amp: Amp = "auto"
    """Mixed precision. bf16: bfloat16; fp16: float16; auto: the first of the two that the hardware
    computes in, otherwise off. off: float32, as in the published tests."""
    accelerate: AccelerateFlag = "auto"
    """fold: batch norm becomes part of the convolutions; the result differs by rounding. compile:
    torch.compile too, which takes a minute or more, so it is for many scans; not with --amp on a
    CPU. auto: fold. off: the network as it was trained."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    gpu: str | None = None
    """Number of the CUDA device. Of a list such as 0,1 the first is used."""

    def check(self) -> None:
        """Raise UserError for a value that no prediction can have."""
        if not self.checkpoint:
            raise UserError("--checkpoint: names none; give the folder of a run, or a checkpoint")
        if self.batch < 0:
            raise UserError(
                f"--batch {self.batch}: a number of windows or slices, or 0 for the default"
            )


@dataclass(frozen=True, kw_only=True)
class PredictSettings(ModelSettings):
    """What to predict, and with what.

    Network, patch size, preparation and label values come from the checkpoint.
    """

    input: Path
    """A scan (NIfTI, NRRD, MHA), a folder of them and of DICOM series, or for 2-D networks PNG
    pictures. Several modalities of a case are CASE_0000.nii.gz, CASE_0001.nii.gz ..."""
    output: Path
    """Folder for the predictions, named as the scans, and predict.json."""
    probabilities: bool = False
    """Write <case>.npz too, with the array `probabilities` (classes first, then the scan's own
    axes), float32."""
    uncertainty: tuple[Kind, ...] = ()
    """Write <case>_uncertainty_<kind>, a map on the scan's own grid, for each kind: entropy (of the
    mean probabilities of all passes), mirror (variance over all flips), dropout (variance over
    passes with dropout), ensemble (variance over checkpoints). predict.json ranks the cases."""
    passes: int = 8
    """Passes with dropout, for --uncertainty dropout. A repeated call gives identical maps."""
    ahead: int = 1
    """Scans that are read and prepared ahead, while the network predicts another one; 0 takes the
    least memory."""
    part: str | None = None
    """i/n: the i-th of n shares of the scans, for several machines or GPUs that write to one
    folder."""
    overwrite: bool = False
    """Predict finished scans again."""

    def check(self) -> None:
        """Raise UserError for a value that no prediction can have."""
        super().check()
        if self.ahead < 0:
            raise UserError(f"--ahead {self.ahead}: a number of scans, 0 for none")
        if self.output.resolve() == self.input.resolve():
            raise UserError(
                f"--output {self.output}: is the input itself; name another folder to write to"
            )
        if self.input.is_dir() and self.input.resolve().is_relative_to(self.output.resolve()):
            raise UserError(
                f"--output {self.output}: contains the input, whose files would be taken for "
                f"predictions; name another folder to write to"
            )
        if self.output.exists() and not self.output.is_dir():
            raise UserError(f"--output {self.output}: is a file; name a folder to write to")
