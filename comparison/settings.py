"""The flags of compare.py and report.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from utils.errors import UserError


@dataclass(frozen=True)
class PageSettings:
    """What every page has."""

    output: Path = Path("report")
    """Folder for index.html and its numbers as JSON. The page shows scans: keep it where the data's terms allow, or --no-pictures."""
    which: Literal["best", "last"] = "best"
    """Of a run whose best and last checkpoint were tested: whose figures to take."""
    root_path: Path | None = None
    """Folder of the data set, for the pictures; default: where the test read it."""
    pictures: bool = True
    """Show worst, median and best case."""

    def check(self) -> None:
        if self.output.exists() and not self.output.is_dir():
            raise UserError(f"--output {self.output}: is a file; name a folder for index.html")


@dataclass(frozen=True)
class CompareSettings(PageSettings):
    run: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]] = ()
    """Folders of tested runs, of their stages or predictions, or what evaluate.py wrote. Runs that differ in their seed alone are one
    group; the groups are held against that of the first run."""
    names: tuple[str, ...] = ()
    """Names of the groups, in the order in which they first come."""
    seed: int = 1337
    """Seed of the bootstrap."""
    draws: int = 10_000
    """Draws of the bootstrap."""

    def check(self) -> None:
        super().check()
        if not self.run:
            raise UserError(
                "name at least one tested run, as in: compare.py RUN RUN --output report"
            )
        if self.draws < 100 or not 0 <= self.seed < 2**63:
            raise UserError(
                f"--draws {self.draws}, --seed {self.seed}: at least 100 draws, and a seed that is not negative"
            )


@dataclass(frozen=True)
class ReportSettings(PageSettings):
    run: Path | None = None
    """Folder of the run, instead of --output_root, --exp and --labelnum."""
    dataset: str = ""
    """Data set of the run, or a page's file; default: own data where --root_path has a plan.json, else ACDC."""
    output_root: Path | None = None
    """Folder below which runs are kept; default: code/model in the repository."""
    exp: str | None = None
    """Name of the experiment, part of the run's folder; default: the published one, or else the only run of the data set."""
    labelnum: int | None = None
    """Number of labelled patients or scans of the run; default: the published one, or else the only run's."""
    predictions: Path | None = None
    """Folder that the test wrote; default: the run's own."""
