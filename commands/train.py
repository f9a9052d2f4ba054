"""A training run: from settings and a page to stages for the one loop."""

import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from commands.batches import check_shared_memory, loader, move_to_device, on_device
from commands.networks import (
    build_network,
    check_patch,
    load_network,
    load_weights,
    share_batch_norm,
)
from commands.published_flags import training_rules, translated
from commands.published_optimizer import take_over_momentum
from commands.run_data import run_data
from commands.run_folder import check_other_methods, claimed, with_earlier_name
from dataloaders.augment import INTENSITIES, SPATIAL, Augmentation
from dataloaders.cases import read_cases
from dataloaders.splits import check_lists
from dataloaders.two_stream import StreamSampler
from datasets.base import DatasetSpec, data_root
from datasets.run_settings import default_settings, last_value, own_options, settings_from_flags
from evaluation.validation import Classes, validate
from methods.base import StageSpec, TrainingStage
from methods.copy_paste import Pasting
from methods.registry import METHODS, run_title
from training.accelerate import check_accelerate
from training.checkpoint import Checkpoint, read
from training.device import autocast_type, choose_device, in_words, place, set_deterministic
from training.distributed import check_batch, is_main, process_group, rank, world
from training.log import RunLog
from training.loggers import check_loggers
from training.loop import Run, StageSetup, run_stages
from training.memory import step_memory
from training.settings import Settings, known
from training.stage import StageResult
from utils.case import Case
from utils.ema import EmaScope
from utils.errors import UserError
from utils.losses import Loss
from utils.messages import message
from utils.schedules import schedule

STAGE_NUMBERS = {
    "supervised": 0,
    "pre_train": 1,
    "self_train": 2,
}  # set apart what the stages draw from one seed


def train(
    dataset: DatasetSpec, argv: Sequence[str] | None = None, description: str = "", **numbers
) -> None:
    """Train on a data set with a script's numbers, changed by the flags in `argv`; resumes what an earlier call began."""
    argv = sys.argv[1:] if argv is None else list(argv)
    settings = training_settings(dataset, argv, description, numbers)
    if "exp" not in numbers and last_value(argv, "exp") is None:
        settings = with_earlier_name(dataset, settings)
    run(dataset, settings)


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its `folder`, and what each of its `stages` ended with, in their order."""

    folder: Path
    stages: tuple[StageResult, ...]

    @property
    def best(self) -> Path:
        """The best checkpoint of the last stage, which a test or a prediction takes."""
        return self.stages[-1].best


def run(dataset: DatasetSpec, settings: Settings) -> TrainResult:
    """Train by these settings, or resume what an earlier call began.

    Raises UserError for what the user can correct, Interrupted after a signal, with everything saved.
    """
    with process_group(choose_device(settings.device, settings.gpu)) as device:
        frame = Frame(dataset, settings, device)
        with claimed(frame.folder, frame.aside()):
            if not settings.fresh:
                check_other_methods(frame.folder, settings.method, frame.plans)
            loop, stages = frame.stages()
            try:
                results = run_stages(loop, stages)
            finally:
                loop.log.close()
        return TrainResult(frame.folder, stages=tuple(results))


def training_settings(
    dataset: DatasetSpec,
    argv: Sequence[str],
    description: str = "",
    numbers: Mapping[str, Any] = MappingProxyType({}),
    say: Callable[[str], None] = message,
) -> Settings:
    """The settings of a training command, published flags among them; `say` gets a line for each of those that changes nothing."""
    rules = training_rules(dataset.commands, own_options(dataset, numbers, argv))
    return settings_from_flags(dataset, numbers, translated(rules, argv, say), description)


def best_decimals(dataset: DatasetSpec, method: str) -> int | None:
    """Decimals to which the method's published code on the data set rounds the best score; None: it does not."""
    if method in dataset.rounded_best:
        return 4
    return None


