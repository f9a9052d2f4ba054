"""The page of a leaderboard."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reporting import leaderboard_text as text
from reporting.html_page import write_page
from reporting.leaderboard_table import TEST, Leaderboard, LeaderboardTable
from reporting.plots import Intervals, Plot, plot_intervals
from reporting.scores import PairedDifference
from reporting.words import counted


@dataclass(frozen=True)
class ShownTable:
    """The texts of a table on the page, and its plot; None if there is only one method."""

    caption: str
    tested: str
    head: Sequence[str]
    cells: Sequence[Sequence[str]]
    first_to_second: str
    trained: str
    plot: Plot | None


def write_leaderboard(path: Path, board: Leaderboard) -> None:
    """Write the page of a leaderboard."""
    datasets = sorted({table.dataset for table in board.tables})
    methods = {row.method for table in board.tables for row in table.rows}
    shown = {
        "title": f"Leaderboard: {', '.join(datasets)}",
        "subtitle": f"{counted(len(methods), 'method')}, {counted(len(board.tables), 'table')}",
        "bootstrap": board.bootstrap,
        "test": TEST,
        "options": board.options,
        "commits": board.commits,
        "missing": board.missing,
        "notes": board.notes,
        "tables": [_table(table) for table in board.tables],
    }
    write_page(path, shown, template="leaderboard.html")


def _table(table: LeaderboardTable) -> ShownTable:
    return ShownTable(
        caption=text.caption(table),
        tested=text.tested(table),
        head=text.head(table),
        cells=[text.cells(table, row) for row in table.rows],
        first_to_second=text.first_to_second(table),
        trained=text.trained(table),
        plot=_plot(table),
    )


def _plot(table: LeaderboardTable) -> Plot | None:
    """Draw the differences to the baseline, a row for each method; None if there is no other."""
    titles: list[str] = []
    differences: list[PairedDifference] = []
    baseline = ""
    for row in table.rows:
        if row.difference is None:
            baseline = row.title
        else:
            titles.append(row.title)
            differences.append(row.difference)
    if not differences:
        return None
    intervals = Intervals(0, baseline, differences=differences)
    return plot_intervals(
        "Dice (higher is better)",
        titles,
        groups=[intervals],
        reference=baseline,
    )
