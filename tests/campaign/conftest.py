"""The campaign's table: what was tried, what survived, what was lost."""

import os
from collections import Counter

import pytest

SEED = int(os.environ.get("CAMPAIGN_SEED", "0"))
SHARE = float(os.environ.get("CAMPAIGN_SHARE", "1"))  # of the full numbers, for a quick look
tried: Counter = Counter()
lost: dict[str, list[str]] = {}


class Tally:
    """One row of the table."""

    def __init__(self, row: str):
        self.row = row
        lost.setdefault(row, [])

    def note(self, survived: bool, what: str) -> None:
        tried[self.row] += 1
        if not survived:
            lost[self.row].append(what)


@pytest.fixture
def tally(request):
    """The row of a test; the test fails where anything was lost."""
    row = Tally(request.node.name.removeprefix("test_").replace("_", " "))
    yield row
    assert not lost[row.row], "\n".join(lost[row.row][:5])


@pytest.fixture
def number():
    """As many as this share of the full campaign has, one at least."""
    return lambda full: max(1, round(full * SHARE))


def pytest_terminal_summary(terminalreporter):
    if tried:
        terminalreporter.write_line(f"\n{'campaign':<64}{'tried':>7}{'survived':>10}{'lost':>6}   (seed {SEED}, share {SHARE:g})")
        for row, count in tried.items():
            terminalreporter.write_line(f"{row:<64}{count:>7}{count - len(lost[row]):>10}{len(lost[row]):>6}")