@dataclass(frozen=True, eq=False)
class RunStageContext:
    """The `methods.base.StageContext` of a stage of a run."""

    frame: "Frame"
    spec: StageSpec

    @property
    def options(self) -> Settings:
        return self.frame.settings

    @property
    def loss(self) -> Loss:
        return self.frame.loss(self.spec.pretraining)

    @property
    def pasting(self) -> Pasting:
        return self.frame.dataset.pasting

    @property
    def ema_scope(self) -> EmaScope:
        return self.frame.dataset.ema_scope

    @property
    def dims(self) -> int:
        return self.frame.dataset.info.dims

    @property
    def classes(self) -> int:
        return self.frame.dataset.info.classes

    @property
    def length(self) -> int:
        return self.frame.length(self.spec)

    @property
    def epoch(self) -> int | None:
        return self.frame.epoch(self.spec.uses_unlabelled)

    @property
    def seed(self) -> tuple[int, ...]:
        return self.frame.seed(self.spec.name, 1)

    def network(self, number: int = 0, model: str | None = None) -> torch.nn.Module:
        return self.frame.network(number, model)

    def state_of(self, stage: str) -> dict:
        return self.frame.state_of(stage)


class Frame:
    """A run: its settings, data set, data and device, from which stages are built."""

    def __init__(self, dataset: DatasetSpec, settings: Settings, device: torch.device):
        """Raises UserError where settings, data and network do not fit each other, before anything is trained."""
        self.dataset, self.settings, self.device = dataset, settings, device
        s = settings
        check_batch(s.batch_size, s.labeled_bs)
        for flag, names, there in (
            ("intensity", s.intensity, INTENSITIES),
            ("spatial", s.spatial, SPATIAL),
        ):
            for name in names:
                known(flag, name, there)
        check_patch(self._build(), s.patch_size, s.labeled_bs // world() // 2)
        self.amp = autocast_type(s.amp, device)
        check_accelerate(
            s.accelerate,
            device,
            getattr(s, "recompute", False),
            s.sync_batch_norm and world() > 1,
            amp=self.amp,
        )
        check_loggers(s.logger)
        check_shared_memory(s, device, dataset.info.channels)
        set_deterministic(s.deterministic, s.tf32)
        self.folder = dataset.folder(s.output_root, s.exp, s.labelnum)
        self.root = data_root(dataset.info.name, s.root_path)
        self.plans = self._plans()
        self.unlabelled = any(plan.uses_unlabelled for plan in self.plans)
        split, rule = dataset.selection(s.select)
        say = message if is_main() else lambda line: None
        names, labelled = dataset.cases(self.root, dataset.info, s.labelnum)
        lists, read = self._lists(names, labelled, split)
        self.data = self._read(names if self.unlabelled else names[:labelled], labelled, say)
        self._check_counts()
        files = self.data.files[: len(self.data.files) - self.data.unlabelled]
        self.run_data = run_data(self.root, dataset, files, lists, read, s.other_data, say)
        if on_device(s):
            move_to_device(self.data, s, device)
        self.validation_cases: list[Case] = []
        self.selection = rule
        if split:
            self.validation_cases = read_cases(dataset.info, self.root, split, say)
            self.selection += f" ({len(self.validation_cases)} volumes, empty prediction = 0)"

    def context(self, spec: StageSpec) -> "RunStageContext":
        """What the stage is built from."""
        return RunStageContext(self, spec)

    def network(self, number: int = 0, model: str | None = None) -> torch.nn.Module:
        """A network with its first weights, the same at every call with that number, on the device; `model`: another one than --model."""
        torch.manual_seed(self.settings.seed + number)
        return place(self._build(model), self.device, self.dataset.info.dims, self.amp)

    def loss(self, pretraining: bool) -> Loss:
        terms = self.settings.pre_losses if pretraining else self.settings.losses
        return Loss(dict(terms), self.dataset.dice(self.settings))

    def seed(self, stage: str, purpose: int) -> tuple[int, ...]:
        """A seed for what a stage draws; `purpose` 0 is for batches, 1 for the method, 2 for dropout."""
        return self.settings.seed, STAGE_NUMBERS.get(stage, zlib.crc32(stage.encode())), purpose

    def epoch(self, uses_unlabelled: bool) -> int | None:
        """Steps of an epoch where the settings count epochs, else None."""
        if self.settings.unit != "epoch":
            return None
        return self._sampler((0,), uses_unlabelled, range(1)).epoch

    def length(self, spec: StageSpec) -> int:
        """Length of a stage in iterations, or in epochs where the settings count epochs."""
        return sum(getattr(self.settings, name) for name in spec.lengths)

    def state_of(self, stage: str) -> dict:
        """The state that an earlier stage of this run ended with; empty where there is none."""
        path = self.folder / stage / "last.pth"
        if not path.is_file():
            return {}
        return dict(read(path).phase or {})

    # what the run is made of

    def stages(self) -> tuple[Run, dict]:
        """The run and its stages by name, each built when its turn comes."""
        self.run = self._run()
        s, data, dataset, say = self.settings, self.data, self.dataset, self.run.log.say
        say(f"method: {run_title(s.plain())}")
        say(
            f"{dataset.info.name}, --labelnum {s.labelnum}: {data.labelled} labelled and {data.unlabelled} unlabelled {dataset.counted}, "
            f"{len(self.validation_cases)} validation volumes; --method {s.method}, --model {s.model}; "
            f"{self.device} x {world()}, {in_words(self.device, self.amp)}; TensorBoard: tensorboard --logdir {self.folder}"
        )
        if s.sync_batch_norm and world() == 1:
            say(
                "--sync_batch_norm: changes nothing with one process; torchrun --nproc_per_node starts several"
            )
        say(f"checkpoints are selected by: {self.selection}; the last one is kept beside the best")
        return self.run, {plan.name: partial(self._stage, plan) for plan in self.plans}

    def _run(self) -> Run:
        s, dataset = self.settings, self.dataset
        about = {"settings": s.computed(), "selection": self.selection, **self.run_data.about()}
        best_name = partial(dataset.best_name, model=s.model, labelnum=s.labelnum)
        defaults = default_settings(dataset, s.method, s.model).computed()
        log, check, every = (
            RunLog(self.folder),
            self.run_data.check,
            s.log_every or (1 if self.device.type == "cpu" else 20),
        )
        return Run(
            self.folder,
            best_name,
            about,
            self.device,
            dataset.info.dims,
            self.amp,
            log,
            defaults,
            check,
            every,
            s.accelerate,
            loggers=s.logger,
            log_every=s.log_every or 20,
        )

    def _plans(self) -> list[StageSpec]:
        """The method's stages that --run_mode asks for; one that has no self-training runs whole."""
        plans = METHODS[self.settings.method].stages
        wanted = {"pretrain": (True,), "selftrain": (False,)}.get(
            self.settings.run_mode, (True, False)
        )
        return [plan for plan in plans if plan.pretraining in wanted or len(plans) == 1]

    def _build(self, model: str | None = None) -> torch.nn.Module:
        return build_network(self.dataset.info, model or self.settings.model, vars(self.settings))

    def _lists(
        self, names: Sequence[str], labelled: int, validation: str
    ) -> tuple[dict[str, Sequence[str]], list[str]]:
        """Names by split, and which splits this run reads; UserError where lists or files do not fit.

        `validation`: the split that the best checkpoint is chosen on, empty where nothing is validated.
        """
        root, info = self.root, self.dataset.info
        lists = {"labelled": names[:labelled], "unlabelled": names[labelled:]}
        if validation:
            lists[validation] = info.read_list(root, info.list_name(validation))
        read = [split for split in lists if split != "unlabelled" or self.unlabelled]
        if validation != "test":
            lists["test"] = info.held_out(root, "test")
        check_lists(root, info, lists, unread=lists.keys() - read)
        return lists, read

    def _read(self, names: Sequence[str], labelled: int, say: Callable[[str], None]) -> Dataset:
        s, dataset = self.settings, self.dataset
        intensity = tuple(INTENSITIES[name] for name in s.intensity)
        spatial = tuple(SPATIAL[name] for name in s.spatial)
        augment = tuple(
            Augmentation((*own, *spatial), intensity) for own in dataset.spatial(s.patch_size)
        )
        return dataset.data(s)(dataset.info, self.root, names, labelled, augment, say=say)

    def _check_counts(self) -> None:
        s, data, counted = self.settings, self.data, self.dataset.counted
        if self.unlabelled and not data.unlabelled:
            remedy = "add unlabelled cases"
            if s.labelnum > 1:
                remedy = "choose fewer"
            raise UserError(
                f"--labelnum {s.labelnum}: leaves no unlabelled {counted} in the training list; "
                f"{remedy}, or --method supervised, which needs none"
            )
        if self._sampler((0,), self.unlabelled, range(1)).epoch < 1:
            raise UserError(
                f"--labeled_bs {s.labeled_bs}: the training list has {data.labelled} labelled {counted} of --labelnum {s.labelnum}"
                f"{f' and {data.unlabelled} unlabelled ones' if self.unlabelled else ''}, too few; lower it, and --batch_size"
            )

    def aside(self) -> list[Path]:
        """What of an earlier run is moved away first: with --fresh its folder, or its self-training's."""
        s = self.settings
        selftrain = s.run_mode == "selftrain" and not any(plan.pretraining for plan in self.plans)
        folders = [self.folder / plan.name for plan in self.plans] if selftrain else [self.folder]
        return folders if s.fresh else []

    def _stage(self, spec: StageSpec) -> StageSetup:
        s, dataset = self.settings, self.dataset
        stage = spec.stage(self.context(spec))
        epoch = self.epoch(spec.uses_unlabelled) or 1
        steps = self.length(spec) * epoch
        self._log_memory(stage, spec)
        if s.sync_batch_norm:  # after the memory estimate, which makes a step in one process only
            share_batch_norm(stage.networks.values(), self.device)
        lr_schedule = s.pre_lr_schedule if spec.pretraining else s.lr_schedule
        weight_decay = s.pre_weight_decay if spec.pretraining else s.weight_decay
        predict = dataset.predictor(s.patch_size, getattr(s, "val_stride", ()), self.device)
        val_every = s.val_every * epoch
        val_lead = epoch if epoch > 1 else 0
        validation = None
        if self.validation_cases:
            validation = partial(self._validate, predict.classes, val_every, val_lead, steps)
        return StageSetup(
            stage=stage,
            optimizers=self._optimizers(stage, weight_decay),
            steps=steps,
            val_every=val_every,
            val_lead=val_lead,
            best_decimals=best_decimals(dataset, s.method),
            batches=partial(self._batches, spec),
            validate=validation,
            learning_rate=self._learning_rate(lr_schedule, steps),
            own_learning_rates={
                name: self._learning_rate(own, steps) for name, own in stage.lr_schedules.items()
            },
            seed=self.seed(spec.name, 2),
            begin=partial(self._begin, spec),
        )

    def _validate(
        self,
        classes: Classes,
        every: int,
        lead: int,
        steps: int,
        net: torch.nn.Module,
        stopped: Callable[[], bool],
        step: int,
    ):
        number, wanted = (step + lead) // every, self.settings.distances_every
        distances = step == steps or (wanted > 0 and number % wanted == 0)
        return validate(
            net, stopped, self.validation_cases, classes, self.dataset.info.class_names, distances
        )

    def _learning_rate(self, lr_schedule: str, steps: int) -> Callable[[int], float]:
        """The learning rate of each step of a stage of `steps` steps."""
        factor = schedule(lr_schedule, self.settings.lr_drop_every)
        return lambda step: self.settings.base_lr * factor(step, steps)

    def _optimizers(
        self, stage: TrainingStage, weight_decay: float
    ) -> dict[str, torch.optim.Optimizer]:
        """An optimiser for each learner."""
        return {
            name: self._optimizer(network, weight_decay) for name, network in stage.learners.items()
        }

    def _optimizer(self, network: torch.nn.Module, weight_decay: float) -> torch.optim.Optimizer:
        parameters = network.parameters()
        s = self.settings
        fused = True if self.device.type == "cuda" else None  # None: torch's own choice
        if s.optimizer == "adam":
            return torch.optim.Adam(
                parameters, lr=s.base_lr, weight_decay=weight_decay, fused=fused
            )
        return torch.optim.SGD(
            parameters, lr=s.base_lr, momentum=0.9, weight_decay=weight_decay, fused=fused
        )

    def _begin(self, plan: StageSpec, setup: StageSetup) -> None:
        """The student and, for some data sets, the optimiser take over from an earlier stage's best checkpoint, ours or a published one."""
        if plan.starts_from:
            path = self.dataset.best(
                self.folder, plan.starts_from, self.settings.model, self.settings.labelnum
            )
            if not path.is_file():
                raise UserError(
                    f"{path}: no pre-trained network; run with --run_mode pretrain first, or put a published one there"
                )
            checkpoint = read(path)
            if checkpoint.ours:
                self.run_data.check(checkpoint)
            self._load_learners(setup.stage, checkpoint)
            keeps = self.dataset.keeps_optimizer and len(setup.stage.learners) == 1
            momentum = (
                take_over_momentum(setup.optimizers["student"], setup.stage.student, checkpoint)
                if keeps
                else ""
            )
            self.run.log.say(f"{setup.stage.name}: starting from {path}{momentum}")
        setup.stage.begin()

    def _load_learners(self, stage: TrainingStage, checkpoint: Checkpoint) -> None:
        """The learners' first weights.

        After a stage with several learners each takes the one of its name, after any other stage all take the selected network.
        """
        has_several = len(checkpoint.models) > 1
        for name, network in stage.learners.items():
            if has_several and name in checkpoint.models:
                load_weights(network, checkpoint.weights_of(name), checkpoint)
            else:
                load_network(network, checkpoint)

    def _log_memory(self, stage: TrainingStage, spec: StageSpec) -> None:
        """Say what a step takes: 2-D steps are small, so volumes only."""
        s, info = self.settings, self.dataset.info
        if info.dims == 3 and is_main():
            labelled, unlabelled = (
                s.labeled_bs // world(),
                (s.batch_size - s.labeled_bs) // world() if spec.uses_unlabelled else 0,
            )
            memory = step_memory(
                stage,
                labelled,
                unlabelled,
                info.channels,
                s.patch_size,
                2 if s.optimizer == "adam" else 1,
            )
            normalised = memory.images * (world() if s.sync_batch_norm else 1)
            for line in memory.lines(
                stage.name,
                getattr(s, "recompute", False),
                normalised < stage.student.smallest_batch,
            ):
                self.run.log.say(line)

    def _sampler(self, seed: tuple[int, ...], unlabelled: bool, steps: range) -> StreamSampler:
        s, data = self.settings, self.data
        others, unlabelled_bs = (
            (data.unlabelled, s.batch_size - s.labeled_bs) if unlabelled else (0, 0)
        )
        return self.dataset.sampler(s)(
            data.labelled, others, s.labeled_bs, unlabelled_bs, seed, steps, rank(), world()
        )

    def _batches(self, spec: StageSpec, steps: range) -> DataLoader:
        return loader(
            self.data,
            self._sampler(self.seed(spec.name, 0), spec.uses_unlabelled, steps),
            self.settings,
            self.device,
        )
