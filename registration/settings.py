"""The flags of the registration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class RegistrationSettings:
    dataset: Literal["LA", "KiTS19", "LiTS"] | None = None
    """The data set; none for own data that prepare_data.py wrote to --root_path."""
    labelnum: int | None = None
    """How many cases of the train list are labelled: the first ones; default: 5, of own data all."""
    root_path: Path | None = None
    """Folder of the data; default: data_split/<dataset> in the repository. The coarse labels are written beside its files."""
    planes: tuple[str, str] | None = None
    """The annotated slice of each plane: its number, or middle (of the axis). For an annotator who sees the object also: object (its
    middle) or drawn (the slice that holds most of it: the annotated one where only two are drawn); to choose, these two read the whole
    label. Default: the published ones; of own data those that are drawn, or the middle."""
    transform: Literal["SyN", "SyNRA"] = "SyN"
    """ANTs registration: affine and SyN (what the published code really ran), or rigid, affine and SyN (what it meant to)."""
    propagation: Literal["published", "improved"] = "published"
    """Each plane alone, to the volume's ends; or each guided by the other plane's annotated slice, then both fused."""
    seed: int = 1337
    """Seed of ANTs' sampling; the same seed gives identical files."""
    workers: int = 0
    """Processes, one thread each; 0: one per processor."""
    redo: bool = False
    """Make all coarse labels again. Without it finished ones are kept, and those made with other settings are an error."""
    report_against_truth: bool = False
    """Also report Dice against the dense label, which nothing else looks at."""
    output_dir: Path | None = None
    """Where registration.csv, summary.json and a picture per case go (they show scans); default: <root_path>/coarse_report."""
