"""What docs/extending.md shows, run as it stands; and a method with two learners in two processes."""

import os
import re
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from helpers import assert_same, together, train, train_any
from raw_scans import blob, noise, write_scan
from scripts import evaluate, predict, prepare
from scripts import run_test as evaluate_any

from dataloaders.augment import INTENSITIES
from datasets import acdc
from datasets.registry import find_dataset
from methods.registry import METHODS
from networks.registry import NETWORKS
from training.checkpoint import load
from training.loop import _StageRunner
from utils.errors import UserError
from utils.losses import TERMS
from utils.schedules import SCHEDULES

pytestmark = pytest.mark.usefixtures("narrow")

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
SHORT = {"pre_iterations": 1, "max_iterations": 1, "val_every": 1}
ACDC = {
    "labelnum": 1,
    "patch_size": (32, 32),
    "egm": "none",
    "batch_size": 4,
    "labeled_bs": 2,
    **SHORT,
}


@pytest.fixture
def registries():
    """What is registered in a test is forgotten after it."""
    kept = [
        (registry, dict(registry))
        for registry in (METHODS, NETWORKS, TERMS, SCHEDULES, INTENSITIES)
    ]
    yield
    for registry, before in kept:
        registry.clear()
        registry.update(before)


def run(name):
    namespace = {"__name__": Path(name).stem}
    exec(compile(BLOCKS[name], name, "exec"), namespace)
    return namespace


def write(path, image, label):
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image.astype(np.float32), label.astype(np.uint8)


def test_every_block_is_run_here():
    assert set(BLOCKS) == {
        *(
            "polyps.py",
            "prostate.py",
            "methods/certain_teacher.py",
            "networks/resunet_small.py",
            "utils/losses.py",
            "utils/schedules.py",
            "dataloaders/augment.py",
            "evaluation/metrics.py",
            "training/loggers.py",
        ),
    }


def words(**numbers):
    return [
        word
        for name, value in numbers.items()
        for word in (f"--{name}", *map(str, value if isinstance(value, tuple) else [value]))
    ]


def test_a_2d_data_set_is_one_file(tmp_path, capsys):
    rng = np.random.default_rng(0)
    names = [f"p{patient}_{k}" for patient in range(3) for k in range(4)]
    for name in names:
        write(tmp_path / f"{name}.h5", rng.random((40, 44, 3)), rng.integers(0, 5, (40, 44)))
    for split in ("val", "test"):
        write(
            tmp_path / f"{split}1.h5", rng.random((3, 40, 44, 3)), rng.integers(0, 5, (3, 40, 44))
        )
        (tmp_path / f"{split}.list").write_text(f"{split}1\n")
    (tmp_path / "train.list").write_text("\n".join(names))
    (tmp_path / "polyps.py").write_text(BLOCKS["polyps.py"])
    place = words(
        dataset=tmp_path / "polyps.py",
        root_path=tmp_path,
        output_root=tmp_path / "out",
        labelnum=1,
        device="cpu",
    )
    train_any([*place, *words(method="bcp", batch_size=4, labeled_bs=2, **SHORT)])
    evaluate_any([*place, "--exp", "bcp_baseline"])
    assert "fluid" in capsys.readouterr().out
    (last,) = tmp_path.rglob("self_train/last.pth")
    assert last.parts[-3] == "Polyps_bcp_baseline_1_labeled"
    assert load(last)["student"]["encoder.in_conv.conv_conv.0.weight"].shape[1] == 3


def test_a_method_is_one_file(phantom_root, tmp_path, registries):
    METHODS["certain_teacher"] = run("methods/certain_teacher.py")["METHOD"]
    numbers = {**ACDC, "max_iterations": 2}
    checkpoints = train(
        acdc.DATASET, phantom_root, tmp_path, "--method", "certain_teacher", **numbers
    )
    assert "ema_teacher" in checkpoints["train/last.pth"]["phase"]


def test_the_method_of_the_page_is_short():
    lines = BLOCKS["methods/certain_teacher.py"].strip().splitlines()
    assert len(lines) <= 80


