"""From the records of a benchmark to leaderboard.json, leaderboard.md and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from commands.bootstrap import check_bootstrap
from evaluation.results import write_json
from reporting import leaderboard_text as text
from reporting.leaderboard import complete_seeds, leaderboard
from reporting.leaderboard_page import write_leaderboard
from reporting.leaderboard_table import Bootstrap, Costs
from reporting.record import CellRecord, read_records
from utils.errors import UserError, writing
from utils.files import replacing
from utils.json_file import read_json
from utils.lock import only_writer
from utils.messages import message
from utils.names import printable

JSON_FILE = "leaderboard.json"
MARKDOWN_FILE = "leaderboard.md"
PAGE = "index.html"
REMEDY = "free space or name another folder with --output"


@dataclass(frozen=True)
class LeaderboardSettings:
    """Settings of leaderboard.py."""

    records: Positional[Annotated[tuple[Path, ...], arg(metavar="RECORDS [RECORDS ...]")]] = ()
    """Folders with records of a benchmark, or records."""
    output: Path = Path("leaderboard")
    """Folder for leaderboard.json, leaderboard.md and index.html."""
    baseline: str = "bcp"
    """Method that the others are compared with. If a table does not have it, its best method."""
    costs: Path | None = None
    """JSON file with what a step of each method costs (benchmarks/method_steps.py --json)."""
    seed: int = 1337
    """Seed of the bootstrap."""
    draws: int = 10_000
    """Number of bootstrap draws."""

    def check(self) -> None:
        """Raise UserError for values that cannot be used."""
        if not self.records:
            raise UserError(
                "name the records of a benchmark, as in: leaderboard.py BENCHMARK/records"
            )
        check_bootstrap(self.draws, self.seed)


@dataclass(frozen=True)
class LeaderboardResult:
    """A leaderboard: its files, and the content of leaderboard.json."""

    page: Path
    file: Path
    markdown: Path
    content: Mapping[str, Any]


def run(settings: LeaderboardSettings) -> LeaderboardResult:
    """Make a leaderboard of records that were written before. Raises UserError for damaged ones."""
    settings.check()
    records, missing = complete_seeds(read_records(settings.records))
    if not records:
        raise UserError(
            f"records of some folds are missing: {missing[0]}; name the folders that contain them "
            "too"
        )
    with only_writer(settings.output, REMEDY):
        return write(
            settings.output,
            records,
            baseline=settings.baseline,
            costs=read_costs(settings.costs),
            bootstrap=Bootstrap(settings.seed, draws=settings.draws),
            missing=missing,
        )


def write(
    output: Path,
    records: Sequence[CellRecord],
    *,
    baseline: str,
    costs: Costs,
    bootstrap: Bootstrap,
    missing: Sequence[str] = (),
) -> LeaderboardResult:
    """Compute the leaderboard and write its files to `output`; report the tables.

    The caller holds the lock of `output`. `missing`: names of cells without a result.
    """
    board = leaderboard(records, baseline, bootstrap, costs=costs, missing=missing)
    content = board.plain()
    with writing(output, REMEDY):
        write_json(output / JSON_FILE, content)
        with replacing(output / MARKDOWN_FILE) as unfinished:
            unfinished.write_text(text.markdown(board), encoding="utf-8")
        write_leaderboard(output / PAGE, board)
    for line in text.lines(board):
        message(printable(line))
    result = LeaderboardResult(
        page=output / PAGE,
        file=output / JSON_FILE,
        markdown=output / MARKDOWN_FILE,
        content=content,
    )
    message(f"page: {result.page}    numbers: {result.file}    tables: {result.markdown}")
    return result


def read_costs(path: Path | None) -> dict[str, dict[str, float]]:
    """Read what a step of each method costs. Raises UserError for a file that is not that."""
    if path is None:
        return {}
    try:
        content = read_json(path)
        costs: dict[str, dict[str, float]] = {}
        for method, cost in content["methods"].items():
            costs[str(method)] = {str(name): float(value) for name, value in cost.items()}
        return costs
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--costs {path}: not readable ({error}); write it with benchmarks/method_steps.py "
            "--json"
        ) from None
