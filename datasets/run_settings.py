"""From a page, a script's numbers and the command line to the settings of a run.

Settings are put together from those of every run, the page's options, the network's and the method's, so a flag exists where somebody
reads it. Which value wins is decided by `preset` and `merged` below; flags win over all of them.
"""

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal

from datasets.base import DatasetSpec
from datasets.registry import all_datasets
from methods.registry import METHODS
from networks.registry import NETWORKS
from training.settings import Settings, known
from utils.cli import parse
from utils.errors import UserError
from utils.values import checked_values, convert

TWO_SLICES = "CoGRNet"
"""The published commands of data sets with two annotated slices (`Page.commands`)."""
RESERVED = ("dataset", "seeds", "help")
"""Flags that the programs themselves read, before there are settings."""


def settings_type(dataset: DatasetSpec, method: str, model: str) -> type[Settings]:
    """The dataclass of a run's settings; UserError for an unknown method or network, and where two options have one name."""
    known("method", method, METHODS)
    known("model", model, NETWORKS)
    choosable = (METHODS[method].options, NETWORKS[model].Options)
    always = (*dataset.options, Settings)
    check_option_names(choosable, always)
    bases = tuple(dict.fromkeys((*choosable, *always)))
    return _put_together(bases, tuple(METHODS), tuple(NETWORKS))


def check_option_names(choosable: Sequence[type], always: Sequence[type] = ()) -> None:
    """Raise UserError where an option of a method or network (`choosable`) has the name of another option: one would silently replace
    the other.

    `always`: the options of the data set and of every run. Among these a data set may redefine one, as CoGRNet's do with the lengths.
    """
    owners: dict[str, type] = {}
    for group in always:
        for field in fields(group):
            owners.setdefault(field.name, _declaring(group, field.name))
    for group in choosable:
        for field in fields(group):
            owner = _declaring(group, field.name)
            earlier = owners.setdefault(field.name, owner)
            if earlier is not owner:
                raise UserError(
                    f"--{field.name}: an option of both {_words(owner)} and {_words(earlier)}; rename one of them"
                )
            if field.name in RESERVED:
                raise UserError(
                    f"--{field.name}: an option of {_words(owner)}, but the programs read this flag themselves; rename it"
                )


def _declaring(group: type, name: str) -> type:
    """The class among a dataclass and its bases that declares the field of that name."""
    for base in group.__mro__:
        if name in inspect.get_annotations(base):
            return base
    raise TypeError(f"{group} has no field {name}")


def _words(owner: type) -> str:
    return f"{owner.__module__}.{owner.__name__}"


@cache
def _put_together(
    bases: tuple[type, ...], methods: tuple[str, ...], models: tuple[str, ...]
) -> type[Settings]:
    choices = {"method": Literal[methods], "model": Literal[models]}
    return dataclass(frozen=True)(type("Settings", bases, {"__annotations__": choices}))


def make_settings(dataset: DatasetSpec, **explicit) -> Settings:
    """The settings of a run with these values; they win over what the method presets.

    Raises UserError for a value of a method, network or data set that this run does not have.
    """
    method = explicit.get("method", own_method(dataset, {}))
    settings = _default(dataset, explicit, method, explicit.get("model"))
    _check_used(explicit, settings)
    return _checked(dataset, settings)


def settings_from_values(dataset: DatasetSpec, values: Mapping[str, object]) -> Settings:
    """The settings of a run with these values of a Python caller, which win over what the method presets.

    Raises UserError for a name or a value that this run cannot have.
    """
    for name in ("method", "model"):
        if name in values:
            convert(name, values[name], kind=str)
    explicit = dict(values)
    method = explicit.get("method", own_method(dataset, {}))
    known("method", method, METHODS)
    model = merged(dataset, explicit, method).get("model", Settings.model)
    kind = settings_type(dataset, method, model)
    names = {field.name for field in fields(kind)}
    for name in explicit:
        if name not in names and elsewhere(name):
            raise UserError(f"{name}: {elsewhere(name)}; leave it out")
    return make_settings(dataset, **checked_values(kind, explicit))


def settings_from_flags(
    dataset: DatasetSpec,
    numbers: Mapping[str, Any],
    argv: Sequence[str] | None = None,
    description: str = "",
) -> Settings:
    """The settings of a command line; raises UserError for a flag or value that this run cannot have."""
    argv = sys.argv[1:] if argv is None else list(argv)
    method = last_value(argv, "method")
    model = last_value(argv, "model")
    default = _default(dataset, numbers, method, model)
    if (
        method is None and model is None
    ):  # otherwise numbers of the script's own method and network may have no use
        _check_used(numbers, default)
    return _checked(dataset, parse(type(default), argv, default, description, elsewhere))


def default_settings(dataset: DatasetSpec, method: str, model: str) -> Settings:
    """What a run has that names nothing but its method and network: what an older checkpoint, lacking a setting, was made with."""
    return _default(dataset, {}, method, model)


def own_options(dataset: DatasetSpec, numbers: Mapping[str, Any], argv: Sequence[str]) -> set[str]:
    """The names of the options that the method and network of a command line and the page have, beside those of every run."""
    default = _default(dataset, numbers, last_value(argv, "method"), last_value(argv, "model"))
    every_run = {field.name for field in fields(Settings)}
    return {field.name for field in fields(default)} - every_run


