"""Find the run, stage and checkpoint that a command means.

Rules, in this order; for each choice that the flags left open the program prints a line.

- Run: `--exp` and `--labelnum` as given; otherwise the name that training gives a run of
  `--method`, or the published name of the data set (`BCP`, `cutmix`, `CoGRNet`), if it exists;
  otherwise the only run of that data set (and method). Several are an error that lists them.
- Stage: `--stage_name`; otherwise self_train; otherwise the stage that was written last,
  pre-training only if there is no other.
- Network: `--model`; otherwise the only best checkpoint of the stage; of several the one of the
  network that `last.pth` holds, otherwise the published one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from datasets.base import DatasetSpec
from datasets.resolve import default_exp
from networks.registry import NETWORKS
from training.checkpoint import read
from training.config import ExperimentOptions
from utils.errors import UserError

FINAL = "self_train"
PRE_TRAINING = ("pre_train", "pretrain")
KEPT_TO_RESUME = ("last.pth", "previous.pth")
MOVED_ASIDE = re.compile(r".+\.\d{8}-\d{6}(-\d+)?")
BEST_NAME = re.compile(r".+_best_model\.pth|best_.+(?<!_latest)\.pth")


@dataclass(frozen=True)
class RunChoice:
    """The run, stage and checkpoint that a command means.

    `run`: the run's folder. `stage`: name of its stage. `best`: the best checkpoint, which need not
    exist. `notes`: a line for each choice that the flags left open.
    """

    run: Path
    stage: str
    best: Path
    notes: tuple[str, ...] = ()

    @property
    def last(self) -> Path:
        """The last checkpoint of the stage, which need not exist."""
        return self.run / self.stage / "last.pth"


@dataclass(frozen=True)
class RunRequest:
    """The values of the flags that name a run; None for flags that were omitted."""

    exp: str | None = None
    labelnum: int | None = None
    stage: str | None = None
    model: str | None = None
    method: str | None = None


@overload
def usual_value(dataset: DatasetSpec, name: Literal["labelnum"]) -> int: ...


@overload
def usual_value(dataset: DatasetSpec, name: Literal["exp", "model"]) -> str: ...


def usual_value(dataset: DatasetSpec, name: str) -> str | int:
    """The exp, labelnum or model that a test of the data set uses if no flag names one."""
    for defaults in (dataset.test_defaults, dataset.defaults):
        if name in defaults:
            return defaults[name]
    return getattr(ExperimentOptions, name)


def choose(dataset: DatasetSpec, output_root: Path | None, request: RunRequest) -> RunChoice:
    """Find the run, stage and checkpoint of a data set.

    Raises UserError if several runs or networks fit the flags.
    """
    run, labelnum, notes = find_run(dataset, output_root, request)
    choice = choose_in(dataset, run, labelnum, request)
    return RunChoice(choice.run, choice.stage, choice.best, notes=(*notes, *choice.notes))


def choose_in(dataset: DatasetSpec, run: Path, labelnum: int, request: RunRequest) -> RunChoice:
    """Find the stage and checkpoint of the run in that folder."""
    stages = stage_names(run)
    notes: tuple[str, ...] = ()
    stage = FINAL
    if request.stage is not None:
        stage = request.stage
    elif stages:
        stage = stages[0]
        notes = _stage_note(run, stages)
    if dataset.published_pretraining and stage in PRE_TRAINING:
        stage = PRE_TRAINING[0]  # the published file is in a folder with another name
    best, more = _best_of_dataset(dataset, run, stage, labelnum=labelnum, request=request)
    return RunChoice(run, stage, best, notes=(*notes, *more))


def find_run(
    dataset: DatasetSpec, output_root: Path | None, request: RunRequest
) -> tuple[Path, int, tuple[str, ...]]:
    """The folder of the run, its number of labelled cases, and what to print about the choice."""
    exp = request.exp
    if exp is None and request.method is not None:
        exp = default_exp(dataset, request.method)
    elif exp is None:
        exp = usual_value(dataset, "exp")
    labelnum = request.labelnum
    if labelnum is None:
        labelnum = usual_value(dataset, "labelnum")
    folder = dataset.folder(output_root, exp, labelnum)
    if request.exp is not None and request.labelnum is not None:
        return folder, labelnum, ()
    others = [run for run in _runs_of(dataset, output_root, request) if run.folder != folder]
    if stage_names(folder):
        return folder, labelnum, _others_note(folder, others)
    others = [run for run in others if _is_of(dataset, run.folder, request.method)]
    if len(others) > 1:
        listed = "; ".join(run.flags for run in others)
        raise UserError(
            f"{folder}: no such run, and there are {len(others)} others of {dataset.info.name}; "
            f"name one: {listed}"
        )
    if not others:
        return folder, labelnum, ()
    only = others[0]
    note = f"run {only.folder}: the only one of {dataset.info.name} below {folder.parent}"
    if only.labelnum is not None:
        labelnum = only.labelnum
    return only.folder, labelnum, (note,)


def stage_names(run: Path) -> list[str]:
    """The stages of a run that have checkpoints.

    self_train is first, pre-training last, the others lie between, the one that was written last
    first.
    """
    if not run.is_dir():
        return []
    folders: list[Path] = []
    for folder in run.iterdir():
        if MOVED_ASIDE.fullmatch(folder.name) or not folder.is_dir():
            continue
        if _checkpoints(folder):
            folders.append(folder)
    folders.sort(key=_stage_rank)
    return [folder.name for folder in folders]


def find_checkpoint(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Find the checkpoint that a run's folder, a stage's folder or a file stands for.

    Also returns what to print about the choice. Raises UserError if there is none, or if several
    may be meant.
    """
    if path.is_file():
        return path, ()
    if not path.is_dir():
        raise UserError(
            f"{path}: no such run; give a run's folder, a stage's folder or a checkpoint"
        )
    folder = path
    stages = stage_names(path)
    if stages and not (path / "last.pth").is_file():
        folder = path / stages[0]
    files = best_files(folder)
    if not files and (folder / "last.pth").is_file():
        raise UserError(
            f"{folder}: it has no best checkpoint; name {folder / 'last.pth'} itself to use the "
            f"last one"
        )
    if not files:
        raise UserError(
            f"{folder}: 0 files that may be a best checkpoint, expected one; name a checkpoint or "
            f"a stage's folder"
        )
    best = files[0]
    if len(files) > 1:
        best = _of_last(folder, files)
    return best, (f"{path}: {_choice_words(best, stages)}",)


