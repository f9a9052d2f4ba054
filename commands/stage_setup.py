"""The set-up of a stage of a run: what the loop needs to train it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from commands.batches import loader
from commands.networks import load_network, load_weights, share_batch_norm
from commands.published_optimizer import take_over_momentum
from commands.run_inputs import RunInputs
from commands.stage_context import FOR_BATCHES, FOR_DROPOUT, RunStageContext
from datasets.base import DatasetSpec
from evaluation.validation import validate
from methods.base import TrainingStage, Validation
from training.checkpoint import Checkpoint, read
from training.config import OptimizationOptions
from training.distributed import is_main, world
from training.log import RunLog
from training.loop import StageSetup
from training.memory import step_memory
from utils.errors import UserError
from utils.schedules import schedule

MOMENTS = {"sgd": 1, "adam": 2}
"""Tensors that an optimiser keeps for each parameter."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StageBuilder:
    """Builds a stage and its set-up.

    `inputs`: what the run has read. `init`: the checkpoint of --init. `log`: gets the messages.
    """

    context: RunStageContext
    inputs: RunInputs
    init: Checkpoint | None
    log: RunLog

    def setup(self) -> StageSetup:
        """Build the stage and return its set-up."""
        context = self.context
        options = context.config.optimization
        pretraining = context.spec.pretraining
        stage = context.spec.stage(context)
        epoch = context.epoch or 1
        self._log_memory(stage)
        if context.config.runtime.sync_batch_norm:
            # after the memory estimate, which makes a step in one process
            share_batch_norm(stage.networks.values(), context.device)
        lr_schedule = options.lr_schedule
        if pretraining:
            lr_schedule = options.pre_lr_schedule
        val_every = options.val_every * epoch
        val_lead = 0
        if epoch > 1:
            val_lead = epoch
        validation = None
        if self.inputs.validation_cases:
            validation = self._validation(every=val_every, lead=val_lead)
        return StageSetup(
            stage=stage,
            optimizers=build_optimizers(stage, context),
            steps=context.steps,
            val_every=val_every,
            val_lead=val_lead,
            best_decimals=best_decimals(context.dataset, context.config.experiment.method),
            batches=self._batches,
            validate=validation,
            learning_rate=self._learning_rate(lr_schedule),
            own_learning_rates={
                name: self._learning_rate(of_learner)
                for name, of_learner in stage.lr_schedules.items()
            },
            seed=context.seed_for(FOR_DROPOUT),
            begin=self._begin,
        )

    def _batches(self, steps: range) -> DataLoader[Any]:
        context = self.context
        sampler = context.sampler(context.seed_for(FOR_BATCHES), steps)
        return loader(self.inputs.data, sampler, options=context.config.data, device=context.device)

    def _validation(
        self, every: int, lead: int
    ) -> Callable[[nn.Module, Callable[[], bool], int], Validation | None]:
        """Return the validation of the stage; see `StageSetup.validate`."""
        context = self.context
        data = context.config.data
        steps = context.steps
        predictor = context.dataset.predictor(
            data.patch_size, getattr(data, "val_stride", ()), context.device
        )
        distances_every = context.config.optimization.distances_every

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
                cases=self.inputs.validation_cases,
                classes=predictor.classes,
                class_names=context.dataset.info.class_names,
                distances=distances,
            )

        return validation

    def _learning_rate(self, lr_schedule: str) -> Callable[[int], float]:
        """Return the learning rate of each step of the stage."""
        options = self.context.config.optimization
        steps = self.context.steps
        factor = schedule(lr_schedule, options.lr_drop_every)
        return lambda step: options.base_lr * factor(step, steps)

    def _begin(self, setup: StageSetup) -> None:
        """Give the stage its first weights: of an earlier stage, of --init, or as built."""
        spec = self.context.spec
        if spec.starts_from:
            keeps_optimizer = self.context.dataset.keeps_optimizer or spec.keeps_optimizer
            self._start_from(spec.starts_from, setup, keeps_optimizer=keeps_optimizer)
        elif self.init is not None:
            load_network(setup.stage.student, self.init)
            self.log.say(f"{spec.name}: starting from {self.init.path} (--init)")
        setup.stage.begin()

    def _start_from(self, earlier: str, setup: StageSetup, *, keeps_optimizer: bool) -> None:
        """Load an earlier stage's best checkpoint, ours or a published one, into the learners and,
        if `keeps_optimizer`, its momentum into their optimisers.
        """
        dataset = self.context.dataset
        experiment = self.context.config.experiment
        path = dataset.best(
            self.context.folder, earlier, model=experiment.model, labelnum=experiment.labelnum
        )
        if not path.is_file():
            raise UserError(
                f"{path}: no pre-trained network; run with --run_mode pretrain first, "
                f"or put a published one there"
            )
        checkpoint = read(path)
        if checkpoint.ours:
            self.inputs.run_data.check(checkpoint)
        stage = setup.stage
        momentum = ""
        for name, network in stage.learners.items():
            first = _first_of_learner(checkpoint, name)
            if first is checkpoint:
                load_network(network, checkpoint)
            else:
                load_weights(network, first.weights, checkpoint=checkpoint)
            if keeps_optimizer:
                momentum = take_over_momentum(setup.optimizers[name], network, checkpoint=first)
        self.log.say(f"{stage.name}: starting from {path}{momentum}")

    def _log_memory(self, stage: TrainingStage[Any]) -> None:
        """Log the memory that a step on volumes takes; slices are small."""
        info = self.context.dataset.info
        if info.dims != 3 or not is_main():
            return
        config = self.context.config
        data = config.data
        unlabelled = 0
        if self.context.spec.uses_unlabelled:
            unlabelled = (data.batch_size - data.labeled_bs) // world()
        memory = step_memory(
            stage,
            labelled=data.labeled_bs // world(),
            unlabelled=unlabelled,
            channels=info.channels,
            patch_size=data.patch_size,
            moments=MOMENTS[config.optimization.optimizer],
        )
        normalised = memory.images
        if config.runtime.sync_batch_norm:
            normalised *= world()
        smallest_batch: Any = stage.student.smallest_batch
        has_few_images = normalised < smallest_batch
        for line in memory.lines(
            stage.name,
            recompute=recomputes(config.network),
            has_few_images=has_few_images,
        ):
            self.log.say(line)


def recomputes(options: object) -> bool:
    """Whether these options of a network let it recompute activations in the backward pass."""
    return getattr(options, "recompute", False)


def _first_of_learner(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Return what a learner starts from: after a stage with several learners, the one of its name;
    after any other stage, the selected network.
    """
    if len(checkpoint.models) > 1 and name in checkpoint.models:
        return checkpoint.of_network(name)
    return checkpoint


def build_optimizers(
    stage: TrainingStage[Any], context: RunStageContext
) -> dict[str, torch.optim.Optimizer]:
    """Return an optimiser for each learner."""
    options = context.config.optimization
    weight_decay = options.weight_decay
    if context.spec.pretraining:
        weight_decay = options.pre_weight_decay
    return {
        name: _optimizer(network, options, weight_decay=weight_decay, device=context.device)
        for name, network in stage.learners.items()
    }


def _optimizer(
    network: nn.Module, options: OptimizationOptions, weight_decay: float, device: torch.device
) -> torch.optim.Optimizer:
    fused = None  # torch's own choice
    if device.type == "cuda":
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


def best_decimals(dataset: DatasetSpec, method: str) -> int | None:
    """Return the decimals to which the method's published code on the data set rounds the best
    score; None: it does not.
    """
    if method in dataset.rounded_best:
        return 4
    return None