def own_method(dataset: DatasetSpec, numbers: Mapping[str, Any]) -> str:
    """The method of a script with these numbers where no flag names another."""
    for source in (numbers, dataset.numbers):
        if "method" in source:
            return source["method"]
    return Settings.method


def preset(dataset: DatasetSpec, method: str) -> dict[str, Any]:
    """What a method sets on a data set: a name of its own for the run, its presets, and what the page has for it."""
    values: dict[str, Any] = {}
    if method != own_method(dataset, {}):
        values["exp"] = method  # runs of two methods never share a folder by default
    values.update(METHODS[method].presets)
    values.update(METHODS[method].presets_of_dims.get(dataset.info.dims, {}))
    values.update(dataset.methods.get(method, {}))
    return values


def merged(dataset: DatasetSpec, numbers: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The values of a run before its flags, the later ones winning: the page's, the method's preset, `numbers`.

    `numbers` are a script's, made for its own method. Where another one was chosen, that method's preset wins over them.
    """
    values = dict(dataset.numbers)
    if method == own_method(dataset, numbers):
        values.update(preset(dataset, method))
        values.update(numbers)
    else:
        values.update(numbers)
        values.update(preset(dataset, method))
    values["method"] = method
    return values


def default_exp(dataset: DatasetSpec, method: str) -> str:
    """The name that training gives a run of the method where no flag gives one."""
    return merged(dataset, {}, method).get("exp", Settings.exp)


def last_value(argv: Sequence[str], flag: str) -> str | None:
    """The last value that the words of a command line give a flag, if any."""
    last = None
    for word, following in zip(argv, [*argv[1:], None], strict=False):
        name, equals, value = word.partition("=")
        if is_flag(name, flag):
            last = value if equals else following
    return last


def is_flag(word: str, flag: str) -> bool:
    """Whether a word of a command line is that flag; --root-path is --root_path."""
    return word.startswith("--") and word[2:].replace("-", "_") == flag


def elsewhere(flag: str) -> str:
    """Who has a flag that this run has not, in words; empty where nobody has it."""
    methods = {name: method.options for name, method in METHODS.items()}
    networks = {name: network.Options for name, network in NETWORKS.items()}
    for word, owners in (("--method", methods), ("--model", networks)):
        names = [name for name, options in owners.items() if _has(options, flag)]
        if names:
            return f"it belongs to {word} {' or '.join(names)}"
    whole_labels, two_slices = all_datasets(), all_datasets("TWO_SLICES")
    with_whole_labels = [
        name
        for name, dataset in whole_labels.items()
        if dataset.commands != TWO_SLICES and _dataset_has(dataset, flag)
    ]
    with_two_slices = [name for name, dataset in two_slices.items() if _dataset_has(dataset, flag)]
    if with_whole_labels:
        names = sorted({*with_whole_labels, *with_two_slices})
        return f"it belongs to runs on {' or '.join(names)}"
    if with_two_slices:
        return "it belongs to code/CoGRNet_train.py"
    return ""


def _dataset_has(dataset: DatasetSpec, flag: str) -> bool:
    return any(_has(options, flag) for options in dataset.options)


def _default(
    dataset: DatasetSpec, numbers: Mapping[str, Any], method: str | None, model: str | None
) -> Settings:
    """The settings before flags are read; options that the method and network do not have are dropped."""
    method = method or own_method(dataset, numbers)
    known("method", method, METHODS)
    values = merged(dataset, numbers, method)
    if model is not None:
        values["model"] = model
    kind = settings_type(dataset, method, values.get("model", Settings.model))
    names = {field.name for field in fields(kind)}
    for name in values.keys() - names:
        if not elsewhere(name):
            raise TypeError(f"{dataset.info.name}: no setting is called {name}")
    return kind(**{name: value for name, value in values.items() if name in names})


def _check_used(numbers: Mapping[str, Any], settings: Settings) -> None:
    """Raise UserError for a number that the run does not have."""
    names = {field.name for field in fields(settings)}
    for name in numbers:
        if name not in names:
            raise UserError(f"--{name}: {elsewhere(name)}; leave it out")


def _checked(dataset: DatasetSpec, settings: Settings) -> Settings:
    check_required(settings)
    settings = dataset.settled(settings)
    for base in type(settings).__mro__:
        if "check" in vars(base):
            base.check(settings)
    return settings


def check_required(settings: Settings) -> None:
    """Raise UserError where a method lacks an option of the network or the data set, or outputs of the network, that it cannot do
    without."""
    method = METHODS[settings.method]
    for option, remedy in method.required.items():
        if not hasattr(settings, option):
            raise UserError(f"--method {settings.method}: {remedy.format(model=settings.model)}")
    if method.auxiliary != "none":
        _check_auxiliary(settings, method.auxiliary)


def _check_auxiliary(settings: Settings, auxiliary: str) -> None:
    """Raise UserError where the network does not return the auxiliary outputs that the method needs."""
    chosen = NETWORKS[settings.model]
    if chosen.auxiliary == auxiliary:
        return
    names = [
        name
        for name, other in NETWORKS.items()
        if other.dims == chosen.dims and other.auxiliary == auxiliary
    ]
    raise UserError(
        f"--method {settings.method}: --model {settings.model} does not return what it needs ({auxiliary}); "
        f"choose --model from {', '.join(names)}"
    )


def _has(options: type, flag: str) -> bool:
    return any(field.name == flag for field in fields(options))
