"""What steps report, kept on the device and read together: one wait for the device instead of several a step."""

import torch
from torch import Tensor

from methods.base import Scalars


class Readings:
    """Scalars of steps that were made but not yet read."""

    def __init__(self):
        self._steps: list[tuple[int, dict[str, float | None]]] = []  # None: a tensor's
        self._tensors: list[Tensor] = []  # a step's scalars on the device, (n,) float32 each

    def add(self, step: int, scalars: Scalars) -> None:
        """Keep the scalars of the step made as number `step`, numbers or tensors of one element without a graph."""
        # no tensor itself is kept: recorded graphs write over theirs at the next step
        self._steps.append(
            (
                step,
                {
                    name: None if isinstance(value, Tensor) else float(value)
                    for name, value in scalars.items()
                },
            )
        )
        tensors = [
            value.float().reshape(()) for value in scalars.values() if isinstance(value, Tensor)
        ]
        if tensors:
            self._tensors.append(torch.stack(tensors))

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """The steps' numbers with their scalars, in order; there are none left afterwards."""
        values = iter(torch.cat(self._tensors).tolist() if self._tensors else ())
        read = [
            (
                step,
                {name: next(values) if value is None else value for name, value in scalars.items()},
            )
            for step, scalars in self._steps
        ]
        self._steps, self._tensors = [], []
        return read
