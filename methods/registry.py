"""The methods by the name that `--method` takes.

A method is a module with its flags (`Options`), the values it changes (`PRESET`) and its stages (`stages(frame)`). It may also have

- `TITLE`, or `title(settings)` where the flags change it: what reports call a run of it, the method's name if there is neither;
- `REQUIRED`: options of the network or the data set that it cannot do without, each with what to do where it is missing.
"""

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module

NAMES = ("edge_guided", "bcp", "averaged_copy_paste", "supervised", "mean_teacher", "cogrnet")
METHODS = {name: import_module(f"methods.{name}") for name in NAMES}


def run_title(settings: Mapping) -> str:
    """What a run with these settings is called in logs, results and reports; a published checkpoint's do not name a method.

    `settings`: plain values, as a checkpoint has them; what an older one lacks counts as the method's default.
    """
    name = settings.get("method")
    edges = settings.get("egm", "none") != "none"
    if name is None:
        return "published weights with edge guidance" if edges else "published weights"
    if not isinstance(name, str):
        return "unknown method"
    if name not in METHODS:
        return name.replace("_", " ")
    method = METHODS[name]
    values = {field.name: field.default for field in fields(method.Options)}
    values.update(method.PRESET)
    values.update(settings)
    if hasattr(method, "title"):
        return method.title(values)
    title = getattr(method, "TITLE", name.replace("_", " "))
    return f"{title}, edge-guided network" if edges else title
