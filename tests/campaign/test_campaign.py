"""Kills, full disks, rubbish, two writers and a long soak, by the hundred: python -m pytest -m campaign tests/campaign

CAMPAIGN_SEED draws other moments and bytes, CAMPAIGN_SHARE=0.1 takes a tenth of the numbers.
"""

import os
import resource
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from campaign.conftest import SEED
from campaign.processes import Forked
from helpers import ACDC, LA, assert_same, stages
from torch import nn

from comparison.command import compare
from dataloaders.coarse import coarse_path, write_coarse
from dataloaders.hdf5 import read_case
from dataloaders.phantom.raw import write_raw_phantom
from dataloaders.phantom.volumes import write_volume_phantom
from dataloaders.phantom.write import write_acdc_phantom
from networks import registry
from preparation.command import prepare
from programs.evaluation import evaluate
from programs.export import export
from programs.predict import predict
from programs.training import train as train_page
from recipes import acdc, la
from registration.register import register

pytestmark = pytest.mark.campaign

SLICES = {
    "labelnum": 1, "patch_size": (32, 32), "egm": "none", "batch_size": 4, "labeled_bs": 2, "pre_iterations": 12, "max_iterations": 12,
    "val_every": 2, "static_start": 2, "static_step": 1, "static_range": (1, 3), "device": "cpu",
}  # fmt: skip
VOLUMES = {
    "labelnum": 2, "patch_size": (32, 16, 16), "egm": "none", "batch_size": 4, "labeled_bs": 2, "pre_iterations": 4, "max_iterations": 4,
    "val_every": 2, "val_stride": (32, 16, 16), "device": "cpu",
}  # fmt: skip
REGISTER = ["--labelnum", "1", "--planes", "middle", "middle", "--workers", "1", "--dataset", "LA"]


def train(page, numbers, root, output):
    train_page(page, [], root_path=root, output_root=output, **numbers)


def test_acdc(root, output):
    evaluate(acdc.PAGE, ["--root_path", str(root), "--output_root", str(output), "--labelnum", "1", "--device", "cpu"])


test_acdc.__test__ = False


@pytest.fixture(scope="module")
def coarse_root(la_root, tmp_path_factory):
    """LA's phantom with its dense labels as coarse ones: how they were made does not matter here."""
    root = Path(shutil.copytree(la_root, tmp_path_factory.mktemp("coarse") / "data"))
    for name in LA.read_list(root, "train.list")[:2]:
        image, label, _ = read_case(LA.path(root, name), LA, 3)
        for plane, (axis, _) in enumerate(LA.planes):
            index = int(label.sum(tuple(k for k in range(3) if k != axis)).argmax())
            attributes = {"coarse_axis": axis, "coarse_slice": index}
            write_coarse(coarse_path(LA.path(root, name), plane), image[0], label, label, attributes)
    return root


