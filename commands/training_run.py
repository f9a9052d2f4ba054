"""A training run: its data, networks and stages, built from a configuration."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from commands.batches import check_shared_memory, loader, move_to_device, on_device
from commands.config_file import write_config_file
from commands.networks import (
    build_network,
    check_patch,
    load_network,
    load_weights,
    share_batch_norm,
)
from commands.published_optimizer import take_over_momentum
from commands.run_data import run_data
from commands.runs import find_checkpoint, stage_names
from dataloaders.augment import INTENSITIES, SPATIAL, Augmentation
from dataloaders.cases import read_cases
from dataloaders.contents import foreground_classes
from dataloaders.dataset_info import NamedFile
from dataloaders.digest import hashed
from dataloaders.samples import Samples
from dataloaders.splits import check_lists
from dataloaders.two_stream import StreamSampler
from datasets.base import DatasetSpec, data_root
from datasets.pseudo_labels import PseudoLabels, find_pseudo_labels
from datasets.resolve import default_config
from evaluation.validation import validate
from methods.base import StageSpec, TrainingStage, Validation
from methods.copy_paste import Pasting
from methods.registry import METHODS, run_title
from networks.base import Network
from training.accelerate import check_accelerate
from training.checkpoint import Checkpoint, read
from training.class_watch import WatchedClasses
from training.config import AnyConfig
from training.device import autocast_type, hardware, in_words, place, set_deterministic
from training.distributed import check_batch, is_main, rank, world
from training.log import RunLog
from training.loggers import check_loggers
from training.loop import Run, StageSetup
from training.memory import step_memory
from utils.case import Case
from utils.ema import EmaScope
from utils.errors import UserError
from utils.losses import Loss
from utils.messages import message
from utils.provenance import origin_lines, sha256
from utils.registry import check_name
from utils.schedules import schedule

# Random numbers of a stage follow from the run's seed, the stage's number and what they are for.
STAGE_NUMBERS = {"supervised": 0, "pre_train": 1, "self_train": 2}
FOR_BATCHES = 0
FOR_METHOD = 1
FOR_DROPOUT = 2
LOG_EVERY = 20
"""Steps between two lines of losses in train.log, and two readings of losses from a GPU, with
--log_every 0.
"""
RUN_MODES = {
    "pretrain": (True,),
    "selftrain": (False,),
    "pretrain_then_selftrain": (True, False),
}
"""Values of `StageSpec.pretraining` of the stages that each --run_mode runs."""
MOMENTS = {"sgd": 1, "adam": 2}
"""Tensors that an optimiser keeps for each parameter."""


@dataclass(frozen=True, eq=False)
class RunStageContext:
    """The `methods.base.StageContext` of a stage of a run."""

    run: "TrainingRun"
    spec: StageSpec

    @property
    def options(self) -> Any:
        """The options of the method."""
        return self.run.config.method

    @property
    def loss(self) -> Loss:
        """The supervised loss of this stage."""
        return self.run.loss(self.spec.pretraining)

    @property
    def pasting(self) -> Pasting:
        """The data set's rules of copy-paste."""
        return self.run.dataset.pasting

    @property
    def ema_scope(self) -> EmaScope:
        """What an EMA teacher averages on this data set."""
        return self.run.dataset.ema_scope

    @property
    def dims(self) -> int:
        """Spatial axes of an image."""
        return self.run.dataset.info.dims

    @property
    def classes(self) -> int:
        """Number of classes, the background included."""
        return self.run.dataset.info.classes

    @property
    def length(self) -> int:
        """Length of the stage in iterations or epochs."""
        return self.run.length(self.spec)

    @property
    def epoch(self) -> int | None:
        """Steps of an epoch where the run counts epochs."""
        return self.run.epoch(self.spec.uses_unlabelled)

    @property
    def seed(self) -> tuple[int, ...]:
        """Seed of what the method draws itself."""
        return self.run.seed(self.spec.name, FOR_METHOD)

    def network(self, number: int = 0, model: str | None = None) -> nn.Module:
        """Build a network; see `TrainingRun.network`."""
        return self.run.network(number, model)

    def state_of(self, stage: str) -> Mapping[str, Any]:
        """Return what an earlier stage saved as its state; see `TrainingRun.state_of`."""
        return self.run.state_of(stage)


