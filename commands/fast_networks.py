"""Faster forms of a network that only predicts: batch norm folded into convolutions, compiled."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation.passes import class_probabilities
from evaluation.speed import Accelerate
from networks.norm import folded
from training.accelerate import check_compiler
from utils.errors import UserError

LARGEST_DIFFERENCE = 0.01
"""Of two forms of a network: the mean absolute difference of their probabilities for one batch."""


def fast_network(
    net: nn.Module,
    how: Accelerate,
    device: torch.device,
    batch: int,
    amp: torch.dtype | None = None,
) -> nn.Module:
    """Return a form of a network in eval mode that predicts faster; `net` stays as it is.

    fold: batch norm is folded into convolutions. compile: the folded network is compiled for
    batches of `batch` images; smaller ones are filled up. `amp`: the type that the network will be
    autocast to. Raises UserError if torch cannot compile for the device and this type.
    """
    if how == "off":
        return net
    if how == "fold":
        return folded(net)
    check_compiler(device)
    if device.type == "cpu" and amp is not None:  # measured: docs/performance.md, Prediction
        raise UserError(
            "--accelerate compile: on the CPU compiled networks are slower in half precision; "
            "use --accelerate fold, or --amp off"
        )
    return CompiledNetwork(folded(net), batch)


class CompiledNetwork(nn.Module):
    """A network that torch compiles at its first call, for batches of one size.

    Another size would be compiled again, which takes a minute or more.
    """

    def __init__(self, net: nn.Module, batch: int, backend: str = "inductor") -> None:
        """`net`: in eval mode. `batch`: images of a pass."""
        super().__init__()
        self._batch = batch
        self._net = net
        compiler: Callable[..., Any] = torch.compile  # pyright: ignore[reportUnknownMemberType]
        self._compiled = compiler(net, dynamic=False, backend=backend)
        self._is_checked = False

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K, ...) of images (N, C, ...), N at most the size of a batch.

        Raises UserError if those of the first batch differ from the logits of the network itself:
        compilers have failed without an error (docs/performance.md).
        """
        missing = self._batch - len(images)
        filled = F.pad(images, (0, 0) * (images.ndim - 1) + (0, missing))
        logits: Tensor = self._compiled(filled)
        if not self._is_checked:
            self._is_checked = True
            self._check(filled, logits)
        return logits[: len(images)]

    def _check(self, images: Tensor, logits: Tensor) -> None:
        expected = class_probabilities(self._net, images)
        difference = (logits.float().softmax(1) - expected).abs().mean().item()
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(
                f"--accelerate compile: torch {torch.__version__} compiles this network so that "
                f"its probabilities change by {difference:.2g} on average; use --accelerate fold"
            )
