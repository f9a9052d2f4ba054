"""Checkpoints: written so that a crash loses nothing, read so that a file cannot run code."""

import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.base import MEAN
from training.checkpoint_content import check_plain, check_sums, check_tensors, check_whole
from training.settings import upgraded
from utils.errors import UserError
from utils.files import replacing, shown, unfinished_file
from utils.messages import message

FORMAT = "edge-guided-copy-paste/1"


def save(path: Path, content: dict, keep: Path | None = None, also: Path | None = None) -> None:
    """Write `content` (tensors and plain types) to `path`, complete or not at all; the file that was there goes to `keep`, if given.
    Before that a copy of the new file becomes `also`.

    Raises UserError where it cannot be written (a full disk); what was there before is left as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_file(path) as unfinished:
            with open(unfinished, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            if also is not None:
                _copy(unfinished, also)
            if keep is not None and path.exists():
                os.replace(path, keep)
            os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:
        cause = (
            error.__context__ if isinstance(error.__context__, OSError) else error
        )  # torch.save's own error hides the disk's
        reason = (
            cause.strerror
            if isinstance(cause, OSError) and cause.strerror
            else str(cause).splitlines()[0]
        )
        earlier = (
            " the earlier checkpoint is intact:"
            if path.exists() or (keep is not None and keep.exists())
            else ""
        )
        raise UserError(
            f"{path}: could not be written ({reason});{earlier} free space or mend the folder, then start the same command again"
        ) from None


def _copy(source: Path, target: Path) -> None:
    """Replace `target` by a copy of `source` in one step.

    No hard link: where somebody copies published weights over the best checkpoint, as the README has it, they would be in the last one too.
    """
    with replacing(target) as unfinished:
        shutil.copyfile(source, unfinished)
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())


def load(path: Path) -> dict:
    """Read a checkpoint, ours or a published one, onto the CPU.

    Raises UserError where it is missing, damaged, or holds anything but tensors and plain types (it is not run).
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a pickle protocol that damage made up
            check_sums(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: refused, it is damaged or holds code beside its weights; save it again as a plain state dict"
        ) from None
    except (
        Exception
    ):  # damaged bytes make torch.load raise anything, struct.error and AssertionError among others
        raise UserError(f"{path}: damaged or no PyTorch checkpoint; get the file again") from None
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path}: holds a {type(content).__name__}, expected a state dict or a checkpoint of this project"
        )
    return dict(content)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says, ours or a published one, which holds weights and perhaps an optimiser alone.

    `weights`: those of the selected network, under the names that the file has; where the mean of all learners is selected, the student's;
    `student`: the student's, to resume from; `optimizer`: its state, numbered as its author's torch did; `other_optimizers`: those of the
    other learners, by name, None in older ones; `selected`: the name of the selected network, or `methods.base.MEAN`; `models`: of each
    learner the name in the registry of networks, empty for the run's `--model`; `plan`: how own data were
    prepared (dataloaders/plan.py); `phase`: the rest of the method's state; `data`: a digest of the run's lists and files
    (dataloaders/digest.py), None in older ones; `buffers`: of a run of several processes, each one's statistics; `scaler`: of --amp fp16,
    where the gradients' scale stands. Of a published file
    `settings` hold the `egm` that its weights tell, and `stage` is None.
    """

    path: Path
    weights: Mapping[str, Tensor]
    optimizer: Mapping | None
    settings: dict
    info: dict
    plan: dict | None = None
    stage: str | None = None
    rule: str = ""
    progress: Mapping[str, Any] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    phase: Mapping[str, Any] = field(default_factory=dict)
    student: Mapping[str, Tensor] = field(default_factory=dict)
    data: dict | None = None
    buffers: list | None = None
    scaler: Mapping | None = None
    other_optimizers: Mapping[str, Mapping] | None = None
    selected: str = "student"
    models: Mapping[str, str] = field(default_factory=dict)

    def weights_of(self, network: str) -> Mapping[str, Tensor]:
        """The weights of one of the networks of a checkpoint of ours."""
        if network == "student":
            return self.student
        return self.phase[network]

    def of_network(self, name: str) -> "Checkpoint":
        """This checkpoint with another of its networks selected; raises UserError for one that it does not have."""
        if name == self.selected:
            return self
        names = [
            "student",
            *(key for key, value in self.phase.items() if isinstance(value, Mapping)),
        ]
        if len(self.models) > 1:
            names.append(MEAN)
        if not self.ours or name not in names:
            raise UserError(
                f"--network {name}: {self.path} does not hold it; choose from {', '.join(names)}"
            )
        optimizer = (self.other_optimizers or {}).get(name, self.optimizer)
        rule = f"{self.rule}, by the score of {self.selected} (this is {name})"
        weights = self.student if name == MEAN else self.weights_of(name)
        return replace(self, selected=name, weights=weights, optimizer=optimizer, rule=rule)

    @property
    def ours(self) -> bool:
        return self.stage is not None

    @property
    def selection(self) -> str:
        """In words: how the checkpoint was chosen among those of its run."""
        if not self.ours:
            return "a published state dict; the file does not say how it was selected (its authors: the best validation Dice)"
        where = f"iteration {self.progress['step']} of {self.stage}"
        if self.path.name in ("last.pth", "previous.pth"):
            return f"not selected: {where}, where the run stood last"
        if self.settings.get("select") == "last":
            return f"{self.rule}: {where}"
        return f"{self.rule}: {self.progress['best_score']:.4f} at {where}"


def read(path: Path) -> Checkpoint:
    """The checkpoint in `path`; raises UserError as `load` does."""
    content = load(path)
    form = content.get("format")
    if isinstance(form, str) and form != FORMAT and form.startswith(FORMAT.split("/")[0]):
        raise UserError(
            f"{path}: written by another version of this program ({shown(form)}); use that one"
        )
    weights = content["net"] if isinstance(content.get("net"), Mapping) else content
    try:
        check_plain(content)
        check_whole(content) if form == FORMAT else check_tensors(weights)
    except ValueError as error:
        raise UserError(f"{path}: not usable, {error}") from None
    if form == FORMAT:
        selected = content.get("selected", "student")  # older ones know the student alone
        return Checkpoint(
            path=path,
            weights=content["student"]
            if selected in ("student", MEAN)
            else content["phase"][selected],
            selected=selected,
            models=content.get("models") or {},
            other_optimizers=content.get("other_optimizers"),
            optimizer=content["optimizer"],
            settings=upgraded(content["settings"]),
            info=content["facts"],
            plan=content.get("plan"),
            stage=content["stage"],
            rule=content["selection"],
            progress=content["progress"],
            losses=tuple(content["losses"]),
            phase=content["phase"],
            student=content["student"],
            data=content.get("data"),
            buffers=content.get("buffers"),
            scaler=content.get("scaler"),
        )
    egm = "published" if any("compute_edge_feature." in str(key) for key in weights) else "none"
    return Checkpoint(path, weights, content.get("opt"), {"egm": egm}, {})


def read_ours(path: Path, remedy: str) -> Checkpoint:
    """As `read`; raises UserError, `remedy` at its end, for another file than one of this project."""
    checkpoint = read(path)
    if not checkpoint.ours:
        raise UserError(f"{path}: not a checkpoint of this project{remedy}")
    return checkpoint


class Store:
    """The checkpoints of one stage: `last` and the one before it, to resume from, and the best, to test."""

    def __init__(
        self,
        folder: Path,
        best_name: str,
        computed: dict,
        defaults: dict,
        check: Callable[[Checkpoint], None] = lambda checkpoint: None,
    ):
        """`computed`: settings that a checkpoint must agree with; one that it does not have, being older, counts as its default.
        `check` raises UserError for another run's."""
        self.folder, self.computed, self.defaults, self.check = folder, computed, defaults, check
        self.last, self.previous, self.best = (
            folder / "last.pth",
            folder / "previous.pth",
            folder / best_name,
        )

    def resume(
        self, say: Callable[[str], None] = message, fits: Callable[[Checkpoint], None] | None = None
    ) -> Checkpoint | None:
        """The newest intact checkpoint, None where there is none at all. `fits` raises ValueError for one that the stage cannot take;
        where it is given, damaged files newer than the one returned are renamed, so that no save puts them in the place of a good one.

        The best one will do too: a stage killed between its first two files has no other. Raises UserError where the folder holds
        another run's, or where files are there and not one is intact.
        """
        faults, damaged = [], []
        for path in (self.last, self.previous, self.best):
            if not path.exists():
                continue
            try:
                checkpoint = read_ours(path, "")
                self._check_stage(checkpoint)
            except UserError as error:
                faults.append(str(error))
                damaged.append(path)
                continue
            self._check_same_run(checkpoint)
            try:
                if fits is not None:
                    fits(checkpoint)
            except ValueError as error:
                faults.append(f"{path}: not usable, {error}")
                damaged.append(path)
                continue
            if faults and fits is not None:
                for file in damaged:
                    with suppress(FileNotFoundError):  # another process of the run was quicker
                        file.replace(file.with_name(f"{file.name}.damaged"))
            if faults:
                say(
                    f"warning: {faults[0]}; going on from the one before it, {path.name} at step {checkpoint.progress['step']}"
                )
            return checkpoint
        if faults:
            raise UserError(
                f"{faults[0]}; no other file here is a checkpoint of this run either: "
                "use another --exp, or --fresh, which moves them all aside"
            )
        return None

    def _check_stage(self, checkpoint: Checkpoint) -> None:
        if checkpoint.stage != self.folder.name:
            raise UserError(
                f"{checkpoint.path}: of the stage {shown(str(checkpoint.stage))}, which lies elsewhere"
            )

    def _check_same_run(self, checkpoint: Checkpoint) -> None:
        there = {**self.defaults, **checkpoint.settings}
        other = [key for key, value in self.computed.items() if there.get(key) != value]
        if other:
            key = other[0]
            raise UserError(
                f"{checkpoint.path}: of a run with other settings (--{key} {there.get(key)}, now {self.computed[key]}); "
                "use another --exp, or --fresh to move it aside"
            )
        self.check(checkpoint)

    def save(self, content: dict, best: bool) -> None:
        """Write `last`; the one before it becomes `previous`. `best`: the file is to be the best one too."""
        save(self.last, content, keep=self.previous, also=self.best if best else None)
