"""The interface of every network."""

from typing import Any, ClassVar

from torch import nn


class Network(nn.Module):
    """A network, built from (in_chns, class_num, **options) with the fields of its `Options` as options.

    `forward` takes images (N, in_chns, ...) and returns logits (N, class_num, ...).
    """

    dims: ClassVar[int]
    """Spatial axes of an image: 2 or 3."""
    smallest_batch: ClassVar[int]
    """Smallest number of images per pass that its normalisation allows."""
    Options: ClassVar[type[Any]]
    """A frozen dataclass whose fields become flags."""

    def check_size(self, size: tuple[int, ...], images: int = 2) -> None:
        """Raise ValueError if a pass of `images` inputs of spatial shape `size` does not fit the network."""
        raise NotImplementedError(f"{type(self).__name__} must implement check_size")
