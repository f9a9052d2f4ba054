"""The weights that are part of the repository: small, in half precision, and usable as any
checkpoint.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import evaluate

import fewlabels
from datasets import acdc
from training.checkpoint import load, read
from utils.json_file import read_json

WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "acdc_3_labels.pth"
CARD = WEIGHTS.parents[1] / "docs" / "weights.md"


def test_the_weights_are_small_and_in_half_precision():
    assert WEIGHTS.stat().st_size <= 4_000_000
    values = load(WEIGHTS)["student"].values()
    assert {value.dtype for value in values if value.is_floating_point()} == {torch.float16}


def test_the_model_card_describes_this_file():
    checkpoint = read(WEIGHTS)
    settings = checkpoint.settings
    card = CARD.read_text(encoding="utf-8")
    flags = re.findall(r"--(\w+) ([\w ]+?)(?= --| \\|\n)", card.split("```sh")[2])
    for name, value in flags:
        if name not in ("root_path", "exp"):
            recorded = settings[name]
            if isinstance(recorded, list):
                recorded = " ".join(map(str, recorded))
            assert str(recorded) == value, name
    assert f"{checkpoint.progress['best_score']:.3f}, after" in card


def test_the_weights_predict_an_array_of_python():
    model = fewlabels.load_model(WEIGHTS, "cpu", amp="off")
    image = np.random.default_rng(1).normal(size=(70, 60, 3)).astype(np.float32)
    prediction = model.predict(image, spacing=(1.5, 1.5, 10), progress=False)
    assert prediction.labels.shape == image.shape
    assert set(np.unique(prediction.labels)) <= {0, 1, 2, 3}


@pytest.mark.real_data
def test_the_weights_find_the_heart_in_real_test_cases(tmp_path):
    source = Path(os.environ["ACDC_ROOT"])
    root = tmp_path / "root"
    root.mkdir()
    (root / "data").symlink_to(source / "data", target_is_directory=True)
    cases = (source / "test.list").read_text(encoding="utf-8").split()
    there = [case for case in cases if (source / "data" / f"{case}.h5").is_file()]
    (root / "test.list").write_text("\n".join(there[:2]), encoding="utf-8")
    flags = ["--root_path", str(root), "--checkpoint", str(WEIGHTS), "--other_data"]
    evaluate(acdc.DATASET, [*flags, "--output_dir", str(tmp_path / "out")])
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["honest"]["mean"]["dice"] > 0.7
