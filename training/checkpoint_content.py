"""Checks of a checkpoint before it is used: a damaged or forged one is never loaded in part.

Each function raises ValueError with a message that follows the file's name.
"""

import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import torch
from torch import Tensor

from methods.base import TrainingStage
from methods.stage_networks import MEAN
from training.optimizers import states_by_learner
from utils.files import shown

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint
    from training.stage import StageSetup

Container = Mapping[Any, Any] | list[Any] | tuple[Any, ...] | set[Any]
KINDS = {
    "settings": Mapping,
    "facts": Mapping,
    "stage": str,
    "selection": str,
    "progress": Mapping,
    "losses": Sequence,
    "student": Mapping,
    "phase": Mapping,
    "optimizer": Mapping,
}
OPTIONAL = {
    "plan": Mapping,
    "data": Mapping,
    "buffers": Sequence,
    "scaler": Mapping,
    "models": Mapping,
    "other_optimizers": Mapping,
}
STATES = ("student", "phase", "optimizer", "other_optimizers")
"""The entries of a checkpoint that training changes."""
SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
ENTRIES: dict[type[torch.optim.Optimizer], set[str]] = {
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
}
ARITHMETIC = {
    "momentum",
    "dampening",
    "nesterov",
    "weight_decay",
    "betas",
    "eps",
    "amsgrad",
    "maximize",
}
DEEPEST = 8
TYPES = {
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
}


def check_sums(path: Path) -> None:
    """Check the checksum of every part: torch checks none and would load a flipped bit."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        part = archive.testzip()
    if part is not None:
        raise ValueError(f"'{part}' is damaged")


def check_whole(content: Mapping[str, Any]) -> None:
    """Check that all entries of a checkpoint of ours are there, of their types, and finite."""
    for key, kind in KINDS.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"'{key}' is missing or has the wrong type")
    for key, kind in OPTIONAL.items():
        if content.get(key) is not None and not isinstance(content[key], kind):
            raise ValueError(f"'{key}' has the wrong type")
    if not isinstance(content["facts"].get("name"), str):
        raise ValueError("its data set has no name")
    _check_selected(content)
    _check_scaler(content.get("scaler"))
    _check_settings(content["settings"])
    _check_progress(content["progress"], content["losses"])
    check_tensors({key: content.get(key) for key in (*STATES, "buffers")})


def _check_scaler(scaler: Mapping[str, Any] | None) -> None:
    if scaler is None:
        return
    values_fit = all(_number(value) and value >= 0 for value in scaler.values())
    if set(scaler) != SCALER or not values_fit:
        raise ValueError("'scaler' has unexpected entries or values")


def _check_selected(content: Mapping[str, Any]) -> None:
    """Check that the selected networks are there, and that names of networks are texts."""
    models: Mapping[object, object] = content.get("models") or {}
    for name, model in models.items():
        if not (isinstance(name, str) and isinstance(model, str)):
            raise ValueError("'models' has the wrong type")
    selected = content.get("selected", "student")
    names: list[object] = [selected]
    if selected == MEAN:
        names = list(models) or [MEAN]
    for name in names:
        if name == "student":
            continue
        if not (isinstance(name, str) and isinstance(content["phase"].get(name), Mapping)):
            raise ValueError(f"it lacks the network {name!r} that was selected")


def check_plain(content: object) -> None:
    """Check that everything in `content` is plain.

    It is nested at most `DEEPEST` deep and does not contain itself; whole numbers have at most 64
    bits; every tensor is dense and of a type that networks are trained in.
    """
    _PlainCheck().check(content, name="", above=())


class _PlainCheck:
    """`check_plain`, which checks a list that several entries share only once."""

    def __init__(self) -> None:
        self._checked: set[int] = set()

    def check(self, value: object, name: str, above: tuple[int, ...]) -> None:
        """`above`: the identities of the containers that `value` is in."""
        if isinstance(value, Tensor):
            if not _plain(value):
                raise ValueError(f"'{shown(name)}' is not a plain tensor")
        elif isinstance(value, int):
            if value.bit_length() > 64:
                raise ValueError(f"'{shown(name)}' is a number of more than 64 bits")
        elif isinstance(value, Mapping | list | tuple | set):
            self._check_items(cast(Container, value), name, above=above)

    def _check_items(self, value: Container, name: str, above: tuple[int, ...]) -> None:
        if id(value) in above:
            raise ValueError(f"'{shown(name)}' contains itself")
        if len(above) > DEEPEST:
            raise ValueError(f"'{shown(name)}' is nested too deep")
        if id(value) in self._checked:
            return
        self._checked.add(id(value))
        for key, item in _items(value):
            self.check(key, f"a key of {name}", above=(*above, id(value)))
            item_name = f"{name}.{str(key)[:80]}".removeprefix(".")
            self.check(item, item_name, above=(*above, id(value)))


def _items(value: Container) -> Iterable[tuple[object, object]]:
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value)


def check_tensors(parts: object) -> None:
    """Check that every tensor, however deep, is plain and finite, and every number finite."""
    for name, value in _leaves(parts):
        if isinstance(value, Tensor):
            if not _plain(value):
                raise ValueError(f"'{name}' is not a plain tensor")
            # a sum takes a twentieth of the time, but may overflow
            if not value.sum().isfinite() and not value.isfinite().all():
                raise ValueError(
                    f"'{name}' holds NaN or infinite values, the training has diverged; "
                    "use an earlier checkpoint, or train again with a lower --base_lr"
                )
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"'{name}' is {value}")


def _leaves(value: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    if depth > DEEPEST:
        raise ValueError(f"'{name[:80]}' is nested too deep")
    if isinstance(value, Mapping | list | tuple):
        for key, item in _items(cast(Container, value)):
            yield from _leaves(item, f"{name}.{key}".removeprefix("."), depth=depth + 1)
    else:
        yield name, value


def _plain(tensor: Tensor) -> bool:
    """Return whether a tensor is in memory, dense, of a usual type and stored in full."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type == "meta":
        return False
    if tensor.is_quantized or tensor.dtype not in TYPES:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _check_settings(settings: Mapping[str, Any]) -> None:
    for key in ("method", "model", "egm", "exp"):
        if not isinstance(settings.get(key, ""), str):
            raise ValueError(f"its setting '{key}' is not a text")
    sides = settings.get("patch_size", [1])
    if not isinstance(sides, list | tuple):
        raise ValueError("its setting 'patch_size' is not a size")
    numbers = cast(Sequence[object], sides)
    if not numbers or not all(_whole(side) and side > 0 for side in numbers):
        raise ValueError("its setting 'patch_size' is not a size")


