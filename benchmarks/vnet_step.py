"""Time one forward and backward pass of a V-Net with edge guidance, ours against the published arithmetic.

    python benchmarks/vnet_step.py

Both kinds have the same weights and input and are timed in turn, so the ratio holds on a noisy machine; the outputs and gradients of
the first pass are compared. The plain kind leads the edge map through 128 channels at full resolution, blurs with dense kernels and
convolves in torch's default layout. Peak memory is measured in a process of its own for each kind (--kinds ours).
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F

from networks.egm_3d import EdgeGuidedModule3d
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


def plain_smooth(g: torch.Tensor) -> torch.Tensor:
    """`egm_3d.smooth_part_3d` as published, from g (N, 1, D, H, W) with dense kernels."""
    row = torch.exp(-(torch.arange(-1.0, 2.0) ** 2) / (2 * 1.5**2))
    kernel = torch.einsum("i,j,k->ijk", row, row, row)[None, None]
    kernel = kernel / kernel.sum()
    small = F.conv3d(g, kernel, padding=1)[..., ::2, ::2, ::2]
    smooth = F.conv3d(F.pad(small, [part for side in small.shape[:1:-1] for part in (0, side)]), 4 * kernel, padding=1)
    return smooth if smooth.shape == g.shape else F.interpolate(smooth, size=g.shape[2:], mode="nearest")


def plain_forward(self: EdgeGuidedModule3d, x, edge, conv_adjust):
    """The edge-guided module as the published code computes it."""
    p = torch.sigmoid(x)
    e = F.interpolate(conv_adjust(edge), size=x.shape[-3:], mode="nearest")  # (N, 128, D, H, W)
    e = e if self.channels == 128 else self.get_submodule(f"adjust_128_to_{self.channels}")(e)
    smooth = plain_smooth(p.mean(1, keepdim=True).repeat(1, x.shape[1], 1, 1, 1).flatten(0, 1).unsqueeze(1))
    band = p - smooth.view_as(p)
    fused = self.fusion_conv(torch.cat([x * (1 - p), x * band, x * e], 1))
    x = self.cbam.ChannelGate(fused * self.attention(fused) + x)
    gate = self.cbam.SpatialGate.spatial(torch.stack([x.max(1).values, x.mean(1)], 1))
    return self.dropout(x * torch.sigmoid(gate))


def peak_kib() -> int:
    """Largest resident memory of this process; Linux's getrusage would count what the parent held when it started us."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


class Kind:
    def __init__(self, name: str, size: Sequence[int]):
        self.plain, self.times = name == "plain", []
        torch.manual_seed(0)
        net, image = net_factory("VNet", egm="none" if name == "without" else "published"), torch.randn(1, 1, *size)
        self.net, self.image = (net, image) if self.plain else (place(net, torch.device("cpu"), 3), place(image, torch.device("cpu"), 3))

    def step(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        kept = EdgeGuidedModule3d.forward
        if self.plain:
            EdgeGuidedModule3d.forward = plain_forward
        self.net.zero_grad()
        torch.manual_seed(1)
        began = time.perf_counter()
        logits = self.net(self.image)
        forward = time.perf_counter() - began
        logits.square().mean().backward()
        self.times.append((forward, time.perf_counter() - began - forward))
        EdgeGuidedModule3d.forward = kept
        return logits.detach(), {key: p.grad for key, p in self.net.named_parameters() if p.grad is not None}


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv, description=__doc__)
    kinds = {name: Kind(name, flags.patch_size) for name in (("ours", "plain") if flags.kinds == "both" else (flags.kinds,))}
    print(f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, 1x1x{'x'.join(map(str, flags.patch_size))}")
    if flags.kinds == "both":
        for kind in kinds.values():
            kind.net.eval()  # without dropout, whose draws depend on the memory layout
        (a, grads), (b, others) = (kind.step() for kind in kinds.values())
        worst = max(((grads[key] - others[key]).norm() / (others[key].norm() + 1e-12), key) for key in grads if others[key].norm() > 1e-8)
        print(f"eval mode: logits differ by at most {(a - b).abs().max():.1e}, gradients by {worst[0]:.1e} of their norm ({worst[1]})")
        for kind in kinds.values():
            kind.net.train()
    for _ in range(flags.steps + 1):
        for kind in kinds.values():
            kind.step()
    medians = {}
    for name, kind in kinds.items():
        forward, backward = (statistics.median(column) for column in zip(*kind.times[-flags.steps :], strict=True))
        medians[name] = forward + backward
        print(f"{name:<8} forward {forward:.2f} s, backward {backward:.2f} s, together {forward + backward:.2f} s")
    if flags.kinds == "both":
        ratio = statistics.median(
            sum(p) / sum(o) for o, p in zip(kinds["ours"].times[-flags.steps :], kinds["plain"].times[-flags.steps :], strict=True)
        )
        print(f"plain / ours: {ratio:.2f} (median of ratios of neighbouring passes)")
        for name in kinds if flags.memory else ():
            command = [sys.executable, __file__, "--kinds", name, "--steps", "1", "--patch_size", *map(str, flags.patch_size)]
            print(f"{name:<8} {subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]}")
    else:
        print(f"peak memory of the process {peak_kib() / 2**20:.2f} GiB")


if __name__ == "__main__":
    run(main)
