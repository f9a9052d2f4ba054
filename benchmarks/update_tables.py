"""Write the tables and results of README.md and the guides from the records of the leaderboard.

    python benchmarks/update_tables.py

The records are in docs/results/leaderboard/TABLE/. A page has each table between the lines
`<!-- table TABLE SELECTION -->` and `<!-- end of table -->`. SELECTION is best, last, test_selected
or, for a table with fewer columns, short. A result of one method stands between
`<!-- result TABLE METHOD -->` and `<!-- end of result -->`. Prints the pages that have changed.
"""

import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.leaderboard import read_costs
from reporting import leaderboard_text as text
from reporting.leaderboard import leaderboard
from reporting.leaderboard_table import Bootstrap, LeaderboardTable
from reporting.record import read_records
from reporting.words import counted
from utils.cli import run
from utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
RECORDS = REPOSITORY / "docs" / "results" / "leaderboard"
PAGES = (
    REPOSITORY / "README.md",
    REPOSITORY / "docs" / "leaderboard.md",
    REPOSITORY / "docs" / "methods.md",
)
BEGIN = r"(?P<begin><!-- table (?P<table>\w+) (?P<selection>\w+) -->\n)"
END = r"(?P<end><!-- end of table -->)"
BLOCK = re.compile(f"{BEGIN}.*?{END}", flags=re.DOTALL)
RESULT = re.compile(
    r"(?P<begin><!-- result (?P<table>\w+) (?P<method>\w+) -->).*?(?P<end><!-- end of result -->)",
    flags=re.DOTALL,
)
SHORT = "short"
SHORT_DISTANCES = ("hd95_voxel", "hd95_mm")


@cache
def tables(name: str) -> dict[str, LeaderboardTable]:
    """Return the tables of a folder of records, by their selection."""
    costs = RECORDS / name / "costs" / "costs.json"
    board = leaderboard(
        read_records([RECORDS / name]),
        "bcp",
        Bootstrap(),
        costs=read_costs(costs if costs.is_file() else None),
    )
    return {table.selection: table for table in board.tables}


def block(name: str, selection: str) -> str:
    """Return the lines of a table. Raises UserError if there are no records of it."""
    of_name = tables(name)
    if selection == SHORT:
        return "\n".join(short_table(of_name["best"])) + "\n"
    if selection not in of_name:
        raise UserError(f"{RECORDS / name}: its records have no test of the selection {selection}")
    table = of_name[selection]
    return "\n".join(text.markdown_table(table)) + "\n\n" + text.first_to_second(table) + "\n"


def short_table(table: LeaderboardTable) -> list[str]:
    """Return a table with Dice and its difference to the baseline, HD95 and, where costs are known,
    the step time.
    """
    (distance,) = [metric for metric in table.metrics if metric.key in SHORT_DISTANCES]
    titles = ["method", "seeds", "Dice", "difference to BCP (95 % interval)", distance.title]
    has_times = all("time" in row.cost for row in table.rows)
    if has_times:
        titles.append("step time")
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row in table.rows:
        hd95 = row.scores[distance.key].mean
        cells = [row.title, str(len(row.seeds)), text.score(row.scores["dice"])]
        cells += [text.difference(row), f"{hd95:.{distance.digits}f}"]
        if has_times:
            cells.append(f"{row.cost['time']:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def result(name: str, method: str) -> str:
    """Return a sentence with the test Dice of a method. Raises UserError if it has no record."""
    rows = {row.method: row for row in tables(name)["best"].rows}
    if method not in rows:
        raise UserError(f"{RECORDS / name}: has no record of --method {method}")
    row = rows[method]
    sentence = f"{text.score(row.scores['dice'])} with {counted(len(row.seeds), 'seed')}"
    if row.difference is not None:
        sentence += f"; difference to BCP: {text.difference(row)}"
    return f"{sentence}."


def updated(page: str) -> str:
    """Return the text of a page with its tables and results written anew."""
    page = BLOCK.sub(
        lambda match: match["begin"] + block(match["table"], match["selection"]) + match["end"],
        page,
    )
    return RESULT.sub(
        lambda match: match["begin"] + result(match["table"], match["method"]) + match["end"],
        page,
    )


def main(argv: Sequence[str]) -> None:
    """Update all pages."""
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        after = updated(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    run(main)
