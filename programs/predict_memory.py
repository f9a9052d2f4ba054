"""How much memory predicting will take, told before it begins."""

from collections.abc import Sequence

from preparation.files import RawCase
from programs.predict_model import Model


def say_memory(model: Model, cases: Sequence[RawCase], probabilities: bool) -> None:
    """Print what the largest scan will take."""
