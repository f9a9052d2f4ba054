"""The interface of every network."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

Auxiliary = Literal["none", "feature", "decoders", "distance", "levels", "dropped"]


@dataclass(frozen=True)
class NoOptions:
    """Options of a network that has no flags of its own."""


class Network(nn.Module):
    """A network, built from (in_chns, class_num, **options) with the fields of its `Options` as
    options.

    `forward` takes images (N, in_chns, ...) and returns logits (N, class_num, ...). A network with
    auxiliary outputs for training returns them too with `forward(x, auxiliary=True)`, as a tuple
    whose first entry is the logits.
    """

    dims: ClassVar[int]
    """Spatial axes of an image: 2 or 3."""
    smallest_batch: ClassVar[int]
    """Smallest number of images per pass that its normalisation allows."""
    Options: ClassVar[type[Any]]
    """A frozen dataclass whose fields become flags."""
    auxiliary: ClassVar[Auxiliary] = "none"
    """What follows the logits in `forward(x, auxiliary=True)`.

    feature: the input (N, C, ...) of the last convolution. decoders: the logits (N, class_num, ...)
    of each further decoder. dropped: the logits (N, class_num, ...) from features whose channels
    were dropped at random. levels: the logits (N, class_num, ...) of each coarser level of the
    decoder, at the input's size. distance: the signed distances (N, class_num - 1, ...) of the
    foreground classes. none: `forward` takes no such argument.
    """

    deepest: ClassVar[str] = ""
    """Name of the layer whose output (N, channels, ...) is the deepest feature of the encoder. Its
    mean describes a scan, for code/suggest.py; "" if no layer has it.
    """

    feature_channels: int
    """Channels of the auxiliary feature, if there is one."""

    def check_size(self, size: tuple[int, ...], images: int = 2) -> None:
        """Raise ValueError if a pass of `images` inputs of spatial shape `size` does not fit the
        network.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement check_size")
