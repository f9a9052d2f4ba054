"""The one training loop: every method, data set and stage goes through it.

`run_stages` runs the stages in order. `_StageRunner.run` prepares a stage; `_StageRunner._loop` is
its loop over batches, steps, validations and checkpoints; `training.step.train_step` is one step.
The loop is independent of methods, networks and data sets: it gets a stage, batches and a function
that validates.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from methods.base import Batch, Validation
from methods.stage_networks import CompiledCalls, Scalars
from training.accelerate import GradientGuard, accelerated
from training.batch_source import BatchSource
from training.checkpoint import Store
from training.checkpoint_content import check_fits
from training.class_watch import ClassWatch, class_dice_line
from training.distributed import (
    Buffers,
    average_buffers,
    from_main,
    gathered_buffers,
    is_main,
    largest_of_processes,
    rank,
    restore_buffers,
    share_state,
    world,
)
from training.log import StageLog, hours
from training.outside_faults import as_user_error
from training.pace import Pace
from training.precision import Precision
from training.readings import Readings
from training.saving import Saver
from training.signals import NoBatch, StopSignals
from training.stage import DRAWS, Progress, Run, StageResult, StageSetup
from training.stage_state import restore_stage, stage_content
from training.step import placed, train_step
from utils.errors import Interrupted, UserError


def run_stages(run: Run, stages: Mapping[str, Callable[[], StageSetup]]) -> list[StageResult]:
    """Run the stages in order and return their results.

    A stage is built when its turn comes, and resumes where an earlier run of the same folder
    stopped. Raises UserError for what the user can fix, and Interrupted after a signal, with
    everything saved.
    """
    for name in stages:
        # A folder that a later stage could not use is reported now, not after hours.
        _store(run, name).resume(say=lambda message: None)
    results: list[StageResult] = []
    names = list(stages)
    for number, build in enumerate(stages.values()):
        steps_afterwards = sum(run.stage_steps.get(name, 0) for name in names[number + 1 :])
        runner = _StageRunner(run, build(), steps_afterwards)
        runner.run()
        results.append(runner.result())
    return results


def _store(run: Run, stage: str) -> Store:
    return Store(
        run.folder / stage,
        run.best_name(stage),
        computed=run.about["settings"],
        defaults=run.defaults,
        check=run.check,
    )


class _StageRunner:
    """Trains one stage."""

    def __init__(self, run: Run, setup: StageSetup, steps_afterwards: int = 0) -> None:
        """`steps_afterwards`: the steps of the stages after this one."""
        self.run_info = run
        self.setup = setup
        self.steps_afterwards = steps_afterwards
        self.stage = setup.stage
        self.store = _store(run, self.stage.name)
        self.saver = Saver(self.store)
        self.progress = Progress(draws=DRAWS)
        self.losses: list[float] = []  # since the last validation
        self.readings = Readings()
        self.class_watch = ClassWatch(run.watched, setup.steps)
        self.precision = Precision(run.device, run.amp)
        self.compiled: CompiledCalls | None = None
        self.guard = GradientGuard(self.stage)
        self.began = 0.0
        self.first_step = 0

    def run(self) -> None:
        """Train the stage from where it stopped to its last step."""
        name = self.stage.name
        buffers = self._resume()
        if self.progress.step == self.progress.validated == self.setup.steps:
            self._say(f"{name}: complete, {self._result_in_words()}")
            self._warn_if_best_is_gone()
            return
        share_state(self.stage.networks.values())
        restore_buffers(self.stage.networks, buffers)  # each process had its own
        self.precision.prepare(self.stage, self.setup.optimizers.values())
        self.compiled = accelerated(self.stage, self.run_info.accelerate)
        self.first_step = self.progress.step
        log = StageLog(
            self.store.folder,
            name,
            start=self.progress.step,
            steps=self.setup.steps,
            loggers=self.run_info.loggers,
            settings=self.run_info.logged,
            tags=self.run_info.tags.get(name),
        )
        self.began = time.monotonic()  # after the start of loggers, which may take seconds
        try:
            with (
                StopSignals() as signals,
                as_user_error(self.run_info.device, self.run_info.dims),
            ):
                self._loop(log, signals)
                self.saver.wait()
            log.finish()
        finally:
            self.saver.close()
            log.close()
        # The next stage of every process starts from files of the main process: wait for it.
        from_main(None)
        duration = hours(time.monotonic() - self.began)
        count = self.progress.step - self.first_step
        self._say(f"{name}: {count} iterations in {duration}, {self._result_in_words()}")
        self._warn_if_best_is_gone()

    def _loop(self, log: StageLog, signals: StopSignals) -> None:
        """Train to the last step. Raises Interrupted after a signal."""
        progress = self.progress
        steps = self.setup.steps
        batches = BatchSource(self.setup.batches(range(progress.step, steps)))
        pace = Pace(self._say, self.stage.name)
        try:
            while True:
                if self._validation_due() and not self._validate(log, signals):
                    self._stop(log, signals)
                if progress.step == steps:
                    return
                if self._stop_requested(signals):
                    self._stop(log, signals)
                self.saver.check()
                with pace.timed():
                    with pace.waiting(), signals.waiting():
                        batch = batches.next()
                    number = progress.step + 1
                    self.readings.add(number, self._train_step(batch))
                    log.bar.update()
                    read = self._step_is_read() or self._validation_due()
                    if read:
                        self._read(log)
                if read:
                    pace.judge()
        except NoBatch:
            self._stop_without_batch(log, signals)
        finally:
            batches.close()

    def _train_step(self, batch: Batch) -> Scalars:
        """Make a step; return its scalars, which may still be on their way.

        The host waits for the device nowhere in here, except for data that a method sends through
        the host itself (pseudo labels).
        """
        step = self.progress.step
        run = self.run_info
        torch.manual_seed(self._seed_of_step())  # pyright: ignore[reportUnknownMemberType]
        rates = self.setup.set_learning_rates(step)
        placed_batch = placed(batch, run.device, run.dims)
        scalars = train_step(
            self.stage,
            self.setup.optimizers,
            batch=placed_batch,
            step=step,
            precision=self.precision,
        )
        if self.compiled is not None:
            self.guard.check_gradients()
        self.stage.after_step(step)
        # The first step runs without them: tensors that it creates to keep must not lie in the
        # memory of a recorded graph.
        self.stage.compiled = self.compiled
        self.progress.step += 1
        if not self._validation_due():
            self.stage.after_iteration(step)
        return {**scalars, **rates}

    def _seed_of_step(self) -> int:
        """Return the seed of everything random in the next step.

        It follows from (seed, step, process), so a resumed run needs no stored generator.
        """
        sequence = np.random.SeedSequence((*self.setup.seed, self.progress.step, rank()))
        return int(sequence.generate_state(1, np.uint64)[0])

    def _validation_due(self) -> bool:
        step = self.progress.step
        if step <= self.progress.validated:
            return False
        return self.setup.scheduled(step) or step == self.setup.steps

    def _step_is_read(self) -> bool:
        return self.progress.step % self.run_info.read_every == 0

    def _stop_requested(self, signals: StopSignals) -> bool:
        """Return whether a process got a signal; several processes ask each other rarely."""
        if world() > 1 and not self._step_is_read():
            return False
        return largest_of_processes(signals.received) != 0

    def _read(self, log: StageLog) -> None:
        """Wait for the device and log the steps since the last call.

        Raises UserError if a loss is not finite.
        """
        for step, scalars in self.readings.read():
            if not math.isfinite(scalars["loss"]):
                raise UserError(
                    f"the loss is {scalars['loss']} at iteration {step - 1} of {self.stage.name}: "
                    "lower --base_lr, with another --exp; the last checkpoint is kept"
                )
            self.precision.check(scalars)
            self.losses.append(scalars["loss"])
            log.step(step, scalars)
            for warning in self.class_watch.look_at_step(scalars):
                self._say(f"{self.stage.name} {step}/{self.setup.steps}: {warning}")
            if step % self.run_info.log_every == 0:
                self.run_info.log.note(self._progress_line(step, scalars))

    def _progress_line(self, step: int, scalars: Mapping[str, float]) -> str:
        """Return losses, learning rates and the remaining time of the stage and of all stages."""
        values: list[str] = []
        for name, value in scalars.items():
            if name.startswith(("loss", "learning_rate")):
                values.append(f"{name} {value:.4g}")
        seconds_per_step = (time.monotonic() - self.began) / (step - self.first_step)
        steps_left = self.setup.steps - step
        remaining = f"{hours(seconds_per_step * steps_left)} left in this stage"
        if self.steps_afterwards:
            # how long a step of a later stage takes is not known yet
            in_all = hours(seconds_per_step * (steps_left + self.steps_afterwards))
            remaining += f", {in_all} in all stages at this speed"
        where = f"{self.stage.name} {step}/{self.setup.steps}"
        return f"{where}: {', '.join(values)}; {remaining}"

    # validation

    def _validate(self, log: StageLog, signals: StopSignals) -> bool:
        """Validate, keep the best and save.

        Returns False if a signal came first; the validation is then still due.
        """
        if self.setup.validate is None:
            self._keep_newest(log)
            return True
        progress = self.progress
        step = progress.step
        self._average_buffers()
        results = self._validation_results(self.setup.validate, signals)
        if results is None:
            return False
        result = merged_results(results, self.stage.selected)
        selects = not self.setup.val_lead or self.setup.scheduled(step)
        improved = selects and result.score > self.setup.score_to_beat(progress.best_score)
        is_best = self._is_best(improved=improved, selects=selects)
        if is_best:
            progress.best_score = result.score
            progress.best_step = step
        progress.validated = step
        progress.history.append(
            {"step": step, "score": result.score, "loss": self._mean_loss(), **result.scalars}
        )
        self.losses.clear()
        if selects:
            self.stage.after_validation(improved)
        self.stage.after_iteration(step - 1)
        scalars = {**result.scalars, "best_dice": float(progress.best_score)}
        log.scalars(step, scalars, prefix="validation")
        log.pictures(step, self.stage)
        self._say(self._validation_line(results, is_best=is_best, selects=selects))
        self._report_classes(result)
        self._save(best=is_best)
        return True

    def _is_best(self, *, improved: bool, selects: bool) -> bool:
        """Keep the newest network until a score is above 0.

        It segments nothing yet, but it has learnt. `improved`: whether the score is above the best
        one. `selects`: whether the validation may select; one that may not keeps its network only
        where there is none yet.
        """
        if improved:
            return True
        if self.progress.best_score != 0:
            return False
        if selects:
            return True
        return self.progress.best_step == 0

    def _report_classes(self, result: Validation) -> None:
        """Write the Dice of each class to train.log, and warn about classes that are not found."""
        line = class_dice_line(result)
        if line:
            self.run_info.log.note(f"{self._where()}: {line}")
        for warning in self.class_watch.look_at_validations(self.progress.history):
            self._say(f"{self._where()}: {warning}")

    def _validation_results(
        self,
        validate: Callable[..., Validation | None],
        signals: StopSignals,
    ) -> dict[str, Validation] | None:
        """Validate the stage's networks in their order; None if a signal came first."""
        results: dict[str, Validation] = {}
        for name in dict.fromkeys((*self.stage.validated, self.stage.selected)):
            network = self.stage.network_to_validate(name)
            with self.precision.autocast():
                result = validate(network, lambda: bool(signals.received), self.progress.step)
            if result is None:
                return None
            results[name] = result
        return results

    def _validation_line(
        self, results: Mapping[str, Validation], is_best: bool, selects: bool
    ) -> str:
        """Return the message about a validation."""
        selected = self.stage.selected
        line = f"{self._where()}: val Dice {results[selected].score:.4f}"
        if is_best:
            line += " (new best)"
        elif not selects:
            line += (
                " (not selected: the published code does not score the network after its last step)"
            )
        for name, result in results.items():
            if name != selected:
                line += f", {name} {result.score:.4f}"
        return line

    def _keep_newest(self, log: StageLog) -> None:
        """Save the newest network, also as the best one. The method gets no validation."""
        progress = self.progress
        self._average_buffers()
        progress.best_step = progress.step
        progress.validated = progress.step
        progress.history.append({"step": progress.step, "loss": self._mean_loss()})
        self.losses.clear()
        self.stage.after_iteration(progress.step - 1)
        log.pictures(progress.step, self.stage)
        self._say(f"{self._where()}: saved, not validated (--select last)")
        self._save(best=True)

    def _mean_loss(self) -> float:
        """Return the mean loss since the last validation."""
        return sum(self.losses) / max(len(self.losses), 1)

    def _average_buffers(self) -> None:
        """Average the batch-norm statistics of the networks that are trained or validated."""
        names = dict.fromkeys(self.stage.learners)
        for name in (*self.stage.validated, self.stage.selected):
            names.update(dict.fromkeys(self.stage.members(name)))
        for name in names:
            average_buffers(self.stage.networks[name])

    # saving, stopping and resuming

    def _save(self, best: bool) -> None:
        content = self._content()
        copies: list[Path] = []
        if self.run_info.keep_validated:
            copies.append(self.store.validated(self.progress.step))
        if is_main():
            self.saver.save(content, best=best, copies=copies)

    def _content(self) -> dict[str, Any]:
        return stage_content(
            self.run_info,
            self.setup,
            progress=self.progress,
            losses=self.losses,
            precision=self.precision,
        )

    def _stop(self, log: StageLog, signals: StopSignals) -> None:
        """Save and raise Interrupted: the same command continues from here."""
        self._read(log)
        number = largest_of_processes(signals.received)
        # The file has averaged statistics, for whoever tests it; each process resumes with its own.
        buffers = gathered_buffers(self.stage.networks)
        self._average_buffers()
        content = self._content()
        content["buffers"] = buffers
        if is_main():
            self.saver.save(content, best=False)
            self.saver.wait()
        raise Interrupted(
            f"stopped at iteration {self.progress.step} of {self.stage.name}, "
            f"saved {self.store.last}; the same command continues from there",
            128 + number,
        )

    def _stop_without_batch(self, log: StageLog, signals: StopSignals) -> None:
        """Raise Interrupted where a signal came and the next batch does not.

        One process saves first. Several cannot: the others wait for this one.
        """
        if world() == 1:
            self._stop(log, signals)
        raise Interrupted(
            f"stopped at iteration {self.progress.step} of {self.stage.name} while no batch came; "
            "the last checkpoint is kept: the same command continues from it",
            128 + signals.received,
        )

    def _resume(self) -> list[Buffers] | None:
        """Continue from the last checkpoint, or begin.

        Returns the buffers of all processes for `restore_buffers`.
        """
        name = self.stage.name
        checkpoint = self.store.resume(self._say, fits=partial(check_fits, setup=self.setup))
        if checkpoint is None:
            self.setup.begin(self.setup)
            return None
        self.progress = restore_stage(checkpoint, self.setup, self.precision)
        self.losses = list(checkpoint.losses)
        if self.progress.step < self.setup.steps:
            self._say(f"{name}: resuming at iteration {self.progress.step}")
            if self.progress.draws != DRAWS:
                self._say(
                    f"{name}: an older version began it; from here on dropout draws other numbers, "
                    "from the same distribution"
                )
                self.progress.draws = DRAWS
        return checkpoint.buffers

    # results and messages

    def result(self) -> StageResult:
        """Return the result of the stage; it must have run."""
        progress = self.progress
        best_score = None
        if self.setup.validate is not None:
            best_score = float(progress.best_score)
        return StageResult(
            name=self.stage.name,
            steps=progress.step,
            best_score=best_score,
            best_step=progress.best_step,
            best=self.store.best,
            last=self.store.last,
            history=tuple(dict(entry) for entry in progress.history),
        )

    def _result_in_words(self) -> str:
        best = self.store.best
        if self.setup.validate is None:
            return f"not validated, the last network is the result ({best})"
        progress = self.progress
        return f"best val Dice {progress.best_score:.4f} at iteration {progress.best_step} ({best})"

    def _warn_if_best_is_gone(self) -> None:
        """Warn if somebody has deleted the best checkpoint: a later stage or a test needs it."""
        if not self.store.best.exists():
            self._say(
                f"warning: {self.store.best} is gone, deleted since it was written; put it back, "
                f"or copy {self.store.last.name} to its name to continue with the last network"
            )

    def _where(self) -> str:
        return f"{self.stage.name} {self.progress.step}/{self.setup.steps}"

    def _say(self, message: str) -> None:
        self.run_info.log.say(message)


def merged_results(results: Mapping[str, Validation], selected: str) -> Validation:
    """Return the selected network's validation, with the scalars of the other networks added.

    Those are named `<network>_<scalar>`.
    """
    scalars = dict(results[selected].scalars)
    for name, result in results.items():
        if name != selected:
            for key, value in result.scalars.items():
                scalars[f"{name}_{key}"] = value
    return replace(results[selected], scalars=scalars)