def best_files(folder: Path) -> list[Path]:
    """The files of a stage that may be its best checkpoint.

    Those with such a name, or, if no file has one, all but last.pth and previous.pth.
    """
    files = [path for path in _checkpoints(folder) if path.name not in KEPT_TO_RESUME]
    named = [path for path in files if BEST_NAME.fullmatch(path.name)]
    return named or files


def network_in_name(path: Path) -> str | None:
    """The network in the name of a best checkpoint, such as VNet_best_model.pth."""
    name = path.name.removesuffix("_best_model.pth")
    if name in NETWORKS:
        return name
    return None


@dataclass(frozen=True)
class _Run:
    folder: Path
    exp: str
    labelnum: int | None

    @property
    def flags(self) -> str:
        """The flags that name this run."""
        if self.labelnum is None:
            return f"--exp {self.exp}"
        return f"--exp {self.exp} --labelnum {self.labelnum}"


def _runs_of(dataset: DatasetSpec, output_root: Path | None, request: RunRequest) -> list[_Run]:
    """The data set's runs with checkpoints, by the names of their folders.

    Only those with the requested exp and labelnum.
    """
    sample_exp = "EXPERIMENT"
    sample_labelnum = 987654321
    sample = dataset.folder(output_root, sample_exp, sample_labelnum)
    pattern = re.escape(sample.name)
    pattern = pattern.replace(sample_exp, "(?P<exp>.+)")
    pattern = pattern.replace(str(sample_labelnum), r"(?P<labelnum>\d+)")
    if not sample.parent.is_dir():
        return []
    runs: list[_Run] = []
    for folder in sorted(sample.parent.iterdir()):
        match = re.fullmatch(pattern, folder.name)
        if match is None or MOVED_ASIDE.fullmatch(folder.name):
            continue
        groups = match.groupdict()
        labelnum = None
        if "labelnum" in groups:
            labelnum = int(groups["labelnum"])
        run = _Run(folder, exp=groups.get("exp", ""), labelnum=labelnum)
        if request.exp is not None and run.exp != request.exp:
            continue
        if None not in (request.labelnum, labelnum) and labelnum != request.labelnum:
            continue
        if stage_names(folder):
            runs.append(run)
    return runs


