"""A disk that is full, at every writer; then there is room again, and the same command does it."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
from campaign.works import REGISTER
from forked import Forked
from helpers import LA
from scripts import compare, evaluate, export, predict, prepare, register, score

from dataloaders.phantom.organ_volumes import write_volume_phantom
from dataloaders.phantom.write import write_acdc_phantom
from datasets import acdc
from reporting.tested_run import read_result

pytestmark = pytest.mark.campaign


@dataclass(frozen=True)
class Writer:
    """`work` writes to a folder; `quotas`: bytes that a file may have; `disk`: KiB of a disk that
    it fills, beside the `data` there.
    """

    name: str
    work: Callable[[Path], object]
    quotas: tuple[int, ...]
    disk: int
    data: Path | None = None


@pytest.fixture
def writers(runs, network, raw, phantom_root, la_root):
    tested = ["--root_path", str(phantom_root), "--checkpoint", str(network), "--device", "cpu"]
    scans = ["--checkpoint", str(network), "--input", str(raw / "imagesTs"), "--device", "cpu"]
    own = ["--dataset", "own", "--source", str(raw), "--workers", "1"]
    return (
        Writer("training", runs["ACDC"], (0, 3000, 100_000, 2**21, 2**24), 70_000),
        Writer("training on volumes", runs["LA"], (3000, 2**22), 40_000),
        Writer(
            "test",
            lambda out: evaluate(acdc.DATASET, [*tested, "--output_dir", str(out)]),
            (0, 300),
            4,
        ),
        Writer(
            "export",
            lambda out: export([str(network), str(out / "x.pth"), "--overwrite"]),
            (0, 2**20),
            2000,
        ),
        Writer("slices", lambda out: write_acdc_phantom(out, 1, 1, 1, 48), (0, 2000, 6000), 100),
        Writer(
            "volumes",
            lambda out: write_volume_phantom(LA, out, 1, 1, (40, 40, 24)),
            (0, 2000, 40_000),
            100,
        ),
        Writer(
            "registration",
            lambda out: register([*REGISTER, "--root_path", str(out)]),
            (0, 5000),
            8,
            la_root,
        ),
        Writer("preparation", lambda out: prepare([*own, "--root_path", str(out)]), (0, 4000), 40),
        Writer("prediction", lambda out: predict([*scans, "--output", str(out)]), (0, 2000), 4),
        Writer(
            "page",
            lambda out: compare([str(network.parents[1]), "--output", str(out)]),
            (0, 20_000),
            8,
        ),
    )


def tried(
    writer: Writer,
    output: Path,
    tally,
    what: str,
    room: Callable[[], object] = lambda: None,
    quota: int | None = None,
) -> None:
    """Starve it, make room, and start it again."""
    first = Forked(partial(writer.work, output), file_size=quota).ended()
    left = list(output.rglob(".unfinished-*")) if output.exists() else []
    room()
    again = Forked(partial(writer.work, output)).ended()
    fine = first.status == 2 and first.clean and not left and again.status == 0
    ends = f"{first.status}, then {again.status}, left {left}"
    tally.note(fine, f"{writer.name}, {what}: {ends}: {first.said[-300:]} {again.said[-300:]}")


def test_full_disks_by_the_size_of_a_file(writers, tmp_path, tally, number):
    trials = [(writer, quota) for writer in writers for quota in writer.quotas]
    for index, (writer, quota) in enumerate(trials[: number(len(trials))]):
        output = tmp_path / str(index)
        if writer.data:
            shutil.copytree(writer.data, output)
        tried(writer, output, tally, f"{quota} bytes", quota=quota)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[], None]]:
    """A disk of `size` KiB at `folder`; what is yielded makes it larger."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("this user cannot mount a disk")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a disk"
)
def test_full_disks(writers, tmp_path, tally, number):
    for index, writer in enumerate(writers[: number(len(writers))]):
        files = [path for path in writer.data.rglob("*") if path.is_file()] if writer.data else []
        disk, output = tmp_path / str(index), tmp_path / str(index) / "out"
        with small_disk(
            disk, writer.disk + sum(-(-path.stat().st_size // 4096) * 4 for path in files)
        ) as room:
            if writer.data:
                shutil.copytree(writer.data, output)
            tried(writer, output, tally, f"{writer.disk} KiB", room)


def scored(root: Path, output: Path) -> int:
    """Score the predictions below `root`."""
    folders = ["--predictions", str(root / "pred"), "--labels", str(root / "labelsTs")]
    return score([*folders, "--output", str(output), "--workers", "1"])


def dice_of(output: Path) -> float:
    """The mean Dice of the result in a folder, the same in metrics.csv and summary.json."""
    result = read_result(output)
    mean = float(result.values["honest"]["dice"].mean())
    assert mean == pytest.approx(result.means("honest")["mean"]["dice"], abs=1e-6)
    return mean


def write_predictions(root: Path, shift: int) -> None:
    """The labels as predictions, shifted by so many voxels."""
    (root / "pred").mkdir(exist_ok=True)
    for path in (root / "labelsTs").iterdir():
        label = nibabel.load(path)
        array = np.roll(np.asarray(label.dataobj), shift, axis=0)
        nibabel.save(nibabel.Nifti1Image(array, label.affine), root / "pred" / path.name)


def test_full_disks_between_the_two_result_files(raw, tmp_path, tally, number):
    """New predictions are scored again, with room for a part of the results: the earlier pair
    stays, or is refused.
    """
    shutil.copytree(raw / "labelsTs", tmp_path / "labelsTs")
    shutil.copy(raw / "dataset.json", tmp_path)
    write_predictions(tmp_path, shift=0)
    assert Forked(lambda: scored(tmp_path, tmp_path / "first")).ended().status == 0
    assert dice_of(tmp_path / "first") == 1
    write_predictions(tmp_path, shift=3)
    assert Forked(lambda: scored(tmp_path, tmp_path / "second")).ended().status == 0
    expected = dice_of(tmp_path / "second")
    assert expected < 1
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "second").iterdir()}
    quotas = np.linspace(0, sizes["summary.json"] - 1, number(20)).astype(int).tolist()
    for quota in [*quotas, sizes["metrics.csv"], sizes["metrics.csv"] - 1]:
        output = Path(shutil.copytree(tmp_path / "first", tmp_path / str(quota)))
        first = Forked(lambda output=output: scored(tmp_path, output), file_size=quota).ended()
        kept = dice_of(output)
        again = Forked(lambda output=output: scored(tmp_path, output)).ended()
        fine = first.status == 2 and first.clean and kept == 1 and again.status == 0
        fine = fine and dice_of(output) == expected
        tally.note(fine, f"{quota} bytes: {first.status}, Dice {kept}: {first.said[-300:]}")
        shutil.rmtree(output)
