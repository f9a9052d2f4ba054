"""The folder of a run.

One writer holds it. Unfinished files of ended writers are removed, and --fresh moves an earlier run
aside.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from commands.config_file import NAME as CONFIG_FILE
from commands.runs import stage_names
from datasets.base import DatasetSpec
from datasets.resolve import default_exp
from methods.base import StageSpec
from methods.registry import METHODS
from training.checkpoint import read
from training.config import AnyConfig, ExperimentOptions
from training.distributed import from_main, is_main, largest_of_processes
from utils.errors import UserError, writing
from utils.files import remove_unfinished
from utils.lock import HOLDER, NAME, only_writer
from utils.messages import message

PATIENCE = 30.0  # seconds
OTHER = "give another --exp or --output_root"


@contextmanager
def claimed(folder: Path, aside: Sequence[Path]) -> Iterator[None]:
    """Hold the run's folder.

    `aside`: the folder itself or some of its stages, which are moved away first. In a distributed
    run the main process does this. Raises UserError, in every process, if another process holds
    the folder, or if a folder to be moved is no run.
    """
    with ExitStack() as stack:
        fault = ""
        if is_main():
            try:
                _claim(folder, aside, stack=stack)
            except UserError as error:
                fault = str(error)
        fault = from_main(fault)
        if fault:
            raise UserError(fault)
        # every process reads the checkpoints that the main process writes
        if largest_of_processes(not _appears(folder / HOLDER)):
            raise UserError(
                f"{folder}: a process on another machine does not see it; "
                f"give an --output_root that all machines share"
            )
        yield


def _claim(folder: Path, aside: Sequence[Path], stack: ExitStack) -> None:
    """Move folders aside and take the folder's lock, which the stack releases."""
    if folder in aside and folder.exists():
        with only_writer(folder, OTHER):
            pass
        move_aside(folder)
    stack.enter_context(only_writer(folder, OTHER))
    for stage in aside:
        if stage != folder:
            move_aside(stage)
    remove_unfinished(folder)


def _appears(path: Path) -> bool:
    """Return whether a file that was just written exists.

    Network file systems may take a while to show it to other machines.
    """
    until = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def move_aside(folder: Path) -> None:
    """Rename the folder of a run or of a stage, so that nothing is lost.

    Raises UserError for a folder that holds something else.
    """
    if not folder.exists() or {path.name for path in folder.iterdir()} <= {NAME, HOLDER}:
        return
    if not is_run(folder):
        raise UserError(
            f"--fresh: {folder} holds no run, so it is not moved; move it by hand or {OTHER}"
        )
    aside = rename_aside(folder, "move it by hand or use another --exp")
    message(f"the earlier run is now {aside}")


def rename_aside(folder: Path, remedy: str) -> Path:
    """Add the time to the folder's name and return its new path; UserError with the remedy on
    failure.
    """
    aside = _free_name(folder)
    with writing(aside, remedy):
        folder.rename(aside)
    return aside


def _free_name(folder: Path) -> Path:
    """Return the folder's name with the time, and with a number if that name exists."""
    name = f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}"
    aside = folder.with_name(name)
    number = 2
    while aside.exists():
        aside = folder.with_name(f"{name}-{number}")
        number += 1
    return aside


def with_earlier_name(dataset: DatasetSpec, config: AnyConfig) -> AnyConfig:
    """Return the configuration under the name that the run began with.

    Methods that name no `exp` in their presets once shared the data set's. Only a run that the same
    method began there, and that does not exist under the name of today, keeps the earlier one.
    """
    chosen = config.experiment
    earlier = dataset.defaults.get("exp", ExperimentOptions.exp)
    if chosen.exp == earlier or chosen.exp != default_exp(dataset, chosen.method):
        return config
    if "exp" in METHODS[chosen.method].presets:
        return config
    now = dataset.folder(chosen.output_root, chosen.exp, chosen.labelnum)
    before = dataset.folder(chosen.output_root, earlier, chosen.labelnum)
    if stage_names(now):
        return config
    methods = {_method_of(before / stage) for stage in stage_names(before)}
    if chosen.method not in methods:
        return config
    if is_main():
        message(f"--exp {earlier}: {before} holds a run of --method {chosen.method} already")
    return with_exp(config, earlier)


def with_exp(config: AnyConfig, exp: str) -> AnyConfig:
    """Return the configuration under another name."""
    return replace(config, experiment=replace(config.experiment, exp=exp))


def _method_of(stage: Path) -> str | None:
    """The method that trained a stage; None for a published file, and for one that cannot be read,
    which others report.
    """
    try:
        return read(stage / "last.pth").settings.get("method")
    except UserError:
        return None


def check_other_methods(run: Path, method: str, specs: Sequence[StageSpec]) -> None:
    """Raise UserError where the folder holds stages of another method that this run neither
    continues nor starts from: a test could not tell which of the two runs is meant.
    """
    mine = {spec.name for spec in specs} | {spec.starts_from for spec in specs}
    for stage in stage_names(run):
        if stage in mine:
            continue
        other = _method_of(run / stage)
        if other not in (None, method):
            raise UserError(
                f"{run}: its stage {stage} is of a run of --method {other}, not {method}; "
                f"{OTHER}, or --fresh to move it aside"
            )


def is_run(folder: Path) -> bool:
    """Whether a run or a stage of one wrote to the folder."""
    return (
        (folder / "train.log").is_file()
        or (folder / CONFIG_FILE).is_file()
        or (folder / "log").is_dir()
        or any(folder.glob("*.pth"))
        or any(folder.glob("*/*.pth"))
    )
