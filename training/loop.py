"""The one training loop: every method, data set and stage goes through it.

It owns the optimiser's step, validation, logging, saving and resuming. It is handed networks (inside a stage), batches and
a validation, and knows nothing of any of them.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from methods.base import Batch, CompiledCalls, Scalars, Validation
from training.accelerate import GradientGuard, accelerated
from training.batch_source import BatchSource
from training.checkpoint import FORMAT, Store
from training.checkpoint_content import STATES, check_fits, check_tensors
from training.distributed import (
    any_process,
    average_buffers,
    from_main,
    gathered_buffers,
    is_main,
    rank,
    restore_buffers,
    share_state,
    world,
)
from training.faults import told
from training.log import StageLog, hours
from training.optimizers import saved_states, states_by_learner
from training.pace import Pace
from training.precision import Precision
from training.readings import Readings
from training.saving import Saver
from training.signals import NoBatch, StopSignals
from training.stage import DRAWS, Progress, Run, StageResult, StageSetup
from training.step import placed, train_step
from utils.errors import Interrupted, UserError


def run_stages(run: Run, stages: dict[str, Callable[[], StageSetup]]) -> list[StageResult]:
    """Run the stages in order, each built when its turn comes, resuming where an earlier run of the same folder stopped.

    Raises Interrupted after a signal, everything saved; UserError for what the user can mend.
    """
    for name in stages:
        _store(run, name).resume(
            say=lambda message: None
        )  # report a folder that a later stage could not use now, not after hours
    results = []
    for build in stages.values():
        runner = _StageRunner(run, build())
        runner.run()
        results.append(runner.result())
    return results


def _store(run: Run, stage: str) -> Store:
    return Store(
        run.folder / stage, run.best_name(stage), run.about["settings"], run.defaults, run.check
    )


class _StageRunner:
    def __init__(self, run: Run, setup: StageSetup):
        self.run_info, self.setup, self.stage = run, setup, setup.stage
        self.folder = run.folder / self.stage.name
        self.store = _store(run, self.stage.name)
        self.saver = Saver(self.store)
        self.progress = Progress(draws=DRAWS)
        self.losses: list[float] = []  # since the last validation
        self.readings, self.precision = Readings(), Precision(run.device, run.amp)
        self.compiled: CompiledCalls | None = None
        self.guard = GradientGuard(self.stage)

    def run(self) -> None:
        say = self.run_info.log.say
        buffers = self._resume()
        p, setup = self.progress, self.setup
        if p.step == p.validated == setup.steps:
            say(f"{self.stage.name}: complete, {self._result()}")
            self._miss_best()
            return
        share_state(self.stage.networks.values())
        restore_buffers(self.stage.networks, buffers)  # each process had its own
        self.precision.prepare(self.stage, setup.optimizers.values())
        self.compiled = accelerated(self.stage, self.run_info.accelerate)
        log, began, first = (
            StageLog(self.folder, self.stage.name, p.step, setup.steps),
            time.monotonic(),
            p.step,
        )
        try:
            with StopSignals() as signals, told(self.run_info.device, self.run_info.dims):
                self._loop(log, signals)
                self.saver.wait()
        finally:
            self.saver.close()
            log.close()
        from_main(
            None
        )  # the next stage of every process starts from files that the main process has just written
        seconds = time.monotonic() - began
        say(f"{self.stage.name}: {p.step - first} iterations in {hours(seconds)}, {self._result()}")
        self._miss_best()

    def result(self) -> StageResult:
        """What the stage ended with; it must have run."""
        p = self.progress
        return StageResult(
            name=self.stage.name,
            steps=p.step,
            best_score=None if self.setup.validate is None else float(p.best_score),
            best_step=p.best_step,
            best=self.store.best,
            last=self.store.last,
            history=tuple(dict(one) for one in p.history),
        )

    def _result(self) -> str:
        """Which network the stage ends with, in words."""
        p = self.progress
        if self.setup.validate is None:
            return f"not validated, the last network is the result ({self.store.best})"
        return f"best validation {p.best_score:.4f} at iteration {p.best_step} ({self.store.best})"

    def _miss_best(self) -> None:
        """Somebody may have deleted the best checkpoint meanwhile: a later stage, or a test, would say only that there is none."""
        if not self.store.best.exists():
            remedy = f"put it back, or copy {self.store.last.name} to its name to go on with the last network"
            self.run_info.log.say(
                f"warning: {self.store.best} is gone, deleted since it was written; {remedy}"
            )

    def _loop(self, log: StageLog, signals: StopSignals) -> None:
        p, steps = self.progress, self.setup.steps
        batches = BatchSource(self.setup.batches(range(p.step, steps)))
        pace = Pace(self.run_info.log.say, self.stage.name)
        try:
            while True:
                if self._due() and not self._validate(log, signals):
                    self._stop(log, signals)
                if p.step == steps:
                    return
                if (world() == 1 or p.step % self.run_info.read_every == 0) and any_process(
                    signals.received
                ):
                    self._stop(log, signals)
                self.saver.check()
                with pace.timed():
                    with pace.waiting(), signals.waiting():
                        batch = batches.next()
                    self.readings.add(p.step + 1, self._train_step(batch))
                    log.bar.update()
                    if read := p.step % self.run_info.read_every == 0 or self._due():
                        self._read(log)
                if read:
                    pace.judge()
        except NoBatch:
            self._stop_without_batch(log, signals)
        finally:
            batches.close()

    def _due(self) -> bool:
        p, setup = self.progress, self.setup
        return p.step > p.validated and (setup.scheduled(p.step) or p.step == setup.steps)

    def _train_step(self, batch: Batch) -> Scalars:
        """Make a step and give its scalars, which may still be on their way: the host waits for the device nowhere in here, but for
        what a method sends through the host itself (pseudo labels)."""
        p, setup, run = self.progress, self.setup, self.run_info
        # Everything random in a step follows from (seed, step, process), so a resumed run needs no stored generator.
        torch.manual_seed(
            int(
                np.random.SeedSequence((*setup.seed, p.step, rank())).generate_state(1, np.uint64)[
                    0
                ]
            )
        )
        rates = setup.set_learning_rates(p.step)
        placed_batch = placed(batch, run.device, run.dims)
        scalars = train_step(self.stage, setup.optimizers, placed_batch, p.step, self.precision)
        if self.compiled:
            self.guard.look()
        self.stage.after_step(p.step)
        self.stage.compiled = (
            self.compiled
        )  # not before: what is made once and kept must not lie in the memory of a recorded graph
        p.step += 1
        if not self._due():
            self.stage.after_iteration(p.step - 1)
        return {**scalars, **rates}

    def _read(self, log: StageLog) -> None:
        """Wait for the device, note what the steps since the last time reported; raises UserError where a loss is not finite."""
        for step, scalars in self.readings.read():
            if not math.isfinite(scalars["loss"]):
                raise UserError(
                    f"the loss is {scalars['loss']} at iteration {step - 1} of {self.stage.name}: "
                    "lower --base_lr, with another --exp; the last checkpoint is kept"
                )
            self.precision.check(scalars)
            self.losses.append(scalars["loss"])
            log.step(step, scalars)

    def _validate(self, log: StageLog, signals: StopSignals) -> bool:
        """Validate, keep the best, save; False if a signal came first, then the validation is still to be made."""
        if self.setup.validate is None:
            self._keep_newest(log)
            return True
        p = self.progress
        self._average_buffers()
        results = self._results(signals)
        if results is None:
            return False
        result = merged_results(results, self.stage.selected)
        counts = not self.setup.val_lead or self.setup.scheduled(p.step)
        improved = counts and result.score > self.setup.score_to_beat(p.best_score)
        # Until a score is above 0 the newest network is the best one: it finds nothing yet, but has learnt since.
        best = improved or (p.best_score == 0 and (counts or not p.best_step))
        if best:
            p.best_score, p.best_step = result.score, p.step
        p.validated = p.step
        p.history.append(
            {
                "step": p.step,
                "score": result.score,
                "loss": sum(self.losses) / max(len(self.losses), 1),
                **result.scalars,
            }
        )
        self.losses.clear()
        if counts:
            self.stage.after_validation(improved)
        self.stage.after_iteration(p.step - 1)
        log.scalars(p.step, result.scalars, "validation")
        log.pictures(p.step, self.stage)
        note = (
            " (best)"
            if best
            else ""
            if counts
            else " (after the last step, not scored as published: selects nothing)"
        )
        others = "".join(
            f", {name} {other.score:.4f}"
            for name, other in results.items()
            if name != self.stage.selected
        )
        self.run_info.log.say(
            f"{self.stage.name} {p.step}: validation {result.score:.4f}{note}{others}"
        )
        content = self._content()
        if is_main():
            self.saver.save(content, best)
        return True

    def _results(self, signals: StopSignals) -> dict[str, Validation] | None:
        """Validate the stage's networks in their order; None if a signal came first."""
        assert self.setup.validate is not None
        results: dict[str, Validation] = {}
        for name in self.stage.validated or (self.stage.selected,):
            network = self.stage.network_to_validate(name)
            with self.precision.autocast():
                result = self.setup.validate(
                    network, lambda: bool(signals.received), self.progress.step
                )
            if result is None:
                return None
            results[name] = result
        return results

    def _keep_newest(self, log: StageLog) -> None:
        """Save the network as it is, as the best one too. The stage learns of no validation, since none was made."""
        p = self.progress
        self._average_buffers()
        p.best_step = p.step
        p.validated = p.step
        p.history.append({"step": p.step, "loss": sum(self.losses) / max(len(self.losses), 1)})
        self.losses.clear()
        self.stage.after_iteration(p.step - 1)
        log.pictures(p.step, self.stage)
        self.run_info.log.say(f"{self.stage.name} {p.step}: saved, not validated (--select last)")
        content = self._content()
        if is_main():
            self.saver.save(content, best=True)

    def _stop(self, log: StageLog, signals: StopSignals) -> None:
        """Save and leave: the same command goes on from here."""
        self._read(log)
        number = any_process(signals.received)
        buffers = gathered_buffers(
            self.stage.networks
        )  # the average is for whoever tests the file; each process resumes with its own
        self._average_buffers()
        content = self._content() | {"buffers": buffers}
        if is_main():
            self.saver.save(content, best=False)
            self.saver.wait()
        where = f"stopped at iteration {self.progress.step} of {self.stage.name}, saved {self.store.last}"
        raise Interrupted(f"{where}; the same command goes on from there", 128 + number)

    def _stop_without_batch(self, log: StageLog, signals: StopSignals) -> None:
        """Leave where a signal came and the next batch does not; several processes cannot save then, for the others wait for this one."""
        if world() == 1:
            self._stop(log, signals)
        raise Interrupted(
            f"stopped at iteration {self.progress.step} of {self.stage.name} while no batch came; the last checkpoint is kept: "
            "the same command continues from it",
            128 + signals.received,
        )

    def _average_buffers(self) -> None:
        names = dict.fromkeys(self.stage.learners)
        for name in (*self.stage.validated, self.stage.selected):
            names.update(dict.fromkeys(self.stage.members(name)))
        for name in names:
            average_buffers(self.stage.networks[name])

    def _content(self) -> dict:
        """What a checkpoint holds; raises UserError where it would hold a number that is not finite."""
        content = {
            "format": FORMAT,
            **self.run_info.about,
            "stage": self.stage.name,
            "progress": {**vars(self.progress), "history": list(self.progress.history)},
            "losses": list(self.losses),
            "student": self.stage.student.state_dict(),
            "selected": self.stage.selected,
            "models": {name: self.stage.models.get(name, "") for name in self.stage.learners},
            "phase": self.stage.state_dict(),
            **saved_states(self.setup.optimizers),
            "scaler": self.precision.state_dict(),
            "buffers": gathered_buffers(
                self.stage.networks
            ),  # so all processes ask for the content, though one saves it
        }
        try:  # a loss is computed before the weights that its own gradients spoil, so it tells of them a step late
            check_tensors({key: content.get(key) for key in STATES})
        except ValueError as error:
            raise UserError(
                f"{self.stage.name}, iteration {self.progress.step}: {error}; the last checkpoint is kept"
            ) from None
        return content

    def _resume(self) -> list[dict] | None:
        """Go on from the last checkpoint, or begin; what `restore_buffers` is to put back."""
        checkpoint = self.store.resume(self.run_info.log.say, partial(check_fits, setup=self.setup))
        if checkpoint is None:
            self.setup.begin(self.setup)
            return None
        self.progress = Progress(**checkpoint.progress)
        self.losses = list(checkpoint.losses)
        self.stage.student.load_state_dict(checkpoint.student)
        self.stage.load_state_dict(checkpoint.phase)
        for name, state in states_by_learner(checkpoint, self.setup.optimizers).items():
            self.setup.optimizers[name].load_state_dict(dict(state))
        self.precision.load_state_dict(checkpoint.scaler)
        if self.progress.step < self.setup.steps:
            self.run_info.log.say(f"{self.stage.name}: resuming at iteration {self.progress.step}")
            if self.progress.draws != DRAWS:
                self.run_info.log.say(
                    "begun by an older version: from here on dropout draws other numbers, from the same distribution"
                )
                self.progress.draws = DRAWS
        return checkpoint.buffers


def merged_results(results: Mapping[str, Validation], selected: str) -> Validation:
    """Return the selected network's validation, with the scalars of the others under `<network>_<scalar>`."""
    scalars = dict(results[selected].scalars)
    for name, result in results.items():
        if name != selected:
            scalars.update({f"{name}_{key}": value for key, value in result.scalars.items()})
    return Validation(results[selected].score, scalars)
