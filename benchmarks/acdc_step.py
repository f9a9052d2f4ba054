"""Time one ACDC self-training step and one validation, and say where the time goes.

    python benchmarks/acdc_step.py --patch_size 128 128 --batch_size 12

Random images; medians of several steps. Every step is also made in the plain way (networks in torch's default memory layout, the
edge-guided module written out as in the paper), the two in turn, so the ratio holds on a noisy machine.
"""

import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F

from methods.copy_paste import CopyPaste
from methods.edge_guided import DualTeacher, RefreshRule
from networks.egm import EdgeGuidedModule, smooth_part
from networks.net_factory_ega import net_factory
from recipes import acdc
from training.device import choose_device, place
from training.evaluate import SlicePredictor, validate
from utils.case import Case
from utils.cli import parse, run
from utils.losses import Loss, dice_2d
from utils.phase import parts

CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")


@dataclass(frozen=True)
class Flags:
    patch_size: tuple[int, int] = (128, 128)
    """Size of the network's input."""
    batch_size: int = 12
    """Images a step, half of them labelled."""
    egm: str = "published"
    """published, corrected or none."""
    steps: int = 7
    """Timed steps of either kind, after two to warm up."""
    threads: int = 0
    """CPU threads; 0: torch's default."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    compare: bool = True
    """Also make every step in the plain way; --no_compare gives our own peak memory."""


def plain_smooth(g: torch.Tensor) -> torch.Tensor:
    """`egm.smooth_part` as published, from g (N, 1, H, W) with dense kernels."""
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=g.device) / 16
    kernel = torch.outer(row, row)[None, None]
    small = F.conv2d(g, kernel)[..., ::2, ::2]
    large = g.new_zeros(*small.shape[:2], 2 * small.shape[2], 2 * small.shape[3])
    large[..., ::2, ::2] = small
    return F.interpolate(F.conv2d(large, 4 * kernel), size=g.shape[2:], mode="nearest")


def plain_forward(self: EdgeGuidedModule, x, edge):
    """The edge-guided module as the paper writes it."""
    p = torch.sigmoid(x)
    e = F.interpolate(edge, size=x.shape[-2:], mode="bilinear", align_corners=True)
    g = p.mean(1, keepdim=True)
    band = p - (plain_smooth(g) if self.variant == "published" else smooth_part(g, self.variant))
    fused = self.fusion_conv(torch.cat([x * (1 - p), x * band, x * e], 1))
    return self.cbam(fused * self.attention(fused) + x)


class Bench:
    """A self-training phase with a clock around each of its parts."""

    def __init__(self, flags: Flags, device: torch.device, plain: bool):
        self.device, self.plain, self.times = device, plain, defaultdict(list)
        torch.manual_seed(0)
        net = net_factory("unet", egm=flags.egm)
        self.student = net.to(device) if plain else place(net, device, 2)
        box = CopyPaste("dynamic", 1 / 3, 1000, (0,))
        loss, refresh = Loss({"dice": 0.5, "ce": 0.5}, dice_2d), RefreshRule(1000, 500, 500, 2000)
        self.phase = DualTeacher(self.student, loss, acdc.PAGE.pasting, box, 0.5, 0.89, "state", refresh)
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        self.phase.pseudo_label = self._timed("teachers", self.phase.pseudo_label)
        n = flags.batch_size // 2
        image = torch.rand(2 * n, 1, *flags.patch_size)
        image = image.to(device) if plain else place(image, device, 2)
        self.batch = {"image": image, "label": torch.randint(0, 4, (n, *flags.patch_size), device=device)}

    def _timed(self, part, function):
        def timed(*arguments):
            with self.clock(part):
                return function(*arguments)

        return timed

    @contextmanager
    def clock(self, part: str):
        began = self._now()
        yield
        self.times[part][-1] += self._now() - began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self) -> None:
        ours = EdgeGuidedModule.forward
        if self.plain:
            EdgeGuidedModule.forward = plain_forward
        for part in ("whole step", "teachers", "student forward, loss", "student backward", "optimiser, EMA"):
            self.times[part].append(0.0)
        with self.clock("whole step"):
            self.optimizer.zero_grad()
            with self.clock("student forward, loss"):
                for part in parts(self.phase.losses(self.batch, 0)):
                    with self.clock("student backward"):
                        if "loss" in part:
                            part["loss"].backward()
            with self.clock("optimiser, EMA"):
                self.optimizer.step()
                self.phase.after_step(0)
        self.times["student forward, loss"][-1] -= self.times["teachers"][-1] + self.times["student backward"][-1]
        EdgeGuidedModule.forward = ours


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv, description=__doc__)
    size = "x".join(map(str, flags.patch_size))
    if flags.threads:
        torch.set_num_threads(flags.threads)
    device = choose_device(flags.device)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, egm {flags.egm}, batch {flags.batch_size} at {size}")
    benches = {"ours": Bench(flags, device, plain=False)}
    if flags.compare:
        benches["plain"] = Bench(flags, device, plain=True)
    for count in range(flags.steps + 2):
        for bench in benches.values():
            bench.step()
            if count == 1:
                bench.times.clear()
    ours, plain = benches["ours"].times, benches["plain"].times if flags.compare else {}
    whole = statistics.median(ours["whole step"])
    print(f"{'seconds per step (median)':<26}{'ours':>8}{'share':>8}" + (f"{'plain':>8}{'plain / ours':>14}" if plain else ""))
    for part, seconds in ours.items():
        mine = statistics.median(seconds)
        line = f"{part:<26}{mine:>8.3f}{mine / whole:>8.0%}"
        if plain:
            ratio = statistics.median(b / a for a, b in zip(seconds, plain[part], strict=True))
            line += f"{statistics.median(plain[part]):>8.3f}{ratio:>14.2f}"
        print(line)

    rng = np.random.default_rng(0)
    cases = [Case(str(i), rng.random((1, 10, 216, 256), np.float32), _blobs((10, 216, 256))) for i in range(4)]
    seconds = []
    benches["ours"].student.eval()
    for _ in range(3):
        began = time.perf_counter()
        validate(benches["ours"].student, lambda: False, cases, SlicePredictor(flags.patch_size, device).classes, CLASSES)
        seconds.append(time.perf_counter() - began)
    print(f"one validation of 20 volumes of 10 slices: {5 * statistics.median(seconds):.1f} s")
    peak = (
        torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    )
    print(f"peak memory of this process{', both kinds in it' if flags.compare else ''}: {peak:.0f} MiB")


def _blobs(shape: tuple[int, int, int]) -> np.ndarray:
    """Three rings, so that the metrics have surfaces to measure."""
    z, y, x = np.ogrid[tuple(slice(0, n) for n in shape)]
    radius = np.hypot(y - shape[1] / 2, x - shape[2] / 2) + 0 * z
    return np.digitize(-radius, [-60, -45, -30]).astype(np.uint8)


if __name__ == "__main__":
    run(main)
