"""Checkpoints: written so that a crash loses nothing, read so that a file cannot run code."""

import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.stage_networks import MEAN
from training.checkpoint_content import (
    check_plain,
    check_sums,
    check_tensors,
    check_whole,
    is_mapping,
)
from training.config import upgraded
from training.distributed import Buffers
from utils.errors import UserError
from utils.files import replacing, shown, unfinished_file
from utils.messages import message

VALIDATED = "validated"
"""Folder in a stage's folder with the networks of all validations (--keep_validated)."""
FORMAT = "edge-guided-copy-paste/1"


def save(
    path: Path, content: Mapping[str, Any], keep: Path | None = None, also: Sequence[Path] = ()
) -> None:
    """Write `content` (tensors and plain types) to `path`, completely or not at all.

    `also`: each becomes a copy of the new file. `keep`: an earlier file at `path` is moved there.
    Raises UserError if the file cannot be written (a full disk); the earlier files stay as they
    were.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_file(path) as unfinished:
            with open(unfinished, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            for copy_path in also:
                _copy(unfinished, copy_path)
            if keep is not None and path.exists():
                os.replace(path, keep)
            os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:
        earlier = ""
        if path.exists() or (keep is not None and keep.exists()):
            earlier = " the earlier checkpoint is intact:"
        raise UserError(
            f"{path}: could not be written ({_reason(error)});{earlier} free space or fix the "
            "folder, then start the same command again"
        ) from None


def _reason(error: Exception) -> str:
    """Return why a file could not be written; torch.save's own error hides that of the disk."""
    cause: BaseException = error
    if isinstance(error.__context__, OSError):
        cause = error.__context__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause).splitlines()[0]


