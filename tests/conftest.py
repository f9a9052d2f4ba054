"""What several test files share: a tiny data set."""

from pathlib import Path

import pytest

from dataloaders.phantom import write_acdc_phantom


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory) -> Path:
    """Three training, one validation and one test patient in the ACDC layout, 48x48, 5 slices a volume. To be read only."""
    root = tmp_path_factory.mktemp("phantom_root")
    write_acdc_phantom(root, train=3, val=1, test=1, size=48, slices=(5, 5))
    return root
