"""What the campaign runs, a run's end, and what it is held against."""

import time

from forked import Forked
from helpers import assert_same, stages
from scripts import evaluate

from commands.train import run
from datasets import acdc
from datasets.resolve import resolve

SLICES = {
    "labelnum": 1, "patch_size": (32, 32), "egm": "none", "batch_size": 4, "labeled_bs": 2, "pre_iterations": 12, "max_iterations": 12,
    "val_every": 2, "static_start": 2, "static_step": 1, "static_range": (1, 3), "device": "cpu",
}  # fmt: skip
VOLUMES = {
    "labelnum": 2, "patch_size": (32, 16, 16), "egm": "none", "batch_size": 4, "labeled_bs": 2, "pre_iterations": 4, "max_iterations": 4,
    "val_every": 2, "val_stride": (32, 16, 16), "device": "cpu",
}  # fmt: skip
REGISTER = ["--labelnum", "1", "--planes", "middle", "middle", "--workers", "1", "--dataset", "LA"]


def train(dataset, numbers, root, output):
    script = {"root_path": root, "output_root": output, **numbers}
    run(dataset, resolve(dataset, script))


def evaluated(root, output):
    evaluate(
        acdc.DATASET,
        [
            "--root_path",
            str(root),
            "--output_root",
            str(output),
            "--labelnum",
            "1",
            "--device",
            "cpu",
        ],
    )


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
