"""The flags of the registration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class RegistrationSettings:
    """Settings of CoGRNet_register.py."""

    dataset: str | None = None
    """Data set. Omit it for own data that prepare_data.py wrote to --root_path."""
    labelnum: int | None = None
    """Number of labelled cases (the first N of the training list). Default: 5; all for own data."""
    root_path: Path | None = None
    """Folder of the data, which also gets the coarse labels. Default: data_split/<dataset> in the
    repository."""
    planes: tuple[str, str] | None = None
    """Annotated slice of each plane: its number (from 0), middle (of the axis), object (middle of
    the object), or drawn (slice with the most foreground: the annotated one if the file has only
    two). object and drawn read the whole label, as an annotator sees it, to choose the slice.
    Default: the published slices; for own data the drawn slices, or object."""
    transform: Literal["SyN", "SyNRA"] = "SyN"
    """ANTs registration. SyN: affine and SyN, as the published code runs. SyNRA: rigid, affine and
    SyN, as it was intended to run."""
    propagation: Literal["published", "improved"] = "published"
    """published: each plane separately, to the ends of the volume. improved: each plane guided by
    the annotated slice of the other, then both fused."""
    seed: int = 1337
    """Seed of ANTs' sampling. The same seed gives identical files."""
    workers: int = 0
    """Number of processes, one thread each. 0: one per processor."""
    redo: bool = False
    """Make all coarse labels again. Without it, finished files are kept, and files made with
    different settings are an error."""
    report_against_truth: bool = False
    """Also report Dice against the dense label. Nothing else reads the dense label."""
    output_dir: Path | None = None
    """Folder for registration.csv, summary.json and one picture per case (pictures show scans).
    Default: <root_path>/coarse_report."""