def _check_progress(progress: Mapping[str, Any], losses: Sequence[object]) -> None:
    step = progress.get("step")
    validated = progress.get("validated")
    best = progress.get("best_step")
    fault = f"its progress makes no sense (step {step}, validated {validated}, best {best})"
    if not (_whole(step) and _whole(validated) and _whole(best)):
        raise ValueError(fault)
    if not 0 <= validated <= step or not 0 <= best <= step:
        raise ValueError(fault)
    if not _number(progress.get("best_score")) or not isinstance(progress.get("history"), list):
        raise ValueError("its progress lacks the best score or the validations")
    if progress.keys() - {"draws"} != {"step", "validated", "best_step", "best_score", "history"}:
        raise ValueError("its progress holds something unknown")
    _check_history(progress["history"], step)
    if isinstance(losses, str) or not all(map(_number, losses)) or len(losses) != step - validated:
        raise ValueError(
            f"it holds {len(losses)} losses since the last validation, expected {step - validated}"
        )


def _check_history(history: list[object], step: int) -> None:
    """Check the validations until `step`: their steps rise and their values are numbers."""
    before = 0
    for row in history:
        if not isinstance(row, Mapping):
            raise ValueError("its validations make no sense")
        values = cast(Mapping[str, Any], row)
        if not all(map(_number, values.values())) or not before < values.get("step", 0) <= step:
            raise ValueError("its validations make no sense")
        before = values["step"]


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_fits(checkpoint: "Checkpoint", setup: "StageSetup") -> None:
    """Check that a checkpoint of ours fits a stage: networks, state, optimisers and progress."""
    stage = setup.stage
    if checkpoint.stage != stage.name:
        raise ValueError(f"it is of the stage {checkpoint.stage!r}, expected {stage.name!r}")
    step = checkpoint.progress["step"]
    if step > setup.steps:
        raise ValueError(f"it is at step {step} but the stage has {setup.steps} steps")
    _check_state("student", checkpoint.student, stage.student.state_dict())
    expected = stage.state_dict()
    for key, value in expected.items():
        if key not in checkpoint.stage_state:
            raise ValueError(f"it lacks '{key}'")
        if key in stage.networks:
            _check_state(key, checkpoint.stage_state[key], value)
        else:
            _check_value(key, checkpoint.stage_state[key], value)
    unexpected = checkpoint.stage_state.keys() - expected.keys() - stage.former_state
    if unexpected:
        raise ValueError(f"it has the unexpected '{min(map(str, unexpected))}'")
    _check_buffers(checkpoint.buffers or (), stage)
    for name, state in states_by_learner(checkpoint, setup.optimizers).items():
        _check_optimizer(state, setup.optimizers[name], checkpoint.progress["step"])


