"""The configuration of a run: frozen groups of options. Data sets, methods and networks have
options of their own.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

import tyro

from training.accelerate import Accelerate
from training.loggers import DEFAULT_LOGGERS
from utils.errors import UserError
from utils.files import check_plain
from utils.losses import TERMS
from utils.registry import check_name
from utils.schedules import SCHEDULES
from utils.workers import check_processes

RunMode = Literal["pretrain", "selftrain", "pretrain_then_selftrain"]
LossTerms = tuple[tuple[str, float], ...]
LARGEST = 2**63
LONGEST = 10**9
HALF_DICE = (("dice", 0.5), ("ce", 0.5))
LOSSES_HELP = (
    "Terms of self-training's loss, each with its weight, as in: dice 0.5 ce 0.5. "
    f"Terms: {', '.join(('dice', *TERMS))}."
)


@dataclass(frozen=True)
class ExperimentOptions:
    """The options that most runs choose."""

    method: str = "edge_guided"
    """Training method. Its presets change the defaults of other flags: see --method NAME --help."""
    model: str = "unet"
    """Network."""
    root_path: Path | None = None
    """Folder of the data set. Default: data_split/<data set> in the repository."""
    labelnum: int = 3
    """Number of labelled patients or scans, the first N of the training list (Pancreas: percent).
    """
    seed: int = 1337
    """Seed of all random numbers."""
    pre_iterations: int = 10_000
    """Length of pre-training, in iterations or epochs (--unit)."""
    max_iterations: int = 30_000
    """Length of self-training, in iterations or epochs (--unit)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    exp: str = "BCP"
    """Name of the experiment, part of the run's folder."""
    output_root: Path | None = None
    """Folder that contains the runs. Default: code/model in the repository."""
    run_mode: RunMode = "pretrain_then_selftrain"
    """Stages to run. selftrain starts from the run's own best pre-training checkpoint."""
    init: Path | None = None
    """Checkpoint, or folder of a run, whose weights the first stage starts from. A resumed run does
    not read it again."""
    fresh: bool = False
    """Start over. An earlier run of this name is renamed, not deleted (with --run_mode selftrain
    only its self-training). Without this flag, the same command resumes it.
    """

    def check(self) -> None:
        """Raise UserError for a name or number that no run can have."""
        check_plain("exp", self.exp)
        check_length("pre_iterations", self.pre_iterations)
        check_length("max_iterations", self.max_iterations)
        check_range("seed", self.seed)


@dataclass(frozen=True)
class DataOptions:
    """Options of every data set. A data set may extend them."""

    patch_size: tuple[int, ...] = (256, 256)
    """Size of the network's input."""
    batch_size: int = 24
    """Images per step, labelled and unlabelled, in all processes together."""
    labeled_bs: int = 12
    """Number of labelled images among them."""
    intensity: tuple[str, ...] = ()
    """Intensity augmentation in addition to the spatial one: gamma, brightness, noise. The
    published codes have none.
    """
    spatial: tuple[str, ...] = ()
    """Spatial augmentation in addition to the data set's own: scale. The published codes have none.
    """
    pseudo_labels: Path | None = None
    """Folder with a predicted label for each unlabelled training case, which then counts as
    labelled: CASE.nii.gz as nnU-Net and predict.py write it, or CASE.npy or CASE.h5 on the grid of
    the prepared image. Not with methods that need unlabelled cases.
    """
    num_workers: int = -1
    """Processes that prepare batches. -1: 4 with CUDA, otherwise none."""
    other_data: bool = False
    """Resume even if lists or files have changed since the run began. Without this flag, such a
    change is an error.
    """

    def check(self) -> None:
        """Raise UserError for an impossible number of processes."""
        check_processes("num_workers", self.num_workers)


