"""A training run, built from a configuration: its checks, its stages and its records."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from commands.batches import check_shared_memory
from commands.config_file import write_config_file
from commands.networks import build_network, check_patch, load_network
from commands.run_inputs import read_inputs
from commands.runs import find_checkpoint, stage_names
from commands.stage_context import RunStageContext
from commands.stage_setup import StageBuilder, recomputes
from dataloaders.augment import INTENSITIES, SPATIAL
from datasets.base import DatasetSpec
from datasets.resolve import default_config
from methods.base import StageSpec
from methods.registry import METHODS, run_title
from networks.base import Network
from training.accelerate import check_accelerate
from training.checkpoint import Checkpoint, read
from training.config import AnyConfig
from training.device import autocast_type, hardware, in_words, set_deterministic
from training.distributed import check_batch, is_main, world
from training.log import RunLog
from training.loggers import check_loggers
from training.loop import Run, StageSetup
from utils.errors import UserError
from utils.messages import message
from utils.provenance import origin_lines, sha256
from utils.registry import check_name

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


class TrainingRun:
    """A run: its configuration, data set, inputs and device, from which stages are built."""

    def __init__(self, dataset: DatasetSpec, config: AnyConfig, device: torch.device) -> None:
        """Raise UserError if options, data and network do not fit each other, before anything is
        trained.
        """
        self.dataset = dataset
        self.config = config
        self.device = device
        self.amp = self._checked_options()
        set_deterministic(config.runtime.deterministic, tf32=config.runtime.tf32)
        experiment = config.experiment
        self.folder = dataset.folder(experiment.output_root, experiment.exp, experiment.labelnum)
        self.specs = self._specs()
        say: Callable[[str], None] = message
        if not is_main():
            say = _say_nothing
        self.inputs = read_inputs(
            dataset,
            config,
            uses_unlabelled=any(spec.uses_unlabelled for spec in self.specs),
            device=device,
            say=say,
        )
        self.init = self._read_init()

    # checks

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
            recompute=recomputes(self.config.network),
            over_processes=runtime.sync_batch_norm and world() > 1,
            amp=amp,
        )
        check_loggers(runtime.logger)
        check_shared_memory(data, self.device, channels=self.dataset.info.channels)
        return amp

    def _build(self) -> Network:
        """Build the run's network on the host, to check what fits it."""
        model = self.config.experiment.model
        return build_network(self.dataset.info, model, options=self.config.flat())

    def _specs(self) -> list[StageSpec]:
        """Return the method's stages that --run_mode asks for; a method with one stage runs it
        always.
        """
        specs = METHODS[self.config.experiment.method].stages
        if len(specs) == 1:
            return list(specs)
        chosen = RUN_MODES[self.config.experiment.run_mode]
        return [spec for spec in specs if spec.pretraining in chosen]

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

    # what the run writes

    def record(self) -> None:
        """Write config.json, or add this command to it. Only the main process writes."""
        if not is_main():
            return
        about: dict[str, Any] = {"data": self.inputs.run_data.summary()}
        if self.init is not None:
            about["init"] = {"path": str(self.init.path), "sha256": sha256(self.init.path)}
        write_config_file(
            self.folder,
            self.dataset.info.name,
            config=self.config,
            about=about,
            resumes=bool(stage_names(self.folder)),
        )

    def stages(self) -> tuple[Run, dict[str, Callable[[], StageSetup]]]:
        """Return the run for the loop, and its stages by name, each built when its turn comes."""
        contexts = {spec.name: self._context(spec) for spec in self.specs}
        stage_steps = {name: context.steps for name, context in contexts.items()}
        run = self._run(stage_steps)
        self._log_start(run.log)
        stages: dict[str, Callable[[], StageSetup]] = {}
        for name, context in contexts.items():
            builder = StageBuilder(context=context, inputs=self.inputs, init=self.init, log=run.log)
            stages[name] = builder.setup
        return run, stages

    def _context(self, spec: StageSpec) -> RunStageContext:
        """Return what the stage is built from."""
        return RunStageContext(
            spec=spec,
            dataset=self.dataset,
            config=self.config,
            device=self.device,
            amp=self.amp,
            folder=self.folder,
            labelled=self.inputs.data.labelled,
            unlabelled=self.inputs.data.unlabelled,
        )

    def _run(self, stage_steps: Mapping[str, int]) -> Run:
        """Return the run for the loop; `stage_steps`: the length of each stage in steps."""
        experiment = self.config.experiment
        about = {
            "settings": self.config.computed(),
            "selection": self.inputs.selection,
            **self.inputs.run_data.about(),
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
            check=self.inputs.run_data.check,
            read_every=read_every,
            accelerate=self.config.runtime.accelerate,
            loggers=self.config.runtime.logger,
            log_every=self.config.runtime.log_every or LOG_EVERY,
            keep_validated=self.config.runtime.keep_validated,
            watched=self.inputs.watched_classes(self.dataset.info.class_names),
            stage_steps=stage_steps,
            logged={"dataset": self.dataset.info.name, **self.config.computed()},
            tags={spec.name: self._tags(spec) for spec in self.specs},
        )

    def _tags(self, spec: StageSpec) -> dict[str, str]:
        """Return the published tags of scalars by ours; none unless --tags asks for them."""
        if self.config.runtime.tags == "default":
            return {}
        class_names = self.dataset.info.class_names
        return self.dataset.published_tags.of_stage(
            pretraining=spec.pretraining, class_names=class_names
        )

    def _best_name(self, stage: str) -> str:
        """Return the file name of a stage's best checkpoint."""
        experiment = self.config.experiment
        return self.dataset.best_name(stage, experiment.model, experiment.labelnum)

    def _log_start(self, log: RunLog) -> None:
        experiment = self.config.experiment
        inputs = self.inputs
        for line in (*origin_lines(), *self._config_lines()):
            log.note(line)
        log.say(f"method: {run_title(self.config.plain())}")
        log.say(
            f"{self.dataset.info.name}, --labelnum {experiment.labelnum}: "
            f"{inputs.data.labelled} labelled and {inputs.data.unlabelled} unlabelled "
            f"{self.dataset.counted}, {len(inputs.validation_cases)} validation volumes; "
            f"--method {experiment.method}, --model {experiment.model}; "
            f"{self.device} x {world()}, {in_words(self.device, self.amp)}; "
            f"TensorBoard: tensorboard --logdir {self.folder}"
        )
        if inputs.pseudo_labels is not None:
            log.say(
                f"--pseudo_labels {self.config.data.pseudo_labels}: the labels of "
                f"{len(inputs.pseudo_labels.files)} unlabelled cases, which count as labelled"
            )
        if self.config.runtime.sync_batch_norm and world() == 1:
            log.say(
                "--sync_batch_norm: changes nothing with one process; "
                "torchrun --nproc_per_node starts several"
            )
        log.say(
            f"checkpoints are selected by: {inputs.selection}; "
            "the last one is kept next to the best"
        )

    def _config_lines(self) -> list[str]:
        """Return device, data and all options as lines of train.log, a line for each group."""
        run_data = self.inputs.run_data
        counts = [f"{len(files)} {split}" for split, files in run_data.files.items()]
        lines = [
            f"device: {hardware(self.device)}",
            f"data: {self.inputs.root}; files: {', '.join(counts)}; "
            f"sha256 {run_data.summary()['sha256']}",
        ]
        for group, options in self.config.plain_groups().items():
            lines.append(f"options of {group}: {json.dumps(options)}")
        return lines


def _say_nothing(line: str) -> None:
    """Only the main process reports."""
