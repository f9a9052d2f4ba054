"""Every number of a run, as one frozen value that becomes the flags of the training scripts."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from utils.masks import MaskKind

EGM = Literal["published", "corrected", "none"]
RunMode = Literal["pretrain", "selftrain", "pretrain_then_selftrain"]
Method = Literal["edge_guided", "bcp", "supervised"]
CoGRNetMethod = Literal["cogrnet", "mean_teacher", "supervised"]

# What `--method` sets before the other flags are read: every other flag still has the last word, so an ablation is one flag more.
# BCP's own numbers beside these differ from data set to data set (`Task.bcp`).
METHODS: dict[str, dict] = {
    "edge_guided": {},
    "bcp": {"exp": "bcp_baseline", "egm": "none", "mask": "fixed", "teachers": "ema", "ema_decay": 0.99},
    "supervised": {"exp": "supervised", "egm": "none"},
    "cogrnet": {},
    "mean_teacher": {"exp": "mean_teacher"},
}
# Where and how a run is done, not what it computes: these may differ when a run is resumed.
PLACE = ("root_path", "output_root", "run_mode", "fresh", "device", "gpu", "num_workers", "cache", "recompute")


@dataclass(frozen=True)
class Settings:
    """Settings of the edge-guided copy-paste method; a recipe script states its own values, flags change them."""

    root_path: Path | None = None
    """Folder of the data set; default: data_split/<data set> in the repository."""
    output_root: Path | None = None
    """Folder below which runs are kept; default: code/model in the repository."""
    exp: str = "BCP"
    """Name of the experiment, part of the run's folder."""
    method: Method = "edge_guided"
    """edge_guided: the published system; bcp: its baseline (egm none, mask fixed, teachers ema, ema_decay 0.99); supervised: the
    labelled cases alone, for pre_iterations + max_iterations. Other flags override what this one sets."""
    model: str = "unet"
    """Network, by its factory's name."""
    egm: EGM = "published"
    """Edge-guided module: as published, corrected (Laplacian band aligned with its feature), or none."""
    mask: MaskKind = "dynamic"
    """Copy-paste box: dynamic shrinks from 2/3 to box_end of each side, fixed stays at 2/3."""
    box_end: float = 1 / 3
    """Share of each side that a dynamic box has at a stage's end."""
    teachers: Literal["dual", "ema"] = "dual"
    """dual: dynamic (EMA) and static teacher; ema: the dynamic one alone."""
    ema_decay: float = 0.99
    """Decay of the dynamic teacher."""
    static_start: int = 1000
    """Static teacher: iterations (Pancreas: epochs) between two refreshes at first."""
    static_step: int = 500
    """Static teacher: by how much a validation lengthens (best score improved) or shortens that interval."""
    static_range: tuple[int, int] = (500, 2000)
    """Static teacher: shortest and longest interval."""
    labelnum: int = 3
    """Labelled patients or scans: the first so many of the training list (Pancreas: percent of them)."""
    patch_size: tuple[int, ...] = (256, 256)
    """Size of the network's input."""
    batch_size: int = 24
    """Images a step, labelled and unlabelled, over all processes together."""
    labeled_bs: int = 12
    """Labelled images among them."""
    pre_iterations: int = 10_000
    """Length of pre-training, in iterations (Pancreas: epochs)."""
    max_iterations: int = 30_000
    """Length of self-training, in iterations (Pancreas: epochs)."""
    base_lr: float = 0.01
    """Learning rate of SGD (momentum 0.9; Pancreas: of Adam)."""
    weight_decay: float = 1e-4
    """Weight decay."""
    dice_share: float = 0.5
    """Share of the Dice loss in self-training's loss; the rest is cross entropy."""
    pre_dice_share: float = 0.5
    """Share of the Dice loss in pre-training's loss."""
    u_weight: float = 0.5
    """Weight of the loss on pseudo labels."""
    val_every: int = 200
    """Iterations (Pancreas: epochs) between two validations; a checkpoint is written at each."""
    seed: int = 1337
    """Seed of everything random."""
    deterministic: bool = True
    """Use deterministic algorithms only, where there are any; on the CPU results are the same bit for bit. 0 or 1 may follow."""
    run_mode: RunMode = "pretrain_then_selftrain"
    """Which stages to run; selftrain alone starts from the run's own best pre-training checkpoint."""
    fresh: bool = False
    """Start over: an earlier run of this name is moved aside, not deleted (with --run_mode selftrain its self-training alone). Without
    it the same command resumes where it stopped."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    gpu: str | None = None
    """Number of the CUDA device to use (published flag), the same as --device cuda:N; of a list, as in 0,1, the first."""
    amp: Literal["off", "auto", "bf16"] = "off"
    """bfloat16 autocast; auto: where the hardware computes in bfloat16. Off is the published arithmetic."""
    num_workers: int = -1
    """Processes that prepare batches; -1: 4 with CUDA, else none."""

    def with_method(self, method: Method | CoGRNetMethod, bcp: dict) -> "Settings":
        """These settings with `method` and the values that it stands for; `bcp`: those of BCP on this data set."""
        return replace(self, method=method, **METHODS[method], **(bcp if method == "bcp" else {}))

    def plain(self) -> dict:
        """All values as plain types, for a checkpoint."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    def computed(self) -> dict:
        """The values that decide what a run computes."""
        return {key: value for key, value in self.plain().items() if key not in PLACE}


