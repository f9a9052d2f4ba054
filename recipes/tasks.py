"""What the edge-guided method needs to know of each data set: how it is published, read, sampled, predicted and named."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dataloaders.acdc import ACDCSlices
from dataloaders.augment import VolumeAugmentation
from dataloaders.facts import ACDC, LA, PANCREAS, DatasetFacts
from dataloaders.two_stream import FourStreamSampler, StreamSampler, TwoStreamSampler
from dataloaders.volumes import VolumePatches, first_cases, pancreas_cases
from methods import objective
from methods.copy_paste_pretrain import CopyPastePretrain
from methods.objective import Objective
from recipes.paths import REPOSITORY, run_folder
from training.evaluate import Predict, SlicePredictor
from training.settings import Settings, SliceSettings, VolumeSettings
from training.sliding import VolumePredictor
from utils.ema import EmaScope

Data = ACDCSlices | VolumePatches


@dataclass(frozen=True)
class Task:
    """`keeps_optimizer`: whether self-training goes on with pre-training's optimiser. `patch_size`, `stride` and `connectivity` (of the
    component filter, which validations have not) are those of the published test; `unit`: what --labelnum and --labeled_bs count;
    `bcp`: settings that `--method bcp` has on this data set alone."""

    facts: DatasetFacts
    objective: Objective
    ema_scope: EmaScope
    keeps_optimizer: bool
    patch_size: tuple[int, ...]
    selection_list: str
    unit: str = "volumes"
    stride: tuple[int, ...] = ()
    connectivity: int | None = None
    bcp: dict = field(default_factory=dict, hash=False)

    def folder(self, exp: str, labelnum: int, output_root: Path | None) -> Path:
        """Where a run lies: code/model/BCP/<data set>_<exp>_<labelnum>_labeled, as the published README has it."""
        return run_folder(self.facts.name, exp, labelnum, output_root)

    def best_name(self, stage: str, model: str, labelnum: int) -> str:
        return f"{model}_best_model.pth"

    def best(self, folder: Path, stage: str, model: str, labelnum: int) -> Path:
        """The best checkpoint of a stage of the run in `folder`: ours, or a published one under its own name."""
        return folder / stage / self.best_name(stage, model, labelnum)

    def selection(self, settings: Settings) -> tuple[str, str]:
        """The split whose score selects the best checkpoint, and that rule in words."""
        return self.selection_list, f"best mean Dice on {self.facts.list_name(self.selection_list)}"

    def read(self, settings: Settings, root: Path, unlabelled: bool, say: Callable[[str], None]) -> Data:
        raise TypeError(f"{type(self).__name__} reads nothing")

    def sampler(self, settings: Settings, data: Data, *arguments) -> StreamSampler:
        return TwoStreamSampler(data.labelled, *arguments)

    def epoch(self, settings: Settings, sampler: StreamSampler) -> int | None:
        """Steps of an epoch where the schedule counts epochs, else None."""
        return None

    def losses(self, settings: Settings) -> Objective:
        """The objective with the settings' losses."""
        return replace(self.objective, dice_share=settings.dice_share, pretrain_dice_share=settings.pre_dice_share)

    def predictor(self, patch_size: Sequence[int], stride: Sequence[int], device: torch.device, test: bool = False) -> Predict:
        """Predicts whole cases, in a validation or, with `test`, as the published test does."""
        raise TypeError(f"{type(self).__name__} predicts nothing")

    def optimizer(self, settings: Settings, student: nn.Module, pretraining: bool) -> torch.optim.Optimizer:
        return torch.optim.SGD(student.parameters(), lr=settings.base_lr, momentum=0.9, weight_decay=settings.weight_decay)

    def learning_rate(self, settings: Settings, step: int, pretraining: bool) -> float:
        return settings.base_lr


class SlicesTask(Task):
    def read(self, settings: SliceSettings, root: Path, unlabelled: bool, say: Callable[[str], None]) -> ACDCSlices:
        return ACDCSlices(root, settings.labelnum, settings.patch_size, unlabelled)

    def predictor(self, patch_size: Sequence[int], stride: Sequence[int], device: torch.device, test: bool = False) -> SlicePredictor:
        return SlicePredictor(tuple(patch_size), device)

    def losses(self, settings: SliceSettings) -> Objective:
        dice = partial(self.objective.dice, mask_background=settings.dice_background == "masked")
        return replace(super().losses(settings), dice=dice)


