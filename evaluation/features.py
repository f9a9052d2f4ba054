"""The deepest feature of a network, averaged over everything that it predicts."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class MeanFeature:
    """The mean of a network's deepest feature over images and positions, a vector.

    The network's `deepest` names the layer (`networks.base.Network`). A network without that name
    has no feature.
    """

    def __init__(self, net: nn.Module) -> None:
        """`net`: a network, or several that are averaged, whose first one counts."""
        self._layer = _deepest_layer(net)
        self._sum: Tensor | None = None
        self._images = 0

    @contextmanager
    def collected(self, enabled: bool) -> Generator[None, None, None]:
        """Within the context, the passes of the network are averaged if `enabled`."""
        if self._layer is None or not enabled:
            yield
            return
        handle = self._layer.register_forward_hook(self._add)
        try:
            yield
        finally:
            handle.remove()

    def mean(self) -> NDArray[np.float32] | None:
        """The mean (channels,), None if nothing was collected."""
        if self._sum is None:
            return None
        return (self._sum / self._images).cpu().numpy()

    @torch.no_grad()
    def _add(self, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        """Add the features (N, channels, ...) of a pass, on the device."""
        vectors = output.float().flatten(2).mean(2).sum(0)
        if self._sum is None:
            self._sum = torch.zeros_like(vectors)
        self._sum += vectors
        self._images += len(output)


def _deepest_layer(net: nn.Module) -> nn.Module | None:
    networks = getattr(net, "networks", None)
    if isinstance(networks, nn.ModuleList):
        net = networks[0]
    name = getattr(net, "deepest", "")
    if not name:
        return None
    return net.get_submodule(name)