class TrainingRun:
    """A run: its configuration, data set, data and device, from which stages are built."""

    def __init__(self, dataset: DatasetSpec, config: AnyConfig, device: torch.device) -> None:
        """Raise UserError if options, data and network do not fit each other, before anything is
        trained.
        """
        self.dataset = dataset
        self.config = config
        self.device = device
        self.say: Callable[[str], None] = message
        if not is_main():
            self.say = _say_nothing
        self.amp = self._checked_options()
        set_deterministic(config.runtime.deterministic, tf32=config.runtime.tf32)
        experiment = config.experiment
        self.folder = dataset.folder(experiment.output_root, experiment.exp, experiment.labelnum)
        self.root = data_root(dataset.info.name, experiment.root_path)
        self.specs = self._specs()
        self.uses_unlabelled = any(spec.uses_unlabelled for spec in self.specs)
        self._read_data()
        self.init = self._read_init()

    # checks and data

    def _checked_options(self) -> torch.dtype | None:
        """Check the options that depend on data set, network and device; return what is autocast
        to.
        """
        data = self.config.data
        runtime = self.config.runtime
        check_batch(data.batch_size, data.labeled_bs)
        for flag, names, choices in (
            ("intensity", data.intensity, INTENSITIES),
            ("spatial", data.spatial, SPATIAL),
        ):
            for name in names:
                check_name(choices, name, flag=f"--{flag}")
        check_patch(self._build(), data.patch_size, images=data.labeled_bs // world() // 2)
        amp = autocast_type(runtime.amp, self.device)
        check_accelerate(
            runtime.accelerate,
            self.device,
            recompute=self._recomputes,
            over_processes=runtime.sync_batch_norm and world() > 1,
            amp=amp,
        )
        check_loggers(runtime.logger)
        check_shared_memory(data, self.device, channels=self.dataset.info.channels)
        return amp

    @property
    def _recomputes(self) -> bool:
        return getattr(self.config.network, "recompute", False)

    def _specs(self) -> list[StageSpec]:
        """Return the method's stages that --run_mode asks for; a method with one stage runs it
        always.
        """
        specs = METHODS[self.config.experiment.method].stages
        if len(specs) == 1:
            return list(specs)
        chosen = RUN_MODES[self.config.experiment.run_mode]
        return [spec for spec in specs if spec.pretraining in chosen]

    def _read_data(self) -> None:
        """Read lists, training data and validation volumes; raise UserError if they do not fit."""
        info = self.dataset.info
        split, self.selection = self.dataset.selection(self.config.optimization.select)
        names, labelled = self.dataset.cases(self.root, info, self.config.experiment.labelnum)
        lists, splits = self._lists(names, labelled, validation=split)
        self.pseudo_labels = self._pseudo_labels(names[labelled:])
        if not self._reads_unlabelled:
            names = names[:labelled]
        self.data = self._training_data(names, labelled)
        self._check_counts()
        labelled_files = self.data.labelled_files
        if self.pseudo_labels is not None:
            for path in self.pseudo_labels.files.values():
                labelled_files.append(NamedFile(path.name, path))
        self.run_data = run_data(
            self.root,
            self.dataset,
            labelled=labelled_files,
            lists=lists,
            read=splits,
            other=self.config.data.other_data,
            say=self.say,
        )
        if on_device(self.config.data):
            move_to_device(self.data, self.config.data, device=self.device)
        self.validation_cases: list[Case] = []
        if split:
            self.validation_cases = read_cases(info, self.root, split, self.say)
            count = len(self.validation_cases)
            self.selection += f" ({count} volumes, empty prediction = 0)"

    @property
    def _reads_unlabelled(self) -> bool:
        """Whether cases without a label of their own are read."""
        return self.uses_unlabelled or self.config.data.pseudo_labels is not None

    def _pseudo_labels(self, names: Sequence[str]) -> PseudoLabels | None:
        """Return the labels of --pseudo_labels for the unlabelled cases; None without that flag.

        Raises UserError where the method cannot use them.
        """
        folder = self.config.data.pseudo_labels
        if folder is None:
            return None
        if self.uses_unlabelled:
            raise UserError(
                f"--pseudo_labels {folder}: leaves no unlabelled cases, and "
                f"--method {self.config.experiment.method} needs them; use --method supervised"
            )
        return find_pseudo_labels(folder, self.root, self.dataset, names, say=self.say)

    def _lists(
        self, names: Sequence[str], labelled: int, validation: str
    ) -> tuple[dict[str, Sequence[str]], list[str]]:
        """Return names by split, and the splits that this run reads; raise UserError where lists or
        files do not fit.

        `validation`: the split that the best checkpoint is selected on, empty if nothing is
        validated.
        """
        info = self.dataset.info
        lists = {"labelled": names[:labelled], "unlabelled": names[labelled:]}
        if validation:
            lists[validation] = info.read_list(self.root, info.list_name(validation))
        splits = list(lists)
        if not self._reads_unlabelled:
            splits.remove("unlabelled")
        if validation != "test":
            lists["test"] = info.held_out(self.root, "test")
        check_lists(self.root, info, lists, unread=lists.keys() - splits)
        return lists, splits

    def _training_data(self, names: Sequence[str], labelled: int) -> Samples:
        data = self.config.data
        intensity = tuple(INTENSITIES[name] for name in data.intensity)
        spatial = tuple(SPATIAL[name] for name in data.spatial)
        of_labelled, of_unlabelled = self.dataset.spatial(data.patch_size)
        augment = (
            Augmentation((*of_labelled, *spatial), intensity),
            Augmentation((*of_unlabelled, *spatial), intensity),
        )
        read_data = self.dataset.data(self.config)
        if self.pseudo_labels is not None:
            read_data = partial(read_data, pseudo_label_of=self.pseudo_labels)
        return read_data(
            self.dataset.info,
            self.root,
            names=names,
            labelled=labelled,
            augment=augment,
            say=self.say,
        )

    def _check_counts(self) -> None:
        """Raise UserError if there are too few cases for a batch."""
        labelnum = self.config.experiment.labelnum
        counted = self.dataset.counted
        if self.uses_unlabelled and not self.data.unlabelled:
            remedy = "add unlabelled cases"
            if labelnum > 1:
                remedy = "choose fewer"
            raise UserError(
                f"--labelnum {labelnum}: leaves no unlabelled {counted} in the training list; "
                f"{remedy}, or --method supervised, which needs none"
            )
        if self._sampler((0,), self.uses_unlabelled, range(1)).epoch < 1:
            unlabelled = ""
            if self.uses_unlabelled:
                unlabelled = f" and {self.data.unlabelled} unlabelled ones"
            raise UserError(
                f"--labeled_bs {self.config.data.labeled_bs}: the training list has "
                f"{self.data.labelled} labelled {counted} of --labelnum {labelnum}{unlabelled}, "
                f"too few; lower it, and --batch_size"
            )

    def _read_init(self) -> Checkpoint | None:
        """Return the checkpoint of --init if the first stage is to start from it.

        Raises UserError if it does not fit the network, and if the first stage is not run.
        """
        experiment = self.config.experiment
        if experiment.init is None:
            return None
        first = METHODS[experiment.method].stages[0]
        if first not in self.specs:
            raise UserError(
                f"--init {experiment.init}: is for the stage {first.name}, which "
                f"--run_mode {experiment.run_mode} does not run; remove one of the two flags"
            )
        has_begun = any((self.folder / first.name).glob("*.pth"))
        if has_begun and not experiment.fresh:
            return None
        path, _ = find_checkpoint(experiment.init)
        checkpoint = read(path)
        load_network(self._build(), checkpoint)
        return checkpoint

    # what stages are built from

    def context(self, spec: StageSpec) -> RunStageContext:
        """Return what the stage is built from."""
        return RunStageContext(self, spec)

    def network(self, number: int = 0, model: str | None = None) -> nn.Module:
        """Build a network on the device; each `number` has its own first weights, the same at every
        call.

        `model`: another network than that of --model.
        """
        torch.manual_seed(self.config.experiment.seed + number)
        return place(self._build(model), self.device, self.dataset.info.dims, self.amp)

    def _build(self, model: str | None = None) -> Network:
        name = model or self.config.experiment.model
        return build_network(self.dataset.info, name, options=self.config.flat())

    def loss(self, pretraining: bool) -> Loss:
        """Return the supervised loss of the stages that are, or are not, pre-training."""
        terms = self.config.optimization.losses
        if pretraining:
            terms = self.config.optimization.pre_losses
        return Loss(dict(terms), self.dataset.dice(self.config.data))

    def seed(self, stage: str, purpose: int) -> tuple[int, ...]:
        """Return a seed for what a stage draws; `purpose` is one of FOR_BATCHES, FOR_METHOD and
        FOR_DROPOUT.
        """
        number = STAGE_NUMBERS.get(stage, zlib.crc32(stage.encode()))
        return self.config.experiment.seed, number, purpose

    def epoch(self, uses_unlabelled: bool) -> int | None:
        """Return the steps of an epoch where the options count epochs, otherwise None."""
        if self.config.optimization.unit != "epoch":
            return None
        return self._sampler((0,), uses_unlabelled, range(1)).epoch

    def length(self, spec: StageSpec) -> int:
        """Return the length of a stage in iterations, or in epochs where options count epochs."""
        return sum(getattr(self.config.experiment, name) for name in spec.lengths)

    def _steps(self, spec: StageSpec) -> int:
        """Return the length of a stage in steps."""
        return self.length(spec) * (self.epoch(spec.uses_unlabelled) or 1)

    def state_of(self, stage: str) -> dict[str, Any]:
        """Return the state that an earlier stage of this run ended with; empty if there is none."""
        path = self.folder / stage / "last.pth"
        if not path.is_file():
            return {}
        return dict(read(path).phase or {})

    # what the run writes

    def record(self) -> None:
        """Write config.json, or add this command to it. Only the main process writes."""
        if not is_main():
            return
        about: dict[str, Any] = {"data": self._data_record()}
        if self.init is not None:
            about["init"] = {"path": str(self.init.path), "sha256": sha256(self.init.path)}
        write_config_file(
            self.folder,
            self.dataset.info.name,
            config=self.config,
            about=about,
            resumes=bool(stage_names(self.folder)),
        )

    def _data_record(self) -> dict[str, Any]:
        """Return a hash of all lists and files of the data, and the number of files by split."""
        digest = self.run_data.digest
        return {
            "sha256": hashed(json.dumps(digest)),
            "cases": {split: len(files) for split, files in digest.items()},
        }

    def stages(self) -> tuple[Run, dict[str, Callable[[], StageSetup]]]:
        """Return the run for the loop, and its stages by name, each built when its turn comes."""
        self.run = self._run()
        self._log_start()
        return self.run, {spec.name: partial(self._stage, spec) for spec in self.specs}

    def _run(self) -> Run:
        experiment = self.config.experiment
        about = {
            "settings": self.config.computed(),
            "selection": self.selection,
            **self.run_data.about(),
        }
        defaults = default_config(self.dataset, experiment.method, model=experiment.model)
        read_every = self.config.runtime.log_every
        if not read_every:
            read_every = 1 if self.device.type == "cpu" else LOG_EVERY
        return Run(
            folder=self.folder,
            best_name=self._best_name,
            about=about,
            device=self.device,
            dims=self.dataset.info.dims,
            amp=self.amp,
            log=RunLog(self.folder),
            defaults=defaults.computed(),
            check=self.run_data.check,
            read_every=read_every,
            accelerate=self.config.runtime.accelerate,
            loggers=self.config.runtime.logger,
            log_every=self.config.runtime.log_every or LOG_EVERY,
            keep_validated=self.config.runtime.keep_validated,
            watched=self._watched_classes(),
            stage_steps={spec.name: self._steps(spec) for spec in self.specs},
            logged={"dataset": self.dataset.info.name, **self.config.computed()},
            tags={spec.name: self._tags(spec) for spec in self.specs},
        )

    def _watched_classes(self) -> WatchedClasses:
        """Return the foreground classes that the labelled and the validation cases have."""
        names = self.dataset.info.class_names
        validated: set[int] = set()
        for case in self.validation_cases:
            validated |= foreground_classes(case.label)
        return WatchedClasses(
            {number: names[number] for number in sorted(self.data.labelled_classes)},
            [names[number] for number in sorted(validated)],
        )

    def _tags(self, spec: StageSpec) -> dict[str, str]:
        """Return the published tags of scalars by ours; none unless --tags asks for them."""
        if self.config.runtime.tags == "default":
            return {}
        class_names = self.dataset.info.class_names
        return self.dataset.published_tags.of_stage(spec.pretraining, class_names)

    def _best_name(self, stage: str) -> str:
        """Return the file name of a stage's best checkpoint."""
        experiment = self.config.experiment
        return self.dataset.best_name(stage, experiment.model, experiment.labelnum)

    def _log_start(self) -> None:
        experiment = self.config.experiment
        log = self.run.log
        for line in (*origin_lines(), *self._config_lines()):
            log.note(line)
        log.say(f"method: {run_title(self.config.plain())}")
        log.say(
            f"{self.dataset.info.name}, --labelnum {experiment.labelnum}: "
            f"{self.data.labelled} labelled and {self.data.unlabelled} unlabelled "
            f"{self.dataset.counted}, {len(self.validation_cases)} validation volumes; "
            f"--method {experiment.method}, --model {experiment.model}; "
            f"{self.device} x {world()}, {in_words(self.device, self.amp)}; "
            f"TensorBoard: tensorboard --logdir {self.folder}"
        )
        if self.pseudo_labels is not None:
            log.say(
                f"--pseudo_labels {self.config.data.pseudo_labels}: the labels of "
                f"{len(self.pseudo_labels.files)} unlabelled cases, which count as labelled"
            )
        if self.config.runtime.sync_batch_norm and world() == 1:
            log.say(
                "--sync_batch_norm: changes nothing with one process; "
                "torchrun --nproc_per_node starts several"
            )
        log.say(
            f"checkpoints are selected by: {self.selection}; the last one is kept next to the best"
        )

    def _config_lines(self) -> list[str]:
        """Return device, data and all options as lines of train.log, a line for each group."""
        counts = [f"{len(files)} {split}" for split, files in self.run_data.files.items()]
        lines = [
            f"device: {hardware(self.device)}",
            f"data: {self.root}; files: {', '.join(counts)}; "
            f"sha256 {self._data_record()['sha256']}",
        ]
        for group, options in self.config.plain_groups().items():
            lines.append(f"options of {group}: {json.dumps(options)}")
        return lines

    # one stage

    def _stage(self, spec: StageSpec) -> StageSetup:
        options = self.config.optimization
        stage = spec.stage(self.context(spec))
        epoch = self.epoch(spec.uses_unlabelled) or 1
        steps = self._steps(spec)
        self._log_memory(stage, spec)
        if self.config.runtime.sync_batch_norm:
            # after the memory estimate, which makes a step in one process
            share_batch_norm(stage.networks.values(), self.device)
        lr_schedule = options.lr_schedule
        weight_decay = options.weight_decay
        if spec.pretraining:
            lr_schedule = options.pre_lr_schedule
            weight_decay = options.pre_weight_decay
        val_every = options.val_every * epoch
        val_lead = 0
        if epoch > 1:
            val_lead = epoch
        validation = None
        if self.validation_cases:
            validation = self._validation(every=val_every, lead=val_lead, steps=steps)
        return StageSetup(
            stage=stage,
            optimizers=self.optimizers(stage, weight_decay),
            steps=steps,
            val_every=val_every,
            val_lead=val_lead,
            best_decimals=best_decimals(self.dataset, self.config.experiment.method),
            batches=partial(self._batches, spec),
            validate=validation,
            learning_rate=self._learning_rate(lr_schedule, steps),
            own_learning_rates={
                name: self._learning_rate(own, steps) for name, own in stage.lr_schedules.items()
            },
            seed=self.seed(spec.name, FOR_DROPOUT),
            begin=partial(self._begin, spec),
        )

    def _validation(
        self, every: int, lead: int, steps: int
    ) -> Callable[[nn.Module, Callable[[], bool], int], Validation | None]:
        """Return the validation of a stage; see `StageSetup.validate`."""
        data = self.config.data
        predictor = self.dataset.predictor(
            data.patch_size, getattr(data, "val_stride", ()), self.device
        )
        distances_every = self.config.optimization.distances_every

        def validation(
            network: nn.Module, stopped: Callable[[], bool], step: int
        ) -> Validation | None:
            number = (step + lead) // every
            distances = step == steps
            if distances_every > 0 and number % distances_every == 0:
                distances = True
            return validate(
                network,
                stopped,
                cases=self.validation_cases,
                classes=predictor.classes,
                class_names=self.dataset.info.class_names,
                distances=distances,
            )

        return validation

    def _learning_rate(self, lr_schedule: str, steps: int) -> Callable[[int], float]:
        """Return the learning rate of each step of a stage of `steps` steps."""
        options = self.config.optimization
        factor = schedule(lr_schedule, options.lr_drop_every)
        return lambda step: options.base_lr * factor(step, steps)

    def optimizers(
        self, stage: TrainingStage[Any], weight_decay: float
    ) -> dict[str, torch.optim.Optimizer]:
        """Return an optimiser for each learner."""
        return {
            name: self._optimizer(network, weight_decay) for name, network in stage.learners.items()
        }

    def _optimizer(self, network: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
        options = self.config.optimization
        fused = None  # torch's own choice
        if self.device.type == "cuda":
            fused = True
        if options.optimizer == "adam":
            return torch.optim.Adam(
                network.parameters(),
                lr=options.base_lr,
                weight_decay=weight_decay,
                fused=fused,
            )
        return torch.optim.SGD(
            network.parameters(),
            lr=options.base_lr,
            momentum=0.9,
            weight_decay=weight_decay,
            fused=fused,
        )

    def _begin(self, spec: StageSpec, setup: StageSetup) -> None:
        """Give a stage its first weights: of an earlier stage, of --init, or as built."""
        if spec.starts_from:
            keeps_optimizer = self.dataset.keeps_optimizer or spec.keeps_optimizer
            self._start_from(spec.starts_from, setup, keeps_optimizer=keeps_optimizer)
        elif self.init is not None:
            load_network(setup.stage.student, self.init)
            self.run.log.say(f"{spec.name}: starting from {self.init.path} (--init)")
        setup.stage.begin()

    def _start_from(self, earlier: str, setup: StageSetup, keeps_optimizer: bool) -> None:
        """Load an earlier stage's best checkpoint, ours or a published one, into the learners and,
        if `keeps_optimizer`, its momentum into their optimisers.
        """
        experiment = self.config.experiment
        path = self.dataset.best(
            self.folder, earlier, model=experiment.model, labelnum=experiment.labelnum
        )
        if not path.is_file():
            raise UserError(
                f"{path}: no pre-trained network; run with --run_mode pretrain first, "
                f"or put a published one there"
            )
        checkpoint = read(path)
        if checkpoint.ours:
            self.run_data.check(checkpoint)
        stage = setup.stage
        momentum = ""
        for name, network in stage.learners.items():
            first = _first_of_learner(checkpoint, name)
            if first is checkpoint:
                load_network(network, checkpoint)
            else:
                load_weights(network, first.weights, checkpoint)
            if keeps_optimizer:
                momentum = take_over_momentum(setup.optimizers[name], network, first)
        self.run.log.say(f"{stage.name}: starting from {path}{momentum}")

    def _log_memory(self, stage: TrainingStage[Any], spec: StageSpec) -> None:
        """Log the memory that a step on volumes takes; slices are small."""
        info = self.dataset.info
        if info.dims != 3 or not is_main():
            return
        data = self.config.data
        unlabelled = 0
        if spec.uses_unlabelled:
            unlabelled = (data.batch_size - data.labeled_bs) // world()
        memory = step_memory(
            stage,
            labelled=data.labeled_bs // world(),
            unlabelled=unlabelled,
            channels=info.channels,
            patch_size=data.patch_size,
            moments=MOMENTS[self.config.optimization.optimizer],
        )
        normalised = memory.images
        if self.config.runtime.sync_batch_norm:
            normalised *= world()
        smallest_batch: Any = stage.student.smallest_batch
        few_images = normalised < smallest_batch
        for line in memory.lines(stage.name, self._recomputes, few_images):
            self.run.log.say(line)

    # batches

    def _sampler(self, seed: tuple[int, ...], uses_unlabelled: bool, steps: range) -> StreamSampler:
        data = self.config.data
        unlabelled = 0
        unlabelled_bs = 0
        if uses_unlabelled:
            unlabelled = self.data.unlabelled
            unlabelled_bs = data.batch_size - data.labeled_bs
        kind = self.dataset.sampler(data)
        return kind(
            labelled=self.data.labelled,
            unlabelled=unlabelled,
            labelled_bs=data.labeled_bs,
            unlabelled_bs=unlabelled_bs,
            seed=seed,
            steps=steps,
            rank=rank(),
            world=world(),
        )

    def _batches(self, spec: StageSpec, steps: range) -> DataLoader[Samples]:
        sampler = self._sampler(self.seed(spec.name, FOR_BATCHES), spec.uses_unlabelled, steps)
        return loader(self.data, sampler, self.config.data, self.device)


def _first_of_learner(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Return what a learner starts from: after a stage with several learners, the one of its name;
    after any other stage, the selected network.
    """
    if len(checkpoint.models) > 1 and name in checkpoint.models:
        return checkpoint.of_network(name)
    return checkpoint


def best_decimals(dataset: DatasetSpec, method: str) -> int | None:
    """Return the decimals to which the method's published code on the data set rounds the best
    score; None: it does not.
    """
    if method in dataset.rounded_best:
        return 4
    return None


def _say_nothing(line: str) -> None:
    """Only the main process reports."""
