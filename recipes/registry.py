"""Find the description of a data set by its name: every module here that has one."""

import pkgutil
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import recipes
from recipes.page import Page
from utils.errors import UserError


def pages(attribute: str = "PAGE") -> dict[str, Page]:
    """All data sets by name. `attribute`: PAGE, or TWO_SLICES for the data sets that CoGRNet trains on."""
    by_name = {}
    for info in pkgutil.iter_modules(recipes.__path__):
        module = import_module(f"recipes.{info.name}")
        dataset = getattr(module, attribute, None)
        if dataset is not None:
            by_name[dataset.facts.name] = dataset
    return by_name


def find_page(name: str, attribute: str = "PAGE") -> Page:
    """The data set of that name, or in the Python file of that name. Raises UserError where there is none."""
    if name.endswith(".py"):
        return _from_file(Path(name))
    known = pages(attribute)
    if name not in known:
        raise UserError(
            f"--dataset {name}: unknown; choose from {', '.join(known)}, or name the Python file "
            f"that describes a data set (docs/extending.md)"
        )
    return known[name]


def _from_file(path: Path) -> Page:
    if not path.is_file():
        raise UserError(f"--dataset {path}: no such file; name the file that describes a data set")
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--dataset {path}: not a Python file; see docs/extending.md")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "PAGE", None), Page):
        raise UserError(f"--dataset {path}: does not define PAGE; see docs/extending.md")
    return module.PAGE