class VolumesTask(Task):
    """Patches of volumes, and sliding windows over whole ones."""

    cases = staticmethod(first_cases)
    patches = staticmethod(lambda settings: VolumePatches)

    def augmentation(self, patch_size: tuple[int, ...]) -> tuple[VolumeAugmentation, VolumeAugmentation]:
        """Of labelled and of unlabelled volumes."""
        both = VolumeAugmentation(patch_size, spare=3)
        return both, both

    def selection(self, settings: VolumeSettings) -> tuple[str, str]:
        if settings.select == "val":
            return "val", f"best mean Dice on {self.facts.list_name('val')}"
        return "test", f"best mean Dice on {self.facts.test_list}, as published: its test figures are too good"

    def read(self, settings: VolumeSettings, root: Path, unlabelled: bool, say: Callable[[str], None]) -> VolumePatches:
        names, labelled = self.cases(root, self.facts, settings.labelnum)
        names = names if unlabelled else names[:labelled]
        kind = self.patches(settings)
        return kind(self.facts, root, names, labelled, self.augmentation(settings.patch_size), settings.cache, say)

    def predictor(self, patch_size: Sequence[int], stride: Sequence[int], device: torch.device, test: bool = False) -> VolumePredictor:
        return VolumePredictor(tuple(patch_size), tuple(stride), device, self.connectivity if test else None, progress=test)

    def optimizer(self, settings: VolumeSettings, student: nn.Module, pretraining: bool) -> torch.optim.Optimizer:
        decay = settings.pre_weight_decay if pretraining else settings.weight_decay
        if settings.optimizer == "adam":
            return torch.optim.Adam(student.parameters(), lr=settings.base_lr, weight_decay=decay)
        return torch.optim.SGD(student.parameters(), lr=settings.base_lr, momentum=0.9, weight_decay=decay)

    def learning_rate(self, settings: VolumeSettings, step: int, pretraining: bool) -> float:
        drops = 0 if pretraining or not settings.lr_drop_every else step // settings.lr_drop_every
        return settings.base_lr * 0.1**drops

    def epoch(self, settings: VolumeSettings, sampler: StreamSampler) -> int | None:
        return sampler.epoch if settings.unit == "epoch" else None


class PancreasTask(VolumesTask):
    cases = staticmethod(pancreas_cases)

    def folder(self, exp: str, labelnum: int, output_root: Path | None) -> Path:
        """Where a run lies: pancreas/result/<exp>, as the published README has it."""
        return (output_root or REPOSITORY / "pancreas" / "result") / exp

    def best_name(self, stage: str, model: str, labelnum: int) -> str:
        return f"best_ema_{labelnum}_{stage.removesuffix('_train')}.pth"

    def best(self, folder: Path, stage: str, model: str, labelnum: int) -> Path:
        ours, published = super().best(folder, stage, model, labelnum), folder / "pretrain" / f"best_ema{labelnum}_pre.pth"
        return published if stage == CopyPastePretrain.name and published.is_file() and not ours.exists() else ours

    def augmentation(self, patch_size: tuple[int, ...]) -> tuple[VolumeAugmentation, VolumeAugmentation]:
        labelled = VolumeAugmentation(patch_size, spare=1, turn=False)
        return labelled, VolumeAugmentation(patch_size, spare=1, turn=False, centre=True)

    def sampler(self, settings: Settings, data: Data, *arguments) -> FourStreamSampler:
        return FourStreamSampler(data.labelled, *arguments)


ACDC_TASK = SlicesTask(
    ACDC,
    objective.ACDC,
    "state",
    keeps_optimizer=True,
    patch_size=(256, 256),
    selection_list="val",
    unit="slices",
    bcp={"dice_background": "masked"},
)
LA_TASK = VolumesTask(
    LA,
    objective.LA,
    "parameters",
    keeps_optimizer=False,
    patch_size=(112, 112, 80),
    selection_list="test",
    stride=(18, 18, 4),
    connectivity=26,
    bcp={"pre_weight_decay": 1e-4, "lr_drop_every": 2500},
)
PANCREAS_TASK = PancreasTask(
    PANCREAS,
    objective.PANCREAS,
    "parameters",
    keeps_optimizer=True,
    patch_size=(96, 96, 96),
    selection_list="test",
    stride=(16, 16, 4),
    bcp={"dice_share": 0.5, "pre_dice_share": 0.5, "seed": 2020},
)
