"""Which run, stage and checkpoint a command means where its flags leave a choice.

Rules, in this order; every choice that the flags left open becomes a line that the program prints.

- Run: `--exp` and `--labelnum` as given; otherwise the name that training gives a run of `--method`, or the published name of the
  data set (`BCP`, `cutmix`, `CoGRNet`), if it is there; otherwise the only run of that data set (and method). Several are an error
  that lists them.
- Stage: `--stage_name`; otherwise self_train; otherwise the stage that was written last, pre-training only if there is no other.
- Network: `--model`; otherwise the only best checkpoint of the stage; of several the one of the network that `last.pth` holds,
  otherwise the published one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.base import DatasetSpec
from datasets.run_settings import default_exp
from networks.registry import NETWORKS
from training.checkpoint import read
from training.settings import Settings
from utils.errors import UserError

FINAL = "self_train"
PRE_TRAINING = ("pre_train", "pretrain")
KEPT_TO_RESUME = ("last.pth", "previous.pth")
MOVED_ASIDE = re.compile(r".+\.\d{8}-\d{6}(-\d+)?")
BEST_NAME = re.compile(r".+_best_model\.pth|best_.+(?<!_latest)\.pth")


@dataclass(frozen=True)
class Choice:
    """What a command means: `run`, the run's folder; `stage`, its stage's name; `best`, the best checkpoint, which need not exist;
    `notes`, a line for each choice that the flags left open."""

    run: Path
    stage: str
    best: Path
    notes: tuple[str, ...] = ()

    @property
    def last(self) -> Path:
        return self.run / self.stage / "last.pth"


@dataclass(frozen=True)
class Wanted:
    """What the flags name; None where they do not."""

    exp: str | None = None
    labelnum: int | None = None
    stage: str | None = None
    model: str | None = None
    method: str | None = None


def usual(dataset: DatasetSpec, name: str):
    """What a test of the data set uses for exp, labelnum or model where no flag names it."""
    for numbers in (dataset.test_numbers, dataset.numbers):
        if name in numbers:
            return numbers[name]
    return getattr(Settings, name)


def choose(dataset: DatasetSpec, output_root: Path | None, wanted: Wanted) -> Choice:
    """The run, stage and checkpoint of a data set that the flags mean; UserError where they leave several runs or networks."""
    run, labelnum, notes = find_run(dataset, output_root, wanted)
    choice = choose_in(dataset, run, labelnum, wanted)
    return Choice(choice.run, choice.stage, choice.best, (*notes, *choice.notes))


def choose_in(dataset: DatasetSpec, run: Path, labelnum: int, wanted: Wanted) -> Choice:
    """The stage and checkpoint of the run in that folder."""
    stages = stage_names(run)
    stage = wanted.stage or (stages[0] if stages else FINAL)
    notes = _stage_note(run, stage, stages) if wanted.stage is None else ()
    if dataset.published_pretraining and stage in PRE_TRAINING:
        stage = PRE_TRAINING[0]  # the published file lies in a folder of another name
    best, more = _best_of_dataset(dataset, run, stage, labelnum, wanted)
    return Choice(run, stage, best, (*notes, *more))


def find_run(
    dataset: DatasetSpec, output_root: Path | None, wanted: Wanted
) -> tuple[Path, int, tuple[str, ...]]:
    """The folder of the run, its number of labelled cases, and what to print about the choice."""
    exp = wanted.exp
    if exp is None and wanted.method is not None:
        exp = default_exp(dataset, wanted.method)
    elif exp is None:
        exp = usual(dataset, "exp")
    labelnum = wanted.labelnum
    if labelnum is None:
        labelnum = usual(dataset, "labelnum")
    folder = dataset.folder(output_root, exp, labelnum)
    if wanted.exp is not None and wanted.labelnum is not None:
        return folder, labelnum, ()
    others = _runs_of(dataset, output_root, wanted)
    others = [one for one in others if one.folder != folder]
    if stage_names(folder):
        return folder, labelnum, _others_note(folder, others)
    others = [one for one in others if _is_of(dataset, one.folder, wanted.method)]
    if len(others) == 1:
        only = others[0]
        note = f"run {only.folder}: the only one of {dataset.info.name} below {folder.parent}"
        return only.folder, labelnum if only.labelnum is None else only.labelnum, (note,)
    if others:
        listed = "; ".join(one.flags for one in others)
        raise UserError(
            f"{folder}: no such run, and there are {len(others)} others of {dataset.info.name}; name one: {listed}"
        )
    return folder, labelnum, ()


def stage_names(run: Path) -> list[str]:
    """The stages of a run that have checkpoints: self_train first, then from the one written last, pre-training at the end."""
    if not run.is_dir():
        return []
    folders = [
        folder
        for folder in run.iterdir()
        if folder.is_dir() and not MOVED_ASIDE.fullmatch(folder.name) and _checkpoints(folder)
    ]
    folders.sort(key=_standing)
    return [folder.name for folder in folders]


def find_checkpoint(place: Path) -> tuple[Path, tuple[str, ...]]:
    """The checkpoint that a run's folder, a stage's folder or a file stands for, and what to print about the choice.

    Raises UserError where there is none, or several that may be meant.
    """
    if place.is_file():
        return place, ()
    if not place.is_dir():
        raise UserError(
            f"{place}: no such run; give a run's folder, a stage's folder or a checkpoint"
        )
    folder = place
    stages = stage_names(place)
    if stages and not (place / "last.pth").is_file():
        folder = place / stages[0]
    files = best_files(folder)
    if not files and (folder / "last.pth").is_file():
        raise UserError(
            f"{folder}: it has no best checkpoint; name {folder / 'last.pth'} itself to use the last one"
        )
    if not files:
        raise UserError(
            f"{folder}: 0 files that may be a best checkpoint, expected one; name a checkpoint or a stage's folder"
        )
    best = files[0]
    if len(files) > 1:
        best = _of_last(folder, files)
    return best, (f"{place}: {_chosen_words(best, stages)}",)


def best_files(folder: Path) -> list[Path]:
    """The files of a stage that may be its best checkpoint: those with the name of one, or, without any such name, all but last.pth
    and previous.pth."""
    files = [path for path in _checkpoints(folder) if path.name not in KEPT_TO_RESUME]
    named = [path for path in files if BEST_NAME.fullmatch(path.name)]
    return named or files


def network_in_name(path: Path) -> str | None:
    """The network that a best checkpoint's name tells, as in VNet_best_model.pth."""
    name = path.name.removesuffix("_best_model.pth")
    return name if name in NETWORKS else None


