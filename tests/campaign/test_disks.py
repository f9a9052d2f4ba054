"""A disk that is full, at every writer; then there is room again, and the same command does it."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from campaign.works import REGISTER
from forked import Forked
from helpers import LA

from comparison.command import compare
from dataloaders.phantom.volumes import write_volume_phantom
from dataloaders.phantom.write import write_acdc_phantom
from preparation.command import prepare
from programs.evaluation import evaluate
from programs.export import export
from programs.predict import predict
from recipes import acdc
from registration.register import register

pytestmark = pytest.mark.campaign


@dataclass(frozen=True)
class Writer:
    """`work` writes to a folder; `quotas`: bytes that a file may have; `disk`: KiB of a disk that it fills, beside the `data` there."""

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
            lambda out: evaluate(acdc.PAGE, [*tested, "--output_dir", str(out)]),
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
