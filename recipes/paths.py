"""Where data and runs lie unless flags say otherwise."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def data_root(dataset: str, root_path: Path | None) -> Path:
    """`--root_path`, or else data_split/<data set> in the repository."""
    return root_path or REPOSITORY / "data_split" / dataset


def run_folder(dataset: str, exp: str, labelnum: int, output_root: Path | None, family: str = "BCP") -> Path:
    """Folder of a run, as the published README has it: code/model/BCP/ACDC_<exp>_<labelnum>_labeled."""
    return (output_root or REPOSITORY / "code" / "model") / family / f"{dataset}_{exp}_{labelnum}_labeled"
