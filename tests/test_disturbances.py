"""What goes on around a run: a clock that jumps, a disk that turns read-only, what somebody deletes, a loader that hangs."""

import io
import multiprocessing
import shutil
import time

import helpers
import pytest
import torch
import tqdm.std
from helpers import stages

from dataloaders.samples import Samples
from methods.copy_paste import CopyPastePretrain
from programs import batches
from programs.batches import loader
from recipes.acdc import PAGE
from training.faults import next_batch, told
from training.log import StageLog
from utils.cli import run
from utils.errors import UserError
from utils.progress import progress

NUMBERS = {
    "labelnum": 1, "patch_size": (32, 32), "egm": "none", "batch_size": 4, "labeled_bs": 2, "pre_iterations": 3, "val_every": 1,
    "run_mode": "pretrain",
}  # fmt: skip
FOLDER = "BCP/ACDC_BCP_1_labeled"


@pytest.fixture(scope="module")
def expected(phantom_root, tmp_path_factory):
    """What an undisturbed run leaves."""
    return helpers.train(PAGE, phantom_root, tmp_path_factory.mktemp("expected"), **NUMBERS)


@pytest.fixture
def at_step(monkeypatch):
    """Have `what` called after that step of the pre-training, when everything before it is on disk."""

    def hook(step, what):
        begin = CopyPastePretrain.after_step

        def after(phase, at):
            begin(phase, at)
            if at == step:
                what()

        monkeypatch.setattr(CopyPastePretrain, "after_step", after)

    return hook


@pytest.fixture(autouse=True)
def written_at_once(monkeypatch):
    """Every save is on disk before the next step, so that it is known what a disturbance finds there."""
    from training.saving import Saver

    save = Saver.save
    monkeypatch.setattr(
        Saver, "save", lambda self, content, best: (save(self, content, best), self.wait())
    )


# clocks


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_bar_goes_by_the_time_that_passes(monkeypatch, jump):
    """tqdm goes by the clock: set back by an hour, it stood still for one; set on, the hour was counted as work."""
    clock = [1e9]
    monkeypatch.setattr(tqdm.std, "time", lambda: clock[0])
    shown = io.StringIO()
    bar = progress(total=100, file=shown, desc="x")
    bar.mininterval = 0
    bar.update(10)
    clock[0] += jump
    bar.update(10)
    assert "20/100" in shown.getvalue() and 0 <= bar.format_dict["elapsed"] < 60
    bar.close()


def test_a_run_whose_clock_jumps_is_the_same_run(
    phantom_root, expected, tmp_path, monkeypatch, at_step
):
    jumps = iter([-1e6, 1e6, -1e9])
    now = time.time

    def leap():
        shift = next(jumps, 0)
        monkeypatch.setattr(time, "time", lambda: now() + shift)

    at_step(1, leap)
    helpers.assert_same(
        helpers.train(PAGE, phantom_root, tmp_path / "leaping", **NUMBERS), expected
    )


def test_curves_of_a_resumed_run_have_a_file_of_their_own_though_the_clock_was_put_back(
    tmp_path, monkeypatch
):
    """tensorboardX names the file by the second, and would write over the earlier one."""
    monkeypatch.setattr(time, "time", lambda: 1e9)
    for start in (0, 5):
        log = StageLog(tmp_path, "x", start, 10)
        log.step(start + 1, {"loss": 1.0})
        log.close()
    first, second = sorted((tmp_path / "log").iterdir())
    assert first.stat().st_size > 0 and second.stat().st_size > 0


# folders and files


def test_an_output_folder_that_cannot_be_made_is_one_line(phantom_root, tmp_path):
    """As on a read-only disk; the rights of folders mean nothing to root."""
    (tmp_path / "out").write_text("in its place")
    with pytest.raises(
        UserError,
        match=r"out/BCP/ACDC_BCP_1_labeled: cannot be written \(Not a directory\); give another --exp or --output_root$",
    ):
        helpers.train(PAGE, phantom_root, tmp_path / "out", **NUMBERS)


