"""The flags of a test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evaluation.masks import TOLERANCE
from evaluation.slices import Interpolation
from evaluation.speed import AccelerateFlag, Amp
from evaluation.windows import Blend


@dataclass(frozen=True)
class EvaluationSettings:
    """What to test. Network, patch size and edge-guided module come from the checkpoint, or for a
    published checkpoint from its weights."""

    root_path: Path | None = None
    """Folder of the data set. Default: data_split/<data set> in the repository."""
    output_root: Path | None = None
    """Folder that contains the runs. Default: code/model in the repository (Pancreas:
    pancreas/result)."""
    exp: str | None = None
    """Name of the experiment, part of the run's folder. Default: the published one (BCP, Pancreas:
    cutmix), or the only run of the data set."""
    method: str | None = None
    """Method of the run. Without --exp, the run with the name that training gives it, or the only
    run of that method."""
    labelnum: int | None = None
    """Number of labelled patients or scans of the run (Pancreas: percent). Default: the published
    one, or that of the only run."""
    model: str | None = None
    """Network. Default: that of the checkpoint; for a published checkpoint the published one."""
    stage_name: str | None = None
    """Stage whose checkpoint is tested: self_train, pre_train, supervised, or the method's name for
    it. Default: self_train, or the stage that was written last."""
    which: Literal["best", "last", "both"] = "best"
    """The checkpoint selected in training, the last one, or both. With --output_dir the results of
    the last one go to `last` in it."""
    checkpoint: Path | None = None
    """A checkpoint file, or the folder of a run or stage, instead of --exp and --labelnum."""
    network: str | None = None
    """Network of a checkpoint that holds several: student, other, ema_teacher ..., or mean for the
    mean of all learners' softmaxes. Default: the one that was selected in training."""
    split: Literal["test", "val"] = "test"
    """The case list to test on."""
    patch_size: tuple[int, ...] = ()
    """Size of the network's input. Default: that of the checkpoint; for a published checkpoint the
    published one."""
    stride: tuple[int, ...] = ()
    """Volumes: stride of the sliding window, in voxels per axis. Default: the published one. Larger
    strides are faster."""
    blend: Blend = "uniform"
    """Volumes: how windows that overlap are averaged. uniform: all voxels of a window have the same
    weight, as published. gaussian: the weight falls towards the window's border."""
    interpolation: Interpolation = "nearest"
    """Slices: how predictions are resized from the network's size to that of the scan. nearest: the
    classes, by nearest neighbour, as published. linear: the probabilities, by linear interpolation,
    which gives smoother outlines."""
    amp: Amp = "off"
    """Mixed precision. bf16: bfloat16; fp16: float16; auto: the first of the two that the hardware
    computes in, otherwise off. off is the published arithmetic."""
    accelerate: AccelerateFlag = "off"
    """fold: batch norm becomes part of the convolutions; the result differs by rounding. compile:
    torch.compile too, which takes a minute or more; not with --amp on a CPU. auto: fold. off is the
    published arithmetic."""
    nsd_tolerance: tuple[str, ...] = (f"{TOLERANCE:g}",)
    """Distance up to which NSD counts borders as equal, in mm (nsd_voxel: in voxels). One number,
    or CLASS=NUMBER for single classes, or both: 2 tumour=1."""
    output_dir: Path | None = None
    """Folder for predictions, metrics.csv and summary.json. Default:
    <run>/test/<stage>_<checkpoint>_<split>; for a --checkpoint file outside a run, test/ next to
    it. A folder with the results of another test is refused."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    gpu: str | None = None
    """Number of the CUDA device. Of a list such as 0,1 the first is used."""
    other_data: bool = False
    """Test even if the cases differ from those of the run, or were trained on. Without this flag,
    that is an error."""
    detail: bool = False
    """Print the scores of each case too, as published (published flag; 0 or 1 may follow)."""

    @property
    def filters_components(self) -> bool:
        """Whether only the largest component of a prediction is kept, on a data set whose published
        test does so.
        """
        return True