def _is_of(dataset: DatasetSpec, run: Path, method: str | None) -> bool:
    """Whether a run is of the data set, and of the method, if one is named.

    The name of one data set may begin with that of another. A published or damaged file does not
    record its data set, and counts.
    """
    folder = run / stage_names(run)[0]
    try:
        checkpoint = read(_checkpoints(folder)[0])
    except UserError:
        return True
    if not checkpoint.ours:
        return True
    if method not in (None, checkpoint.settings.get("method")):
        return False
    return checkpoint.info.get("name") == dataset.info.name


def _best_of_dataset(
    dataset: DatasetSpec, run: Path, stage: str, labelnum: int, request: RunRequest
) -> tuple[Path, tuple[str, ...]]:
    """The best checkpoint of a stage, and what to print about the choice.

    It has one of the names that the data set gives it, and need not exist.
    """
    usual_model = usual_value(dataset, "model")
    if request.model is not None:
        return dataset.best(run, stage, request.model, labelnum), ()
    expected = dataset.best(run, stage, usual_model, labelnum)
    named = [dataset.best(run, stage, model, labelnum) for model in (usual_model, *NETWORKS)]
    files = [path for path in dict.fromkeys(named) if path.is_file()]
    if not files and request.labelnum is None:
        files = best_files(run / stage)
    if not files:
        return expected, ()
    if len(files) == 1:
        return files[0], ()
    best = _of_last(run / stage, files, expected)
    return best, (f"{run / stage}: {_choice_words(best, ())}",)


def _of_last(folder: Path, files: Sequence[Path], expected: Path | None = None) -> Path:
    """Of several best checkpoints the one of the network in last.pth, otherwise `expected`.

    Raises UserError if neither is among them.
    """
    last = folder / "last.pth"
    if last.is_file():
        name = f"{read(last).settings.get('model')}_best_model.pth"
        for path in files:
            if path.name == name:
                return path
    if expected is not None and expected in files:
        return expected
    listed = ", ".join(path.name for path in files)
    raise UserError(
        f"{folder}: {len(files)} files that may be a best checkpoint ({listed}), expected one; "
        f"name a checkpoint or a stage's folder"
    )


def _checkpoints(folder: Path) -> list[Path]:
    files = [path for path in folder.glob("*.pth") if path.is_file() and path.name[0] != "."]
    return sorted(files)


def _stage_rank(folder: Path) -> tuple[int, float, str]:
    """Sort key of a stage's folder."""
    newest = max(path.stat().st_mtime for path in _checkpoints(folder))
    rank = 1
    if folder.name == FINAL:
        rank = 0
    elif folder.name in PRE_TRAINING:
        rank = 2
    return rank, -newest, folder.name


def _stage_note(run: Path, stages: Sequence[str]) -> tuple[str, ...]:
    """What to print if the first of the stages is taken."""
    stage, *others = stages
    if stage == FINAL:
        return ()
    note = f"stage {stage}: {run} has no {FINAL}"
    if others:
        note += f"; --stage_name names another: {', '.join(others)}"
    return (note,)


def _others_note(folder: Path, others: Sequence[_Run]) -> tuple[str, ...]:
    if not others:
        return ()
    listed = "; ".join(run.flags for run in others)
    return (f"run {folder}; there are others: {listed}",)


def _choice_words(best: Path, stages: Sequence[str]) -> str:
    words = f"taking {best.parent.name}/{best.name}"
    if len(stages) < 2:
        return words
    return f"{words} of the stages {', '.join(stages)}"
