"""Networks that copy a threshold of their input, and checkpoints of them, to follow a voxel through
predict.py and back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dataloaders.dataset_info import DatasetInfo
from dataloaders.plan import Normalisation, Plan
from networks.registry import NETWORKS
from training.checkpoint import FORMAT, save

SHARP = 1e4


@dataclass(frozen=True)
class ThresholdOptions:
    level: float = 0.0
    """Class 1 is where the input is above it."""


class Threshold2(nn.Module):
    """Class 1 where the first channel is above `level`; with more classes, class k + 1 where
    channel k is the largest of those above.
    """

    dims = 2
    smallest_batch = 1
    Options = ThresholdOptions

    def __init__(self, in_chns: int, class_num: int, level: float = 0.0) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))
        self.classes = class_num

    def check_size(self, size, images=2):
        """It takes every size."""

    def forward(self, x):
        above = [SHARP * (x[:, k : k + 1] - self.level) for k in range(self.classes - 1)]
        return torch.cat([torch.zeros_like(above[0]), *above], 1)


class Threshold3(Threshold2):
    dims = 3


def register(monkeypatch) -> None:
    monkeypatch.setitem(NETWORKS, "threshold2", Threshold2)
    monkeypatch.setitem(NETWORKS, "threshold3", Threshold3)


def plan(
    dims: int = 3, spacing=(None, None, None), values=(0, 1), channels=("MR",), **other
) -> Plan:
    """A plan that z-scores; with the default spacing nothing is resampled."""
    names = ("background", *(f"organ {value}" for value in values[1:]))
    axes = "xyz" if dims == 3 else "zyx"
    return Plan(
        name="mine",
        class_names=names,
        label_values=tuple(values),
        channel_names=channels,
        normalisation=(Normalisation("zscore"),) * len(channels),
        dims=dims,
        axes=axes,
        spacing_mm=spacing,
        median_spacing_mm=(1.0, 1.0, 1.0),
        median_shape=(20, 20, 20),
        lists={},
        **other,
    )


def info_of(plan: Plan) -> DatasetInfo:
    return DatasetInfo(
        name=plan.name, class_names=plan.class_names, channels=plan.channels, dims=plan.dims, file=plan.file, axes=plan.axes,
        train_list="train.list", test_list="test.list",
    )  # fmt: skip


def checkpoint(
    path: Path,
    info: DatasetInfo,
    patch_size: tuple[int, ...],
    plan: Plan | None = None,
    level=0.0,
    **settings,
) -> Path:
    """A checkpoint as training leaves it, of the threshold network of the facts' dimensions."""
    net = (Threshold2 if info.dims == 2 else Threshold3)(info.channels, info.classes, level)
    write_checkpoint(
        path,
        info,
        net,
        {"model": f"threshold{info.dims}", "patch_size": list(patch_size), **settings},
        plan,
    )
    return path


def write_checkpoint(
    path: Path, info: DatasetInfo, net: nn.Module, settings: Mapping, plan: Plan | None = None
) -> None:
    content = {
        "format": FORMAT,
        "settings": {"egm": "none", **settings},
        "facts": info.plain(),
        "selection": "best mean Dice on val.list",
        "stage": "self_train",
        "progress": {"step": 1, "validated": 1, "best_score": 0.5, "best_step": 1, "history": []},
        "losses": [],
        "student": net.state_dict(),
        "phase": {},
        "optimizer": {},
    }
    save(path, content | ({} if plan is None else {"plan": plan.as_dict()}))
