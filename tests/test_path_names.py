"""A run below a folder whose name is not valid UTF-8, as Latin-1 archives leave it: "Müller" in one
byte for the ü.
"""

import os
import shutil
import signal
import sys

import helpers
import pytest
from forked import Forked
from helpers import stages
from scripts import evaluate, report

from datasets.acdc import DATASET
from methods.supervised import Supervised

pytestmark = [
    pytest.mark.usefixtures("narrow"),
    pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names"),
]

NUMBERS = {
    "labelnum": 1, "patch_size": (32, 32), "egm": "none", "batch_size": 4, "labeled_bs": 2, "pre_iterations": 1, "max_iterations": 2,
    "val_every": 1, "method": "supervised",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, phantom_root):
    """A folder with data of that name."""
    name = os.fsdecode(b"M\xfcller")
    folder = tmp_path_factory.mktemp("paths") / name
    shutil.copytree(phantom_root, folder / "data")
    return folder


def done(work):
    ended = Forked(work).ended()
    assert ended.status == 0 and "Traceback" not in ended.said, ended.said
    return ended.said


def train(folder):
    helpers.train(DATASET, folder / "data", folder / "out", **NUMBERS)


def test_a_run_is_stopped_resumed_tested_and_reported_below_such_a_folder(folder):
    def stopped():
        after_step = Supervised.after_step

        def stop(phase, step):
            after_step(phase, step)
            os.kill(os.getpid(), signal.SIGTERM)

        Supervised.after_step = stop
        train(folder)

    ended = Forked(stopped).ended()
    assert ended.status == 128 + signal.SIGTERM, ended.said
    done(lambda: train(folder))
    found = stages(folder / "out")
    assert found["supervised/last.pth"]["progress"]["step"] == 3
    where = ["--output_root", str(folder / "out"), "--exp", "supervised", "--labelnum", "1"]
    tested = ["--root_path", str(folder / "data"), "--stage_name", "supervised", "--device", "cpu"]
    done(lambda: evaluate(DATASET, [*where, *tested]))
    done(lambda: report([*where, "--output", str(folder / "page")]))
    run = folder / "out" / "BCP" / "ACDC_supervised_1_labeled"
    assert "M\\udcfcller" in (run / "train.log").read_text(encoding="utf-8")
    assert (folder / "page" / "index.html").read_text(encoding="utf-8").endswith("</html>\n")
    assert list(run.rglob("events*"))
