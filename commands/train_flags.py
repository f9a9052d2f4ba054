"""The command line of the training scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from commands.config_file import ConfigFile, read_config_file
from commands.published_flags import training_rules, translated
from commands.run_folder import with_earlier_name, with_exp
from datasets.base import DatasetSpec
from datasets.registry import all_datasets
from datasets.resolve import (
    NOTHING,
    checked_options,
    completed,
    option_classes,
    own_method,
    owner_of,
    presets,
    starting_config,
)
from methods.registry import METHODS
from networks.registry import NETWORKS
from training.config import AnyConfig
from utils.cli import last_value, parse
from utils.errors import UserError

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class TrainCommand(Generic[ConfigT]):
    """The flags of a training script: its own, and the configuration of a run."""

    run: Annotated[ConfigT, tyro.conf.arg(name="")]
    seeds: tuple[int, ...] = ()
    """Train once with each of these seeds, in runs named <exp>_seed<seed>."""
    config: Path | None = None
    """Start from the options in this file: config.json of a run, or a JSON object of options by
    name. Flags win over it.
    """


@dataclass(frozen=True)
class AnyDatasetCommand(TrainCommand[ConfigT]):
    """The flags of a training script for every data set."""

    dataset: str = ""
    """Name of a public data set, or the Python file that describes one (docs/extending.md). Own
    data need only --root_path.
    """


def configs_from_flags(
    dataset: DatasetSpec,
    argv: Sequence[str],
    script: Mapping[str, Any] = NOTHING,
    *,
    description: str | None = None,
    published: bool = True,
    any_dataset: bool = False,
) -> list[AnyConfig]:
    """Return the configuration of each run that a command line asks for: one, or one for each of
    --seeds.

    `script`: the numbers of the script. `published`: it stands for a published script, whose flags
    it accepts. `any_dataset`: it has the flag --dataset. Raises UserError for a flag or a value
    that the run cannot have.
    """
    method = last_value(argv, "method")
    explicit = {}
    model = last_value(argv, "model")
    if model is not None:
        explicit["model"] = model
    file = last_value(argv, "config")
    if file is not None:
        values = file_values(dataset, read_config_file(Path(file)), method=method)
        if own_method(dataset, values) != own_method(dataset, script):
            script = NOTHING
        script = {**script, **values}
    start = starting_config(dataset, script, method=method, explicit=explicit)
    classes = option_classes(dataset, start.experiment.method, model=start.experiment.model)
    rules = training_rules(
        dataset.commands,
        start.experiment.method,
        options=classes.own_names(),
        published=published,
    )
    argv = translated(rules, argv)
    kind: Any = AnyDatasetCommand if any_dataset else TrainCommand
    command = parse(
        kind[classes.config_type],
        argv,
        default=kind(run=start),
        description=f"{description or ''}\n{_names()}",
        owner_of=owner_of,
    )
    config = completed(dataset, command.run)
    if not command.seeds:
        if "exp" not in script and last_value(argv, "exp") is None:
            config = with_earlier_name(dataset, config)
        return [config]
    return [_with_seed(config, seed) for seed in dict.fromkeys(command.seeds)]


def _with_seed(config: AnyConfig, seed: int) -> AnyConfig:
    """Return the configuration with another seed, under a name of its own, checked."""
    config = with_exp(config, f"{config.experiment.exp}_seed{seed}")
    config = replace(config, experiment=replace(config.experiment, seed=seed))
    config.check()
    return config


def _names() -> str:
    return (
        f"Methods: {', '.join(METHODS)}. Networks: {', '.join(NETWORKS)}. "
        f"Data sets: {', '.join(all_datasets())}."
    )


def file_values(dataset: DatasetSpec, file: ConfigFile, method: str | None) -> dict[str, Any]:
    """Return the values of a file, checked against the options of its method and network.

    `method`: the chosen one, None for that of the file. If it is another one, the options and the
    presets of the file's method are omitted. Raises UserError for a file of another data set, and
    for a name or a value that its run cannot have.
    """
    name = dataset.info.name
    if file.dataset not in (None, name) and not file.dataset.endswith(".py"):
        raise UserError(
            f"--config {file.path}: is for the data set {file.dataset}, not {name}; name a file "
            f"for {name}, or train on {file.dataset}"
        )
    try:
        values = checked_options(dataset, file.values)
    except UserError as error:
        raise UserError(f"--config {file.path}: {error}") from None
    earlier = own_method(dataset, values)
    if method in (None, earlier):
        return values
    preset = presets(dataset, earlier)
    options = {field.name for field in fields(METHODS[earlier].options)}
    return {
        name: value
        for name, value in values.items()
        if name not in options and (name not in preset or preset[name] != value)
    }
