"""Time several ways to compute the same thing, in turn, so that ratios hold on a busy machine."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def time_in_turn(
    ways: Mapping[str, Callable[[], object]],
    runs: int,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, list[float]]:
    """Return the seconds of all runs of each way; by default processor time of this thread."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, compute in ways.items():
            start = clock()
            compute()
            seconds[name].append(clock() - start)
    return seconds


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the ratios of neighbouring runs."""
    pairs = zip(numerators, denominators, strict=True)
    return statistics.median(numerator / denominator for numerator, denominator in pairs)
