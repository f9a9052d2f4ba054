"""The flags of compare.py and report.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from utils.errors import UserError


@dataclass(frozen=True)
class PageSettings:
    """Settings that compare.py and report.py share."""

    output: Path = Path("report")
    """Folder for index.html and its numbers as JSON. The page shows scans: keep it where the data's terms allow, or use
    --no-pictures."""
    which: Literal["best", "last"] = "best"
    """Which checkpoint's results to take if both the best and the last one of a run were tested."""
    root_path: Path | None = None
    """Folder of the data set, for the pictures. Default: the folder that the test read."""
    pictures: bool = True
    """Show the worst, the median and the best case."""

    def check(self) -> None:
        """Raise UserError for values that cannot be used."""
        if self.output.exists() and not self.output.is_dir():
            raise UserError(f"--output {self.output}: is a file; name a folder for index.html")


@dataclass(frozen=True)
class CompareSettings(PageSettings):
    """Settings of compare.py."""

    run: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]] = ()
    """Folders of tested runs, of one of their stages, of their predictions, or folders that evaluate.py wrote. Runs that differ only in
    their seed form one group. Each group is compared with the group of the first run."""
    names: tuple[str, ...] = ()
    """Names of the groups, in the order of their first runs."""
    seed: int = 1337
    """Seed of the bootstrap."""
    draws: int = 10_000
    """Number of bootstrap draws."""

    def check(self) -> None:
        """Raise UserError for values that cannot be used."""
        super().check()
        if not self.run:
            raise UserError(
                "name at least one tested run, as in: compare.py RUN RUN --output report"
            )
        if self.draws < 100 or not 0 <= self.seed < 2**63:
            raise UserError(
                f"--draws {self.draws}, --seed {self.seed}: use at least 100 draws, and a seed from "
                f"0 to 2^63 - 1"
            )


@dataclass(frozen=True)
class ReportSettings(PageSettings):
    """Settings of report.py."""

    run: Path | None = None
    """Folder of the run, instead of --output_root, --exp and --labelnum."""
    dataset: str = ""
    """Data set of the run, or the file of a data set's description. Default: own data if --root_path has a plan.json, else ACDC."""
    output_root: Path | None = None
    """Folder that contains the runs. Default: code/model in the repository."""
    exp: str | None = None
    """Name of the experiment, part of the run's folder. Default: the published one, or the only run of the data set."""
    labelnum: int | None = None
    """Number of labelled patients or scans of the run. Default: the published one, or that of the only run."""
    predictions: Path | None = None
    """Folder that the test wrote. Default: the run's test folder."""
