"""Edge-guided BCP with dual teachers: settings to stages. The recipe scripts state the numbers, this module only connects."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from dataloaders.cases import read_cases
from dataloaders.two_stream import StreamSampler, collate
from methods.copy_paste import CopyPaste
from methods.copy_paste_pretrain import CopyPastePretrain
from methods.dual_teacher import DualTeacher, RefreshRule
from methods.supervised import Supervised
from recipes.networks import build_network, check_patch, check_stride, load_network
from recipes.paths import data_root
from recipes.published_flags import TRAINING, translated
from recipes.published_optimizer import take_over
from recipes.tasks import Task
from training.checkpoint import is_ours, load
from training.device import choose_device, place, set_deterministic, use_bf16
from training.distributed import check_batch, from_main, is_main, process_group, rank, world
from training.evaluate import validate
from training.log import RunLog
from training.loop import Run, Stage, run_stages
from training.memory import step_bytes
from training.settings import Settings, SliceSettings, VolumeSettings
from training.signals import leave_to_main_process
from utils.cli import parse
from utils.errors import UserError, writing

STAGE_NUMBERS = {Supervised.name: 0, CopyPastePretrain.name: 1, DualTeacher.name: 2}  # set apart what the stages draw from one seed


def settings_from_flags(task: Task, recipe: Settings, argv: Sequence[str] | None = None, description: str | None = None) -> Settings:
    """The recipe's settings with the flags' changes, ours or published; `--method` sets its baseline's values first, so that other flags
    override them."""
    argv = translated(TRAINING[task.facts.name], argv)
    method = parse(type(recipe), argv, recipe, description).method
    return parse(type(recipe), argv, recipe.with_method(method, task.bcp), description)


def train(task: Task, recipe: Settings, argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Train on a data set as `recipe` says, changed by the flags in `argv`; resumes what an earlier call began."""
    settings = settings_from_flags(task, recipe, argv, description)
    with process_group(choose_device(settings.device, settings.gpu)) as device:
        Training(task, settings, device).run()


