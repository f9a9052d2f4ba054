"""Time one forward and backward pass of a V-Net with edge guidance, ours against the published arithmetic.

    python benchmarks/vnet_step.py

Both kinds have the same weights and input and are timed in turn, so the ratio holds on a noisy machine; the outputs and gradients of
the first pass are compared. The plain kind leads the edge map through 128 channels at full resolution, blurs with dense kernels and
convolves in torch's default layout. Peak memory is measured in a process of its own for each kind (--kinds ours).
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

import commands  # noqa: F401, I001  before torch: threads wait for work as the scripts' do
import torch

from benchmarks.memory import peaks, say_peak
from networks.operations import plain_formulas
from networks.net_factory_la_ega import net_factory
from training.device import place
from utils.cli import parse, run


@dataclass(frozen=True)
class Flags:
    patch_size: tuple[int, int, int] = (112, 112, 80)
    """Size of the network's input."""
    steps: int = 3
    """Timed passes of either kind, after one to warm up."""
    kinds: Literal["both", "ours", "plain", "without"] = "both"
    """Which kind to time; without: a V-Net without edge guidance."""
    memory: bool = True
    """Measure the peak memory of each kind as well, in processes of their own."""


class Kind:
    def __init__(self, name: str, size: Sequence[int]):
        self.plain, self.times = name == "plain", []
        torch.manual_seed(0)
        net, image = (
            net_factory("VNet", egm="none" if name == "without" else "published"),
            torch.randn(1, 1, *size),
        )
        self.net, self.image = (
            (net, image)
            if self.plain
            else (place(net, torch.device("cpu"), 3), place(image, torch.device("cpu"), 3))
        )

    def step(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.net.zero_grad()
        torch.manual_seed(1)
        began = time.perf_counter()
        with plain_formulas() if self.plain else nullcontext():
            logits = self.net(self.image)
        forward = time.perf_counter() - began
        logits.square().mean().backward()
        self.times.append((forward, time.perf_counter() - began - forward))
        return logits.detach(), {
            key: p.grad for key, p in self.net.named_parameters() if p.grad is not None
        }


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv, description=__doc__)
    kinds = {
        name: Kind(name, flags.patch_size)
        for name in (("ours", "plain") if flags.kinds == "both" else (flags.kinds,))
    }
    print(
        f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, 1x1x{'x'.join(map(str, flags.patch_size))}"
    )
    if flags.kinds == "both":
        for kind in kinds.values():
            kind.net.eval()  # without dropout, whose draws depend on the memory layout
        (a, grads), (b, others) = (kind.step() for kind in kinds.values())
        worst = max(
            ((grads[key] - others[key]).norm() / (others[key].norm() + 1e-12), key)
            for key in grads
            if others[key].norm() > 1e-8
        )
        print(
            f"eval mode: logits differ by at most {(a - b).abs().max():.1e}, gradients by {worst[0]:.1e} of their norm ({worst[1]})"
        )
        for kind in kinds.values():
            kind.net.train()
    for _ in range(flags.steps + 1):
        for kind in kinds.values():
            kind.step()
    for name, kind in kinds.items():
        forward, backward = (
            statistics.median(column) for column in zip(*kind.times[-flags.steps :], strict=True)
        )
        print(
            f"{name:<8} forward {forward:.2f} s, backward {backward:.2f} s, together {forward + backward:.2f} s"
        )
    if flags.kinds == "both":
        ratio = statistics.median(
            sum(p) / sum(o)
            for o, p in zip(
                kinds["ours"].times[-flags.steps :],
                kinds["plain"].times[-flags.steps :],
                strict=True,
            )
        )
        print(f"plain / ours: {ratio:.2f} (median of ratios of neighbouring passes)")
        if flags.memory:
            peaks(__file__, kinds, "--steps", "1", "--patch_size", *map(str, flags.patch_size))
    else:
        say_peak()


if __name__ == "__main__":
    run(main)