@dataclass(frozen=True)
class OptimizationOptions:
    """Options of the optimiser, the losses and the choice of the best checkpoint."""

    unit: Literal["iteration", "epoch"] = "iteration"
    """Unit of pre_iterations, max_iterations, val_every, the box schedule and the static teacher's
    interval."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd has momentum 0.9; adam has torch's defaults."""
    base_lr: float = 0.01
    """Learning rate before its schedule."""
    lr_schedule: str = "constant"
    """Learning rate schedule of self-training: constant, step (a tenth after each lr_drop_every),
    two_drops, poly, poly_late or cosine."""
    pre_lr_schedule: str = "constant"
    """Learning rate schedule of pre-training and of supervised training."""
    lr_drop_every: int = 0
    """With --lr_schedule step: iterations after which the learning rate falls to a tenth, each
    time. 0: never.
    """
    weight_decay: float = 1e-4
    """Weight decay."""
    pre_weight_decay: float = 1e-4
    """Weight decay of pre-training."""
    losses: Annotated[LossTerms, tyro.conf.arg(help=LOSSES_HELP)] = HALF_DICE
    pre_losses: LossTerms = HALF_DICE
    """Terms of the loss of pre-training and of supervised training, each with its weight."""
    val_every: int = 200
    """Iterations or epochs between two validations. A checkpoint is written at each."""
    distances_every: int = 10
    """Compute HD95, ASD and the other metrics of borders every N validations (they take longer than
    the rest of a validation and select nothing). 0: only after the last step of a stage, which
    always has them."""
    select: Literal["test", "val", "published", "last"] = "val"
    """Case list whose score selects the best checkpoint. val: val.list (or val.txt). test: the test
    list; the test scores are then too good. published: the choice of the data set's published code
    (val if there is none). last: no validation; the last network of a stage is its result.
    """

    def check(self) -> None:
        """Raise UserError for numbers and names that no run can have."""
        check_length("val_every", self.val_every)
        check_range("base_lr", self.base_lr)
        check_range("weight_decay", self.weight_decay)
        check_range("pre_weight_decay", self.pre_weight_decay)
        check_range("lr_drop_every", self.lr_drop_every)
        check_range("distances_every", self.distances_every)
        check_name(SCHEDULES, self.lr_schedule, flag="--lr_schedule")
        check_name(SCHEDULES, self.pre_lr_schedule, flag="--pre_lr_schedule")
        if self.lr_drop_every and "step" not in (self.lr_schedule, self.pre_lr_schedule):
            raise UserError(
                f"--lr_drop_every {self.lr_drop_every}: belongs to --lr_schedule step, "
                f"not to {self.lr_schedule}; remove it, or use --lr_schedule step"
            )
        _check_losses("losses", self.losses)
        _check_losses("pre_losses", self.pre_losses)


@dataclass(frozen=True)
class RuntimeOptions:
    """Options of the hardware and of the arithmetic."""

    gpu: str | None = None
    """Number of the CUDA device (published flag), the same as --device cuda:N. Of a list such as
    0,1 the first is used.
    """
    deterministic: bool = True
    """Use only deterministic algorithms where torch has them. On a CPU results are bit-identical.
    0 or 1 may follow."""
    amp: Literal["off", "auto", "bf16", "fp16"] = "off"
    """Mixed precision. bf16: bfloat16; fp16: float16 with scaled gradients, for GPUs without
    bfloat16 (RTX 20); auto: the first of the two that the hardware computes in, otherwise off. off
    is the published arithmetic.
    """
    accelerate: Accelerate = "off"
    """compile: torch.compile, after the first step of a stage, which takes minutes (CUDA, or a CPU
    with a C++ compiler). graph: record CUDA graphs too. Losses differ by rounding. Not with
    --recompute, and not with --amp on a CPU."""
    sync_batch_norm: bool = False
    """With several processes: compute batch-norm statistics over the images of all processes
    (torch.nn.SyncBatchNorm). Needs CUDA. Not with --accelerate."""
    tf32: bool = True
    """On CUDA, convolutions round their inputs to TF32 if the GPU has it (torch's default, faster).
    --no_tf32: float32, as on the GPUs of the published codes.
    """
    log_every: int = 0
    """Iterations between two lines of losses in train.log. On a GPU also the iterations between two
    readings of losses, for which the host waits: losses that are not finite, and signals, are
    noticed only then. Loggers get the losses of every iteration. 0: 20, but on a CPU losses are
    read in every iteration.
    """
    keep_validated: bool = False
    """Keep the checkpoint of every validation, in the folder `validated` of the stage."""
    logger: tuple[str, ...] = DEFAULT_LOGGERS
    """Loggers of scalars and pictures, one or several: tensorboard, csv (scalars.csv, no pictures),
    wandb (Weights & Biases), mlflow. The last two need the package of that name."""
    tags: Literal["default", "published"] = "default"
    """Names of scalars in loggers. published: those of the data set's published code, where it logs
    the same scalar.
    """

    def check(self) -> None:
        """Raise UserError for a negative interval."""
        check_range("log_every", self.log_every)


