"""The configuration of a run from its sources: defaults, data set, script, method, flags or
keywords.

`merged_values` states which source wins. A run has the options of its data set, method and network
and those of every run, so a flag exists only where something reads it.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, get_type_hints

from datasets.base import DatasetSpec
from datasets.registry import all_datasets
from methods.registry import METHODS
from networks.registry import NETWORKS
from training.config import (
    AnyConfig,
    ExperimentOptions,
    OptimizationOptions,
    RunConfig,
    RuntimeOptions,
)
from utils.errors import UserError
from utils.registry import check_name
from utils.values import convert_values

COGRNET_COMMANDS = "CoGRNet"
"""`DatasetSpec.commands` of the data sets with two annotated slices."""
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class OptionClasses:
    """The options classes of a run: of its data set, method and network, and of every run."""

    data: type
    method: type
    network: type
    experiment: type = ExperimentOptions
    optimization: type = OptimizationOptions
    runtime: type = RuntimeOptions

    @property
    def config_type(self) -> Any:
        """`RunConfig` with these classes, as a type that flags can be parsed into."""
        return RunConfig[self.data, self.method, self.network]

    def own_names(self) -> set[str]:
        """Return the names of the options that not every run has."""
        return {
            field.name
            for group in (self.data, self.method, self.network)
            for field in fields(group)
        }

    def types(self) -> dict[str, Any]:
        """Return the type of each option by its name."""
        types: dict[str, Any] = {}
        for group in vars(self).values():
            hints = get_type_hints(group)
            types.update({field.name: hints[field.name] for field in fields(group)})
        return types

    def check_names(self, reserved: Sequence[str] = ()) -> None:
        """Raise UserError where two groups have an option of the same name, or one has a reserved
        name.
        """
        check_option_names(list(vars(self).values()), reserved)

    def build(self, values: Mapping[str, Any]) -> AnyConfig:
        """Return the configuration with these values by name; other options have their defaults."""
        groups: dict[str, Any] = {}
        for name, group in vars(self).items():
            names = [field.name for field in fields(group)]
            groups[name] = group(**{key: values[key] for key in names if key in values})
        return RunConfig(**groups)


def option_classes(dataset: DatasetSpec, method: str, model: str) -> OptionClasses:
    """Return the options classes of a run.

    Raises UserError for an unknown method or network, and where two options have the same name.
    """
    check_name(METHODS, method, flag="--method")
    check_name(NETWORKS, model, flag="--model")
    classes = OptionClasses(dataset.options, METHODS[method].options, NETWORKS[model].Options)
    classes.check_names(RESERVED)
    return classes


RESERVED = ("config", "dataset", "help", "seeds")
"""Flags of the training command itself."""


def check_option_names(groups: Sequence[type], reserved: Sequence[str] = ()) -> None:
    """Raise UserError where two options classes have an option of the same name, or one has a
    reserved name.
    """
    owners: dict[str, type] = {}
    for group in groups:
        for field in fields(group):
            owner = _declaring_class(group, field.name)
            if field.name in reserved:
                raise UserError(
                    f"--{field.name}: an option of {_class_name(owner)}, but the command "
                    f"itself has a flag of this name; rename the option"
                )
            if field.name in owners:
                raise UserError(
                    f"--{field.name}: an option of both {_class_name(owner)} and "
                    f"{_class_name(owners[field.name])}; rename one of them"
                )
            owners[field.name] = owner


def _declaring_class(group: type, name: str) -> type:
    """Return the class among a dataclass and its bases that declares the field of that name."""
    for base in group.__mro__:
        if name in inspect.get_annotations(base):
            return base
    raise TypeError(f"{group} has no field {name}")


def _class_name(owner: type) -> str:
    return f"{owner.__module__}.{owner.__name__}"


def resolve(
    dataset: DatasetSpec,
    script: Mapping[str, Any] = NOTHING,
    method: str | None = None,
    explicit: Mapping[str, Any] = NOTHING,
) -> AnyConfig:
    """Return the checked configuration of a run; `merged_values` states which source wins.

    `script`: the defaults of a script. `method`: the chosen method, None for that of the script or
    the data set. `explicit`: values of keywords or of a test. Raises UserError for a value that
    this run cannot have.
    """
    config = starting_config(dataset, script, method=method, explicit=explicit)
    return completed(dataset, config)


def merged_values(
    dataset: DatasetSpec,
    script: Mapping[str, Any],
    method: str,
    explicit: Mapping[str, Any],
) -> dict[str, Any]:
    """Merge the sources of a run's options. Later ones win:

    1. the defaults of the options classes (whatever is not named below);
    2. the defaults of the data set;
    3. the defaults of the script, if they were chosen for another method than `method`, without the
       options of that method;
    4. the presets of the method;
    5. the defaults of the script, if they were chosen for `method`;
    6. explicit values, from flags or keywords.
    """
    values = dict(dataset.defaults)
    script_method = own_method(dataset, script)
    if method == script_method:
        values.update(presets(dataset, method))
        values.update(script)
    else:
        values.update(_without_options_of(script_method, script))
        values.update(presets(dataset, method))
    values.update(explicit)
    values["method"] = method
    return values


def _without_options_of(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without the method's own options: another method may have an option of the
    same name, for which the value was not chosen.
    """
    options = METHODS[method].options
    return {name: value for name, value in values.items() if not _has(options, name)}


