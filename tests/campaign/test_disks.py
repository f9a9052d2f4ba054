"""A disk that is full, at every writer."""

import shutil
from functools import partial
from pathlib import Path

import pytest
from campaign.processes import Forked
from campaign.works import REGISTER
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


def copied(source, output):
    return output if output.exists() else Path(shutil.copytree(source, output))


def test_full_disks(runs, network, raw, phantom_root, la_root, tmp_path, tally, number):
    """A quota by file size, at every writer; then there is room again, and the same command does it."""
    tested = ["--root_path", str(phantom_root), "--checkpoint", str(network), "--device", "cpu"]
    scans = ["--checkpoint", str(network), "--input", str(raw / "imagesTs"), "--device", "cpu"]
    own = ["--dataset", "own", "--source", str(raw), "--workers", "1"]
    writers = {
        "training": (lambda out: runs["ACDC"](out), (0, 3000, 100_000, 2**21, 2**24)),
        "training on volumes": (lambda out: runs["LA"](out), (3000, 2**22)),
        "test": (lambda out: evaluate(acdc.PAGE, [*tested, "--output_dir", str(out)]), (0, 300)),
        "export": (lambda out: export([str(network), str(out / "x.pth"), "--overwrite"]), (0, 2**20)),
        "slices": (lambda out: write_acdc_phantom(out, 1, 1, 1, 48), (0, 2000, 6000)),
        "volumes": (lambda out: write_volume_phantom(LA, out, 1, 1, (40, 40, 24)), (0, 2000, 40_000)),
        "registration": (lambda out: register([*REGISTER, "--root_path", str(copied(la_root, out))]), (0, 5000)),
        "preparation": (lambda out: prepare([*own, "--root_path", str(out)]), (0, 4000)),
        "prediction": (lambda out: predict([*scans, "--output", str(out)]), (0, 2000)),
        "page": (lambda out: compare([str(network.parents[1]), "--output", str(out)]), (0, 20_000)),
    }  # fmt: skip
    trials = [(name, work, size) for name, (work, sizes) in writers.items() for size in sizes]
    for index, (name, work, size) in enumerate(trials[: number(len(trials))]):
        output = tmp_path / str(index)
        if name == "registration":
            copied(la_root, output)
        first = Forked(partial(work, output), file_size=size).ended()
        left = list(output.rglob(".unfinished-*")) if output.exists() else []
        again = Forked(partial(work, output)).ended()
        fine = first.status == 2 and first.clean and not left and again.status == 0
        tally.note(fine, f"{name}, {size} bytes: {first.status}, then {again.status}, left {left}: {first.said[-300:]} {again.said[-300:]}")
