"""Checkpoints written while training goes on."""

import copy
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from training.checkpoint import Store
from utils.errors import UserError


def snapshot(content: Any) -> Any:
    """A copy of dicts, lists and tensors that what happens to the originals does not reach; tensors go to the CPU."""
    if isinstance(content, Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        kept = copy.copy(content)  # a state dict is an OrderedDict with versions of its own
        for key, value in content.items():
            kept[key] = snapshot(value)
        return kept
    if isinstance(content, list | tuple):
        return type(content)(map(snapshot, content))
    return content


class Saver:
    """Writes a stage's checkpoints in a thread, one at a time: the next save waits for the one before it.

    Where one could not be written, the UserError comes from the next call of any method but `close`.
    """

    def __init__(self, store: Store):
        self.store = store
        self._thread = ThreadPoolExecutor(1, "saving")
        self._writing: Future | None = None

    def save(self, content: dict, best: bool) -> None:
        """Begin to write; `content` may change as soon as this returns. UserError where the folder has vanished: one made anew would not
        be locked, and hold the end of a run without its beginning."""
        if not self.store.folder.is_dir():
            where = f"{self.store.folder}: gone, moved or deleted while the run was going on"
            raise UserError(
                f"{where}; put it back and start the same command again, or that begins anew"
            )
        self.wait()
        self._writing = self._thread.submit(self.store.save, snapshot(content), best)

    def check(self) -> None:
        """Raise what has gone wrong so far, without waiting."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return when everything is on disk."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait, whatever has gone wrong."""
        self._thread.shutdown()
