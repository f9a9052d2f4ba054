"""The optimisers of a stage, one for each learner, in its checkpoints."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint

STUDENT = "student"
Optimizers = Mapping[str, torch.optim.Optimizer]


def saved_states(optimizers: Optimizers) -> dict[str, Any]:
    """Return the entries of a checkpoint.

    "optimizer": the state of the student's. "other_optimizers": those of other learners, by name.
    """
    others = {
        name: optimizer.state_dict() for name, optimizer in optimizers.items() if name != STUDENT
    }
    entries: dict[str, Any] = {"optimizer": optimizers[STUDENT].state_dict()}
    if others:
        entries["other_optimizers"] = others
    return entries


def states_by_learner(
    checkpoint: "Checkpoint", optimizers: Optimizers
) -> dict[str, Mapping[str, Any]]:
    """Return the optimiser state of each learner.

    Older checkpoints have one optimiser for all learners, which is split. Raises ValueError if a
    learner has no state.
    """
    student = checkpoint.optimizer or {}
    if len(optimizers) == 1:
        return {STUDENT: student}
    if checkpoint.other_optimizers is None:
        return _split(student, optimizers)
    states = {STUDENT: student, **checkpoint.other_optimizers}
    if states.keys() != optimizers.keys():
        saved = ", ".join(map(str, states))
        raise ValueError(f"it has the optimisers of {saved}, expected {', '.join(optimizers)}")
    return states


def _split(joint: Mapping[str, Any], optimizers: Optimizers) -> dict[str, Mapping[str, Any]]:
    """Split the state of one optimiser that trained all learners.

    It numbers their parameters one learner after the other.
    """
    try:
        (group,) = joint["param_groups"]
        entries = dict(joint["state"])
        group = dict(group)
    except (KeyError, TypeError, ValueError):
        raise ValueError("its optimiser is a different one") from None
    states: dict[str, Mapping[str, Any]] = {}
    first = 0
    for name, optimizer in optimizers.items():
        count = sum(len(own_group["params"]) for own_group in optimizer.param_groups)
        numbers = list(range(count))
        state: dict[int, Any] = {}
        for number in numbers:
            if first + number in entries:
                state[number] = entries[first + number]
        states[name] = {"state": state, "param_groups": [{**group, "params": numbers}]}
        first += count
    if list(group.get("params", ())) != list(range(first)):
        raise ValueError("its optimiser belongs to other parameters")
    return states
