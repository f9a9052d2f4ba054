"""Time the prediction of a volume by a sliding window: ours, MONAI's and nnU-Net's.

    python benchmarks/predict_speed.py
    python benchmarks/predict_speed.py --patch_size 112 112 80 --size 168 168 120

All ways take turns with the same V-Net (channels-last weights), random volume, windows (half
overlapping) and threads. Processor time on the CPU, otherwise wall-clock time. Prints the median
seconds of each way, and the median ratios of neighbouring runs: how many times as fast as each
other program the way is. MONAI and nnU-Net v2 are compared if they are installed; they are no
dependencies of this project.
"""

import copy
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import commands  # noqa: F401 (sets what OpenMP reads when torch is loaded)

# isort: split
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import median_ratio, time_in_turn
from commands.fast_networks import fast_network
from evaluation.sliding_window import VolumePredictor
from evaluation.speed import Accelerate
from evaluation.windows import Blend
from networks.registry import build
from training.device import autocast, autocast_type, choose_device, place
from utils.cli import parse, run

FLOAT32 = "float32, as in the tests"


@dataclass(frozen=True)
class Flags:
    """Flags of predict_speed.py."""

    patch_size: tuple[int, int, int] = (64, 64, 48)
    """Size of a window."""
    size: tuple[int, int, int] = (128, 128, 96)
    """Size of the volume."""
    batch: int = 4
    """Windows that go through the network at a time."""
    egm: Literal["none", "published"] = "none"
    """Edge-guided modules of the V-Net."""
    background: float = 0.0
    """Share of the volume along its first axis that is zero."""
    compile: bool = False
    """Time --accelerate compile too, which compiles for a minute or more."""
    rounds: int = 5
    """Timed runs of each way, after one that is not timed."""
    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class Task:
    """What all ways compute: the probabilities of `image` (C, X, Y, Z) by `net`."""

    net: nn.Module
    image: np.ndarray
    flags: Flags
    device: torch.device

    @property
    def stride(self) -> tuple[int, ...]:
        """Half a window."""
        return tuple(side // 2 for side in self.flags.patch_size)


def ours(task: Task, amp: str, accelerate: Accelerate, blend: Blend) -> Callable[[], object]:
    """Return our prediction with these settings of predict.py."""
    dtype = autocast_type(amp, task.device)
    net = fast_network(copy.deepcopy(task.net), accelerate, task.device, task.flags.batch, dtype)
    net = place(net, task.device, 3, dtype)
    predictor = VolumePredictor(
        task.flags.patch_size,
        task.stride,
        task.device,
        batch=task.flags.batch,
        amp=dtype,
        blend=blend,
        skip_background=accelerate != "off",
    )
    return lambda: predictor.probability(net, task.image)


def our_ways(task: Task) -> dict[str, Callable[[], object]]:
    """Return ours as in the published tests, and with the other settings of predict.py."""
    ways = {
        FLOAT32: ours(task, amp="off", accelerate="off", blend="uniform"),
        "--amp off --accelerate fold --blend gaussian": ours(
            task, amp="off", accelerate="fold", blend="gaussian"
        ),
        "--amp auto --accelerate fold --blend gaussian": ours(
            task, amp="auto", accelerate="fold", blend="gaussian"
        ),
    }
    if task.flags.compile:
        ways["--amp off --accelerate compile --blend gaussian"] = ours(
            task, amp="off", accelerate="compile", blend="gaussian"
        )
    return ways


def monai(task: Task, amp: str) -> Callable[[], object]:
    """Return MONAI's inferer with Gaussian weights, and the softmax of what it returns."""
    inferers: Any = importlib.import_module("monai.inferers")
    inferer = inferers.SlidingWindowInferer(
        task.flags.patch_size, sw_batch_size=task.flags.batch, overlap=0.5, mode="gaussian"
    )
    dtype = autocast_type(amp, task.device)
    net = place(copy.deepcopy(task.net), task.device, 3, dtype)

    @torch.inference_mode()
    def predict() -> Tensor:
        image = torch.as_tensor(task.image)[None].to(task.device)
        with autocast(task.device, dtype):
            logits: Tensor = inferer(image, net)
        return logits[0].float().softmax(0).cpu()

    return predict


def nnunet(task: Task) -> Callable[[], object]:
    """Return nnU-Net's prediction without mirroring, and the softmax of the logits."""
    inference: Any = importlib.import_module("nnunetv2.inference.predict_from_raw_data")
    predictor = inference.nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=task.device.type == "cuda",
        device=task.device,
        allow_tqdm=False,
    )
    predictor.network = place(copy.deepcopy(task.net), task.device, 3)
    predictor.configuration_manager = SimpleNamespace(patch_size=task.flags.patch_size)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)

    def predict() -> Tensor:
        logits = predictor.predict_sliding_window_return_logits(torch.as_tensor(task.image))
        return logits.float().softmax(0).cpu()

    return predict


def other_ways(task: Task) -> dict[str, Callable[[], object]]:
    """Return the other programs that are installed."""
    ways: dict[str, Callable[[], object]] = {}
    if importlib.util.find_spec("monai"):
        ways["MONAI"] = monai(task, amp="off")
        if autocast_type("auto", task.device) is not None:
            ways["MONAI under autocast"] = monai(task, amp="auto")
    if importlib.util.find_spec("nnunetv2"):
        ways["nnU-Net"] = nnunet(task)
    return ways


def make_task(flags: Flags) -> Task:
    """Build the network, with random weights, and the volume: noise after a share of zeros."""
    torch.manual_seed(0)
    device = choose_device(flags.device)
    net = build("VNet", 1, 2, {"egm": flags.egm}).eval()
    image = np.random.default_rng(0).standard_normal((1, *flags.size)).astype(np.float32)
    image[:, : round(flags.background * flags.size[0])] = 0
    return Task(net, image, flags=flags, device=device)


def main(argv: Sequence[str]) -> None:
    """Time all ways and print a table."""
    flags = parse(Flags, argv, description=__doc__)
    torch.set_num_threads(flags.threads)
    task = make_task(flags)
    others = other_ways(task)
    ways = our_ways(task) | others
    for compute in ways.values():
        compute()  # allocates, compiles, and lets oneDNN choose its kernels
    clock = time.process_time
    if task.device.type != "cpu":
        clock = time.perf_counter
    seconds = time_in_turn(ways, flags.rounds, clock)
    for name, values in seconds.items():
        print(f"{name:50s} {statistics.median(values):7.2f} s")
        if name in others:
            continue
        for other in others:
            ratio = median_ratio(seconds[other], values)
            print(f"    {ratio:.2f} times as fast as {other}")


if __name__ == "__main__":
    run(main)
