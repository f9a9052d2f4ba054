"""Our checkpoints as the published code would have left them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from commands.published_optimizer import published_optimizer
from commands.runs import find_checkpoint
from datasets.base import DatasetSpec
from datasets.registry import all_datasets
from methods.registry import run_title
from networks.published import published_state_dict
from training.checkpoint import Checkpoint, read_ours, save
from utils.cli import parse
from utils.errors import UserError
from utils.files import remove_unfinished
from utils.messages import message


@dataclass(frozen=True)
class ExportSettings:
    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """A run's folder (the best checkpoint of self_train, or else of the stage that was written last), a stage's folder, or a
    checkpoint."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """The file to write."""
    layout: Literal["published", "plain", "net", "net_opt"] = "published"
    """plain: a state dict; net: {'net': it}; net_opt: {'net', 'opt'}, with the optimiser; published: net_opt for pre-training, else net for
    Pancreas and plain for the others."""
    module_prefix: FlagCreatePairsOff[bool] = False
    """Names with `module.` before them; as published, Pancreas has it, and LA with edge-guided modules."""
    no_module_prefix: FlagCreatePairsOff[bool] = False
    """Names without it; as published, ACDC, LA without edge-guided modules (BCP) and CoGRNet have none."""
    sobel: Literal["parameters", "buffers"] = "parameters"
    """net_opt: what the reading code holds its fixed Sobel kernels as; parameters are counted in the optimiser. If that code reports a
    parameter group of another size, try the other one."""
    overwrite: bool = False
    """Replace OUT if it is there."""


def export(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Write a checkpoint of ours as a published one; see `ExportSettings`."""
    s = parse(ExportSettings, argv, description=description)
    if s.module_prefix and s.no_module_prefix:
        raise UserError(
            "--module_prefix and --no_module_prefix contradict each other; give one of them"
        )
    path, notes = find_checkpoint(s.run)
    for note in notes:
        message(note)
    _check_out(s.out, path, s.overwrite)
    remove_unfinished(s.out.parent, below=False)
    checkpoint = read_ours(path, "; if it is a published one, use it as it is, it needs no export")
    layout, prefix = layout_and_prefix(checkpoint, s)
    net = {
        f"module.{name}" if prefix else name: value
        for name, value in published_state_dict(checkpoint.weights).items()
    }
    opt = (
        {"opt": published_optimizer(checkpoint, s.sobel == "parameters")}
        if layout == "net_opt"
        else {}
    )
    save(s.out, net if layout == "plain" else {"net": net} | opt)
    message(
        f"{path}: {run_title(checkpoint.settings)}; {checkpoint.stage}, iteration {checkpoint.progress['step']}"
    )
    message(f"{s.out}: written, layout {layout}, names with{'' if prefix else 'out'} module.")
    for flag, value in _not_published(checkpoint.settings).items():
        message(
            f"warning: trained with --{flag} {value}, which the published network does not have: there these weights predict otherwise"
        )


def _check_out(out: Path, path: Path, overwrite: bool) -> None:
    if out.is_dir():
        raise UserError(f"{out}: a folder; name the file to write")
    if out.exists() and out.samefile(path):
        raise UserError(f"{out}: the checkpoint to export itself; write to another file")
    if out.exists() and not overwrite:
        raise UserError(
            f"{out}: there already; write to another file, or replace it with --overwrite"
        )


def layout_and_prefix(checkpoint: Checkpoint, s: ExportSettings) -> tuple[str, bool]:
    """The layout's name and whether names get a prefix, by the flags or else as the published code leaves them."""
    is_cogrnet = checkpoint.settings.get("method") == "cogrnet" or "labels" in checkpoint.settings
    kind = "TWO_SLICES" if is_cogrnet else "DATASET"
    dataset = all_datasets(kind).get(checkpoint.info["name"])
    layout = s.layout
    if layout == "published":
        layout = _published_layout(checkpoint, dataset)
    if s.module_prefix or s.no_module_prefix:
        return layout, s.module_prefix
    return layout, _published_prefix(checkpoint, dataset)


def _published_layout(checkpoint: Checkpoint, dataset: DatasetSpec | None) -> str:
    """The layout in which the published code of the data set saves this stage; own data (None): as ACDC."""
    if checkpoint.stage == "pre_train":
        return "net_opt"
    if dataset is None:
        return "plain"
    return dataset.published_layout


def _published_prefix(checkpoint: Checkpoint, dataset: DatasetSpec | None) -> bool:
    """Whether the published code that has this network saves its names with `module.`; own data (None): no.

    The network decides, not the method: a network without edge-guided modules fits BCP's test script only.
    """
    if dataset is None:
        return False
    if dataset.module_prefix == "edge_guided":
        return any("compute_edge_feature." in name for name in checkpoint.weights)
    return dataset.module_prefix == "always"


def _not_published(settings: Mapping) -> dict[str, str]:
    """Settings that the weights were trained with and the published network of their names has not."""
    upsampling = {"none": "bilinear"}.get(settings.get("egm", "none"), "nearest")
    odd = {"egm": settings.get("egm", "none")} if settings.get("egm", "none") == "corrected" else {}
    return odd | (
        {"upsampling": u}
        if (u := settings.get("upsampling", "published")) not in ("published", upsampling)
        else {}
    )