class Training:
    """A run of the edge-guided method, its baselines and ablations; other methods override how the stages are made."""

    def __init__(self, task: Task, settings: Settings, device: torch.device):
        self.task, self.settings, self.device = task, settings, device
        facts = task.facts
        check_patch(facts, settings.patch_size, settings.egm)
        check_batch(settings.batch_size, settings.labeled_bs)
        check_numbers(settings)
        bf16 = use_bf16(settings.amp, device)
        set_deterministic(settings.deterministic)
        self.objective = task.losses(settings)
        self.folder = task.folder(settings.exp, settings.labelnum, settings.output_root)
        self.root = data_root(facts.name, settings.root_path)
        self.unlabelled = settings.method != "supervised" and settings.run_mode != "pretrain"
        self.data = task.read(settings, self.root, self.unlabelled, say=print if is_main() else lambda message: None)
        self._check_counts()
        split, rule = task.selection(settings)
        self.validation_cases = read_cases(facts, self.root, split)
        if settings.fresh and is_main():
            move_aside(self.folder / DualTeacher.name if self.unlabelled and settings.run_mode == "selftrain" else self.folder)
        from_main(None)  # the other processes wait until the folder is ready
        about = {"settings": settings.computed(), "facts": plain_facts(facts)}
        about["selection"] = f"{rule} ({len(self.validation_cases)} volumes, empty prediction = 0)"
        best_name = partial(task.best_name, model=settings.model, labelnum=settings.labelnum)
        defaults = type(settings)().computed()
        self.info = Run(self.folder, best_name, about, device, facts.dims, bf16, RunLog(self.folder), defaults)

    def _check_counts(self) -> None:
        s, data, unit = self.settings, self.data, self.task.unit
        if self.unlabelled and not data.unlabelled:
            raise UserError(
                f"--labelnum {s.labelnum}: leaves no unlabelled {unit} in the training list; "
                "choose fewer, or --method supervised, which needs none"
            )
        if self._sampler((0,), self.unlabelled, range(1)).epoch < 1:
            raise UserError(
                f"--labeled_bs {s.labeled_bs}: the training list has {data.labelled} labelled {unit} of --labelnum {s.labelnum}"
                f"{f' and {data.unlabelled} unlabelled ones' if self.unlabelled else ''}, too few; lower it, and --batch_size"
            )

    def run(self) -> None:
        s, data, unit = self.settings, self.data, self.task.unit
        self.info.log.say(
            f"{self.task.facts.name}, --labelnum {s.labelnum}: {data.labelled} labelled and {data.unlabelled} unlabelled {unit}, "
            f"{len(self.validation_cases)} validation volumes; {s.method}, egm {s.egm}, mask {s.mask}, teachers {s.teachers}; "
            f"{self.device} x {world()}; TensorBoard: tensorboard --logdir {self.folder}"
        )
        self.info.log.say(f"checkpoints are selected by: {self.info.about['selection']}; the last one is kept beside the best")
        pretrain, selftrain = {CopyPastePretrain.name: self.pretrain}, {DualTeacher.name: self.selftrain}
        stages = {"pretrain": pretrain, "selftrain": selftrain, "pretrain_then_selftrain": pretrain | selftrain}
        run_stages(self.info, {Supervised.name: self.supervised} if s.method == "supervised" else stages[s.run_mode])

    def supervised(self) -> Stage:
        s = self.settings
        return self.stage(Supervised(self.student(), self.objective), s.pre_iterations + s.max_iterations, passes=1, halved=False)

    def pretrain(self) -> Stage:
        s = self.settings
        box = self.box(CopyPastePretrain.name, s.pre_iterations)
        return self.stage(CopyPastePretrain(self.student(), self.objective, box), s.pre_iterations, passes=1)

    def selftrain(self) -> Stage:
        s, task, epoch = self.settings, self.task, self._epoch(DualTeacher.name)
        refresh = RefreshRule(s.static_start, s.static_step, *s.static_range, epoch) if s.teachers == "dual" else None
        box = self.box(DualTeacher.name, s.max_iterations)
        phase = DualTeacher(self.student(), self.objective, box, s.u_weight, s.ema_decay, task.ema_scope, refresh)
        stage = self.stage(phase, s.max_iterations, passes=2)
        stage.begin = self.begin_from_pretraining
        return stage

    def student(self) -> torch.nn.Module:
        s, facts = self.settings, self.task.facts
        torch.manual_seed(s.seed)
        net = build_network(facts, s.model, s.egm, s.upsampling if isinstance(s, SliceSettings) else "published")
        net.recompute = isinstance(s, VolumeSettings) and s.recompute
        return place(net, self.device, facts.dims)

    def box(self, stage: str, steps: int) -> CopyPaste:
        s = self.settings
        return CopyPaste(s.mask, s.box_end, steps, (s.seed, STAGE_NUMBERS[stage], 1), self._epoch(stage))

    def _epoch(self, stage: str) -> int | None:
        return self.task.epoch(self.settings, self._sampler((0,), stage == DualTeacher.name, range(1)))

    def stage(self, phase, length: int, passes: int, halved: bool = True) -> Stage:
        """A stage of `length` iterations or epochs, whose step makes `passes` student passes before its backward pass, each over half of
        the labelled batch's number of images unless `halved` is False."""
        s, task, seed = self.settings, self.task, (self.settings.seed, STAGE_NUMBERS[phase.name])
        pretraining = phase.name != DualTeacher.name
        predict = task.predictor(s.patch_size, s.val_stride if isinstance(s, VolumeSettings) else (), self.device)
        unit = self._epoch(phase.name) or 1
        self._tell_memory(phase, passes, s.labeled_bs // world() // (2 if halved else 1))
        return Stage(
            phase=phase,
            optimizer=task.optimizer(s, phase.student, pretraining),
            steps=length * unit,
            val_every=s.val_every * unit,
            val_lead=unit if unit > 1 else 0,
            batches=partial(self._batches, seed, not pretraining),
            validate=lambda net, stopped: validate(net, stopped, self.validation_cases, predict, task.facts.class_names),
            learning_rate=lambda step: task.learning_rate(s, step, pretraining),
            seed=(*seed, 2),
        )

    def _tell_memory(self, phase, passes: int, images: int) -> None:
        """Say what a step takes: 2-D steps are small, so volumes only."""
        s, facts = self.settings, self.task.facts
        if facts.dims == 3 and is_main():
            shape = (images, facts.channels, *s.patch_size)
            gib = step_bytes(phase.student, shape, passes, len(phase.networks) - 1, 2 if s.optimizer == "adam" else 1) / 2**30
            advice = "" if s.recompute else "; --recompute, a smaller --patch_size or fewer images lower that"
            self.info.log.say(f"{phase.name}: a training step will take about {gib:.1f} GiB{advice}")
            if images == 1 and s.model == "VNet":
                self.info.log.say(
                    f"warning: {phase.name} sees one patch at a time, too few for batch normalisation: validation, which uses the "
                    "statistics of many, may find nothing for long (docs/results/la.md); a --labeled_bs of at least 4 a process gives two"
                )

    def _sampler(self, seed: tuple[int, ...], unlabelled: bool, steps: range) -> StreamSampler:
        s, others = self.settings, self.data.unlabelled if unlabelled else 0
        unlabelled_bs = s.batch_size - s.labeled_bs if unlabelled else 0
        return self.task.sampler(s, self.data, others, s.labeled_bs, unlabelled_bs, seed, steps, rank(), world())

    def _batches(self, seed: tuple[int, int], unlabelled: bool, steps: range) -> DataLoader:
        workers = self.settings.num_workers
        if workers < 0:
            workers = 4 if self.device.type == "cuda" else 0
        return DataLoader(
            self.data,
            batch_sampler=self._sampler((*seed, 0), unlabelled, steps),
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=leave_to_main_process,
            pin_memory=self.device.type == "cuda",
        )

    def begin_from_pretraining(self, stage: Stage) -> None:
        """Student, teachers and, for some data sets, the optimiser take over from the best pre-training checkpoint, ours or a
        published one."""
        s = self.settings
        path = self.task.best(self.folder, CopyPastePretrain.name, s.model, s.labelnum)
        if not path.is_file():
            raise UserError(f"{path}: no pre-trained network; run with --run_mode pretrain first, or put a published one there")
        content = load(path)
        load_network(stage.phase.student, content, path)
        stage.phase.reset_teachers()
        momentum = self._take_over_momentum(stage, content) if self.task.keeps_optimizer else ""
        self.info.log.say(f"{stage.phase.name}: starting from {path}{momentum}")

    @staticmethod
    def _take_over_momentum(stage: Stage, content: Mapping) -> str:
        """Go on with pre-training's momentum, under this stage's own numbers; what the log says of it."""
        if is_ours(content):
            stage.optimizer.load_state_dict(stage.optimizer.state_dict() | {"state": content["optimizer"]["state"]})
            return ""
        try:
            take_over(stage.optimizer, stage.phase.student, content)
        except ValueError as error:
            return f", its momentum left behind: {error}"
        return ", its momentum taken over"


def plain_facts(facts) -> dict:
    """Data-set facts as plain types, for a checkpoint."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(facts).items() if key != "planes"}


def check_numbers(settings: Settings) -> None:
    """Raise UserError for numbers that no run can have."""
    for name in ("pre_iterations", "max_iterations", "val_every", "static_start"):
        if getattr(settings, name) < 1:
            raise UserError(f"--{name} {getattr(settings, name)}: must be at least 1")
    for name in ("dice_share", "pre_dice_share"):
        if not 0 <= getattr(settings, name) <= 1:
            raise UserError(f"--{name} {getattr(settings, name)}: must lie between 0 and 1")
    for name in ("base_lr", "weight_decay", "u_weight", "static_step", "seed"):
        if not 0 <= getattr(settings, name) < 2**63:
            raise UserError(f"--{name} {getattr(settings, name)}: must be at least 0, and below 2^63")
    shortest, longest = settings.static_range
    if not 1 <= shortest <= longest:
        raise UserError(f"--static_range {shortest} {longest}: give the shortest interval, at least 1, then the longest")
    if max(settings.patch_size) == 16 and (settings.labeled_bs == 2 * world() or settings.model == "VNet_pancreas"):
        raise UserError(
            f"--patch_size {' '.join(map(str, settings.patch_size))}: normalisation needs more than one pixel of one image at the "
            "network's deepest level; use 32 on one side or, with batch normalisation, a larger --labeled_bs"
        )
    if isinstance(settings, VolumeSettings):
        if not 0 <= settings.pre_weight_decay < 2**63 or settings.lr_drop_every < 0:
            raise UserError("--pre_weight_decay and --lr_drop_every must be at least 0")
        check_stride(settings.val_stride, "val_stride")
    if not 0 <= settings.ema_decay <= 1:
        raise UserError(f"--ema_decay {settings.ema_decay}: must lie between 0 and 1")
    if not 0 < settings.box_end <= 2 / 3:
        raise UserError(f"--box_end {settings.box_end}: must lie above 0 and at most at 2/3, where the box starts")


def move_aside(folder: Path) -> None:
    """Rename an earlier run's folder, so that a fresh one starts and nothing is lost."""
    if folder.exists():
        aside = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        with writing(aside, "move it by hand or use another --exp"):
            folder.rename(aside)
        print(f"the earlier run is now {aside}")
