"""The numbers that every run has, as one frozen value that becomes flags. Methods, networks and data sets add their own."""

# pyright: basic

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from training.accelerate import Accelerate
from training.loggers import DEFAULT_LOGGERS
from utils.errors import UserError
from utils.files import check_plain
from utils.losses import TERMS
from utils.schedules import SCHEDULES
from utils.workers import check_processes

RunMode = Literal["pretrain", "selftrain", "pretrain_then_selftrain"]
# Where and how a run is done, not what it computes: these may differ when a run is resumed.
WHERE = (
    *(
        "root_path",
        "output_root",
        "run_mode",
        "fresh",
        "device",
        "gpu",
        "num_workers",
        "cache",
        "recompute",
        "other_data",
    ),
    *("log_every", "logger", "distances_every", "accelerate"),
)


@dataclass(frozen=True)
class Settings:
    root_path: Path | None = None
    """Folder of the data set; default: data_split/<data set> in the repository."""
    output_root: Path | None = None
    """Folder below which runs are kept; default: code/model in the repository."""
    exp: str = "BCP"
    """Name of the experiment, part of the run's folder."""
    method: str = "edge_guided"
    """How the network learns. A method sets values of its own before other flags are read, so an ablation is one flag more."""
    model: str = "unet"
    """The network."""
    labelnum: int = 3
    """Labelled patients or scans: the first so many of the training list (Pancreas: percent of them)."""
    patch_size: tuple[int, ...] = (256, 256)
    """Size of the network's input."""
    batch_size: int = 24
    """Images per step, labelled and unlabelled, over all processes together."""
    labeled_bs: int = 12
    """Labelled images among them."""
    pre_iterations: int = 10_000
    """Length of pre-training, in iterations or epochs (--unit)."""
    max_iterations: int = 30_000
    """Length of self-training, in iterations or epochs (--unit)."""
    unit: Literal["iteration", "epoch"] = "iteration"
    """What pre_iterations, max_iterations, val_every, the box and the static teacher's interval count."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd: momentum 0.9; adam: torch's defaults."""
    base_lr: float = 0.01
    """Learning rate before its schedule."""
    lr_schedule: str = "constant"
    """Learning rate over self-training: constant, step (a tenth after each lr_drop_every), two_drops, poly, poly_late or cosine."""
    pre_lr_schedule: str = "constant"
    """Learning rate over pre-training, and over supervised training."""
    lr_drop_every: int = 0
    """Iterations after which the schedule step lets the learning rate fall to a tenth, each time; 0: never."""
    weight_decay: float = 1e-4
    """Weight decay."""
    pre_weight_decay: float = 1e-4
    """Weight decay of pre-training."""
    losses: tuple[tuple[str, float], ...] = (("dice", 0.5), ("ce", 0.5))
    """Terms of self-training's loss with their weights, as in: dice 0.5 ce 0.5. There are dice, ce, focal, dice_squared,
    dice_foreground, dice_foreground_plain and half_dice."""
    pre_losses: tuple[tuple[str, float], ...] = (("dice", 0.5), ("ce", 0.5))
    """Terms of pre-training's loss with their weights, and of supervised training's."""
    intensity: tuple[str, ...] = ()
    """Intensity augmentation in addition to the spatial one, of: gamma, brightness, noise. The published codes have none."""
    spatial: tuple[str, ...] = ()
    """Spatial augmentation in addition to the data set's own, of: scale. The published codes have none."""
    val_every: int = 200
    """Iterations or epochs between two validations; a checkpoint is written at each."""
    distances_every: int = 10
    """Validations from one that logs HD95 and ASD to the next; 0: the last of a stage alone, which always does. They select nothing, and
    computing them takes longer than the rest of a validation."""
    select: Literal["test", "val", "published", "last"] = "val"
    """The list that the best checkpoint is chosen on; published: as the published code does, ACDC on val, all others on test, so that
    their test figures are too good. val needs a list val.list (or val.txt, as the data set's other lists end). last: no list is read
    and nothing is validated, the last network of a stage is its result; for data with no case to spare."""
    seed: int = 1337
    """Seed of everything random."""
    deterministic: bool = True
    """Use deterministic algorithms only, where there are any; on the CPU results are bit-identical. 0 or 1 may follow."""
    run_mode: RunMode = "pretrain_then_selftrain"
    """Which stages to run; selftrain alone starts from the run's own best pre-training checkpoint."""
    fresh: bool = False
    """Start over: an earlier run of this name is moved aside, not deleted (with --run_mode selftrain its self-training alone). Without
    it the same command resumes where it stopped."""
    other_data: bool = False
    """Resume although lists or files are not those that the run began with; without it that is an error."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    gpu: str | None = None
    """Number of the CUDA device to use (published flag), the same as --device cuda:N; of a list, as in 0,1, the first."""
    amp: Literal["off", "auto", "bf16", "fp16"] = "off"
    """Autocast to bfloat16 or float16, the latter with scaled gradients, for GPUs without bfloat16 (RTX 20); auto: the first of the two
    that the hardware computes in, else off. Off, the default, is the published arithmetic."""
    log_every: int = 0
    """Iterations between two lines of losses in train.log, and how often losses are read from a GPU, for which the host waits. Loggers
    get every iteration all the same, but a loss that is not finite, or a signal, is noticed only then. 0: 20, but on the CPU losses are
    read at every iteration."""
    logger: tuple[str, ...] = DEFAULT_LOGGERS
    """Loggers of scalars and pictures: tensorboard, csv (scalars.csv, no pictures), or both."""
    accelerate: Accelerate = "off"
    """compile: networks as torch.compile makes them, after the first step of a stage, which takes minutes (CUDA, and the CPU with a C++
    compiler); graph: recorded as CUDA graphs too. Losses differ by rounding. Not with --recompute, nor with --amp on the CPU."""
    sync_batch_norm: bool = False
    """With several processes: batch norm uses mean and variance over the shares of all processes (torch.nn.SyncBatchNorm), so that many
    GPUs with few images each normalise as one with all of them. Needs CUDA. Not with --accelerate."""
    tf32: bool = True
    """With CUDA: convolutions round their inputs to TF32 where the card can, which is torch's own default and faster. Without,
    float32 throughout, as on the published code's card."""
    num_workers: int = -1
    """Processes that prepare batches; -1: 4 with CUDA, else none."""

    def check(self) -> None:
        """Raise UserError for numbers that no run can have; options that join the settings check theirs in the same way."""
        check_plain("exp", self.exp)
        for name in ("pre_iterations", "max_iterations", "val_every"):
            if not 1 <= getattr(self, name) <= 10**9:
                raise UserError(
                    f"--{name} {getattr(self, name)}: must be at least 1, and at most 10^9"
                )
        check_processes("num_workers", self.num_workers)
        for name in (
            "base_lr",
            "weight_decay",
            "pre_weight_decay",
            "lr_drop_every",
            "distances_every",
            "seed",
            "log_every",
        ):
            if not 0 <= getattr(self, name) < 2**63:
                raise UserError(
                    f"--{name} {getattr(self, name)}: must be at least 0, and below 2^63"
                )
        for name in ("lr_schedule", "pre_lr_schedule"):
            known(name, getattr(self, name), SCHEDULES)
        if self.lr_drop_every and "step" not in (self.lr_schedule, self.pre_lr_schedule):
            raise UserError(
                f"--lr_drop_every {self.lr_drop_every}: belongs to --lr_schedule step, not to {self.lr_schedule}"
            )
        for name in ("losses", "pre_losses"):
            for term, weight in getattr(self, name):
                known(name, term, ("dice", *TERMS))
                if not 0 <= weight < 2**63:
                    raise UserError(f"--{name} {term} {weight}: a weight must be at least 0")
            if not any(weight for _, weight in getattr(self, name)):
                raise UserError(
                    f"--{name}: give at least one term and a weight above 0, as in --{name} dice 0.5 ce 0.5"
                )

    def plain(self) -> dict:
        """All values as plain types, for a checkpoint."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    def computed(self) -> dict:
        """The values that decide what a run computes."""
        return {key: value for key, value in self.plain().items() if key not in WHERE}


def known(flag: str, name: str, names) -> None:
    """Raise UserError unless `name` is one of `names`."""
    if name not in names:
        raise UserError(f"--{flag} {name}: unknown; choose from {', '.join(names)}")


def upgraded(settings: dict[str, Any]) -> dict[str, Any]:
    """Plain settings of a checkpoint in today's words; older ones named a share for the Dice loss, and the list as published."""
    settings = dict(settings)
    for old, new in (("dice_share", "losses"), ("pre_dice_share", "pre_losses")):
        if old in settings:
            share = settings.pop(old)
            settings[new] = [["dice", share], ["ce", round(1 - share, 12)]]
    if settings.get("lr_drop_every") and "lr_schedule" not in settings:
        settings["lr_schedule"] = "step"
    if str(settings.get("lengths")).startswith("published_"):
        settings["loop_lengths"] = settings.pop("lengths")
    if settings.get("select") == "published":
        del settings["select"]  # the page's default
    return settings


def _plain(value):
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
