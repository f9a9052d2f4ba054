"""The loop as a user meets it: interrupted, killed, resumed, in stages, in several processes."""

import os
import signal
import threading
import time

import helpers
import numpy as np
import pytest
import torch
from forked import Forked
from helpers import assert_same, signalled, together
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataloaders.phantom.write import write_acdc_phantom
from datasets.acdc import DATASET
from methods.bcp import BCPPretrain
from methods.edge_guided import DualTeacher
from training.checkpoint import load
from training.loop import _StageRunner
from utils.errors import Interrupted, UserError

pytestmark = pytest.mark.usefixtures("narrow")

TINY = {
    "patch_size": (32, 32), "egm": "none", "batch_size": 4, "labeled_bs": 2, "pre_iterations": 12, "max_iterations": 12, "val_every": 4,
    "static_start": 3, "static_step": 1, "static_range": (2, 4), "ema_decay": 0.9, "labelnum": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom")
    write_acdc_phantom(root, train=3, val=1, test=1, size=48, slices=(5, 5))
    return root


def train(root, output, *flags, **changes):
    return helpers.train(DATASET, root, output, *flags, **{**TINY, **changes})


@pytest.fixture(scope="module")
def uninterrupted(root, tmp_path_factory):
    return train(root, tmp_path_factory.mktemp("uninterrupted"))


def test_a_run_leaves_what_test_and_resume_need(uninterrupted):
    assert list(uninterrupted) == [
        f"{stage}/{name}.pth"
        for stage in ("pre_train", "self_train")
        for name in ("last", "unet_best_model")
    ]
    last, best = (
        uninterrupted["self_train/last.pth"],
        uninterrupted["self_train/unet_best_model.pth"],
    )
    assert last["progress"]["step"] == 12 and [
        row["step"] for row in last["progress"]["history"]
    ] == [4, 8, 12]
    assert best["progress"]["step"] == last["progress"]["best_step"]
    assert (
        max(row["score"] for row in last["progress"]["history"]) == last["progress"]["best_score"]
    )
    assert set(last["phase"]) == {"ema_teacher", "static_teacher", "interval", "counter"}
    assert (
        last["settings"]["labelnum"] == 1
        and last["facts"]["name"] == "ACDC"
        and "val.list" in last["selection"]
    )


@pytest.mark.parametrize(
    "every, logged", [("10", [12]), ("2", [8, 12]), ("1", [4, 8, 12]), ("0", [12])]
)
def test_distances_are_computed_now_and_then_and_at_the_end(
    root, tmp_path, uninterrupted, every, logged
):
    """The run is the same: they select nothing."""
    (last, _) = train(root, tmp_path, "--run_mode", "pretrain", "--distances_every", every).values()
    assert [
        row["step"] for row in last["progress"]["history"] if "hd95_voxel_myocardium" in row
    ] == logged
    assert_same(last["student"], uninterrupted["pre_train/last.pth"]["student"])
    assert [row["score"] for row in last["progress"]["history"]] == [
        row["score"] for row in uninterrupted["pre_train/last.pth"]["progress"]["history"]
    ]


def test_same_seed_same_run_other_seed_other_run(root, tmp_path, uninterrupted):
    assert_same(train(root, tmp_path / "again"), uninterrupted)
    other = train(root, tmp_path / "other", seed=7)
    assert not torch.equal(
        other["self_train/last.pth"]["student"]["decoder.out_conv.weight"],
        uninterrupted["self_train/last.pth"]["student"]["decoder.out_conv.weight"],
    )


def test_workers_prepare_the_same_batches(root, tmp_path, uninterrupted):
    assert_same(train(root, tmp_path, "--num_workers", "2"), uninterrupted)


def test_the_stages_may_be_run_one_by_one(root, tmp_path, uninterrupted):
    train(root, tmp_path, "--run_mode", "pretrain")
    assert_same(train(root, tmp_path, "--run_mode", "selftrain"), uninterrupted)


def test_a_finished_run_is_left_alone(root, tmp_path, uninterrupted, capsys):
    train(root, tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pth")}
    assert_same(train(root, tmp_path), uninterrupted)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pth")} == times
    assert "complete" in capsys.readouterr().out


def test_a_setting_that_an_older_checkpoint_lacks_is_its_default(root, tmp_path, uninterrupted):
    """A flag that came later leaves older runs resumable; asking for another value than its default
    is another run.
    """
    train(root, tmp_path, "--run_mode", "pretrain")
    for path in tmp_path.rglob("*.pth"):
        content = load(path)
        del content["settings"]["dice_background"], content["settings"]["intensity"]
        for new, old in (
            ("losses", "dice_share"),
            ("pre_losses", "pre_dice_share"),
        ):  # as they were called
            del content["settings"][new]
            content["settings"][old] = 0.5
        torch.save(content, path)
    with pytest.raises(UserError, match=r"--dice_background unmasked, but this run has .*masked"):
        train(root, tmp_path, "--dice_background", "masked")
    resumed = train(root, tmp_path)["self_train/last.pth"]
    assert_same(resumed["student"], uninterrupted["self_train/last.pth"]["student"])


@pytest.mark.parametrize(
    "stage, step, number, status",
    [
        ("pre_train", 5, signal.SIGTERM, 143),
        ("self_train", 6, signal.SIGINT, 130),
        ("self_train", 7, signal.SIGTERM, 143),
        pytest.param("pre_train", 5, signal.SIGINT, 130, marks=pytest.mark.long),
        pytest.param("self_train", 6, signal.SIGTERM, 143, marks=pytest.mark.long),
        pytest.param("self_train", 7, signal.SIGINT, 130, marks=pytest.mark.long),
    ],
)
def test_signals_save_and_the_same_command_resumes(
    root, tmp_path, monkeypatch, uninterrupted, number, status, stage, step
):
    """Step 7 is the last before a validation, so the signal meets the validation itself."""
    phase = {"pre_train": BCPPretrain, "self_train": DualTeacher}[stage]
    with (
        signalled(monkeypatch, phase, step, number),
        pytest.raises(Interrupted, match=f"iteration {step + 1} of {stage}") as stopped,
    ):
        train(root, tmp_path)
    assert stopped.value.status == status
    assert_same(train(root, tmp_path), uninterrupted)


def test_a_signal_to_all_processes_leaves_the_workers_alone(root, tmp_path):
    """As a terminal's Ctrl-C and a scheduler's SIGTERM do: the processes that prepare batches get
    it too.
    """
    run = Forked(lambda: train(root, tmp_path, pre_iterations=2000, num_workers=2))
    run.wait(lambda: "pre_train 4" in run.said)
    ended = run.stop(signal.SIGTERM, group=True)
    assert (
        ended.status == 143
        and "stopped at iteration" in ended.said
        and "DataLoader worker" not in ended.said
    ), ended.said[-2000:]
    assert load(next(tmp_path.rglob("last.pth")))["progress"]["step"] < 2000


@pytest.mark.long
def test_killed_at_random_and_resumed_ends_bit_identical(root, tmp_path, monkeypatch):
    """SIGKILL in each stage at moments drawn at random, writing a checkpoint not spared
    (val_every 2); tests/campaign kills more often.
    """
    numbers = {"pre_iterations": 24, "max_iterations": 24, "val_every": 2}
    rng, step, kills = np.random.default_rng(0), _StageRunner._train_step, []
    for stage in ("pre_train", "self_train"):
        armed, delay = [], rng.uniform(0, 0.3)

        def train_step(self, batch, stage=stage, armed=armed, delay=delay):
            if self.stage.name == stage and not armed:
                armed.append(
                    threading.Thread(
                        target=lambda: (time.sleep(delay), os.kill(os.getpid(), signal.SIGKILL)),
                        daemon=True,
                    )
                )
                armed[0].start()
            return step(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(_StageRunner, "_train_step", train_step)
            kills.append(
                Forked(lambda: train(root, tmp_path / "killed", **numbers)).ended(300).status
            )
    assert -signal.SIGKILL in kills, kills
    assert_same(
        train(root, tmp_path / "killed", **numbers), train(root, tmp_path / "whole", **numbers)
    )


def test_tensorboard_has_every_curve_once_after_a_resume(root, tmp_path, monkeypatch):
    with signalled(monkeypatch, DualTeacher, 5), pytest.raises(Interrupted):
        train(root, tmp_path)
    train(root, tmp_path)
    log = EventAccumulator(str(next(tmp_path.rglob("self_train/log"))))
    log.Reload()
    names = {
        "loss",
        "loss_dice",
        "loss_ce",
        "consistency_weight",
        "learning_rate",
        "teacher_interval",
        "box_side",
    }
    classes = {
        f"{kind}_{name}"
        for kind in ("dice", "hd95_voxel")
        for name in ("right_ventricle", "myocardium", "left_ventricle")
    }
    assert {f"train/{n}" for n in names} | {
        f"validation/{n}" for n in classes | {"dice", "best_dice"}
    } <= set(log.Tags()["scalars"])
    assert {"mixed/image", "mixed/prediction", "mixed/label"} == set(log.Tags()["images"])
    assert [event.step for event in log.Scalars("train/loss")] == list(range(1, 13))
    assert [event.step for event in log.Scalars("validation/dice")] == [4, 8, 12]
    assert [event.value for event in log.Scalars("train/box_side")] == [
        21,
        20,
        19,
        18,
        17,
        16,
        16,
        15,
        14,
        13,
        12,
        11,
    ]


def test_the_chosen_logger_writes_and_the_run_is_the_same(root, tmp_path, uninterrupted):
    (last, _) = train(root, tmp_path, "--run_mode", "pretrain", "--logger", "csv").values()
    (folder,) = tmp_path.rglob("pre_train/log")
    assert [path.name for path in folder.iterdir()] == ["scalars.csv"]
    assert_same(last["student"], uninterrupted["pre_train/last.pth"]["student"])


def test_a_run_continues_with_another_logger(root, tmp_path, uninterrupted):
    train(root, tmp_path, "--run_mode", "pretrain", "--logger", "csv")
    assert_same(train(root, tmp_path, "--run_mode", "selftrain"), uninterrupted)


@pytest.mark.parametrize(
    "flags",
    [
        ["--method", "supervised"],
        ["--method", "bcp"],
        ["--method", "pseudo_label"],
        ["--egm", "corrected", "--patch_size", "80", "80"],
    ],
)
def test_baselines_train(root, tmp_path, flags):
    checkpoints = train(root, tmp_path, *flags, pre_iterations=2, max_iterations=2)
    assert all(np.isfinite(c["progress"]["history"][-1]["loss"]) for c in checkpoints.values())
    if "supervised" in flags:
        assert set(checkpoints) == {"supervised/last.pth", "supervised/unet_best_model.pth"}
        assert checkpoints["supervised/last.pth"]["progress"]["step"] == 4


def _resumed(rank, ports, root, folder):
    run_stage = _StageRunner.run

    def run(self):
        run_stage(self)
        torch.save(self.stage.student.state_dict(), folder / f"{self.stage.name}-{rank}.pt")

    _StageRunner.run = run
    for port, flags in zip(ports, (["--run_mode", "pretrain"], []), strict=False):
        os.environ["MASTER_PORT"] = str(port)
        train(root, folder / "runs", *flags, batch_size=8, labeled_bs=4)


def test_two_processes_train_and_resume(root, tmp_path):
    """gloo: the batch is split between the processes and both end with the same student."""
    assert together(_resumed, root, tmp_path) == [0, 0]
    for stage in ("pre_train", "self_train"):
        first, second = (torch.load(tmp_path / f"{stage}-{rank}.pt") for rank in (0, 1))
        assert_same(first, second)
    assert load(next((tmp_path / "runs").rglob("self_train/last.pth")))["progress"]["step"] == 12


def test_running_out_of_memory_is_told(root, tmp_path, monkeypatch):
    def starve(self, batch, step):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you "
            "tried to allocate 9 bytes"
        )

    monkeypatch.setattr(DualTeacher, "losses", starve)
    with pytest.raises(UserError, match=r"out of memory: lower --batch_size"):
        train(root, tmp_path)