@dataclass(frozen=True)
class _FoundRun:
    folder: Path
    exp: str
    labelnum: int | None

    @property
    def flags(self) -> str:
        labelnum = "" if self.labelnum is None else f" --labelnum {self.labelnum}"
        return f"--exp {self.exp}{labelnum}"


def _runs_of(dataset: DatasetSpec, output_root: Path | None, wanted: Wanted) -> list[_FoundRun]:
    """The folders named as runs of the data set are, with the given exp and labelnum, that have checkpoints."""
    sample_exp = "EXPERIMENT"
    sample_labelnum = 987654321
    sample = dataset.folder(output_root, sample_exp, sample_labelnum)
    pattern = re.escape(sample.name)
    pattern = pattern.replace(sample_exp, "(?P<exp>.+)")
    pattern = pattern.replace(str(sample_labelnum), r"(?P<labelnum>\d+)")
    if not sample.parent.is_dir():
        return []
    found = []
    for folder in sorted(sample.parent.iterdir()):
        match = re.fullmatch(pattern, folder.name)
        if match is None or MOVED_ASIDE.fullmatch(folder.name):
            continue
        groups = match.groupdict()
        labelnum = int(groups["labelnum"]) if "labelnum" in groups else None
        one = _FoundRun(folder, groups.get("exp", ""), labelnum)
        if wanted.exp is not None and one.exp != wanted.exp:
            continue
        if None not in (wanted.labelnum, labelnum) and labelnum != wanted.labelnum:
            continue
        if stage_names(folder):
            found.append(one)
    return found


def _is_of(dataset: DatasetSpec, run: Path, method: str | None) -> bool:
    """Whether a run is of the data set, whose name may begin as another's, and of the method, if one is named.

    A published or damaged file does not tell, and counts.
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
    dataset: DatasetSpec, run: Path, stage: str, labelnum: int, wanted: Wanted
) -> tuple[Path, tuple[str, ...]]:
    """The best checkpoint of a stage under one of the names that the page gives it, and what to print; it need not exist."""
    usual_model = usual(dataset, "model")
    if wanted.model is not None:
        return dataset.best(run, stage, wanted.model, labelnum), ()
    expected = dataset.best(run, stage, usual_model, labelnum)
    named = [dataset.best(run, stage, model, labelnum) for model in (usual_model, *NETWORKS)]
    files = [path for path in dict.fromkeys(named) if path.is_file()]
    if not files and wanted.labelnum is None:
        files = best_files(run / stage)
    if not files:
        return expected, ()
    if len(files) == 1:
        return files[0], ()
    best = _of_last(run / stage, files, expected)
    return best, (f"{run / stage}: {_chosen_words(best, ())}",)


def _of_last(folder: Path, files: Sequence[Path], expected: Path | None = None) -> Path:
    """Of several best checkpoints the one of the network in last.pth, otherwise `expected`; UserError where neither is among them."""
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
        f"{folder}: {len(files)} files that may be a best checkpoint ({listed}), expected one; name a checkpoint or a stage's folder"
    )


def _checkpoints(folder: Path) -> list[Path]:
    files = [path for path in folder.glob("*.pth") if path.is_file() and path.name[0] != "."]
    return sorted(files)


def _standing(folder: Path) -> tuple[int, float, str]:
    """What stages are sorted by."""
    newest = max(path.stat().st_mtime for path in _checkpoints(folder))
    if folder.name == FINAL:
        place = 0
    elif folder.name in PRE_TRAINING:
        place = 2
    else:
        place = 1
    return place, -newest, folder.name


def _stage_note(run: Path, stage: str, stages: Sequence[str]) -> tuple[str, ...]:
    if not stages or stage == FINAL:
        return ()
    others = [name for name in stages if name != stage]
    more = f"; --stage_name names another: {', '.join(others)}" if others else ""
    return (f"stage {stage}: {run} has no {FINAL}{more}",)


def _others_note(folder: Path, others: Sequence[_FoundRun]) -> tuple[str, ...]:
    if not others:
        return ()
    listed = "; ".join(one.flags for one in others)
    return (f"run {folder}; there are others: {listed}",)


def _chosen_words(best: Path, stages: Sequence[str]) -> str:
    if len(stages) < 2:
        return f"taking {best.parent.name}/{best.name}"
    return f"taking {best.parent.name}/{best.name} of the stages {', '.join(stages)}"