def presets(dataset: DatasetSpec, method: str) -> dict[str, Any]:
    """Return what a method sets on a data set: a name for the run, its presets, and the data set's
    for it.
    """
    values: dict[str, Any] = {}
    if method != own_method(dataset, NOTHING):
        values["exp"] = method  # runs of two methods never share a folder by default
    values.update(METHODS[method].presets)
    values.update(METHODS[method].presets_of_dims.get(dataset.info.dims, {}))
    values.update(dataset.methods.get(method, {}))
    return values


def own_method(dataset: DatasetSpec, script: Mapping[str, Any]) -> str:
    """Return the method of a script with these defaults where no flag names another."""
    for source in (script, dataset.defaults):
        if "method" in source:
            return source["method"]
    return ExperimentOptions.method


def starting_config(
    dataset: DatasetSpec,
    script: Mapping[str, Any] = NOTHING,
    method: str | None = None,
    explicit: Mapping[str, Any] = NOTHING,
) -> AnyConfig:
    """Return the configuration of a run before it is checked: what flags start from.

    Numbers of the data set, of the script and of presets that the chosen method and network do not
    have are dropped. A script whose own method and network are used must not have any. Raises
    UserError for an explicit value of another method, network or data set.
    """
    chosen = method or own_method(dataset, script)
    check_name(METHODS, chosen, flag="--method")
    values = merged_values(dataset, script, method=chosen, explicit=explicit)
    model = values.get("model", ExperimentOptions.model)
    classes = option_classes(dataset, chosen, model=model)
    names = classes.types().keys()
    for name in values.keys() - names:
        if not owner_of(name):
            raise TypeError(f"{dataset.info.name}: no option is called {name}")
    must_exist = list(explicit)
    if method is None and "model" not in explicit:
        must_exist += script
    for name in must_exist:
        if name not in names:
            raise UserError(f"--{name}: {owner_of(name)}; remove it")
    return classes.build(values)


def completed(dataset: DatasetSpec, config: AnyConfig) -> AnyConfig:
    """Return the configuration with what follows from other options, checked; raises UserError."""
    check_required(config)
    config = dataset.settled(config)
    config.check()
    return config


