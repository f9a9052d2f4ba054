"""Files that are damaged at random."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from campaign.conftest import SEED
from campaign.works import SLICES, evaluated, train, whole
from damage import CRASHES, damaged_scans, whole_scan
from forked import Forked
from scripts import check, predict, prepare, score

from datasets import acdc
from scans.reading import read_scan
from utils.errors import UserError

pytestmark = pytest.mark.campaign


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
    """No traceback, and whatever is taken all the same gives the figures that the whole file gives;
    a run does not go on with it.
    """
    made, data, fresh = (
        tmp_path / "made",
        Path(shutil.copytree(phantom_root, tmp_path / "data")),
        tmp_path / "fresh",
    )
    whole(partial(train, acdc.DATASET, SLICES, data), made)
    assert Forked(lambda: evaluated(data, made)).ended().status == 0
    results = next(made.rglob("metrics.csv"))
    expected, rng = results.read_bytes(), np.random.default_rng([SEED, len(what)])
    paths = {
        "checkpoints": [next(made.rglob("self_train/unet_best_model.pth"))],
        "volumes": [
            data / "data" / f"{name}.h5" for name in (data / "test.list").read_text().split()
        ],
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
            ended = Forked(lambda: evaluated(data, made)).ended()
            wrong = ended.status == 0 and results.read_bytes() != expected
        elif index % 2:  # a run that knows the data already
            ended = Forked(lambda: train(acdc.DATASET, SLICES, data, made)).ended()
            wrong = ended.status == 0 and path.read_bytes().split() != good.split()
        else:
            shutil.rmtree(fresh, ignore_errors=True)
            ended, wrong = Forked(lambda: train(acdc.DATASET, short, data, fresh)).ended(), False
        tally.note(
            ended.clean and not wrong,
            f"{index} {path}: {ended.status}, wrong: {wrong}: {ended.said[-400:]}",
        )
        path.write_bytes(good)


def test_damaged_raw_scans(raw, network, tmp_path, tally, number):
    """Not predicted, or predicted as the whole file is."""
    scans, out = Path(shutil.copytree(raw / "imagesTs", tmp_path / "scans")), tmp_path / "out"
    work = partial(
        predict,
        [
            "--checkpoint",
            str(network),
            "--input",
            str(scans),
            "--output",
            str(out),
            "--device",
            "cpu",
        ],
    )
    assert Forked(work).ended().status == 0
    expected, rng = (
        {path: path.read_bytes() for path in out.glob("*.nii.gz")},
        np.random.default_rng(SEED),
    )
    for index in range(number(20)):
        path = sorted(scans.iterdir())[rng.integers(len(expected))]
        good = path.read_bytes()
        path.write_bytes(damaged(good, rng))
        shutil.rmtree(out)
        ended = Forked(work).ended()
        wrong = any(found.read_bytes() != expected[found] for found in out.glob("*.nii.gz"))
        told = (
            ended.status == 2
            and f"not predicted: {path.name.removesuffix('_0000.nii.gz')}: " in ended.said
        )
        fine = "Traceback" not in ended.said and not wrong and (ended.status == 0 or told)
        tally.note(fine, f"{index} {path}: {ended.status}, wrong: {wrong}: {ended.said[-400:]}")
        path.write_bytes(good)


@pytest.mark.parametrize("ending", ["mha", "nrrd", "nii.gz"])
def test_damaged_compressed_scans(ending, tmp_path, tally, number):
    """Refused, or read as the whole file is."""
    whole, truth = whole_scan(tmp_path, ending)
    path = tmp_path / f"scan.{ending}"
    for index, data in enumerate(damaged_scans(whole, ending, number(200), SEED)):
        path.write_bytes(data)
        try:
            survived = np.array_equal(read_scan(path).array, truth)
        except UserError:
            survived = True
        tally.note(survived, f"{index} {path}: read as other voxels")


@pytest.mark.parametrize("program", ["check", "prepare", "predict", "evaluate"])
def test_headers_that_crash_itk(program, raw, network, tmp_path, tally):
    """Reported, with status 2 and no traceback; what becomes of the other cases is in the default
    tests.
    """
    source = Path(shutil.copytree(raw, tmp_path / "raw"))
    labels = source / "labelsTs"
    predictions = Path(shutil.copytree(labels, tmp_path / "predictions"))
    good = sorted(labels.iterdir())[0]
    for index, data in enumerate(CRASHES.values()):
        for folder in ("imagesUn", "imagesTs"):
            (source / folder / f"bad{folder}{index}_0000.nii.gz").write_bytes(data)
        (predictions / f"bad{index}.nii.gz").write_bytes(data)
        shutil.copy(good, labels / f"bad{index}.nii.gz")
    out = ["--output", str(tmp_path / "out")]
    root = ["--root_path", str(tmp_path / "out"), "--workers", "1"]
    inputs = ["--input", str(source / "imagesTs"), "--checkpoint", str(network), "--device", "cpu"]
    work = {
        "check": partial(check, ["--root_path", str(source), *out, "--workers", "1"]),
        "prepare": partial(prepare, ["--dataset", "own", "--source", str(source), *root]),
        "predict": partial(predict, [*inputs, *out]),
        "evaluate": partial(score, ["--predictions", str(predictions), "--labels", str(labels)]),
    }[program]
    ended = Forked(work).ended()
    for index, name in enumerate(CRASHES):
        reported = any(
            f"bad{folder}{index}" in ended.said for folder in ("imagesUn", "imagesTs", "")
        )
        fine = reported and ended.status == 2 and "Traceback" not in ended.said
        tally.note(fine, f"{program} {name}: {ended.status}: {ended.said[-400:]}")
