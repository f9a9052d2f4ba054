"""The folder of a run: held by one writer, swept of what killed ones left, an earlier run moved aside where --fresh says so."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from commands.runs import stage_names
from datasets.base import DatasetSpec
from datasets.run_settings import default_exp
from methods.base import StageSpec
from methods.registry import METHODS
from training.checkpoint import read
from training.distributed import any_process, from_main, is_main
from training.settings import Settings
from utils.errors import UserError, writing
from utils.files import remove_unfinished
from utils.lock import HOLDER, NAME, only_writer
from utils.messages import message

PATIENCE = 30.0  # seconds
OTHER = "give another --exp or --output_root"


@contextmanager
def claimed(folder: Path, aside: Sequence[Path]) -> Iterator[None]:
    """Hold the run's folder; `aside`: it or some of its stages, which are moved away first. UserError where another process holds it,
    and where something is to be moved that is no run. Of a distributed run the main process does it, and all hear of a fault."""
    with ExitStack() as stack:
        fault = ""
        if is_main():
            try:
                if folder in aside and folder.exists():
                    with only_writer(folder, OTHER):
                        pass
                    move_aside(folder)
                stack.enter_context(only_writer(folder, OTHER))
                for stage in aside:
                    if stage != folder:
                        move_aside(stage)
                remove_unfinished(folder)
            except UserError as error:
                fault = str(error)
        if fault := from_main(fault):
            raise UserError(fault)
        if any_process(
            not _appears(folder / HOLDER)
        ):  # each reads the checkpoints that the main process writes
            raise UserError(
                f"{folder}: a process on another machine does not see it; give an --output_root that all machines share"
            )
        yield


def _appears(path: Path) -> bool:
    """Whether a file that was just written is there; network file systems may take a while to show it to other machines."""
    until = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def move_aside(folder: Path) -> None:
    """Rename a run's folder, or a stage's, so that nothing is lost; UserError for one that holds something else."""
    if not folder.exists() or {path.name for path in folder.iterdir()} <= {NAME, HOLDER}:
        return
    if not is_run(folder):
        raise UserError(
            f"--fresh: {folder} holds no run, so it is left alone; move it by hand or {OTHER}"
        )
    aside = rename_aside(folder, "move it by hand or use another --exp")
    message(f"the earlier run is now {aside}")


def rename_aside(folder: Path, remedy: str) -> Path:
    """Give the folder a name with the time at its end and return it; UserError with the remedy where that fails."""
    aside = _free_name(folder)
    with writing(aside, remedy):
        folder.rename(aside)
    return aside


def _free_name(folder: Path) -> Path:
    """The folder's name with the time, and a number where a run was moved aside in the same second."""
    name = f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}"
    aside = folder.with_name(name)
    number = 2
    while aside.exists():
        aside = folder.with_name(f"{name}-{number}")
        number += 1
    return aside


def with_earlier_name(dataset: DatasetSpec, settings: Settings) -> Settings:
    """The settings under the name that the run began with.

    Methods that name no `exp` in their presets once shared the data set's. Only a run that the same method began there, and that does
    not exist under the name of today, keeps the earlier one.
    """
    earlier = replace(settings, exp=dataset.numbers.get("exp", Settings.exp))
    if settings.exp == earlier.exp or settings.exp != default_exp(dataset, settings.method):
        return settings
    if "exp" in METHODS[settings.method].presets:
        return settings
    now = dataset.folder(settings.output_root, settings.exp, settings.labelnum)
    before = dataset.folder(settings.output_root, earlier.exp, settings.labelnum)
    if stage_names(now):
        return settings
    methods = {_method_of(before / stage) for stage in stage_names(before)}
    if settings.method not in methods:
        return settings
    if is_main():
        message(f"--exp {earlier.exp}: {before} holds a run of --method {settings.method} already")
    return earlier


def _method_of(stage: Path) -> str | None:
    """The method that trained a stage; None for a published file, and for one that cannot be read, which others report."""
    try:
        return read(stage / "last.pth").settings.get("method")
    except UserError:
        return None


def check_other_methods(run: Path, method: str, plans: Sequence[StageSpec]) -> None:
    """Raise UserError where the folder holds stages of another method that this run neither continues nor starts from: a test could
    not tell which of the two runs is meant."""
    mine = {spec.name for spec in plans} | {spec.starts_from for spec in plans}
    for stage in stage_names(run):
        if stage in mine:
            continue
        other = _method_of(run / stage)
        if other not in (None, method):
            raise UserError(
                f"{run}: its stage {stage} is of a run of --method {other}, not {method}; {OTHER}, or --fresh to move it aside"
            )


def is_run(folder: Path) -> bool:
    """Whether a run or a stage of one wrote to the folder."""
    return (
        (folder / "train.log").is_file()
        or (folder / "log").is_dir()
        or any(folder.glob("*.pth"))
        or any(folder.glob("*/*.pth"))
    )
