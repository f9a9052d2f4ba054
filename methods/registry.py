"""The methods by the name that `--method` takes: one module each, with its `METHOD`."""

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from methods.base import Method

NAMES = (
    "edge_guided",
    "bcp",
    "averaged_copy_paste",
    "supervised",
    "pseudo_label",
    "cogrnet",
    "mean_teacher",
    "ua_mt",
    "cps",
    "urpc",
    "unimatch",
    "mc_net",
    "dtc",
    "abd",
    "ad_mt",
    "sdcl",
    "ss_net",
    "desco",
)
METHODS: dict[str, Method] = {name: import_module(f"methods.{name}").METHOD for name in NAMES}


def run_title(settings: Mapping[str, Any]) -> str:
    """Return what a run with these settings is called in logs, results and reports.

    `settings`: plain values, as a checkpoint has them. What an older one lacks counts as the
    method's default. Published checkpoints have no settings that name a method.
    """
    name = settings.get("method")
    has_edges = settings.get("egm", "none") != "none"
    if name is None:
        return "published weights with edge guidance" if has_edges else "published weights"
    if not isinstance(name, str):
        return "unknown method"
    if name not in METHODS:
        return name.replace("_", " ")
    method = METHODS[name]
    if not isinstance(method.title, str):
        return method.title(_with_defaults(method, settings))
    title = method.title
    if has_edges:
        title += ", edge-guided network"
    if settings.get("pseudo_labels") is not None:
        title += ", with pseudo labels"
    return title


def _with_defaults(method: Method, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run of the method, with the method's defaults where they lack a
    value.
    """
    values = {field.name: field.default for field in fields(method.options)}
    values.update(method.presets)
    values.update(settings)
    return values
