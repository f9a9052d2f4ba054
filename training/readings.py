"""Scalars of several steps, kept on the device and read together: one wait for the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.stage_networks import Scalars


@dataclass(frozen=True)
class _Step:
    number: int
    values: dict[str, float | None]
    """None: the value is on the device."""


class Readings:
    """Scalars of steps that were made but not yet read."""

    def __init__(self) -> None:
        """Start without steps."""
        self._steps: list[_Step] = []
        self._tensors: list[Tensor] = []  # scalars of a step on the device, (n,) float32 each

    def add(self, step: int, scalars: Scalars) -> None:
        """Keep the scalars of step number `step`: numbers, or tensors of one element, no graph."""
        values: dict[str, float | None] = {}
        tensors: list[Tensor] = []
        for name, value in scalars.items():
            if isinstance(value, Tensor):
                values[name] = None
                tensors.append(value.float().reshape(()))
            else:
                values[name] = float(value)
        self._steps.append(_Step(step, values))
        if tensors:
            # stacking copies them: a recorded graph overwrites its tensors in the next step
            self._tensors.append(torch.stack(tensors))

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """Return the step numbers with their scalars, in order, and forget them."""
        numbers: list[float] = []
        if self._tensors:
            numbers += torch.cat(self._tensors).tolist()  # pyright: ignore[reportUnknownMemberType]
        from_device = iter(numbers)
        steps: list[tuple[int, dict[str, float]]] = []
        for step in self._steps:
            scalars: dict[str, float] = {}
            for name, value in step.values.items():
                if value is None:
                    value = next(from_device)
                scalars[name] = value
            steps.append((step.number, scalars))
        self._steps = []
        self._tensors = []
        return steps
