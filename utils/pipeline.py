"""Threads that work ahead of the thread that uses their results, or behind it."""

import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Worker:
    """A thread that does one job at a time, in the order in which they are submitted.

    Its messages have the receiver of the thread that submits the job.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        """`pool`: of one thread."""
        self._pool = pool

    def submit(self, job: Callable[[Item], Result], item: Item) -> Future[Result]:
        """Start `job(item)` when the jobs before it have ended.

        Its result, or the exception that it raises, is that of the returned future.
        """
        return self._pool.submit(contextvars.copy_context().run, job, item)


@contextmanager
def worker(name: str) -> Iterator[Worker]:
    """Yield a worker; the block ends when its job has ended.

    Jobs that have not begun by then are dropped.
    """
    pool = ThreadPoolExecutor(1, name)
    try:
        yield Worker(pool)
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(
    worker: Worker, job: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Let a worker do the job for each item, and yield item and future in the order of the items.

    While the caller uses one result, the worker is at most `count` items ahead of it. So there are
    never more than `count` results that wait.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, worker.submit(job, item)))
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
