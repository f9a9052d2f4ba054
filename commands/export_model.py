"""Write the network of a checkpoint as ONNX, TorchScript or torch.export program."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from tyro.conf import Positional, arg

from commands.export import check_out
from commands.model_formats import (
    ENDINGS,
    INPUT,
    OPSET,
    OUTPUT,
    Format,
    Program,
    check_packages,
    program,
)
from commands.predict_model import Member, Model, read_model
from commands.predict_settings import ModelSettings
from commands.runs import find_checkpoint
from dataloaders.dataset_info import DatasetInfo
from evaluation.passes import class_probabilities
from utils.errors import UserError, writing
from utils.files import remove_unfinished, replacing
from utils.messages import message

FORMAT = "fewlabels-model/1"
"""Version of the description in an exported file."""
LARGEST_DIFFERENCE = 1e-2
"""Of a probability of the exported network. Rounding explains 1e-5, and up to 3e-3 where instance
norm divides by the deviation of two voxels.
"""
EXAMPLES = 2


@dataclass(frozen=True)
class ExportModelSettings:
    """Which network to export, and in which format."""

    checkpoint: Positional[Annotated[Path, arg(metavar="CHECKPOINT")]]
    """A run's folder (the best checkpoint of self_train, or of the stage that was written last), a
    stage's folder, or a checkpoint; ours, or a published one with --dataset."""
    format: Format
    """onnx: for ONNX Runtime and other programs. torchscript: for torch.jit.load in Python and C++.
    torch: for torch.export.load."""
    output: Path | None = None
    """The file to write. Default: next to the checkpoint, with the ending .onnx, .pt or .pt2."""
    patch_size: tuple[int, ...] = ()
    """Size of the network's input. Default: that of the checkpoint; for a published checkpoint the
    published one."""
    network: str | None = None
    """Network of a checkpoint that holds several: student, other, ema_teacher ..., or mean for the
    mean of all learners' softmaxes. Default: the one that was selected in training."""
    dataset: str | None = None
    """Data set of a published checkpoint: ACDC, LA, Pancreas, KiTS19 or LiTS."""
    variant: str | None = None
    """Pancreas: the preparation that the network was trained on; default coranet."""
    size: tuple[int, int, int] | None = None
    """KiTS19, LiTS: the size that the network was trained on, as in prepare_data.py."""
    overwrite: bool = False
    """Replace the file if it exists."""


@dataclass(frozen=True)
class ExportModelResult:
    """What was written.

    `description`: what the file holds on classes, input and preparation. `difference`: the largest
    difference of a probability between the exported network and the original one, on random images.
    """

    file: Path
    description: dict[str, Any] = field(repr=False)
    difference: float


def run(settings: ExportModelSettings) -> ExportModelResult:
    """Export a network, compare it with the original one, and write its file.

    Raises UserError for what the user can correct, and if the two differ.
    """
    check_packages(settings.format)
    path, notes = find_checkpoint(settings.checkpoint)
    for note in notes:
        message(note)
    output = settings.output or path.with_suffix(ENDINGS[settings.format])
    check_out(output, path, overwrite=settings.overwrite)
    model = read_model(_model_settings(settings, path), torch.device("cpu"))
    (member,) = model.members
    about = description(model, member, settings.format)
    images = _random_images(model.info.channels, member.predictor.patch_size)
    exported = program(settings.format, member.net, images, json.dumps(about, indent=2))
    difference = _difference(exported, member, images)
    with writing(output, "free space or name another file with --output"):
        output.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(output.parent, below=False)
        with replacing(output) as unfinished:
            unfinished.write_bytes(exported.content)
    message(f"{path}: {about['trained']['method']}; {about['trained']['selection']}")
    message(
        f"{output}: written, format {settings.format}; its probabilities differ from PyTorch's "
        f"by at most {difference:.1g}"
    )
    return ExportModelResult(output, about, difference=difference)


def _model_settings(settings: ExportModelSettings, path: Path) -> ModelSettings:
    return ModelSettings(
        checkpoint=(path,),
        network=settings.network,
        dataset=settings.dataset,
        variant=settings.variant,
        size=settings.size,
        patch_size=settings.patch_size,
        amp="off",
        accelerate="off",
        device="cpu",
    )


def _random_images(channels: int, patch_size: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(EXAMPLES, channels, *patch_size, generator=generator)


def _difference(exported: Program, member: Member, images: Tensor) -> float:
    """The largest difference of a probability, of one image.

    Raises UserError if it is more than rounding explains.
    """
    image = images[:1]
    with torch.no_grad():
        expected = class_probabilities(member.net, image)
        probabilities = exported.run(image).float().softmax(1)
    difference = (probabilities - expected).abs().max().item()
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"{member.about['path']}: the exported network gives different probabilities "
            f"(by up to {difference:.2g}), so nothing was written; use another --format"
        )
    return difference


def description(model: Model, member: Member, kind: Format) -> dict[str, Any]:
    """What a caller of the exported network must know, in plain types.

    docs/prediction.md explains the entries.
    """
    info = model.info
    preparation = None
    if model.preparation is not None:
        preparation = model.preparation.settings
    about = member.about
    content: dict[str, Any] = {
        "format": FORMAT,
        "network": type(member.net).__name__,
        "dataset": info.name,
        "classes": list(info.class_names),
        "label_values": [int(value) for value in model.values],
        "input": _input_description(model, member),
        "output": {
            "name": OUTPUT,
            "axes": ["batch", "class", *_spatial_axes(info)],
            "meaning": "logits; their softmax over the classes is the probability",
        },
        "preparation": preparation,
        "trained": {
            "checkpoint": Path(about["path"]).name,
            "sha256": about["sha256"],
            "method": about["method"],
            "network": about["network"],
            "selection": about["selection"],
        },
        "torch": torch.__version__,
    }
    if kind == "onnx":
        content["opset"] = OPSET
    return content


def _input_description(model: Model, member: Member) -> dict[str, Any]:
    """The entry "input" of the description: what the network takes, and how to use it."""
    info = model.info
    use = "slide a window of patch_size over the volume, and average the probabilities"
    if info.dims == 2:
        use = "resize each slice to patch_size (nearest), and its labels back (nearest)"
    channel_names = None
    spacing = None
    orientation = None
    if model.plan is not None:
        channel_names = list(model.plan.channel_names)
        spacing = list(model.plan.spacing_mm)
        orientation = model.plan.orientation
    return {
        "name": INPUT,
        "type": "float32",
        "axes": ["batch", "channel", *_spatial_axes(info)],
        "channels": info.channels,
        "channel_names": channel_names,
        "patch_size": list(member.predictor.patch_size),
        "orientation": orientation,
        "spacing_mm": spacing,
        "steps": _image_steps(model),
        "use": use,
    }


def _spatial_axes(info: DatasetInfo) -> list[str]:
    """The letters of the spatial axes of the network's input."""
    if info.dims == 2:
        return list(info.axes[1:])
    return list("xyz")


def _image_steps(model: Model) -> str:
    """What turns a scan into the input, in words; empty where that is not recorded."""
    steps: list[str] = []
    if model.preparation is not None and model.preparation.image_steps:
        steps.append(model.preparation.image_steps)
    if model.info.zscore:
        steps.append("each channel: (v - mean) / standard deviation over the volume")
    return "; ".join(steps)
