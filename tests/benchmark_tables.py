"""Tiny benchmarks on a phantom of ACDC, and the check that one is refused."""

from collections.abc import Sequence

import pytest

from commands import benchmark
from commands.benchmark import BenchmarkSettings
from utils.errors import UserError

TINY = (
    "--patch_size", "32", "32", "--batch_size", "4", "--labeled_bs", "2", "--val_every", "1",
    "--device", "cpu",
)  # fmt: skip
"""Flags of training for all runs of a table."""


def table_settings(root, output, **values) -> BenchmarkSettings:
    """Two methods with one labelled patient and one seed, unless `values` has others."""
    usual = {
        "dataset": "ACDC", "root_path": root, "output": output, "methods": ("bcp", "mean_teacher"),
        "labelnums": (1,), "seeds": (1,), "pre_iterations": 1, "max_iterations": 2,
    }  # fmt: skip
    return BenchmarkSettings(**{**usual, **values})


def assert_refused_before_anything_runs(
    settings: BenchmarkSettings, flags: Sequence[str], message: str
) -> None:
    """Check that a benchmark is refused in one line with this message, and that nothing ran."""
    with pytest.raises(UserError) as caught:
        benchmark.run(settings, flags)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (settings.output / "runs").exists()