def resolve_values(
    dataset: DatasetSpec, values: Mapping[str, object], script: Mapping[str, Any] = NOTHING
) -> AnyConfig:
    """Return the configuration of a Python caller, whose values by name win over everything else.

    Raises UserError for a name or a value that this run cannot have.
    """
    explicit = checked_options(dataset, values, script)
    return resolve(dataset, script, method=explicit.get("method"), explicit=explicit)


def checked_options(
    dataset: DatasetSpec, values: Mapping[str, object], script: Mapping[str, Any] = NOTHING
) -> dict[str, Any]:
    """Return values by name converted to the types of their options.

    Raises UserError for a name or a value that a run of their method and network cannot have.
    """
    names = {name: values[name] for name in ("method", "model") if name in values}
    names = convert_values({"method": str, "model": str}, names)
    method = names.get("method", own_method(dataset, script))
    check_name(METHODS, method, flag="--method")
    merged = merged_values(dataset, script, method=method, explicit=names)
    classes = option_classes(dataset, method, model=merged.get("model", ExperimentOptions.model))
    types = classes.types()
    for name in values:
        if name not in types and owner_of(name):
            raise UserError(f"{name}: {owner_of(name)}; remove it")
    return convert_values(types, values)


def default_config(dataset: DatasetSpec, method: str, model: str) -> AnyConfig:
    """Return the configuration of a run of which only the method and the network are known.

    An option that an older checkpoint lacks had this value.
    """
    return starting_config(dataset, method=method, explicit={"model": model})


def default_exp(dataset: DatasetSpec, method: str) -> str:
    """Return the name that a run of the method has by default."""
    values = merged_values(dataset, NOTHING, method=method, explicit=NOTHING)
    return values.get("exp", ExperimentOptions.exp)


def owner_of(flag: str) -> str:
    """Return whose option a flag is, as in "it belongs to --method X"; empty if it is nobody's."""
    methods = {name: method.options for name, method in METHODS.items()}
    networks = {name: network.Options for name, network in NETWORKS.items()}
    for selector, owners in (("--method", methods), ("--model", networks)):
        names = [name for name, options in owners.items() if _has(options, flag)]
        if names:
            return f"it belongs to {selector} {' or '.join(names)}"
    whole_labels = _names_with_option(
        flag,
        [dataset for dataset in all_datasets().values() if dataset.commands != COGRNET_COMMANDS],
    )
    two_slices = _names_with_option(flag, list(all_datasets("TWO_SLICES").values()))
    if whole_labels:
        names = sorted({*whole_labels, *two_slices})
        return f"it belongs to runs on {' or '.join(names)}"
    if two_slices:
        return "it belongs to code/CoGRNet_train.py"
    return ""


def _names_with_option(flag: str, datasets: Sequence[DatasetSpec]) -> list[str]:
    return [dataset.info.name for dataset in datasets if _has(dataset.options, flag)]


def _has(options: type, flag: str) -> bool:
    return any(field.name == flag for field in fields(options))


def check_required(config: AnyConfig) -> None:
    """Raise UserError where a method lacks an option or an output of the network that it cannot do
    without.
    """
    experiment = config.experiment
    method = METHODS[experiment.method]
    names = config.flat()
    for option, remedy in method.required.items():
        if option not in names:
            reason = remedy.format(model=experiment.model)
            raise UserError(f"--method {experiment.method}: {reason}")
    if method.auxiliary != "none":
        _check_auxiliary(experiment, method.auxiliary)


def _check_auxiliary(experiment: ExperimentOptions, auxiliary: str) -> None:
    """Raise UserError where the network does not return the auxiliary outputs that the method
    needs.
    """
    chosen = NETWORKS[experiment.model]
    if chosen.auxiliary == auxiliary:
        return
    names = [
        name
        for name, other in NETWORKS.items()
        if other.dims == chosen.dims and other.auxiliary == auxiliary
    ]
    raise UserError(
        f"--method {experiment.method}: --model {experiment.model} does not return what it needs "
        f"({auxiliary}); choose --model from {', '.join(names)}"
    )
