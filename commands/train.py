"""Train a network, or resume a run that was interrupted."""

from dataclasses import dataclass
from pathlib import Path

from commands.run_folder import check_other_methods, claimed
from commands.training_run import TrainingRun
from datasets.base import DatasetSpec
from training.config import AnyConfig
from training.device import choose_device
from training.distributed import process_group
from training.loop import run_stages
from training.stage import StageResult


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its `folder`, and what each of its `stages` ended with, in their order."""

    folder: Path
    stages: tuple[StageResult, ...]

    @property
    def best(self) -> Path:
        """The best checkpoint of the last stage, which a test or a prediction takes."""
        return self.stages[-1].best


def run(dataset: DatasetSpec, config: AnyConfig) -> TrainResult:
    """Train with this configuration, or resume what an earlier call began.

    Raises UserError for what the user can correct, Interrupted after a signal, with everything
    saved.
    """
    experiment = config.experiment
    with process_group(choose_device(experiment.device, config.runtime.gpu)) as device:
        training = TrainingRun(dataset, config, device=device)
        with claimed(training.folder, _moved_aside(training)):
            if not experiment.fresh:
                check_other_methods(training.folder, experiment.method, specs=training.specs)
            training.record()
            loop, stages = training.stages()
            try:
                results = run_stages(loop, stages)
            finally:
                loop.log.close()
        return TrainResult(training.folder, stages=tuple(results))


def _moved_aside(training: TrainingRun) -> list[Path]:
    """Return the folders of an earlier run that --fresh moves away: its whole folder, or that of
    its self-training.
    """
    experiment = training.config.experiment
    if not experiment.fresh:
        return []
    has_pretraining = any(spec.pretraining for spec in training.specs)
    if experiment.run_mode == "selftrain" and not has_pretraining:
        return [training.folder / spec.name for spec in training.specs]
    return [training.folder]
