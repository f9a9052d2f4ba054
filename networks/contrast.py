"""The heads of SS-Net (Wu et al., MICCAI 2022) for contrastive learning of pixels.

They are trained next to the network that gives the features, and not needed for prediction. Names
are those of the published networks.
"""

import torch
from torch import Tensor, nn

from networks.published_weights import HEAD_WIDTH


def _head(inputs: int, outputs: int, activation: nn.Module) -> nn.Sequential:
    """Return linear, batch norm, activation, linear."""
    return nn.Sequential(
        nn.Linear(inputs, HEAD_WIDTH),
        nn.BatchNorm1d(HEAD_WIDTH),
        activation,
        nn.Linear(HEAD_WIDTH, outputs),
    )


class ContrastiveHeads(nn.Module):
    """Project, predict and rank the features of single pixels.

    A selector for each foreground class ranks its pixels.

    The published networks also have selectors for the background and for the memory. No loss ever
    reaches those.
    """

    def __init__(self, features: int, class_num: int) -> None:
        super().__init__()
        self.projection_head = _head(features, HEAD_WIDTH, nn.ReLU())
        self.prediction_head = _head(HEAD_WIDTH, HEAD_WIDTH, nn.ReLU())
        for number in range(1, class_num):
            selector = _head(HEAD_WIDTH, 1, nn.LeakyReLU(0.2))
            self.add_module(f"contrastive_class_selector_{number}", selector)

    def project(self, features: Tensor) -> Tensor:
        """Return the projections (P, 32) of the features (P, C) of P pixels."""
        return self.projection_head(features)

    def predict(self, features: Tensor) -> Tensor:
        """Return the predictions (P, 32) of the features (P, C) of P pixels."""
        return self.prediction_head(self.project(features))

    def selector(self, number: int) -> nn.Module:
        """Return the selector of a foreground class."""
        return self.get_submodule(f"contrastive_class_selector_{number}")

    def rank(self, vectors: Tensor, number: int) -> Tensor:
        """Return ranks (P,) between 0 and 1 of projections or predictions (P, 32) of a class."""
        return torch.sigmoid(self.selector(number)(vectors)).squeeze(1)
