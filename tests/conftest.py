"""What several test files share: a tiny data set of every layout."""

from pathlib import Path

import pytest
from helpers import KITS19, LA, LITS, PANCREAS, narrowed

from dataloaders.phantom.organ_volumes import write_volume_phantom
from dataloaders.phantom.write import write_acdc_phantom
from utils.messages import use_terminal


def pytest_collection_modifyitems(items):
    """The slowest file first, or one process has it left when the others have ended."""
    items.sort(key=lambda item: item.path.stem != "test_trajectories")


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory):
    """Hashes of files are kept among the tests' files, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def printed_messages():
    """Commands that a test calls print their messages, as in a script."""
    use_terminal()


@pytest.fixture(scope="session", autouse=True)
def forked_pools():
    """Pools of processes are forked, which spares each the seconds of its imports; those of scripts
    that a test starts are spawned.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.workers.START", "fork")
        patch.setenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory) -> Path:
    """Three training, one validation and one test patient in the ACDC layout, 48x48, 5 slices per
    volume. To be read only.
    """
    root = tmp_path_factory.mktemp("phantom_root")
    write_acdc_phantom(root, train=3, val=1, test=1, size=48, slices=(5, 5))
    return root


@pytest.fixture(scope="session")
def la_root(tmp_path_factory) -> Path:
    """Six training and two test cases in the LA layout, about 40x40x24.

    To be read only, as the next three.
    """
    root = tmp_path_factory.mktemp("la_root")
    write_volume_phantom(LA, root, train=6, test=2, size=(40, 40, 24))
    return root


@pytest.fixture(scope="session")
def pancreas_root(tmp_path_factory) -> Path:
    """Four labelled, four unlabelled and two test cases in the Pancreas layout, 40x40x40."""
    root = tmp_path_factory.mktemp("pancreas_root")
    write_volume_phantom(PANCREAS, root, train=8, test=2, size=(40, 40, 40), labelled=4)
    return root


@pytest.fixture(scope="session")
def kits_root(tmp_path_factory) -> Path:
    """Six training and two test cases in the KiTS19 layout, 24x48x48."""
    root = tmp_path_factory.mktemp("kits_root")
    write_volume_phantom(KITS19, root, train=6, test=2, size=(24, 48, 48))
    return root


@pytest.fixture(scope="session")
def lits_root(tmp_path_factory) -> Path:
    """Six training and two test cases in the LiTS layout, 24x48x48."""
    root = tmp_path_factory.mktemp("lits_root")
    write_volume_phantom(LITS, root, train=6, test=2, size=(24, 48, 48))
    return root


@pytest.fixture(scope="module")
def narrow():
    """Narrow networks for a whole module, whose own fixtures may train some."""
    with narrowed():
        yield


@pytest.fixture
def published_width():
    """The published networks for one test of a module of narrow ones."""
    with narrowed(1):
        yield
