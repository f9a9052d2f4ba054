"""On real ACDC and LA files (a few are enough): from training to test.

ACDC_ROOT and LA_ROOT name the folders with lists and data.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ACDC, LA
from scipy import ndimage

from dataloaders.augment import Augmentation
from dataloaders.cases import read_cases
from dataloaders.slices import Slices, first_patients
from evaluation.metrics import mask_metrics
from utils.label_maps import largest_component_per_class

pytestmark = pytest.mark.real_data
CODE = Path(__file__).parents[1] / "code"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The real data behind lists of the cases that are there."""
    source, root = Path(os.environ["ACDC_ROOT"]), tmp_path_factory.mktemp("acdc")
    (root / "data").symlink_to(source / "data", target_is_directory=True)
    for name, folder in (("train_slices", "data/slices"), ("val", "data"), ("test", "data")):
        cases = (source / f"{name}.list").read_text(encoding="utf-8").split()
        there = [case for case in cases if (source / folder / f"{case}.h5").is_file()]
        (root / f"{name}.list").write_text(
            "\n".join(there[:200] if name == "train_slices" else there[:2])
        )
    return root


def test_every_slice_and_volume_reads(root):
    data = Slices(ACDC, root, *first_patients(root, ACDC, 1), 2 * (Augmentation(()),))
    assert data.labelled == 32 and data.unlabelled > 0
    assert all(image.min() >= 0 and image.max() <= 1 for image, _ in data.kept)
    assert set(
        np.unique(np.concatenate([label.ravel() for _, labels in data.kept for label in labels]))
    ) == {0, 1, 2, 3}
    for case in read_cases(ACDC, root, "val"):
        assert case.image.shape == (1, *case.label.shape) and case.label.max() == ACDC.classes - 1


def test_metrics_of_a_truth_against_itself(root):
    case = read_cases(ACDC, root, "test")[0]
    scores = [mask_metrics(case.label == k, case.label == k) for k in (1, 2, 3)]
    assert [(s.dice, s.hd95, s.asd) for s in scores] == [(1, 0, 0)] * 3


def test_the_component_filter_equals_scipy_on_real_labels(root):
    """As they are and with specks, which tie."""
    rng = np.random.default_rng(0)
    for case in read_cases(ACDC, root, "val"):
        for share in (0, 0.02):
            labels = np.where(
                rng.random(case.label.shape) < share,
                rng.integers(0, 4, case.label.shape),
                case.label,
            ).astype(np.uint8)
            kept = largest_component_per_class(labels, 4, 8)
            for sample, result in zip(labels, kept, strict=True):
                for k in (1, 2, 3):
                    components, count = ndimage.label(sample == k, np.ones((3, 3)))
                    sizes = np.bincount(components.ravel(), minlength=2)[1:]
                    assert np.array_equal(
                        result == k, (components == sizes.argmax() + 1) & (count > 0)
                    )


def test_training_and_testing_from_the_command_line(root, tmp_path):
    place = [
        "--labelnum",
        "1",
        "--root_path",
        str(root),
        "--output_root",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    size = ["--patch_size", "80", "80", "--batch_size", "4", "--labeled_bs", "2"]
    lengths = ["--pre_iterations", "2", "--max_iterations", "2"]
    for script, flags in (("ACDC_labelnum3_train.py", [*size, *lengths]), ("test_ACDC.py", [])):
        result = subprocess.run(
            [sys.executable, str(CODE / script), *place, *flags],
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        assert result.returncode == 0, result.stderr
    with open(next(tmp_path.rglob("metrics.csv"))) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 and all(
        row["hd95_mm"] == "" for row in rows
    )  # the public files hold no spacing


@pytest.fixture(scope="module")
def la(tmp_path_factory):
    """Two training scans and a test scan behind lists of their own, their folders linked, so that
    coarse labels stay out of the data.
    """
    source, root = Path(os.environ["LA_ROOT"]), tmp_path_factory.mktemp("la")
    for split, count in (("train", 3), ("test", 1)):
        names = [
            name
            for name in (source / f"{split}.list").read_text(encoding="utf-8").split()
            if LA.path(source, name).is_file()
        ][:count]
        (root / f"{split}.list").write_text("\n".join(names) + "\n")
        for name in names:
            LA.path(root, name).parent.mkdir(parents=True)
            LA.path(root, name).symlink_to(LA.path(source, name))
    return root


def test_real_scans_read(la):
    (case,) = read_cases(LA, la, "test")
    assert (
        case.image.shape[3] == 88
        and abs(case.image.mean()) < 1
        and set(np.unique(case.label)) == {0, 1}
    )


@pytest.mark.parametrize("script", ["LA_labelnum4_train.py", "CoGRNet_train.py"])
def test_real_scans_train_and_test(la, tmp_path, script):
    sizes = {
        "labelnum": 2,
        "batch_size": 4,
        "labeled_bs": 2,
        "pre_iterations": 2,
        "max_iterations": 2,
        "val_every": 2,
    }
    tiny = [
        "--patch_size",
        "32",
        "32",
        "16",
        *(word for key, value in sizes.items() for word in (f"--{key}", str(value))),
    ]
    flags = ["--root_path", str(la), "--output_root", str(tmp_path), "--device", "cpu"]
    extra = ["--labels", "dense"] if "CoGRNet" in script else ["--egm", "none"]
    run = [
        sys.executable,
        str(CODE / script),
        *flags,
        *tiny,
        *extra,
        "--val_stride",
        "32",
        "32",
        "16",
    ]
    subprocess.run(run, check=True)
    test = [
        sys.executable,
        str(
            CODE
            / script.replace("CoGRNet_train", "test_CoGRNet").replace(
                "LA_labelnum4_train", "test_LA"
            )
        ),
    ]
    subprocess.run([*test, *flags, "--labelnum", "2", "--stride", "32", "32", "16"], check=True)
    # the only validation is that of the last iteration, so the best checkpoint is the last one
    assert len(list(tmp_path.rglob("metrics.csv"))) == 1