def _copy(source: Path, target: Path) -> None:
    """Replace `target` by a copy of `source` in one step.

    It is no hard link: published weights that somebody copies over the best checkpoint, as
    docs/reproducing.md explains, would then also be in the last one.
    """
    target.parent.mkdir(exist_ok=True)
    with replacing(target) as unfinished:
        shutil.copyfile(source, unfinished)
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, ours or a published one, onto the CPU.

    Raises UserError if it is missing, damaged, or holds anything except tensors and plain types
    (code in it is not run).
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a pickle protocol that damage made up
            check_sums(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: refused, it is damaged or holds code in addition to its weights; "
            "save it again as a plain state dict"
        ) from None
    except Exception:  # damaged bytes make torch.load raise any kind of error
        raise UserError(
            f"{path}: damaged, or not a PyTorch checkpoint; get the file again"
        ) from None
    if not is_mapping(content):
        raise UserError(
            f"{path}: holds a {type(content).__name__}, expected a state dict or a checkpoint "
            "of this project; get the file again"
        )
    return dict(content)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint, ours or a published one.

    A published file has only weights and perhaps the state of an optimiser; its `stage` is None,
    and `settings` has only `egm`, which follows from the weights.

    `weights`: those of the selected network, under the names in the file; if the mean of all
    learners is selected, the student's. `optimizer`: state of the student's optimiser, with the
    numbering of the torch version that wrote it. `info`: the data set. `plan`: how own data were
    prepared (dataloaders/plan.py). `rule`: how the best checkpoint is selected. `losses`: those
    since the last validation. `stage_state`: the method's state, the entry "phase" of the file.
    `student`: the student's weights. `data`: digest of lists and files (dataloaders/digest.py).
    `buffers`: batch-norm statistics of each of several processes. `scaler`: scale of the gradients
    with --amp fp16. `other_optimizers`: states of the other learners' optimisers by name.
    `selected`: name of the selected network, or `methods.stage_networks.MEAN`. `models`: the
    network of each learner in the registry, empty for the run's `--model`. Entries that older
    checkpoints lack have their default.
    """

    path: Path
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any] | None
    settings: dict[str, Any]
    info: dict[str, Any]
    plan: dict[str, Any] | None = None
    stage: str | None = None
    rule: str = ""
    progress: Mapping[str, Any] = field(default_factory=dict[str, Any])
    losses: tuple[float, ...] = ()
    stage_state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    student: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    data: dict[str, Any] | None = None
    buffers: list[Buffers] | None = None
    scaler: Mapping[str, Any] | None = None
    other_optimizers: Mapping[str, Mapping[str, Any]] | None = None
    selected: str = "student"
    models: Mapping[str, str] = field(default_factory=dict[str, str])

    def weights_of(self, network: str) -> Mapping[str, Tensor]:
        """Return the weights of one of the networks of a checkpoint of ours."""
        if network == "student":
            return self.student
        return self.stage_state[network]

    def of_network(self, name: str) -> "Checkpoint":
        """Return this checkpoint with another of its networks selected.

        Raises UserError for a network that it does not have.
        """
        if name == self.selected:
            return self
        names = [
            "student",
            *(key for key, value in self.stage_state.items() if isinstance(value, Mapping)),
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
        """Whether this project wrote the checkpoint."""
        return self.stage is not None

    @property
    def recorded_settings(self) -> dict[str, Any] | None:
        """The settings of the run; None for a published checkpoint."""
        if self.ours:
            return self.settings
        return None

    @property
    def selection(self) -> str:
        """How the checkpoint was selected among those of its run, in words."""
        if not self.ours:
            return (
                "a published state dict; the file does not record how it was selected "
                "(its authors: the best validation Dice)"
            )
        where = f"iteration {self.progress['step']} of {self.stage}"
        if self.path.name in ("last.pth", "previous.pth"):
            return f"not selected: {where}, the latest step of the run"
        if self.path.parent.name == VALIDATED:
            return f"not selected: {where}, one of all networks that were validated"
        if self.settings.get("select") == "last":
            return f"{self.rule}: {where}"
        return f"{self.rule}: {self.progress['best_score']:.4f} at {where}"


def read(path: Path) -> Checkpoint:
    """Read a checkpoint; raises UserError as `load` does, and for a forged one."""
    content = load(path)
    form = content.get("format")
    if isinstance(form, str) and form != FORMAT and form.startswith(FORMAT.split("/")[0]):
        raise UserError(
            f"{path}: written by another version of this program ({shown(form)}); use that one"
        )
    weights = content
    if isinstance(content.get("net"), Mapping):
        weights = content["net"]
    try:
        check_plain(content)
        if form == FORMAT:
            check_whole(content)
        else:
            check_tensors(weights)
    except ValueError as error:
        raise UserError(f"{path}: not usable, {error}") from None
    if form == FORMAT:
        return _own_checkpoint(path, content)
    egm = "none"
    if any("compute_edge_feature." in str(key) for key in weights):
        egm = "published"
    return Checkpoint(path, weights, optimizer=content.get("opt"), settings={"egm": egm}, info={})


def small_content(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the content of a checkpoint of ours that holds only what a test and a prediction need:
    the weights of the selected network, in half precision, and the records.

    Training cannot resume from it. The checkpoint must have one selected network, not the mean of
    several.
    """
    student = dict(checkpoint.weights)
    for name, value in student.items():
        if value.is_floating_point():
            student[name] = value.half()
    model = checkpoint.models.get(checkpoint.selected, checkpoint.models.get("student", ""))
    return {
        "format": FORMAT,
        "stage": checkpoint.stage,
        "settings": checkpoint.settings,
        "facts": checkpoint.info,
        "plan": checkpoint.plan,
        "selection": checkpoint.rule,
        "progress": dict(checkpoint.progress),
        "losses": [],
        "data": checkpoint.data,
        "student": student,
        "models": {"student": model},
        "phase": {},
        "optimizer": {},
    }


