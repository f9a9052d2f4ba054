"""Several networks as one: the mean of their softmaxes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = torch.finfo(torch.float32).tiny


class MeanOfNetworks(nn.Module):
    """Networks whose probabilities are averaged.

    Images (N, C, ...) to log-probabilities (N, K, ...): their softmax is the mean of the networks'
    softmaxes.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    @property
    def dims(self) -> int:
        """Spatial axes of an image: 2 or 3."""
        first: Any = self.networks[0]
        return first.dims

    def check_size(self, size: tuple[int, ...], images: int = 2) -> None:
        """Raise ValueError if a pass of `images` inputs of spatial shape `size` does not fit one of
        the networks."""
        for network in self.networks:
            one: Any = network
            one.check_size(size, images)

    def forward(self, x: Tensor) -> Tensor:
        softmaxes = [network(x).float().softmax(1) for network in self.networks]
        return torch.stack(softmaxes).mean(0).clamp_min(SMALLEST).log()