@dataclass(frozen=True)
class SliceSettings(Settings):
    """Settings of a 2-D recipe."""

    upsampling: Literal["published", "nearest", "bilinear"] = "published"
    """How the decoder doubles its maps; published: nearest with an edge-guided module, bilinear without (as BCP's own code does)."""
    dice_background: Literal["unmasked", "masked"] = "unmasked"
    """Dice loss of the background: over the whole image, as the edge-guided code has it, or like the other classes where its part of
    the copy-paste mask is, as BCP's has it."""


@dataclass(frozen=True)
class VolumeSettings(Settings):
    """Settings of a 3-D recipe."""

    model: str = "VNet"
    """Network, by its factory's name."""
    patch_size: tuple[int, ...] = (112, 112, 80)
    """Size of the network's input, each side a multiple of 16."""
    unit: Literal["iteration", "epoch"] = "iteration"
    """What pre_iterations, max_iterations, val_every, the box and the static teacher's interval count."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd: momentum 0.9; adam: torch's defaults."""
    pre_weight_decay: float = 1e-3
    """Weight decay of pre-training."""
    lr_drop_every: int = 0
    """Self-training: iterations after which the learning rate falls to a tenth, each time; 0: never."""
    val_stride: tuple[int, ...] = (18, 18, 4)
    """Steps of the sliding window in validations; larger ones are faster."""
    select: Literal["published", "val"] = "published"
    """Which list the best checkpoint is chosen on. published: test.list, as the published code does, so that its test figures are too
    good; val: a list val.list (Pancreas: val.txt) of yours in the data's folder."""
    cache: Literal["ram", "none"] = "ram"
    """ram: read every volume once; none: at every draw."""
    recompute: bool = False
    """Activation checkpointing: the backward pass computes the network's blocks again, for less memory and the same numbers."""


@dataclass(frozen=True)
class CoGRNetSettings(VolumeSettings):
    """Settings of CoGRNet; the edge-guided method's own (egm, box_end, the static teacher's) are at what CoGRNet has."""

    dataset: Literal["LA", "KiTS19", "LiTS"] = "LA"
    """The data set; sets the patch size."""
    exp: str = "CoGRNet"
    """Name of the experiment, part of the run's folder."""
    method: CoGRNetMethod = "cogrnet"
    """cogrnet: the published system; mean_teacher: its teacher without copy-paste; supervised: the labelled volumes alone, for
    pre_iterations + max_iterations."""
    labels: Literal["coarse", "dense"] = "coarse"
    """coarse: what code/CoGRNet_register.py made of two slices a volume; dense: the whole labels of the same volumes, the upper bound."""
    lengths: Literal["published_run", "published_text"] = "published_run"
    """Length of the stages where pre_iterations and max_iterations do not say: published_text: 2 000 and 10 000 as written;
    published_run: where the published loops, which count every iteration twice, really stop (5 labelled volumes: 1 001 and 5 001)."""
    pre_iterations: int = 0
    """Length of pre-training, in iterations; 0: as --lengths has it."""
    max_iterations: int = 0
    """Length of self-training, in iterations; 0: as --lengths has it."""
    streams: Literal["independent", "shared"] = "independent"
    """independent: two loaders that each shuffle for themselves, as published; shared: one shuffle whose batches' halves are the two
    streams, so that no volume is in both at once."""
    focus: Literal["published", "off"] = "published"
    """Side of the self-training box: the focus area that pre-training's last ten steps give, or off: 2/3."""


def _plain(value):
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
