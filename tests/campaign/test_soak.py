"""A run of days in minutes."""

import os
import resource
from pathlib import Path

import pytest
from campaign.works import SLICES, train
from torch import nn

from datasets import acdc
from networks import registry
from training import loop

pytestmark = pytest.mark.campaign


class Pebble(nn.Module):
    """A network that costs nothing: the loop around it is what is watched."""

    dims, smallest_batch, Options = 2, 1, registry.NETWORKS["unet"].Options

    def __init__(self, in_chns, class_num, **options) -> None:
        super().__init__()
        self.conv, self.norm = (
            nn.Conv2d(in_chns, class_num, 3, padding=1),
            nn.BatchNorm2d(class_num),
        )

    def check_size(self, size, images=2):
        pass

    def forward(self, x):
        return self.norm(self.conv(x))


def test_soak(phantom_root, tmp_path, tally, number, monkeypatch):
    """Twenty thousand steps of all stages: memory and descriptors level out, event files do not
    multiply.
    """
    monkeypatch.setitem(registry.NETWORKS, "pebble", Pebble)
    steps, step = (
        {"supervised": 2 * number(2000), "pre_train": number(8000), "self_train": number(8000)},
        loop._StageRunner._train_step,
    )
    seen: dict[str, list] = {name: [] for name in steps}

    def watched(self, batch):
        if self.progress.step % max(steps[self.stage.name] // 20, 1) == 0:
            all_datasets = int(Path("/proc/self/statm").read_text().split()[1])
            seen[self.stage.name].append(
                (all_datasets * resource.getpagesize() / 2**20, len(os.listdir("/proc/self/fd")))
            )
        return step(self, batch)

    monkeypatch.setattr(loop._StageRunner, "_train_step", watched)
    pebbles = {
        **SLICES,
        "model": "pebble",
        "patch_size": (16, 16),
        "val_every": max(steps["self_train"] // 5, 1),
    }
    supervised = {"method": "supervised", "exp": "supervised"}
    half = dict.fromkeys(("pre_iterations", "max_iterations"), steps["supervised"] // 2)
    shared = {name: value for name, value in pebbles.items() if not name.startswith("static_")}
    train(acdc.DATASET, {**shared, **supervised, **half}, phantom_root, tmp_path)
    train(
        acdc.DATASET,
        {**pebbles, "pre_iterations": steps["pre_train"], "max_iterations": steps["self_train"]},
        phantom_root,
        tmp_path,
    )
    for name, watch in seen.items():
        memory, files = zip(
            *watch[len(watch) // 4 :], strict=True
        )  # what a stage needs is there by then
        print(
            f"{name}: memory {memory[0]:.1f} to {memory[-1]:.1f} MiB, descriptors {files[0]} to "
            f"{files[-1]}, {steps[name]} steps"
        )
        tally.note(
            memory[-1] <= 1.02 * memory[0],
            f"{name}: memory grew from {memory[0]:.1f} to {memory[-1]:.1f} MiB",
        )
        # a checkpoint that is being written holds a few for a moment; a leak stays
        tally.note(min(files[-3:]) <= files[0] + 2, f"{name}: descriptors {files}")
    events = list(tmp_path.rglob("events*"))
    tally.note(len(events) == len(steps), f"event files: {events}")
