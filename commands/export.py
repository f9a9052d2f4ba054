"""Write our checkpoints in the layouts of the published code."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from commands.published_optimizer import published_optimizer
from commands.runs import find_checkpoint
from datasets.base import DatasetSpec
from datasets.registry import all_datasets, kind_of
from methods.registry import run_title
from methods.stage_networks import MEAN
from networks.published_weights import published_state_dict
from training.checkpoint import Checkpoint, read_ours, save, small_content
from utils.errors import UserError
from utils.files import remove_unfinished
from utils.messages import message

Layout = Literal["published", "plain", "net", "net_opt", "small"]


@dataclass(frozen=True)
class ExportSettings:
    """Which checkpoint to export, and in which layout."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """A run's folder (the best checkpoint of self_train, or of the stage that was written last), a
    stage's folder, or a checkpoint."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """The file to write."""
    layout: Layout = "published"
    """plain: a state dict; net: {'net': it}; net_opt: {'net', 'opt'}, with the optimiser;
    published: net_opt for pre-training, otherwise net for Pancreas and plain for the others;
    small: to share, a checkpoint for the scripts of this project with the weights in half precision
    and without what only training needs."""
    module_prefix: FlagCreatePairsOff[bool] = False
    """Names with `module.` before them. As published, Pancreas has it, and LA with edge-guided
    modules."""
    no_module_prefix: FlagCreatePairsOff[bool] = False
    """Names without it. As published, ACDC, LA without edge-guided modules (BCP) and CoGRNet have
    none."""
    sobel: Literal["parameters", "buffers"] = "parameters"
    """net_opt: how the reading code stores its fixed Sobel kernels; parameters are counted in the
    optimiser. If that code reports a parameter group with another size, try the other one."""
    network: str | None = None
    """Network of a checkpoint that holds several, as student or other; default: the one that was
    selected in training."""
    overwrite: bool = False
    """Replace OUT if it exists."""


def run(settings: ExportSettings) -> Path:
    """Write a checkpoint of ours as a published one, and return its file.

    Raises UserError for what the user can correct.
    """
    if settings.module_prefix and settings.no_module_prefix:
        raise UserError(
            "--module_prefix and --no_module_prefix contradict each other; give one of them"
        )
    path, notes = find_checkpoint(settings.run)
    for note in notes:
        message(note)
    check_out(settings.out, path, overwrite=settings.overwrite)
    remove_unfinished(settings.out.parent, below=False)
    checkpoint = read_ours(path, "; if it is a published one, use it as it is, it needs no export")
    if settings.network is not None:
        checkpoint = checkpoint.of_network(settings.network)
    if checkpoint.selected == MEAN:
        names = " and ".join(checkpoint.models)
        raise UserError(
            f"{path}: the mean of {names} was selected, and a published file holds one network; "
            "name one of them with --network"
        )
    if settings.layout == "small":
        return _write_small(checkpoint, settings)
    layout, has_prefix = layout_and_prefix(checkpoint, settings)
    content = _content(checkpoint, layout, has_prefix=has_prefix, sobel=settings.sobel)
    save(settings.out, content)
    message(_origin(checkpoint))
    names = "with module." if has_prefix else "without module."
    message(f"{settings.out}: written, layout {layout}, names {names}")
    for flag, value in _not_published(checkpoint.settings).items():
        message(
            f"warning: trained with --{flag} {value}, which the published network does not have: "
            f"there these weights predict otherwise"
        )
    return settings.out


def _write_small(checkpoint: Checkpoint, settings: ExportSettings) -> Path:
    if settings.module_prefix or settings.no_module_prefix:
        raise UserError("--layout small: has this project's names; omit the flags of the prefix")
    save(settings.out, small_content(checkpoint))
    message(_origin(checkpoint))
    megabytes = settings.out.stat().st_size / 1e6
    message(f"{settings.out}: written, {megabytes:.1f} MB, half precision, for test and prediction")
    return settings.out


def _origin(checkpoint: Checkpoint) -> str:
    title = run_title(checkpoint.settings)
    step = checkpoint.progress["step"]
    return f"{checkpoint.path}: {title}; {checkpoint.stage}, iteration {step}"


def _content(
    checkpoint: Checkpoint, layout: str, has_prefix: bool, sobel: Literal["parameters", "buffers"]
) -> dict[str, Any]:
    """The content of the exported file."""
    net = published_state_dict(checkpoint.weights)
    if has_prefix:
        net = {f"module.{name}": value for name, value in net.items()}
    if layout == "plain":
        return net
    content: dict[str, Any] = {"net": net}
    if layout == "net_opt":
        content["opt"] = published_optimizer(checkpoint, sobel=sobel == "parameters")
    return content


def check_out(out: Path, path: Path, overwrite: bool) -> None:
    """Raise UserError for a file that an export must not write."""
    if out.is_dir():
        raise UserError(f"{out}: a folder; name the file to write")
    if out.exists() and out.samefile(path):
        raise UserError(f"{out}: the checkpoint to export itself; write to another file")
    if out.exists() and not overwrite:
        raise UserError(f"{out}: exists; write to another file, or replace it with --overwrite")


def layout_and_prefix(checkpoint: Checkpoint, settings: ExportSettings) -> tuple[str, bool]:
    """The layout's name and whether names get a prefix, by the flags or as published."""
    is_cogrnet = checkpoint.settings.get("method") == "cogrnet" or "labels" in checkpoint.settings
    dataset = all_datasets(kind_of(two_slices=is_cogrnet)).get(checkpoint.info["name"])
    layout: str = settings.layout
    if layout == "published":
        layout = _published_layout(checkpoint, dataset)
    if settings.module_prefix or settings.no_module_prefix:
        return layout, settings.module_prefix
    return layout, _published_prefix(checkpoint, dataset)


def _published_layout(checkpoint: Checkpoint, dataset: DatasetSpec | None) -> str:
    """The layout in which the data set's published code saves this stage.

    Own data (None): as ACDC.
    """
    if checkpoint.stage == "pre_train":
        return "net_opt"
    if dataset is None:
        return "plain"
    return dataset.published_layout


def _published_prefix(checkpoint: Checkpoint, dataset: DatasetSpec | None) -> bool:
    """Whether the published code that has this network saves its names with `module.`.

    Own data (None): no. The network decides, not the method: a network without edge-guided modules
    fits BCP's test script only.
    """
    if dataset is None:
        return False
    if dataset.module_prefix == "edge_guided":
        return any("compute_edge_feature." in name for name in checkpoint.weights)
    return dataset.module_prefix == "always"


def _not_published(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings of the training that the published network does not have."""
    unknown: dict[str, str] = {}
    egm = settings.get("egm", "none")
    if egm == "corrected":
        unknown["egm"] = egm
    usual = "nearest"
    if egm == "none":
        usual = "bilinear"
    upsampling = settings.get("upsampling", "published")
    if upsampling not in ("published", usual):
        unknown["upsampling"] = upsampling
    return unknown
