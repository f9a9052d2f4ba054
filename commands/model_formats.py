"""Formats of exported networks: each turns a network into a file's content that runs without this
repository.

Networks are exported with their plain formulas (networks/operations.py): a fast operation of
`networks/fast/` may compute with sizes that a trace would store as constants.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from networks.operations import plain_formulas
from utils.packages import imported_for

Format = Literal["onnx", "torchscript", "torch"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "torchscript": ".pt", "torch": ".pt2"}
PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime"),
    "torchscript": (),
    "torch": (),
}
OPSET = 17
INPUT = "image"
OUTPUT = "logits"
KEY = "fewlabels"
"""Key of the description in the metadata of a file: in `torch.jit.load` and `torch.export.load` the
name of an extra file.
"""


@dataclass(frozen=True)
class Program:
    """A network in another format: the file's content, and a function that runs that content."""

    content: bytes
    run: Callable[[Tensor], Tensor]


def check_packages(kind: Format) -> None:
    """Raise UserError if a package that the format needs is not installed."""
    for package in PACKAGES[kind]:
        imported_for("format", kind, package=package)


def program(kind: Format, net: nn.Module, images: Tensor, description: str) -> Program:
    """Convert a network in eval mode.

    `net` gets the contiguous memory layout. `images`: an example (2, C, ...) of its input.
    `description`: stored in the file under `KEY`.
    """
    move: Callable[..., nn.Module] = net.to  # torch's annotation lacks memory_format
    move(memory_format=torch.contiguous_format)
    with _quiet(), plain_formulas(), torch.no_grad():
        return _CONVERTERS[kind](net, images, description)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings of torch's exporters: the result is compared with the network instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _onnx(net: nn.Module, images: Tensor, description: str) -> Program:
    """The number of images and the sides of an image are free."""
    onnx = imported_for("format", "onnx", package="onnx")
    onnxruntime = imported_for("format", "onnx", package="onnxruntime")
    free = {0: "batch"}
    for axis in range(2, images.ndim):
        free[axis] = f"side_{axis - 1}"
    file = io.BytesIO()
    export: Callable[..., Any] = torch.onnx.export
    export(
        net,
        (images,),
        file,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: free, OUTPUT: free},
        opset_version=OPSET,
        dynamo=False,  # the other exporter needs a third package, and minutes for free sides
    )
    model = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(model, {KEY: description})
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: np.ascontiguousarray(images.numpy())})
        return torch.as_tensor(logits)

    return Program(content, run)


def _torchscript(net: nn.Module, images: Tensor, description: str) -> Program:
    """The number of images and the sides of an image are free."""
    trace: Callable[..., Any] = torch.jit.trace
    traced = trace(net, images, check_trace=False)
    file = io.BytesIO()
    torch.jit.save(traced, file, _extra_files={KEY: description})
    file.seek(0)
    return Program(file.getvalue(), torch.jit.load(file))


def _torch(net: nn.Module, images: Tensor, description: str) -> Program:
    """The number of images is free, the sides are those of the example: free ones take minutes."""
    free = {0: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(net, (images,), dynamic_shapes=(free,), strict=False)
    file = io.BytesIO()
    torch.export.save(exported, file, extra_files={KEY: description})
    file.seek(0)
    return Program(file.getvalue(), torch.export.load(file).module())


_CONVERTERS: dict[Format, Callable[[nn.Module, Tensor, str], Program]] = {
    "onnx": _onnx,
    "torchscript": _torchscript,
    "torch": _torch,
}
