"""Work that threads do ahead of the thread that uses it."""

import threading

import pytest

from utils.messages import message, received_by
from utils.pipeline import ahead, worker


class Lines:
    """Keeps messages."""

    shows_progress = False

    def __init__(self) -> None:
        self.texts = []

    def receive(self, text, is_error, over_bars):
        self.texts.append(text)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_results_come_in_the_order_of_items(count):
    with worker("test") as preparer:
        results = [
            future.result() for _, future in ahead(preparer, lambda x: x * x, range(5), count)
        ]
    assert results == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_worker_is_never_more_items_ahead_than_allowed(count):
    begun = []
    with worker("test") as preparer:
        for item, future in ahead(preparer, begun.append, range(10), count):
            future.result()
            assert len(begun) <= item + 1 + count


def test_the_worker_prepares_the_next_item_while_one_is_used():
    second = threading.Event()
    with worker("test") as preparer:
        results = ahead(preparer, lambda item: item == 1 and second.set(), range(2), 1)
        next(results)
        assert second.wait(10)


def test_an_error_belongs_to_its_item_and_the_next_items_follow():
    def job(item):
        return 1 // item

    faults = []
    with worker("test") as preparer:
        for item, future in ahead(preparer, job, [2, 0, 1], 1):
            if future.exception() is not None:
                faults.append(item)
    assert faults == [0]


def test_jobs_that_have_not_begun_are_dropped_when_the_block_is_left_by_an_error():
    release = threading.Event()
    done = []

    def job(item):
        release.wait(10)
        done.append(item)

    with pytest.raises(KeyboardInterrupt), worker("test") as preparer:
        preparer.submit(job, "running")
        preparer.submit(job, "waiting")
        threading.Timer(0.05, release.set).start()
        raise KeyboardInterrupt
    assert done in (["running"], [])


def test_messages_of_a_job_have_the_receiver_of_its_caller():
    lines = Lines()
    with received_by(lines), worker("test") as preparer:
        preparer.submit(message, "from the thread").result()
    assert lines.texts == ["from the thread"]
