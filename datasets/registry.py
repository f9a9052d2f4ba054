"""Find the description of a data set by its name: every module here that has one."""

import pkgutil
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Literal

import datasets
from datasets.base import DatasetSpec
from utils.errors import UserError
from utils.registry import find

DatasetKind = Literal["DATASET", "TWO_SLICES"]
"""The name under which a module describes its data set: DATASET, or TWO_SLICES with the two
annotated slices that CoGRNet trains on.
"""
FILES: set[str] = set()
"""Names of the modules that were loaded from files outside of the repository."""


def kind_of(*, two_slices: bool) -> DatasetKind:
    """The kind of the data sets with two annotated slices per case, or of the others."""
    if two_slices:
        return "TWO_SLICES"
    return "DATASET"


def all_datasets(kind: DatasetKind = "DATASET") -> dict[str, DatasetSpec]:
    """All data sets of a kind by name."""
    by_name = {}
    for info in pkgutil.iter_modules(datasets.__path__):
        module = import_module(f"datasets.{info.name}")
        dataset = getattr(module, kind, None)
        if isinstance(dataset, DatasetSpec):
            by_name[dataset.info.name] = dataset
    return by_name


def find_dataset(name: str, kind: DatasetKind = "DATASET") -> DatasetSpec:
    """The data set of that name, or in the Python file of that name. Raises UserError if none."""
    if name.endswith(".py"):
        return _from_file(Path(name))
    return find(
        all_datasets(kind),
        name,
        flag="--dataset",
        remedy=", or name the Python file that describes a data set (docs/extending.md)",
    )


def _from_file(path: Path) -> DatasetSpec:
    if not path.is_file():
        raise UserError(f"--dataset {path}: no such file; name the file that describes a data set")
    dataset = getattr(_module(path), "DATASET", None)
    if not isinstance(dataset, DatasetSpec):
        raise UserError(f"--dataset {path}: does not define DATASET; see docs/extending.md")
    return dataset


def _is_another_module(name: str, path: Path) -> bool:
    """Whether Python would import something else than the file under this name."""
    spec = find_spec(name)
    if spec is None:
        return False
    return spec.origin is None or Path(spec.origin).resolve() != path.resolve()


def _module(path: Path) -> ModuleType:
    """Import the file under its own name, so that worker processes can import it as well."""
    name = path.stem.replace(".", "_")
    loaded = sys.modules.get(name)
    if name in FILES and loaded is not None:
        sys.path.remove(str(Path(str(loaded.__file__)).parent))
    elif loaded is not None or _is_another_module(name, path):
        raise UserError(f"--dataset {path}: there is a module {name} already; rename the file")
    spec = spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UserError(f"--dataset {path}: not a Python file; see docs/extending.md")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    sys.path.append(str(path.resolve().parent))
    FILES.add(name)
    return module
