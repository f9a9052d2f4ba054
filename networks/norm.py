"""Batch norm whose network counts the passes: nothing reads these counters but checkpoints and the teachers that average them, and a
launch for each layer and pass is one in twenty."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Uncounted:
    """torch's batch norm without its counter, which the network raises (`PassCounter`)."""

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps)


class BatchNorm2d(_Uncounted, nn.BatchNorm2d):
    """Counted by its network."""


class BatchNorm3d(_Uncounted, nn.BatchNorm3d):
    """Counted by its network."""


class PassCounter:
    """Raises `num_batches_tracked` of all of a network's batch norms at once."""

    def __init__(self, net: nn.Module):
        self.norms = [module for module in net.modules() if isinstance(module, _Uncounted)]

    @torch.no_grad()
    def count(self) -> None:
        if self.norms:
            torch._foreach_add_([norm.num_batches_tracked for norm in self.norms], 1)