# Where and how a run is computed, not what: these may differ when a run is resumed.
MAY_DIFFER = frozenset(
    {
        "root_path",
        "output_root",
        "run_mode",
        "init",
        "fresh",
        "device",
        "gpu",
        "num_workers",
        "cache",
        "recompute",
        "other_data",
        "log_every",
        "keep_validated",
        "logger",
        "tags",
        "distances_every",
        "accelerate",
    }
)

DataT = TypeVar("DataT", bound=DataOptions)
MethodT = TypeVar("MethodT")
NetworkT = TypeVar("NetworkT")


@dataclass(frozen=True)
class RunConfig(Generic[DataT, MethodT, NetworkT]):
    """All options of a run. No two groups have an option of the same name, so flags need no prefix.

    `method` and `network` are the options of the method and network that `experiment` names.
    """

    experiment: ExperimentOptions
    """Everyday options: the method, the data, the lengths and the place of the run"""
    data: DataT
    """Batches and augmentation"""
    method: MethodT
    """Options of this method"""
    network: NetworkT
    """Options of this network"""
    optimization: OptimizationOptions
    """Learning rate, losses, validation"""
    runtime: RuntimeOptions
    """Hardware and arithmetic"""

    def groups(self) -> Iterator[tuple[str, Any]]:
        """Yield the name and the options of each group."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)

    def flat(self) -> dict[str, Any]:
        """Return all options by name, without their groups."""
        values: dict[str, Any] = {}
        for _, group in self.groups():
            values.update(_values(group))
        return values

    def plain(self) -> dict[str, Any]:
        """Return all options by name as plain types, as checkpoints hold them."""
        return {name: _plain(value) for name, value in self.flat().items()}

    def plain_groups(self) -> dict[str, dict[str, Any]]:
        """Return the options of each group as plain types, as config.json holds them."""
        groups: dict[str, dict[str, Any]] = {}
        for name, group in self.groups():
            groups[name] = {option: _plain(value) for option, value in _values(group).items()}
        return groups

    def computed(self) -> dict[str, Any]:
        """Return the plain options that decide what a run computes."""
        return {name: value for name, value in self.plain().items() if name not in MAY_DIFFER}

    def check(self) -> None:
        """Call the `check` of all options classes and their base classes, which raise UserError."""
        for _, group in self.groups():
            for base in type(group).__mro__:
                check: Callable[[Any], None] | None = vars(base).get("check")
                if check is not None:
                    check(group)


AnyConfig = RunConfig[Any, Any, Any]


def check_range(flag: str, value: float) -> None:
    """Raise UserError unless the number is at least 0 and below 2^63; NaN never is."""
    if not 0 <= value < LARGEST:
        raise UserError(f"--{flag} {value}: must be at least 0, and below 2^63")


def check_length(flag: str, value: int) -> None:
    """Raise UserError unless the number of iterations or epochs is 1 to 10^9."""
    if not 1 <= value <= LONGEST:
        raise UserError(f"--{flag} {value}: must be at least 1, and at most 10^9")


def _check_losses(flag: str, terms: LossTerms) -> None:
    for term, weight in terms:
        check_name(("dice", *TERMS), term, flag=f"--{flag}")
        if not 0 <= weight < LARGEST:
            raise UserError(f"--{flag} {term} {weight}: a weight must be at least 0")
    if not any(weight for _, weight in terms):
        raise UserError(
            f"--{flag}: give at least one term and a weight above 0, as in --{flag} dice 0.5 ce 0.5"
        )


def upgraded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain options of a checkpoint under their present names.

    Older checkpoints have the share of the Dice loss, other names of two options, and --select
    published by its name. Those of own data were trained without foreground sampling.
    """
    current = dict(settings)
    for old, new in (("dice_share", "losses"), ("pre_dice_share", "pre_losses")):
        if old in current:
            share = current.pop(old)
            current[new] = [["dice", share], ["ce", round(1 - share, 12)]]
    if current.get("lr_drop_every") and "lr_schedule" not in current:
        current["lr_schedule"] = "step"
    if str(current.get("lengths")).startswith("published_"):
        current["loop_lengths"] = current.pop("lengths")
    if current.get("select") == "published":
        del current["select"]  # the data set's default
    has_whole_labels = "dims" in current and "streams" not in current
    if has_whole_labels and "foreground_sampling" not in current:
        current["foreground_sampling"] = 0.0
        if "recompute" in current:
            current["has_dropout"] = True
    return current


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in cast(tuple[Any, ...], value)]
    return value


def _values(group: object) -> dict[str, Any]:
    """Return the options of a group by name."""
    return dict(vars(group))
