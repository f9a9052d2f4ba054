"""From a page, a script's numbers and the command line to the settings of a run.

Settings are put together from those of every run, the page's options, the network's and the method's, so a flag exists where somebody
reads it. Values come, the later ones winning, from the options' defaults, the page, the script, the method (`PRESET`, and the page's
`methods`), the flags.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal

from methods.registry import METHODS
from networks.registry import NETWORKS
from recipes.page import Page
from recipes.registry import pages
from training.settings import Settings, known
from utils.cli import parse


def settings_type(page: Page, method: str, model: str) -> type[Settings]:
    """The dataclass of a run's settings."""
    known("method", method, METHODS)
    known("model", model, NETWORKS)
    bases = dict.fromkeys(
        (METHODS[method].Options, NETWORKS[model].Options, *page.options, Settings)
    )
    return _put_together(tuple(bases), tuple(METHODS), tuple(NETWORKS))


@cache
def _put_together(
    bases: tuple[type, ...], methods: tuple[str, ...], models: tuple[str, ...]
) -> type[Settings]:
    choices = {"method": Literal[methods], "model": Literal[models]}
    return dataclass(frozen=True)(type("Settings", bases, {"__annotations__": choices}))


def make_settings(page: Page, **numbers) -> Settings:
    """The settings that a script's numbers and, without further flags, these method and model make."""
    return _checked(page, _default(page, numbers, numbers.get("method"), numbers.get("model")))


def settings_from_flags(
    page: Page, numbers: Mapping[str, Any], argv: Sequence[str] | None = None, description: str = ""
) -> Settings:
    """The settings of a command line; raises UserError for a flag or value that this run cannot have."""
    argv = sys.argv[1:] if argv is None else list(argv)
    default = _default(page, numbers, last_value(argv, "method"), last_value(argv, "model"))
    return _checked(page, parse(type(default), argv, default, description, elsewhere))


def default_settings(page: Page, method: str, model: str) -> Settings:
    """What a run has that names nothing but its method and network: what an older checkpoint, lacking a setting, was made with."""
    return _default(page, {}, method, model)


def last_value(argv: Sequence[str], flag: str) -> str | None:
    """The last value that the words of a command line give a flag, if any."""
    found = None
    for word, following in zip(argv, [*argv, None][1:], strict=True):
        if word == f"--{flag}":
            found = following
        elif word.startswith(f"--{flag}="):
            found = word.partition("=")[2]
    return found


def elsewhere(flag: str) -> str:
    """Who has a flag that this run has not, in words; empty where nobody has it."""
    for word, owners in (("--method", METHODS), ("--model", NETWORKS)):
        names = [name for name, owner in owners.items() if _has(owner.Options, flag)]
        if names:
            return f"it belongs to {word} {' or '.join(names)}"
    names = [
        name
        for name, page in (pages() | pages("TWO_SLICES")).items()
        if any(_has(option, flag) for option in page.options)
    ]
    return f"it belongs to runs on {' or '.join(names)}" if names else ""


def _default(
    page: Page, numbers: Mapping[str, Any], method: str | None, model: str | None
) -> Settings:
    given = {**page.numbers, **numbers}
    method, model = (
        method or given.get("method", Settings.method),
        model or given.get("model", Settings.model),
    )
    kind = settings_type(page, method, model)
    given |= {
        **METHODS[method].PRESET,
        **page.methods.get(method, {}),
        "method": method,
        "model": model,
    }
    names = {field.name for field in fields(kind)}
    for name in given.keys() - names:
        if not elsewhere(name):
            raise TypeError(f"{page.facts.name}: no setting is called {name}")
    return kind(**{name: value for name, value in given.items() if name in names})


def _checked(page: Page, settings: Settings) -> Settings:
    settings = page.settled(settings)
    for base in type(settings).__mro__:
        if "check" in vars(base):
            base.check(settings)
    return settings


def _has(options: type, flag: str) -> bool:
    return any(field.name == flag for field in fields(options))