@pytest.mark.parametrize("writable", [0, 2])
def test_a_disk_that_turns_read_only_is_one_line_and_keeps_what_is_there(
    phantom_root, tmp_path, monkeypatch, at_step, writable
):
    """As Linux does with a disk that has errors."""
    from training import checkpoint

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    at_step(writable, lambda: monkeypatch.setattr(checkpoint.torch, "save", refuse))
    says = r"last.pth: could not be written \(Read-only file system\);.* then start the same command again$"
    with pytest.raises(UserError, match=says) as caught:
        helpers.train(PAGE, phantom_root, tmp_path, **NUMBERS)
    assert ("earlier checkpoint is intact" in str(caught.value)) == (writable > 0)
    kept = stages(tmp_path)
    assert kept.keys() == (
        {"pre_train/last.pth", "pre_train/unet_best_model.pth"} if writable else set()
    )
    assert not kept or kept["pre_train/last.pth"]["progress"]["step"] == writable


@pytest.mark.parametrize("vanish", ["deleted", "moved"])
def test_a_run_whose_folder_vanishes_ends_with_one_line_and_makes_no_second_one(
    phantom_root, tmp_path, at_step, vanish
):
    """It went on in a folder made anew, that nobody had locked, and had the end of the run without its beginning."""
    folder = tmp_path / FOLDER
    at_step(
        1,
        lambda: (
            shutil.rmtree(folder) if vanish == "deleted" else folder.rename(tmp_path / "elsewhere")
        ),
    )
    with pytest.raises(
        UserError,
        match=r"pre_train: gone, moved or deleted .*; put it back and start the same command again",
    ) as caught:
        helpers.train(PAGE, phantom_root, tmp_path, **NUMBERS)
    assert str(caught.value).isprintable() and not folder.exists()
    if vanish == "moved":
        (tmp_path / "elsewhere").rename(folder)
        assert stages(tmp_path)["pre_train/last.pth"]["progress"]["step"] == 1


@pytest.mark.parametrize("name", ["last.pth", "unet_best_model.pth"])
def test_a_checkpoint_deleted_during_the_run_is_missed_where_it_matters(
    phantom_root, tmp_path, at_step, capsys, name
):
    """`last.pth` is written again by the next save; a best one that is never bettered is gone, and was not missed."""
    path = tmp_path / FOLDER / "pre_train" / name
    at_step(2, path.unlink)
    found = helpers.train(PAGE, phantom_root, tmp_path, **NUMBERS)
    assert found["pre_train/last.pth"]["progress"]["step"] == 3
    progress = found["pre_train/last.pth"]["progress"]
    if name == "last.pth" or progress["best_step"] == 3:
        assert "pre_train/unet_best_model.pth" in found
        path.with_name("unet_best_model.pth").unlink()
    capsys.readouterr()
    helpers.train(PAGE, phantom_root, tmp_path, **NUMBERS)
    assert (
        f"warning: {path.with_name('unet_best_model.pth')} is gone, deleted since it was written; put it back, or copy last.pth"
        in capsys.readouterr().out
    )


def test_data_deleted_during_the_run_were_in_memory_and_are_missed_at_the_next_start(
    phantom_root, expected, tmp_path, at_step
):
    data = shutil.copytree(phantom_root, tmp_path / "data")
    at_step(1, lambda: shutil.rmtree(data / "data"))
    helpers.assert_same(helpers.train(PAGE, data, tmp_path / "out", **NUMBERS), expected)
    with pytest.raises(UserError, match=r"h5: no such file, though a case list names it"):
        helpers.train(PAGE, data, tmp_path / "out", **NUMBERS)


# hangs


class Stuck(Samples):
    """Images that a disk does not give."""

    labelled, unlabelled = 1, 0

    def __len__(self):
        return 1

    def __getitems__(self, drawn):
        time.sleep(60)


def test_a_loader_that_hangs_is_told_and_ended(monkeypatch):
    monkeypatch.setattr(batches, "LOADER_TIMEOUT", 1)
    monkeypatch.setattr(
        "torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1
    )  # what torch waits for a process to end of itself
    settings = type("Settings", (), {"num_workers": 1})
    with (
        pytest.raises(
            UserError,
            match=r"no batch for 30 minutes, .*use --num_workers 0; the last checkpoint is kept$",
        ),
        told(torch.device("cpu"), 2),
    ):
        next_batch(iter(loader(Stuck(), [[0]], settings, torch.device("cpu"))))
    for process in multiprocessing.active_children():
        process.join(10)
    assert (
        not multiprocessing.active_children()
    )  # else Python would wait for it at its end, for as long as the disk hangs


def test_a_process_that_cannot_be_started_is_no_reader_that_has_gone(capsys):
    """Both are broken pipes; the first one ended the script with status 1 and not a word."""

    def main():
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith(
        "error: a process that was started cannot run; "
    )
