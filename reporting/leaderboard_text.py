"""A leaderboard as Markdown tables and as lines for the terminal."""

from reporting.leaderboard_table import Leaderboard, LeaderboardRow, LeaderboardTable
from reporting.record import SELECTIONS
from reporting.scores import MetricSummary
from reporting.words import counted


def markdown(board: Leaderboard) -> str:
    """Return all tables as Markdown, the names of cells without a result, and the notes."""
    parts: list[str] = []
    for table in board.tables:
        parts.append(f"### {caption(table)}\n")
        parts.append("\n".join(markdown_table(table)) + "\n")
        parts.append(first_to_second(table) + "\n")
        parts.append(trained(table) + "\n")
    if board.missing:
        parts.append(f"Missing runs: {', '.join(board.missing)}.\n")
    for note in board.notes:
        parts.append(f"{note}\n")
    return "\n".join(parts)


def caption(table: LeaderboardTable) -> str:
    """Return data set, labels, folds and selection of a table in words."""
    parts = [table.dataset, f"{table.labelnum} labelled"]
    if table.folds:
        parts.append(f"{table.folds} folds")
    parts.append(SELECTIONS[table.selection])
    return ", ".join(parts)


def tested(table: LeaderboardTable) -> str:
    """Return how many patients and cases were tested, and where they are listed."""
    place = table.split
    if table.folds:
        place = counted(table.folds, "fold")
    return f"{counted(table.patients, 'patient')}, {counted(table.cases, 'case')} of {place}."


def trained(table: LeaderboardTable) -> str:
    """Return how many iterations each method was trained for, as in "600 + 1200"."""
    lengths: dict[str, list[str]] = {}
    for row in table.rows:
        length = " + ".join(str(count) for count in row.iterations)
        lengths.setdefault(length, []).append(row.title)
    parts = [f"{length} ({', '.join(titles)})" for length, titles in lengths.items()]
    return f"Iterations of training: {'; '.join(parts)}."


def head(table: LeaderboardTable) -> list[str]:
    """Return the titles of a table's columns. The first metric is Dice."""
    dice, *others = table.metrics
    titles = ["method", "seeds", dice.title]
    titles += ["difference (95 % interval)", "p (Holm)", "rank (95 %)"]
    titles += [metric.title for metric in others]
    if _has_costs(table):
        titles += ["step time", "passes", "memory"]
    return titles


def cells(table: LeaderboardTable, row: LeaderboardRow) -> list[str]:
    """Return the texts of a row, in the order of `head`."""
    scores = [score(row.scores[metric.key], metric.digits) for metric in table.metrics]
    dice, *others = scores
    texts = [row.title, str(len(row.seeds)), dice]
    texts += [difference(row), p_holm(row), rank(row), *others]
    if _has_costs(table):
        for name in ("time", "passes", "memory"):
            texts.append(_number(row.cost.get(name)))
    return texts


def markdown_table(table: LeaderboardTable) -> list[str]:
    """Return the lines of a table in Markdown."""
    titles = head(table)
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row in table.rows:
        lines.append(f"| {' | '.join(cells(table, row))} |")
    return lines


def score(summary: MetricSummary, digits: int = 3) -> str:
    """Return mean and standard deviation over the seeds."""
    text = f"{summary.mean:.{digits}f}"
    if summary.sd is not None:
        text += f" ± {summary.sd:.{digits}f}"
    return text


def difference(row: LeaderboardRow) -> str:
    """Return the difference of a row to the baseline with its interval."""
    one = row.difference
    if one is None:
        return "baseline"
    return f"{one.difference:+.3f} ({one.low:+.3f} to {one.high:+.3f})"


def p_holm(row: LeaderboardRow) -> str:
    """Return the corrected p value of a row; empty for the baseline."""
    if row.p_holm is None:
        return ""
    if row.p_holm < 0.001:
        return "< 0.001"
    return f"{row.p_holm:.3f}"


def rank(row: LeaderboardRow) -> str:
    """Return the interval of a row's rank."""
    low = int(row.ranks.low)
    high = int(row.ranks.high)
    if low == high:
        return str(low)
    return f"{low} to {high}"


def first_to_second(table: LeaderboardTable) -> str:
    """Return how far the first method is ahead of the second, in a sentence."""
    one = table.first_to_second
    if one is None:
        return "Only one method."
    first = table.rows[0]
    second = table.rows[1]
    leader = f"{first.title[:1].upper()}{first.title[1:]}"
    return (
        f"{leader} is ahead of {second.title} by {one.difference:.3f} Dice (95 % interval "
        f"{one.low:+.3f} to {one.high:+.3f}); it is first in "
        f"{100 * first.ranks.first:.0f} % of the bootstrap draws."
    )


def lines(board: Leaderboard) -> list[str]:
    """Return the tables for a terminal: methods, Dice and differences."""
    texts: list[str] = []
    for table in board.tables:
        texts.append(f"{caption(table)}: penalised Dice, mean over the classes")
        for row in table.rows:
            dice = score(row.scores["dice"])
            texts.append(f"  {row.title:<40}{dice:<16}{difference(row)}")
    return texts


def _has_costs(table: LeaderboardTable) -> bool:
    return any(row.cost for row in table.rows)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}"
