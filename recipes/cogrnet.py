"""CoGRNet: settings to stages, and the test of its checkpoints. What it shares with the edge-guided method it takes from there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from dataloaders.augment import VolumeAugmentation
from dataloaders.facts import KITS19, LA, LITS
from dataloaders.two_stream import TwoPassSampler, TwoStreamSampler
from dataloaders.volumes import CoarsePatches, VolumePatches
from methods import objective
from methods.cogrnet import CoGRNet, CoGRNetPretrain, MeanTeacher, PlainPretrain
from recipes.edge_guided import Training
from recipes.evaluation import EvaluationSettings, score_checkpoints
from recipes.paths import run_folder
from recipes.published_flags import COGRNET_TEST, COGRNET_TRAINING, translated
from recipes.tasks import VolumesTask
from training.checkpoint import is_ours, load
from training.device import choose_device
from training.distributed import process_group
from training.loop import Stage
from training.settings import CoGRNetSettings
from utils.cli import parse
from utils.errors import UserError


class CoarseTask(VolumesTask):
    """A data set with two annotated slices a volume."""

    patches = staticmethod(lambda settings: CoarsePatches if settings.labels == "coarse" else VolumePatches)

    def folder(self, exp: str, labelnum: int, output_root: Path | None) -> Path:
        """Where a run lies: code/model/CoGRNet/<data set>_<exp>_<labelnum>_labeled."""
        return run_folder(self.facts.name, exp, labelnum, output_root, "CoGRNet")

    def augmentation(self, patch_size: tuple[int, ...]) -> tuple[VolumeAugmentation, VolumeAugmentation]:
        both = VolumeAugmentation(patch_size, spare=3, crop_first=True)
        return both, both

    def sampler(self, settings: CoGRNetSettings, data: VolumePatches, *arguments) -> TwoStreamSampler:
        kind = TwoPassSampler if settings.streams == "independent" else TwoStreamSampler
        return kind(data.labelled, *arguments)


TASKS = {
    facts.name: CoarseTask(facts, objective.COGRNET, "parameters", False, patch_size, "test", stride=(18, 18, 4))
    for facts, patch_size in ((LA, (112, 112, 80)), (KITS19, (128, 128, 64)), (LITS, (176, 176, 64)))
}


def train(recipe: CoGRNetSettings, argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Train CoGRNet as `recipe` says, changed by the flags in `argv`."""
    settings = settings_from_flags(recipe, argv, description)
    with process_group(choose_device(settings.device, settings.gpu)) as device:
        _CoGRNetTraining(TASKS[settings.dataset], settings, device).run()


def settings_from_flags(recipe: CoGRNetSettings, argv: Sequence[str] | None = None, description: str | None = None) -> CoGRNetSettings:
    """The recipe's settings with the flags' changes, ours or published; `--dataset` and `--method` set their values first."""
    argv = translated(COGRNET_TRAINING, argv)
    first = parse(CoGRNetSettings, argv, recipe, description)
    recipe = replace(recipe, dataset=first.dataset, patch_size=TASKS[first.dataset].patch_size).with_method(first.method, {})
    return with_lengths(parse(CoGRNetSettings, argv, recipe, description))


def with_lengths(settings: CoGRNetSettings) -> CoGRNetSettings:
    """The settings with the published length for each stage whose own is 0.

    The published loops end when they have made half of the iterations that they count: an epoch of E steps adds 2 E, one E a loader,
    and whole epochs are made until `length` is passed (5 labelled volumes, 4 a batch: 1 001 and 5 001).
    """
    epoch = max(settings.labelnum // settings.labeled_bs, 1)

    def length(own: int, text: int) -> int:
        return own or (text if settings.lengths == "published_text" else (text // (2 * epoch) + 1) * epoch)

    return replace(settings, pre_iterations=length(settings.pre_iterations, 2_000), max_iterations=length(settings.max_iterations, 10_000))


class _CoGRNetTraining(Training):
    settings: CoGRNetSettings

    def __init__(self, task: CoarseTask, settings: CoGRNetSettings, device: torch.device):
        if settings.egm != "none" or settings.teachers != "ema" or settings.mask != "fixed":
            raise UserError("--egm, --teachers and --mask belong to the edge-guided method; CoGRNet has none, ema and fixed")
        super().__init__(task, settings, device)

    def pretrain(self) -> Stage:
        s, name = self.settings, CoGRNetPretrain.name
        if s.method == "mean_teacher":
            return self.stage(PlainPretrain(self.student(), self.objective), s.pre_iterations, passes=1)
        return self.stage(CoGRNetPretrain(self.student(), self.objective, self.box(name, s.pre_iterations)), s.pre_iterations, passes=1)

    def selftrain(self) -> Stage:
        s, kind = self.settings, MeanTeacher if self.settings.method == "mean_teacher" else CoGRNet
        box = self.box(kind.name, s.max_iterations)
        phase = kind(self.student(), self.objective, box, s.u_weight, s.ema_decay, self.task.ema_scope, refresh=None)
        stage = self.stage(phase, s.max_iterations, passes=2, halved=kind is CoGRNet)
        stage.begin = self._begin
        return stage

    def _begin(self, stage: Stage) -> None:
        self.begin_from_pretraining(stage)
        if isinstance(stage.phase, CoGRNet) and self.settings.focus == "published":
            path = self.folder / CoGRNetPretrain.name / "last.pth"
            ratio = self._focus(path) if path.is_file() else None
            if ratio is None:
                raise UserError(f"{path}: no finished pre-training that gives a focus area; run it first, or use --focus off")
            stage.phase.set_focus(ratio)
            self.info.log.say(f"{stage.phase.name}: focus area of {ratio:.4f} of each side")

    @staticmethod
    def _focus(path: Path) -> float | None:
        content = load(path)
        return content["phase"].get("focus_ratio") if is_ours(content) else None


@dataclass(frozen=True)
class CoGRNetEvaluation(EvaluationSettings):
    dataset: Literal["LA", "KiTS19", "LiTS"] = "LA"
    """The data set."""


DEFAULT = CoGRNetEvaluation(exp="CoGRNet", labelnum=5, model="VNet", which="both")


def test(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Test one or two checkpoints of a CoGRNet run."""
    s = parse(CoGRNetEvaluation, translated(COGRNET_TEST, argv), DEFAULT, description)
    score_checkpoints(TASKS[s.dataset], s)
