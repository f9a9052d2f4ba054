"""Time a forward and a backward pass of a V-Net with edge guidance, fast against plain formulas.

    python benchmarks/vnet_step.py

Both kinds have the same weights and input and are timed in turn, so the ratio holds on a busy
machine. Outputs and gradients of the first pass are compared. The plain kind computes the plain
formulas of `networks/operations.py` and convolves in torch's default memory layout. Peak memory is
measured in a separate process for each kind (--kinds ours).
"""

import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import commands  # noqa: F401, I001  before torch: sets how threads wait for work, as the scripts do
import torch
from torch import Tensor

from benchmarks.memory import peaks, say_peak
from benchmarks.timing import median_ratio
from networks.net_factory_la_ega import net_factory
from networks.operations import plain_formulas
from training.device import place
from utils.cli import parse, run


@dataclass(frozen=True)
class Flags:
    """Flags of vnet_step.py."""

    patch_size: tuple[int, int, int] = (112, 112, 80)
    """Size of the network's input."""
    steps: int = 3
    """Timed passes of each kind, after one to warm up."""
    kinds: Literal["both", "ours", "plain", "without"] = "both"
    """Which kind to time; without: a V-Net without edge guidance."""
    memory: bool = True
    """Also measure the peak memory of each kind, in separate processes."""


class Kind:
    """A network of one kind with its input, and the seconds of its passes."""

    def __init__(self, name: str, size: Sequence[int]) -> None:
        """Build the network and a random input of this size."""
        torch.manual_seed(0)
        egm = "published"
        if name == "without":
            egm = "none"
        self.formulas = nullcontext
        if name == "plain":
            self.formulas = plain_formulas
        self.net = net_factory("VNet", egm=egm)
        self.image = torch.randn(1, 1, *size)
        if name != "plain":
            device = torch.device("cpu")
            self.net = place(self.net, device, 3)
            self.image = place(self.image, device, 3)
        self.forward: list[float] = []
        self.backward: list[float] = []

    def step(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Make and time a pass; return the logits, and the gradients by the parameter's name."""
        self.net.zero_grad()
        torch.manual_seed(1)
        start = time.perf_counter()
        with self.formulas():
            logits = self.net(self.image)
        middle = time.perf_counter()
        logits.square().mean().backward()
        self.forward.append(middle - start)
        self.backward.append(time.perf_counter() - middle)
        gradients: dict[str, Tensor] = {}
        for key, parameter in self.net.named_parameters():
            if parameter.grad is not None:
                gradients[key] = parameter.grad
        return logits.detach(), gradients

    def totals(self, steps: int) -> list[float]:
        """Return the seconds of the last passes, forward and backward together."""
        pairs = zip(self.forward[-steps:], self.backward[-steps:], strict=True)
        return [forward + backward for forward, backward in pairs]


def compare(ours: Kind, plain: Kind) -> None:
    """Print how much the logits and gradients of both kinds differ."""
    for kind in (ours, plain):
        kind.net.eval()  # without dropout, whose random numbers depend on the memory layout
    logits, gradients = ours.step()
    plain_logits, plain_gradients = plain.step()
    worst = 0.0
    worst_key = ""
    for key, expected in plain_gradients.items():
        norm = float(expected.norm())
        difference = float((gradients[key] - expected).norm()) / (norm + 1e-12)
        if norm > 1e-8 and difference >= worst:
            worst = difference
            worst_key = key
    print(
        f"eval mode: logits differ by at most {(logits - plain_logits).abs().max():.1e}, "
        f"gradients by {worst:.1e} of their norm ({worst_key})"
    )
    for kind in (ours, plain):
        kind.net.train()


def main(argv: Sequence[str] | None = None) -> None:
    """Time the kinds in turn and print the medians."""
    flags = parse(Flags, argv, description=__doc__)
    names = [flags.kinds]
    if flags.kinds == "both":
        names = ["ours", "plain"]
    kinds = {name: Kind(name, flags.patch_size) for name in names}
    size = [str(side) for side in flags.patch_size]
    threads = torch.get_num_threads()
    print(f"CPU, {threads} threads, torch {torch.__version__}, 1x1x{'x'.join(size)}")
    if flags.kinds == "both":
        compare(kinds["ours"], kinds["plain"])
    for _ in range(flags.steps + 1):
        for kind in kinds.values():
            kind.step()
    for name, kind in kinds.items():
        forward = statistics.median(kind.forward[-flags.steps :])
        backward = statistics.median(kind.backward[-flags.steps :])
        print(
            f"{name:<8} forward {forward:.2f} s, backward {backward:.2f} s, "
            f"together {forward + backward:.2f} s"
        )
    if flags.kinds != "both":
        say_peak()
        return
    ratio = median_ratio(kinds["plain"].totals(flags.steps), kinds["ours"].totals(flags.steps))
    print(f"plain / ours: {ratio:.2f} (median of ratios of neighbouring passes)")
    if flags.memory:
        peaks(__file__, kinds, "--steps", "1", "--patch_size", *size)


if __name__ == "__main__":
    run(main)
