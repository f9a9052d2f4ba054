"""Find the description of a data set by its name: every module here that has one."""

import pkgutil
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import datasets
from datasets.base import DatasetSpec
from utils.errors import UserError


def all_datasets(attribute: str = "DATASET") -> dict[str, DatasetSpec]:
    """All data sets by name.

    `attribute`: DATASET, or TWO_SLICES for the data sets that CoGRNet trains on.
    """
    by_name = {}
    for info in pkgutil.iter_modules(datasets.__path__):
        module = import_module(f"datasets.{info.name}")
        dataset = getattr(module, attribute, None)
        if isinstance(dataset, DatasetSpec):
            by_name[dataset.info.name] = dataset
    return by_name


def find_dataset(name: str, attribute: str = "DATASET") -> DatasetSpec:
    """The data set of that name, or in the Python file of that name.

    Raises UserError where there is none.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    known = all_datasets(attribute)
    if name not in known:
        raise UserError(
            f"--dataset {name}: unknown; choose from {', '.join(known)}, or name the Python file "
            f"that describes a data set (docs/extending.md)"
        )
    return known[name]


def _from_file(path: Path) -> DatasetSpec:
    if not path.is_file():
        raise UserError(f"--dataset {path}: no such file; name the file that describes a data set")
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--dataset {path}: not a Python file; see docs/extending.md")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "DATASET", None), DatasetSpec):
        raise UserError(f"--dataset {path}: does not define DATASET; see docs/extending.md")
    return module.DATASET
