"""Pages by the name of their data set: the modules here that have one."""

import pkgutil
from importlib import import_module
from pathlib import Path

import recipes
from recipes.page import Page
from utils.errors import UserError


def pages(attribute: str = "PAGE") -> dict[str, Page]:
    """All pages by name; `attribute`: PAGE, or TWO_SLICES for the pages that CoGRNet trains on."""
    modules = (
        import_module(f"recipes.{module.name}") for module in pkgutil.iter_modules(recipes.__path__)
    )
    found = (getattr(module, attribute, None) for module in modules)
    return {page.facts.name: page for page in found if page is not None}


def find_page(name: str, attribute: str = "PAGE") -> Page:
    """The page of that name, or in the Python file of that name; raises UserError where there is none."""
    if name.endswith(".py"):
        return _from_file(Path(name))
    known = pages(attribute)
    if name not in known:
        raise UserError(
            f"--dataset {name}: unknown; choose from {', '.join(known)}, or name a page's file (docs/extending.md)"
        )
    return known[name]


def _from_file(path: Path) -> Page:
    from importlib.util import module_from_spec, spec_from_file_location

    if not path.is_file():
        raise UserError(f"--dataset {path}: no such page")
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "PAGE", None), Page):
        raise UserError(f"--dataset {path}: it has no PAGE (docs/extending.md)")
    return module.PAGE
