"""The campaign: kills, full disks, rubbish, two writers and a long soak, by the hundred: python -m
pytest -m campaign tests/campaign

CAMPAIGN_SEED draws other moments and bytes, CAMPAIGN_SHARE=0.1 takes a tenth of the numbers. At the
end a table says what was tried, what survived, what was lost.
"""

import os
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from campaign.works import SLICES, VOLUMES, evaluated, train, whole
from forked import Forked
from helpers import ACDC, LA

from dataloaders.coarse import coarse_path, write_coarse
from dataloaders.hdf5 import read_case
from dataloaders.phantom.raw_scans import write_raw_phantom
from datasets import acdc, la

SEED = int(os.environ.get("CAMPAIGN_SEED", "0"))
SHARE = float(os.environ.get("CAMPAIGN_SHARE", "1"))  # of the full numbers, for a quick look
tried: Counter = Counter()
lost: dict[str, list[str]] = {}


class Tally:
    """One row of the table."""

    def __init__(self, row: str) -> None:
        self.row = row
        lost.setdefault(row, [])

    def note(self, survived: bool, what: str) -> None:
        tried[self.row] += 1
        if not survived:
            lost[self.row].append(what)


@pytest.fixture
def tally(request):
    """The row of a test; the test fails where anything was lost."""
    row = Tally(request.node.name.removeprefix("test_").replace("_", " "))
    yield row
    assert not lost[row.row], "\n".join(lost[row.row][:5])


@pytest.fixture
def number():
    """As many as this share of the full campaign has, one at least."""
    return lambda full: max(1, round(full * SHARE))


@pytest.fixture(scope="module")
def coarse_root(la_root, tmp_path_factory):
    """LA's phantom with its dense labels as coarse ones: how they were made does not matter here."""
    root = Path(shutil.copytree(la_root, tmp_path_factory.mktemp("coarse") / "data"))
    for name in LA.read_list(root, "train.list")[:2]:
        image, label, _ = read_case(LA.path(root, name), LA, 3)
        for plane, (axis, _) in enumerate(LA.planes):
            index = int(label.sum(tuple(k for k in range(3) if k != axis)).argmax())
            attributes = {"coarse_axis": axis, "coarse_slice": index}
            write_coarse(
                coarse_path(LA.path(root, name), plane), image[0], label, label, attributes
            )
    return root


@pytest.fixture
def runs(phantom_root, la_root, coarse_root):
    return {
        "ACDC": partial(train, acdc.DATASET, SLICES, phantom_root),
        "LA": partial(train, la.DATASET, VOLUMES, la_root),
        "CoGRNet": partial(train, la.TWO_SLICES, VOLUMES, coarse_root),
    }


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Raw scans in nnU-Net's layout."""
    root = tmp_path_factory.mktemp("raw")
    write_raw_phantom(ACDC, root, 2, 1, 2, 1, (48,), 1337)
    return root


@pytest.fixture(scope="module")
def network(phantom_root, tmp_path_factory):
    """A checkpoint, the best one of a run on slices that has been tested."""
    made = tmp_path_factory.mktemp("made")
    whole(partial(train, acdc.DATASET, SLICES, phantom_root), made)
    assert Forked(lambda: evaluated(phantom_root, made)).ended().status == 0
    return next(made.rglob("self_train/unet_best_model.pth"))


def pytest_terminal_summary(terminalreporter):
    if tried:
        terminalreporter.write_line(
            f"\n{'campaign':<64}{'tried':>7}{'survived':>10}{'lost':>6}   (seed {SEED}, share "
            f"{SHARE:g})"
        )
        for row, count in tried.items():
            terminalreporter.write_line(
                f"{row:<64}{count:>7}{count - len(lost[row]):>10}{len(lost[row]):>6}"
            )