def _single_precision(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The weights with those in half precision, which `small_content` writes, as float32.

    A damaged file may hold anything as a weight; that is found where a network takes the weights.
    """
    single = dict(weights)
    for name, value in weights.items():
        if isinstance(value, Tensor) and value.dtype == torch.float16:
            single[name] = value.float()
    return single


def _own_checkpoint(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    student = _single_precision(content["student"])
    selected = content.get("selected", "student")
    weights: Mapping[str, Tensor] = student
    if selected not in ("student", MEAN):
        weights = content["phase"][selected]
    return Checkpoint(
        path=path,
        weights=weights,
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
        stage_state=content["phase"],
        student=student,
        data=content.get("data"),
        buffers=content.get("buffers"),
        scaler=content.get("scaler"),
    )


def read_ours(path: Path, remedy: str) -> Checkpoint:
    """Read a checkpoint of this project; UserError, which ends with `remedy`, for any other."""
    checkpoint = read(path)
    if not checkpoint.ours:
        raise UserError(f"{path}: not a checkpoint of this project{remedy}")
    return checkpoint


class Store:
    """The checkpoints of one stage.

    `last` and the one before it, `previous`, are there to resume from, and `best` to test. The
    folder `validated` has a copy of each validated network where that is asked for.
    """

    def __init__(
        self,
        folder: Path,
        best_name: str,
        computed: Mapping[str, Any],
        defaults: Mapping[str, Any],
        check: Callable[[Checkpoint], None] = lambda checkpoint: None,
    ) -> None:
        """`computed`: settings that a checkpoint must agree with.

        `defaults`: values of settings that an older checkpoint lacks. `check` raises UserError for
        the checkpoint of another run.
        """
        self.folder = folder
        self.computed = computed
        self.defaults = defaults
        self.check = check
        self.last = folder / "last.pth"
        self.previous = folder / "previous.pth"
        self.best = folder / best_name

    def resume(
        self, say: Callable[[str], None] = message, fits: Callable[[Checkpoint], None] | None = None
    ) -> Checkpoint | None:
        """Return the newest intact checkpoint, None if there is no file at all.

        `fits` raises ValueError for one that the stage cannot load. If it is given, damaged files
        that are newer than the result are renamed, so that no save moves them over a good one.

        The best checkpoint counts too: a stage that was killed between its first two files has no
        other. Raises UserError if the folder holds another run, or if no file is intact.
        """
        faults: dict[Path, str] = {}
        for path in (self.last, self.previous, self.best):
            if not path.exists():
                continue
            try:
                checkpoint = self._read(path, fits)
            except _Unusable as error:
                faults[path] = str(error)
                continue
            if faults:
                if fits is not None:
                    _rename_damaged(faults)
                say(
                    f"warning: {next(iter(faults.values()))}; continuing from the one before it, "
                    f"{path.name} at step {checkpoint.progress['step']}"
                )
            return checkpoint
        if faults:
            raise UserError(
                f"{next(iter(faults.values()))}; no other file here is a checkpoint of this run "
                "either: use another --exp, or --fresh, which moves them all aside"
            )
        return None

    def _read(self, path: Path, fits: Callable[[Checkpoint], None] | None) -> Checkpoint:
        """Read a file; raises _Unusable if it is damaged, UserError if it is of another run."""
        try:
            checkpoint = read_ours(path, "")
            self._check_stage(checkpoint)
        except UserError as error:
            raise _Unusable(str(error)) from None
        self._check_same_run(checkpoint)
        if fits is not None:
            try:
                fits(checkpoint)
            except ValueError as error:
                raise _Unusable(f"{path}: not usable, {error}") from None
        return checkpoint

    def _check_stage(self, checkpoint: Checkpoint) -> None:
        if checkpoint.stage != self.folder.name:
            raise UserError(
                f"{checkpoint.path}: belongs to the stage {shown(str(checkpoint.stage))}, which "
                "has another folder; move it there"
            )

    def _check_same_run(self, checkpoint: Checkpoint) -> None:
        saved = {**self.defaults, **checkpoint.settings}
        for key, value in self.computed.items():
            if saved.get(key) != value:
                raise UserError(
                    f"{checkpoint.path}: was trained with --{key} {saved.get(key)}, but this run "
                    f"has --{key} {value}; use another --exp, or --fresh to start over"
                )
        self.check(checkpoint)

    def validated(self, step: int) -> Path:
        """Return the path for a copy of the network that was validated after `step` steps."""
        return self.folder / VALIDATED / f"{step}.pth"

    def save(self, content: Mapping[str, Any], best: bool, copies: Sequence[Path] = ()) -> None:
        """Write `last`; the file before it becomes `previous`.

        `best`: write `best` too. `copies`: paths of further copies.
        """
        also = list(copies)
        if best:
            also.append(self.best)
        save(self.last, content, keep=self.previous, also=also)


class _Unusable(Exception):
    """A checkpoint file that cannot be resumed from; an older one may."""


def _rename_damaged(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(FileNotFoundError):  # another process of the run was quicker
            path.replace(path.with_name(f"{path.name}.damaged"))
