"""What a checkpoint must hold before anything of it is used: a damaged or forged one is told in words, never half loaded.

Each function raises ValueError, in words that follow the file's name.
"""

import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from methods.base import MEAN, TrainingStage
from training.optimizers import states_by_learner
from utils.files import shown

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint
    from training.stage import StageSetup

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
ENTRIES = {
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
    """Every part has its checksum: torch itself looks at none and would load a flipped bit."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if part := archive.testzip():
                raise ValueError(f"'{part}' is damaged")


def check_whole(content: Mapping) -> None:
    """All parts of a checkpoint of ours are there, of their kinds, and finite."""
    for key, kind in KINDS.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"'{key}' is missing, or not what it should be")
    for key, kind in OPTIONAL.items():
        if content.get(key) is not None and not isinstance(content[key], kind):
            raise ValueError(f"'{key}' is not what it should be")
    if not isinstance(content["facts"].get("name"), str):
        raise ValueError("it does not say of what data set it is")
    _check_selected(content)
    scaler = content.get("scaler")
    if scaler is not None and (
        scaler.keys() != SCALER
        or not all(_number(value) and value >= 0 for value in scaler.values())
    ):
        raise ValueError("'scaler' is not what it should be")
    _check_settings(content["settings"])
    _check_progress(content["progress"], content["losses"])
    check_tensors({key: content.get(key) for key in (*STATES, "buffers")})


def _check_selected(content: Mapping) -> None:
    """The networks that are to be tested are there, and the names of their kinds are words."""
    models = content.get("models") or {}
    for name, model in models.items():
        if not (isinstance(name, str) and isinstance(model, str)):
            raise ValueError("'models' is not what it should be")
    selected = content.get("selected", "student")
    names = [selected]
    if selected == MEAN:
        names = list(models) or [MEAN]
    for name in names:
        if name == "student":
            continue
        if not (isinstance(name, str) and isinstance(content["phase"].get(name), Mapping)):
            raise ValueError(f"it says that {name!r} was validated, which it does not hold")


def check_plain(content: object) -> None:
    """Everything is nested at most `DEEPEST` deep, nothing holds itself, whole numbers fit into 64 bits, and every tensor is a dense one
    of a type that networks are trained in."""
    checked: set[int] = (
        set()
    )  # several entries may hold one and the same list: it is looked at once

    def visit(value: object, name: str, above: tuple[int, ...]) -> None:
        if isinstance(value, Tensor):
            if not _plain(value):
                raise ValueError(f"'{shown(name)}' is no plain tensor")
        elif isinstance(value, int):
            if value.bit_length() > 64:
                raise ValueError(f"'{shown(name)}' is a number of more than 64 bits")
        elif isinstance(value, Mapping | list | tuple | set):
            if id(value) in above:
                raise ValueError(f"'{shown(name)}' holds itself")
            if len(above) > DEEPEST:
                raise ValueError(f"'{shown(name)}' is nested too deep")
            if id(value) not in checked:
                checked.add(id(value))
                for key, item in _items(value):
                    visit(key, f"a key of {name}", (*above, id(value)))
                    visit(item, f"{name}.{str(key)[:80]}".removeprefix("."), (*above, id(value)))

    visit(content, "", ())


def _items(value: Mapping | list | tuple | set) -> Iterable[tuple[object, object]]:
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value)


def check_tensors(parts: object) -> None:
    """Every tensor, however deep, is a plain one, and it and every number finite."""
    for name, value in _leaves(parts):
        if isinstance(value, Tensor):
            if not _plain(value):
                raise ValueError(f"'{name}' is no plain tensor")
            if (
                not value.sum().isfinite() and not value.isfinite().all()
            ):  # a sum takes a twentieth of the time
                raise ValueError(
                    f"'{name}' holds NaN or infinite values, the training has diverged; take an earlier checkpoint, or train again with "
                    "a lower --base_lr"
                )
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"'{name}' is {value}")


def _leaves(value: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    if depth > DEEPEST:
        raise ValueError(f"'{name[:80]}' is nested too deep")
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{name}.{number}", depth + 1)
    else:
        yield name, value


def _plain(tensor: Tensor) -> bool:
    """In memory, dense, of a usual type, and no larger than what was stored of it."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type == "meta":
        return False
    if tensor.is_quantized or tensor.dtype not in TYPES:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _check_settings(settings: Mapping) -> None:
    for key in ("method", "model", "egm", "exp"):
        if not isinstance(settings.get(key, ""), str):
            raise ValueError(f"its setting '{key}' is no word")
    sides = settings.get("patch_size", [1])
    if (
        not isinstance(sides, list | tuple)
        or not sides
        or not all(_whole(side) and side > 0 for side in sides)
    ):
        raise ValueError("its setting 'patch_size' is no size")


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
    before = 0
    for row in progress["history"]:
        if (
            not isinstance(row, Mapping)
            or not all(map(_number, row.values()))
            or not before < row.get("step", 0) <= step
        ):
            raise ValueError("its validations make no sense")
        before = row["step"]
    if isinstance(losses, str) or not all(map(_number, losses)) or len(losses) != step - validated:
        raise ValueError(
            f"it holds {len(losses)} losses since the last validation, expected {step - validated}"
        )


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_fits(checkpoint: "Checkpoint", setup: "StageSetup") -> None:
    """Raise ValueError unless a checkpoint of ours belongs to this stage: its networks, state, optimiser and progress."""
    stage = setup.stage
    if checkpoint.stage != stage.name:
        raise ValueError(f"of the stage {checkpoint.stage!r}, expected {stage.name!r}")
    if checkpoint.progress["step"] > setup.steps:
        raise ValueError(f"at step {checkpoint.progress['step']} of a stage that has {setup.steps}")
    _check_state("student", checkpoint.student, stage.student.state_dict())
    expected = stage.state_dict()
    for key, value in expected.items():
        if key not in checkpoint.phase:
            raise ValueError(f"it lacks '{key}'")
        if key in stage.networks:
            _check_state(key, checkpoint.phase[key], value)
        else:
            _check_value(key, checkpoint.phase[key], value)
    unexpected = checkpoint.phase.keys() - expected.keys() - stage.former_state
    if unexpected:
        raise ValueError(f"it has the unexpected '{min(map(str, unexpected))}'")
    _check_buffers(checkpoint.buffers or (), stage)
    for name, state in states_by_learner(checkpoint, setup.optimizers).items():
        _check_optimizer(state, setup.optimizers[name], checkpoint.progress["step"])


def _check_value(key: str, given: object, expected: object) -> None:
    """Raise ValueError unless an entry of a stage's state has the type of the expected one."""
    if _whole(expected):
        if not (_whole(given) and given >= 0):
            raise ValueError(f"'{key}' is {given!r}, expected a whole number")
    elif isinstance(expected, float):
        if not _number(given):
            raise ValueError(f"'{key}' is {given!r}, expected a number")
    elif expected is None or isinstance(expected, Tensor):
        allowed = given is None or isinstance(given, Tensor | int | float)
        if not allowed:
            raise ValueError(f"'{key}' is not what it should be")
    elif not isinstance(given, type(expected)):
        raise ValueError(f"'{key}' is {type(given).__name__}, expected {type(expected).__name__}")


def _check_state(what: str, given: object, own: Mapping[str, Tensor]) -> None:
    """A network's state dict has the keys, shapes and types of `own`."""
    if not isinstance(given, Mapping) or given.keys() != own.keys():
        raise ValueError(f"'{what}' is not the network that is trained here: other names")
    for key, value in own.items():
        if (
            not isinstance(given[key], Tensor)
            or given[key].shape != value.shape
            or given[key].dtype != value.dtype
        ):
            shown = (
                f"{tuple(given[key].shape)} {given[key].dtype}"
                if isinstance(given[key], Tensor)
                else type(given[key]).__name__
            )
            raise ValueError(
                f"'{what}.{key}' is {shown}, expected {tuple(value.shape)} {value.dtype}"
            )


def _check_buffers(gathered: Sequence, stage: TrainingStage) -> None:
    own = {
        (name, key): buffer.shape
        for name, net in stage.networks.items()
        for key, buffer in net.named_buffers()
    }
    for mine in gathered:
        if not isinstance(mine, Mapping) or not all(
            isinstance(buffers, Mapping) for buffers in mine.values()
        ):
            raise ValueError("the statistics of its processes are not what they should be")
        for name, buffers in mine.items():
            for key, value in buffers.items():
                if not isinstance(value, Tensor) or own.get((name, key)) != value.shape:
                    raise ValueError(
                        f"the statistics of its processes hold '{name}.{key}', which is another network's"
                    )


def _check_optimizer(given: object, optimizer: torch.optim.Optimizer, step: int) -> None:
    if not isinstance(given, Mapping):
        raise ValueError("its optimiser is another")
    own, groups, state = optimizer.state_dict(), given.get("param_groups"), given.get("state")
    if (
        not isinstance(groups, list)
        or len(groups) != len(own["param_groups"])
        or not isinstance(state, Mapping)
    ):
        raise ValueError("its optimiser is another")
    for mine, theirs in zip(own["param_groups"], groups, strict=True):
        if (
            not isinstance(theirs, Mapping)
            or theirs.get("params") != mine["params"]
            or not _number(theirs.get("lr"))
        ):
            raise ValueError("its optimiser is that of other parameters")
        other = [
            key
            for key in mine.keys() & theirs.keys() & ARITHMETIC
            if _listed(mine[key]) != _listed(theirs[key])
        ]
        if other:
            raise ValueError(
                f"its optimiser has {min(other)} {theirs[min(other)]}, expected {mine[min(other)]}"
            )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = ENTRIES.get(type(optimizer))
    if step and not state:
        raise ValueError("its optimiser has forgotten everything")
    for number, entry in state.items():
        if (
            not _whole(number)
            or not 0 <= number < len(parameters)
            or not isinstance(entry, Mapping)
        ):
            raise ValueError("its optimiser is that of other parameters")
        if wanted is not None and entry.keys() != wanted:
            raise ValueError(
                f"its optimiser keeps {', '.join(map(str, entry))} of parameter {number}, expected {', '.join(sorted(wanted))}"
            )
        for key, value in entry.items():
            shape = () if key == "step" else parameters[number].shape
            if (
                not isinstance(value, Tensor)
                or value.shape != shape
                or value.dtype != parameters[number].dtype
            ):
                raise ValueError(
                    f"its optimiser's '{key}' of parameter {number} has another shape or type"
                )


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