@pytest.fixture
def runs(phantom_root, la_root, coarse_root):
    return {
        "ACDC": partial(train, acdc.PAGE, SLICES, phantom_root),
        "LA": partial(train, la.PAGE, VOLUMES, la_root),
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
    whole(partial(train, acdc.PAGE, SLICES, phantom_root), made)
    assert Forked(lambda: test_acdc(phantom_root, made)).ended().status == 0
    return next(made.rglob("self_train/unet_best_model.pth"))


def whole(work, output):
    """What an uninterrupted run leaves, and how long it takes."""
    began = time.monotonic()
    ended = Forked(lambda: work(output)).ended()
    assert ended.status == 0, ended.said[-2000:]
    return stages(output), time.monotonic() - began


def same(output, expected) -> str:
    """Empty where a resumed run is bit for bit the uninterrupted one."""
    try:
        assert_same(stages(output), expected)
    except Exception as error:
        return f"{output}: {error!r}"[:300]
    return ""


@pytest.mark.parametrize("name, full", [("ACDC", 20), ("LA", 10), ("CoGRNet", 10)])
def test_kills_at_random(name, full, runs, tmp_path, tally, number):
    """SIGKILL again and again, until the run is through; then another one."""
    expected, seconds = whole(runs[name], tmp_path / "whole")
    rng, kills, pending, output = np.random.default_rng([SEED, full]), 0, 0, tmp_path / "0"
    while kills < number(full) or pending:
        child = Forked(lambda output=output: runs[name](output))
        if kills < number(full):
            child.process.join(rng.uniform(0, seconds))
            if child.process.is_alive():
                child.kill()
                kills, pending = kills + 1, pending + 1
                continue
        ended = child.ended()
        fault = same(output, expected) if ended.status == 0 else ended.said[-500:]
        for _ in range(pending):
            tally.note(not fault, fault)
        pending, output = 0, tmp_path / str(kills)


def killed_at(work, call, place):
    """`work`, killed at the `call`-th renaming of a file, before or after it: between the two of a save, too."""
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == call and place == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    work()


def test_kills_between_the_renames_of_a_save(runs, tmp_path, tally, number):
    expected, _ = whole(runs["ACDC"], tmp_path / "whole")
    calls = np.random.default_rng(SEED).choice(np.arange(2, 24), number(10), replace=False)
    for call in calls.tolist():
        output, place = tmp_path / str(call), "before" if call % 2 else "after"
        killed = Forked(lambda output=output, call=call, place=place: killed_at(lambda: runs["ACDC"](output), call, place)).ended()
        again = Forked(lambda output=output: runs["ACDC"](output)).ended()
        fault = same(output, expected) if again.status == 0 else again.said[-500:]
        left = list(output.rglob(".unfinished-*"))
        tally.note(killed.status == -signal.SIGKILL and not fault and not left, f"call {call}: {killed.status} {fault} {left}")


def test_kills_of_a_registration(la_root, tmp_path, tally, number):
    def root_of(name):
        return Path(shutil.copytree(la_root, tmp_path / name))

    def labels(root):
        return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*p[xy].h5"))}

    def work(root):
        register([*REGISTER, "--root_path", str(root)])

    began = time.monotonic()
    good = root_of("whole")
    assert Forked(lambda: work(good)).ended(1200).status == 0
    seconds, rng, root = time.monotonic() - began, np.random.default_rng(SEED), root_of("killed")
    kills = number(4)
    for _ in range(kills):
        child = Forked(lambda: work(root))
        child.process.join(rng.uniform(0, seconds))
        child.kill()
    ended = Forked(lambda: work(root)).ended(1200)
    for _ in range(kills):
        tally.note(ended.status == 0 and labels(root) == labels(good) and not list(root.rglob(".unfinished-*")), ended.said[-500:])


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


def copied(source, output):
    return output if output.exists() else Path(shutil.copytree(source, output))


def damaged(content: bytes, rng) -> bytes:
    """Bits flipped, an end missing, a hole of zeros, rubbish, or twice the same."""
    content, how = bytearray(content), rng.integers(5)
    if how == 0:
        for place in rng.integers(len(content), size=rng.integers(1, 9)):
            content[place] ^= 1 << int(rng.integers(8))
    elif how == 1:
        del content[int(rng.integers(len(content))) :]
    elif how == 2:
        start = int(rng.integers(len(content)))
        content[start : start + 512] = bytes(len(content[start : start + 512]))
    elif how == 3:
        content[:] = rng.bytes(int(rng.integers(1, 4096)))
    else:
        content *= 2
    return bytes(content)


@pytest.mark.parametrize("what", ["checkpoints", "volumes", "slices", "lists"])
def test_damaged(what, runs, phantom_root, tmp_path, tally, number):
    """No traceback, and whatever is taken all the same gives the figures that the whole file gives; a run does not go on with it."""
    made, data, fresh = tmp_path / "made", Path(shutil.copytree(phantom_root, tmp_path / "data")), tmp_path / "fresh"
    whole(partial(train, acdc.PAGE, SLICES, data), made)
    assert Forked(lambda: test_acdc(data, made)).ended().status == 0
    results = next(made.rglob("metrics.csv"))
    expected, rng = results.read_bytes(), np.random.default_rng([SEED, len(what)])
    paths = {
        "checkpoints": [next(made.rglob("self_train/unet_best_model.pth"))],
        "volumes": [data / "data" / f"{name}.h5" for name in (data / "test.list").read_text().split()],
        "slices": sorted((data / "data" / "slices").glob("*.h5")),
        "lists": [data / name for name in ("test.list", "val.list", "train_slices.list")],
    }[what]
    short = {**SLICES, "pre_iterations": 1, "max_iterations": 1}
    for index in range(number(40)):
        path = paths[rng.integers(len(paths))]
        good = path.read_bytes()
        path.write_bytes(damaged(good, rng))
        results.unlink(missing_ok=True)
        if what in ("checkpoints", "volumes") or path.name == "test.list":
            ended = Forked(lambda: test_acdc(data, made)).ended()
            wrong = ended.status == 0 and results.read_bytes() != expected
        elif index % 2:  # a run that knows the data already
            ended = Forked(lambda: train(acdc.PAGE, SLICES, data, made)).ended()
            wrong = ended.status == 0 and path.read_bytes().split() != good.split()
        else:
            shutil.rmtree(fresh, ignore_errors=True)
            ended, wrong = Forked(lambda: train(acdc.PAGE, short, data, fresh)).ended(), False
        tally.note(ended.clean and not wrong, f"{index} {path}: {ended.status}, wrong: {wrong}: {ended.said[-400:]}")
        path.write_bytes(good)


def test_damaged_raw_scans(raw, network, tmp_path, tally, number):
    """Not predicted, or predicted as the whole file is."""
    scans, out = Path(shutil.copytree(raw / "imagesTs", tmp_path / "scans")), tmp_path / "out"
    work = partial(predict, ["--checkpoint", str(network), "--input", str(scans), "--output", str(out), "--device", "cpu"])
    assert Forked(work).ended().status == 0
    expected, rng = {path: path.read_bytes() for path in out.glob("*.nii.gz")}, np.random.default_rng(SEED)
    for index in range(number(20)):
        path = sorted(scans.iterdir())[rng.integers(len(expected))]
        good = path.read_bytes()
        path.write_bytes(damaged(good, rng))
        shutil.rmtree(out)
        ended = Forked(work).ended()
        wrong = any(found.read_bytes() != expected[found] for found in out.glob("*.nii.gz"))
        told = ended.status == 2 and f"not predicted: {path.name.removesuffix('_0000.nii.gz')}: " in ended.said
        fine = "Traceback" not in ended.said and not wrong and (ended.status == 0 or told)
        tally.note(fine, f"{index} {path}: {ended.status}, wrong: {wrong}: {ended.said[-400:]}")
        path.write_bytes(good)


def test_two_writers(runs, tmp_path, tally, number):
    expected, _ = whole(runs["ACDC"], tmp_path / "whole")
    for index in range(number(8)):
        output = tmp_path / str(index)
        both = [Forked(lambda output=output: runs["ACDC"](output)) for _ in range(2)]
        ended = [child.ended() for child in both]
        refused = [one for one in ended if one.status == 2 and "is writing to it" in one.said]
        fine = sorted(one.status for one in ended) in ([0, 2], [0, 0]) and len(refused) == sum(one.status == 2 for one in ended)
        tally.note(fine and not same(output, expected), str([one.said[-300:] for one in ended]))


class Pebble(nn.Module):
    """A network that costs nothing: the loop around it is what is watched."""

    dims, smallest_batch, Options = 2, 1, registry.NETWORKS["unet"].Options

    def __init__(self, in_chns, class_num, **options):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(in_chns, class_num, 3, padding=1), nn.BatchNorm2d(class_num)

    def check_size(self, size, images=2):
        pass

    def forward(self, x):
        return self.norm(self.conv(x))


def test_soak(phantom_root, tmp_path, tally, number, monkeypatch):
    """Twenty thousand steps of all stages: memory and descriptors level out, event files do not multiply."""
    from training import loop

    monkeypatch.setitem(registry.NETWORKS, "pebble", Pebble)
    steps, step = {"supervised": 2 * number(2000), "pre_train": number(8000), "self_train": number(8000)}, loop._StageRunner._train_step
    seen: dict[str, list] = {name: [] for name in steps}

    def watched(self, batch):
        if self.progress.step % max(steps[self.phase.name] // 20, 1) == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen[self.phase.name].append((pages * resource.getpagesize() / 2**20, len(os.listdir("/proc/self/fd"))))
        return step(self, batch)

    monkeypatch.setattr(loop._StageRunner, "_train_step", watched)
    pebbles = {**SLICES, "model": "pebble", "patch_size": (16, 16), "val_every": max(steps["self_train"] // 5, 1)}
    supervised = {"method": "supervised", "exp": "supervised"}
    half = dict.fromkeys(("pre_iterations", "max_iterations"), steps["supervised"] // 2)
    train(acdc.PAGE, {**pebbles, **supervised, **half}, phantom_root, tmp_path)
    train(acdc.PAGE, {**pebbles, "pre_iterations": steps["pre_train"], "max_iterations": steps["self_train"]}, phantom_root, tmp_path)
    for name, watch in seen.items():
        memory, files = zip(*watch[len(watch) // 4 :], strict=True)  # what a stage needs is there by then
        print(f"{name}: memory {memory[0]:.1f} to {memory[-1]:.1f} MiB, descriptors {files[0]} to {files[-1]}, {steps[name]} steps")
        tally.note(memory[-1] <= 1.02 * memory[0], f"{name}: memory grew from {memory[0]:.1f} to {memory[-1]:.1f} MiB")
        tally.note(max(files) <= files[0] + 2, f"{name}: descriptors {files}")
    events = list(tmp_path.rglob("events*"))
    tally.note(len(events) == len(steps), f"event files: {events}")
