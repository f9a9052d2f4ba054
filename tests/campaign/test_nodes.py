"""Two launchers, as on two machines, against one that starts both processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import assert_same, stages

from dataloaders.phantom.write import write_acdc_phantom

pytestmark = pytest.mark.campaign

SCRIPT = Path(__file__).parents[2] / "code" / "ACDC_labelnum3_train.py"
LINE = (
    "--device cpu --patch_size 32 32 --egm none --batch_size 8 --labeled_bs 4 --pre_iterations 6 "
    "--max_iterations 6 --val_every 3 "
    "--static_start 3 --static_step 1 --static_range 2 4 --labelnum 1 --exp nodes"
)


def test_two_machines(tmp_path, tally):
    """The command of docs/processes.md for several machines, both launchers on this one:
    bit-identical to the run of one launcher.
    """
    write_acdc_phantom(tmp_path / "data", train=3, val=3, test=1, size=48, slices=(5, 5))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        meeting = f"localhost:{free.getsockname()[1]}"
    machines = (
        f"--nnodes 2 --nproc_per_node 1 --rdzv_backend c10d --rdzv_endpoint {meeting} --rdzv_id run"
    )
    for name, launches in (
        ("two", [machines, machines]),
        ("one", ["--standalone --nproc_per_node 2"]),
    ):
        paths = ["--root_path", str(tmp_path / "data"), "--output_root", str(tmp_path / name)]
        run = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "torch.distributed.run",
                    *launch.split(),
                    str(SCRIPT),
                    *LINE.split(),
                    *paths,
                ],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for launch in launches
        ]
        tally.note([process.wait(600) for process in run] == [0] * len(run), name)
    assert_same(stages(tmp_path / "two"), stages(tmp_path / "one"))
    tally.note(len(stages(tmp_path / "two")) == 4, "checkpoints")
