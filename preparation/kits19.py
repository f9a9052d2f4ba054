"""KiTS19: kidneys and their tumours."""

from dataclasses import dataclass
from pathlib import Path

from preparation.abdomen import AbdomenPreparation
from preparation.files import RawCase
from recipes.kits19 import PAGE
from utils.errors import UserError
from utils.files import files_below

KITS19 = PAGE.facts


@dataclass(frozen=True)
class KiTS19Preparation(AbdomenPreparation):
    """`case_NNNNN/imaging.nii.gz` and `segmentation.nii.gz` anywhere below the source; 400 HU wide around 40.

    The official files have their slices along the first index (I, P, L), and so has the stored array.
    """

    size: tuple[int, int, int] = (192, 192, 64)
    facts = KITS19
    window = (-160, 400)
    stored = (0, 1, 2)

    def find(self, source: Path) -> list[RawCase]:
        cases: dict[str, RawCase] = {}
        for path in (
            path for path in files_below(source) if path.name in ("imaging.nii.gz", "imaging.nii")
        ):
            name, label = (
                path.parent.name,
                path.with_name(path.name.replace("imaging", "segmentation")),
            )
            if name in cases:
                raise UserError(
                    f"{path}: {name} lies in {cases[name].images[0].parent} too; take one of them away"
                )
            cases[name] = RawCase(name, (path,), label if label.is_file() else None)
        return list(cases.values())
