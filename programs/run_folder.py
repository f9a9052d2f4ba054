"""The folder of a run: held by one writer, swept of what killed ones left, an earlier run moved aside where --fresh says so."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from training.distributed import any_process, from_main, is_main
from utils.errors import UserError, writing
from utils.files import remove_unfinished
from utils.lock import HOLDER, NAME, only_writer

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
    aside = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
    with writing(aside, "move it by hand or use another --exp"):
        folder.rename(aside)
    print(f"the earlier run is now {aside}")


def is_run(folder: Path) -> bool:
    """Whether a run or a stage of one wrote to the folder."""
    return (
        (folder / "train.log").is_file()
        or (folder / "log").is_dir()
        or any(folder.glob("*.pth"))
        or any(folder.glob("*/*.pth"))
    )