def test_raw_scans_of_a_data_set_in_a_file_are_prepared_trained_on_and_predicted(tmp_path):
    (tmp_path / "prostate.py").write_text(BLOCKS["prostate.py"])
    raw, root, scans = tmp_path / "raw", tmp_path / "root", tmp_path / "scans"
    shape, spacing = (33, 32, 16), (0.5, 0.5, 3)
    for seed, name in enumerate("abcdef"):
        label = blob(shape, (8, 8, 4), (20, 20, 12)) + blob(shape, (12, 12, 6), (16, 16, 10))
        for channel, file in enumerate(("t2", "adc")):
            image = noise(shape, label, 10 * seed + channel)
            write_scan(raw / name / f"{file}.nii.gz", image, spacing)
            write_scan(scans / f"{name}_{channel:04d}.nii.gz", image, spacing)
        write_scan(raw / name / "label.nii.gz", label, spacing)
    place = ["--dataset", str(tmp_path / "prostate.py"), "--root_path", str(root)]
    assert prepare([*place, "--source", str(raw), "--workers", "2"]) == 0
    for split, names in (("train", "abcd"), ("val", "e"), ("test", "f")):
        (root / f"{split}.list").write_text("\n".join(names))
    run_flags = words(output_root=tmp_path / "out", labelnum=2, device="cpu", method="bcp")
    short = words(batch_size=4, labeled_bs=2, val_stride=(32, 32, 16), **SHORT)
    train_any([*place, *run_flags, *short])
    (checkpoint,) = (tmp_path / "out").rglob("self_train/last.pth")
    flags = words(checkpoint=checkpoint, input=scans, output=tmp_path / "predicted", device="cpu")
    assert predict(["--dataset", str(tmp_path / "prostate.py"), *flags]) == 0
    predicted = nibabel.load(tmp_path / "predicted" / "d.nii.gz")
    assert predicted.shape == shape
    assert np.allclose(predicted.affine, nibabel.load(scans / "d_0000.nii.gz").affine)


def test_a_data_set_without_preparation_is_one_line(tmp_path):
    (tmp_path / "polyps.py").write_text(BLOCKS["polyps.py"])
    flags = words(dataset=tmp_path / "polyps.py", source=tmp_path, root_path=tmp_path / "out")
    with pytest.raises(UserError, match=r"polyps.py: the data set has no preparation; add one"):
        prepare(flags)


def test_a_data_set_file_with_the_name_of_a_module_is_one_line(tmp_path):
    (tmp_path / "json.py").write_text(BLOCKS["polyps.py"])
    with pytest.raises(UserError, match="there is a module json already; rename the file"):
        find_dataset(str(tmp_path / "json.py"))


def test_a_data_set_file_may_lie_in_a_folder_of_the_import_path(tmp_path, monkeypatch):
    """Such as the root of the repository, which the scripts add to it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "polyps_here.py").write_text(BLOCKS["polyps.py"])
    assert find_dataset(str(tmp_path / "polyps_here.py")).info.dims == 2


def test_network_loss_schedule_and_augmentation_by_name(phantom_root, tmp_path, registries):
    NETWORKS["resunet_small"] = run("networks/resunet_small.py")["ResUNetSmall"]
    for name in ("utils/losses.py", "utils/schedules.py", "dataloaders/augment.py"):
        run(name)
    flags = words(
        model="resunet_small",
        width=6,
        lr_schedule="linear",
        intensity="inverted",
        method="bcp",
        max_iterations=2,
    )
    numbers = {key: value for key, value in ACDC.items() if key not in ("egm", "max_iterations")}
    checkpoints = train(
        acdc.DATASET,
        phantom_root,
        tmp_path,
        *flags,
        "--losses",
        "dice",
        "0.5",
        "brier",
        "0.5",
        **numbers,
    )
    last = checkpoints["self_train/last.pth"]
    assert last["settings"]["width"] == 6 and last["student"]["down.0.skip.weight"].shape == (
        6,
        1,
        1,
        1,
    )
    assert last["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.01 * 0.5)
    place = words(
        root_path=phantom_root,
        output_root=tmp_path,
        labelnum=1,
        exp="bcp_baseline",
        device="cpu",
    )
    evaluate(acdc.DATASET, place)
    assert len(list(tmp_path.rglob("metrics.csv"))) == 1


def _learners(rank, ports, root, folder):
    run_stage = _StageRunner.run

    def run(self):
        run_stage(self)
        torch.save(
            {name: net.state_dict() for name, net in self.stage.learners.items()},
            folder / f"{rank}.pt",
        )

    _StageRunner.run = run
    os.environ["MASTER_PORT"] = str(ports[0])
    train(
        acdc.DATASET,
        root,
        folder / "runs",
        *("--method", "cps", "--batch_size", "8", "--labeled_bs", "4"),
        *("--max_iterations", "2", "--val_every", "2"),  # presets of the method win over numbers
        **ACDC,
    )


def test_two_students_in_two_processes(phantom_root, tmp_path):
    """Both networks average their gradients and their statistics: the processes end with the same
    two.
    """
    assert together(_learners, phantom_root, tmp_path) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert_same(
        {name: dict(state) for name, state in first.items()},
        {name: dict(state) for name, state in second.items()},
    )
    assert set(first) == {"student", "other"}
