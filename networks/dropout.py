"""Dropout whose random numbers `networks/fast/` may draw."""

from torch import Tensor, nn

from networks import operations


class Dropout(nn.Dropout):
    """`nn.Dropout`, computed by `operations.dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.p > 0:
            return operations.dropout(input, self.p)
        return input
