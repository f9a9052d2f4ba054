"""Checkpoints written in a thread, while training continues."""

import copy
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from training.checkpoint import Store
from utils.errors import UserError


def snapshot(content: Any) -> Any:
    """Return a deep copy of dicts, lists and tensors, with the tensors on the CPU."""
    if isinstance(content, Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        # a state dict is an OrderedDict with versions of its own
        copied = copy.copy(cast(dict[Any, Any], content))
        for key, value in copied.items():
            copied[key] = snapshot(value)
        return copied
    if isinstance(content, list):
        return [snapshot(item) for item in cast(list[Any], content)]
    if isinstance(content, tuple):
        return tuple(snapshot(item) for item in cast(tuple[Any, ...], content))
    return content


class Saver:
    """Writes the checkpoints of a stage in a thread, one at a time.

    If one could not be written, the next call of any method except `close` raises the UserError.
    """

    def __init__(self, store: Store) -> None:
        """`store` has the files of the stage."""
        self.store = store
        self._thread = ThreadPoolExecutor(1, "saving")
        self._writing: Future[None] | None = None

    def save(self, content: dict[str, Any], best: bool, copies: Sequence[Path] = ()) -> None:
        """Start to write `content`, which may change as soon as this returns.

        `copies`: paths of further copies. Waits for the save before this one. Raises UserError if
        the folder has vanished: a new one would not be locked, and would hold the end of a run
        without its beginning.
        """
        if not self.store.folder.is_dir():
            raise UserError(
                f"{self.store.folder}: gone, moved or deleted during the run; put it back and start"
                " the same command again, otherwise the run starts from its beginning"
            )
        self.wait()
        self._writing = self._thread.submit(
            self.store.save, snapshot(content), best=best, copies=copies
        )

    def check(self) -> None:
        """Raise the error of a save that has failed, without waiting."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return when everything is on disk."""
        writing = self._writing
        self._writing = None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait for the last save, and ignore its error."""
        self._thread.shutdown()