def _check_value(key: str, value: object, expected: object) -> None:
    """Check that an entry of a stage's state has the type of the expected one."""
    if _whole(expected):
        if not (_whole(value) and value >= 0):
            raise ValueError(f"'{key}' is {value!r}, expected a whole number")
    elif isinstance(expected, float):
        if not _number(value):
            raise ValueError(f"'{key}' is {value!r}, expected a number")
    elif expected is None or isinstance(expected, Tensor):
        if value is not None and not isinstance(value, Tensor | int | float):
            raise ValueError(f"'{key}' has the wrong type")
    elif not isinstance(value, type(expected)):
        raise ValueError(f"'{key}' is {type(value).__name__}, expected {type(expected).__name__}")


def _check_state(network: str, state: object, expected: Mapping[str, Tensor]) -> None:
    """Check that a network's state dict has the keys, shapes and types of `expected`."""
    if not is_mapping(state) or state.keys() != expected.keys():
        raise ValueError(f"'{network}' is not the network that is trained here: other names")
    for key, tensor in expected.items():
        value = state[key]
        description = type(value).__name__
        if isinstance(value, Tensor):
            if value.shape == tensor.shape and value.dtype == tensor.dtype:
                continue
            description = f"{tuple(value.shape)} {value.dtype}"
        raise ValueError(
            f"'{network}.{key}' is {description}, expected {tuple(tensor.shape)} {tensor.dtype}"
        )


def _check_buffers(processes: Sequence[object], stage: TrainingStage[Any]) -> None:
    """Check the batch-norm statistics of several processes."""
    shapes: dict[tuple[str, str], torch.Size] = {}
    for name, network in stage.networks.items():
        for key, buffer in network.named_buffers():
            shapes[name, key] = buffer.shape
    for networks in processes:
        if not is_mapping(networks) or not all(map(is_mapping, networks.values())):
            raise ValueError("the statistics of its processes are not what they should be")
        for name, buffers in networks.items():
            for key, value in buffers.items():
                if not isinstance(value, Tensor) or shapes.get((name, key)) != value.shape:
                    raise ValueError(
                        f"the statistics of its processes hold '{name}.{key}', "
                        "which belongs to another network"
                    )


def _check_optimizer(saved: object, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Check the state of an optimiser after `step` steps: its groups, then its tensors."""
    if not is_mapping(saved):
        raise ValueError("its optimiser is a different one")
    expected = optimizer.state_dict()["param_groups"]
    groups = saved.get("param_groups")
    state = saved.get("state")
    if not isinstance(groups, list) or not is_mapping(state):
        raise ValueError("its optimiser is a different one")
    saved_groups = cast(list[object], groups)
    if len(saved_groups) != len(expected):
        raise ValueError("its optimiser is a different one")
    for expected_group, group in zip(expected, saved_groups, strict=True):
        _check_group(group, expected_group)
    if step and not state:
        raise ValueError("its optimiser has no state, though it has made steps")
    parameters: list[Tensor] = []
    for own_group in optimizer.param_groups:
        parameters += own_group["params"]
    for number, entry in state.items():
        if not _whole(number) or not 0 <= number < len(parameters) or not is_mapping(entry):
            raise ValueError("its optimiser belongs to other parameters")
        _check_entry(number, entry, parameters[number], ENTRIES.get(type(optimizer)))


def _check_group(group: object, expected: Mapping[str, Any]) -> None:
    """Check a parameter group: its parameters, and the values that change a step."""
    if (
        not is_mapping(group)
        or group.get("params") != expected["params"]
        or not _number(group.get("lr"))
    ):
        raise ValueError("its optimiser belongs to other parameters")
    for key in sorted(expected.keys() & group.keys() & ARITHMETIC):
        if _listed(group[key]) != _listed(expected[key]):
            raise ValueError(f"its optimiser has {key} {group[key]}, expected {expected[key]}")


def _check_entry(
    number: int, entry: Mapping[Any, Any], parameter: Tensor, names: set[str] | None
) -> None:
    """Check the optimiser's tensors of a parameter; `names`: theirs, None if not known."""
    if names is not None and set(entry) != names:
        raise ValueError(
            f"its optimiser keeps {', '.join(map(str, entry))} of parameter {number}, "
            f"expected {', '.join(sorted(names))}"
        )
    for key, value in entry.items():
        shape = parameter.shape
        if key == "step":
            shape = torch.Size()
        is_tensor = isinstance(value, Tensor)
        if not is_tensor or value.shape != shape or value.dtype != parameter.dtype:
            raise ValueError(
                f"its optimiser's '{key}' of parameter {number} has another shape or type"
            )


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Return whether a value is a mapping."""
    return isinstance(value, Mapping)


def _listed(value: object) -> object:
    """Return a tuple as a list, as files hold it."""
    if isinstance(value, tuple):
        return list(cast(tuple[object, ...], value))
    return value
