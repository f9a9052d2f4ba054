"""What a user can do wrong: every fault is one line that names the flag or the file, and nothing
already there is lost.
"""

import errno
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import helpers
import numpy as np
import pytest
import torch
from reference import filled_state_dict
from scripts import evaluate, report
from started import run_script

import training.checkpoint
import training.device
from dataloaders.phantom.write import write_acdc_phantom
from datasets.acdc import DATASET
from datasets.checks.layout import recognise
from training.checkpoint import load, save
from training.device import choose_device
from training.log import RunLog
from utils.errors import UserError

CODE = Path(__file__).parents[1] / "code"
NUMBERS = {
    "labelnum": 1, "patch_size": (32, 32), "egm": "none", "batch_size": 4, "labeled_bs": 2, "pre_iterations": 2, "max_iterations": 2,
    "val_every": 1,
}  # fmt: skip
RUN = Path("BCP") / "ACDC_BCP_1_labeled"
TEST = Path("test") / "self_train_best_test"
PRE, SELF = RUN / "pre_train", RUN / "self_train"
BEST = "unet_best_model.pth"


def train(root, output, *flags):
    helpers.train(DATASET, root, output, *flags, **NUMBERS)


def script_flags(root, output, *flags):
    """Flags of the test and report scripts."""
    return [
        "--root_path",
        str(root),
        "--output_root",
        str(output),
        "--labelnum",
        "1",
        *map(str, flags),
    ]


def refused(*names, call):
    """The UserError of `call`, checked to be one readable line with `names` in it."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message == message.strip() and len(message) < 600, message
    for name in names:
        assert str(name) in message, message
    return message


def contents(folder):
    """Every checkpoint below a folder, byte for byte."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.pth")}


def put(path, content: bytes | str | dict | list):
    """A file in the place of another one, which may be linked elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if isinstance(content, bytes | str):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    else:
        torch.save(content, path)
    return path


def halve(path):
    return put(path, path.read_bytes()[: path.stat().st_size // 2])


def copy_of(folder, to):
    """A folder whose checkpoints are linked: they are replaced as a whole, never written into."""
    return Path(
        shutil.copytree(
            folder,
            to,
            copy_function=lambda a, b: (
                os.link(a, b) if str(a).endswith(".pth") else shutil.copy(a, b)
            ),
        )
    )


def run_test(flags):
    """Test the ACDC run of `flags`."""
    evaluate(DATASET, flags)


@pytest.fixture(scope="module")
def _run(phantom_root, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    train(phantom_root, output)
    run_test(script_flags(phantom_root, output, "--device", "cpu"))
    return output


@pytest.fixture
def run(_run, tmp_path):
    """A complete run with both stages and its predictions."""
    return copy_of(_run, tmp_path / "run")


@pytest.fixture
def pretrained(_run, tmp_path):
    """A run that has made its pre-training only."""
    copy_of(_run / PRE, tmp_path / "pretrained" / PRE)
    return tmp_path / "pretrained"


@pytest.fixture
def data(phantom_root, tmp_path):
    """Data to damage."""
    return Path(shutil.copytree(phantom_root, tmp_path / "data"))


@pytest.fixture(scope="module")
def published():
    return {"net": filled_state_dict("unet_bcp"), "opt": {}}


@pytest.fixture(scope="module")
def three_classes(published):
    """A published checkpoint for one class less."""
    return {
        "net": {
            key: value[:3] if ".out_conv." in key else value
            for key, value in published["net"].items()
        }
    }


# flags


@pytest.mark.parametrize(
    "flags, names",
    [
        (["--foo", "3"], ["unrecognized option --foo;"]),
        (["--labelnumm=4"], ["unrecognized option --labelnumm", "did you mean --labelnum?"]),
        (["--fresh", "yes"], ["unrecognized argument 'yes': write it after the flag"]),
        (["--labelnum", "three"], ["--labelnum: ", "'three'"]),
        (["--patch_size", "32", "x"], ["--patch_size: ", "'x'"]),
        (["--static_range", "3"], ["--static_range", "Expected 2"]),
        (["--egm", "foo"], ["--egm", "'foo'", "corrected"]),
        (["--model"], ["--model"]),
    ],
)
def test_parser_faults_are_short_lines(tmp_path, flags, names):
    message = refused(*names, "; see --help", call=lambda: train(tmp_path, tmp_path, *flags))
    assert len(message) < 140 and not any(c in message for c in "╭╮╰╯│─") and ".py" not in message


@pytest.mark.parametrize(
    "flags, names",
    [
        (["--labelnum", "0"], ["--labelnum 0", "choose 1 to 3"]),
        (["--labelnum", "4"], ["--labelnum 4", "choose 1 to 3"]),
        (["--labelnum", "3"], ["--labelnum 3", "no unlabelled", "--method supervised"]),
        (["--labeled_bs", "3"], ["--labeled_bs 3", "half of --batch_size 4"]),
        (["--labeled_bs", "3", "--batch_size", "6"], ["--labeled_bs 3", "multiple of 2"]),
        (["--labeled_bs", "0", "--batch_size", "0"], ["--labeled_bs 0"]),
        (["--patch_size", "40", "32"], ["--patch_size 40 32", "multiples of 16"]),
        (["--patch_size", "0", "32"], ["--patch_size 0 32", "multiples of 16"]),
        (["--patch_size", "32", "32", "32"], ["--patch_size 32 32 32", "give 2 sides"]),
        (["--egm", "published"], ["--patch_size 32 32", "at least 80"]),
        (["--patch_size", "16", "16"], ["--patch_size 16 16", "--labeled_bs"]),
        (["--val_every", "0"], ["--val_every 0", "at least 1"]),
        (["--pre_iterations", "0"], ["--pre_iterations 0"]),
        (["--max_iterations", "-3"], ["--max_iterations -3"]),
        (["--static_start", "0"], ["--static_start 0"]),
        (["--base_lr", "-0.1"], ["--base_lr -0.1"]),
        (["--base_lr", "nan"], ["--base_lr nan"]),
        (["--weight_decay", "-1"], ["--weight_decay -1"]),
        (["--u_weight", "inf"], ["--u_weight inf"]),
        (["--seed", "-1"], ["--seed -1"]),
        (["--seed", str(2**64)], [f"--seed {2**64}"]),
        (["--static_range", "5", "2"], ["--static_range 5 2"]),
        (["--static_step", "-1"], ["--static_step -1"]),
        (["--ema_decay", "1.5"], ["--ema_decay 1.5"]),
        (["--box_end", "0.9"], ["--box_end 0.9"]),
        (["--model", "vnet"], ["--model vnet", "unet"]),
        (["--device", "toaster"], ["--device toaster", "--device cpu"]),
        (["--device", "meta"], ["--device meta"]),
        (["--device", "cuda:99"], ["--device cuda:99"]),
    ],
)
def test_values_out_of_range_leave_no_checkpoint(phantom_root, tmp_path, flags, names):
    refused(*names, call=lambda: train(phantom_root, tmp_path / "out", *flags))
    assert not contents(tmp_path)


def test_a_single_labelled_patient_without_unlabelled_ones_is_not_told_to_choose_fewer(tmp_path):
    data = tmp_path / "data"
    write_acdc_phantom(data, train=1, val=1, test=1, size=48, slices=(5, 5))
    message = refused(
        "--labelnum 1: leaves no unlabelled slices",
        "add unlabelled cases, or --method supervised",
        call=lambda: train(data, tmp_path / "out", "--labelnum", "1"),
    )
    assert "fewer" not in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(phantom_root, tmp_path):
    for flags in (["--device", "cuda"], ["--device", "cuda", "--gpu", "1"]):
        refused(
            "--device cuda",
            "--device cpu",
            call=lambda flags=flags: train(phantom_root, tmp_path / "out", *flags),
        )
    refused(
        "--gpu 1: there is no CUDA device",
        "--device cpu",
        call=lambda: choose_device("auto", "1"),
    )
    assert choose_device("cpu", "1").type == "cpu"


def test_bf16_where_the_hardware_has_none(phantom_root, tmp_path, monkeypatch):
    monkeypatch.setattr(training.device, "has_bf16", lambda device: False)
    refused(
        "--amp bf16",
        "--amp auto",
        call=lambda: train(phantom_root, tmp_path / "out", "--amp", "bf16"),
    )


# data


def test_missing_root(run, tmp_path):
    absent = tmp_path / "absent"
    refused(absent, "--root_path", "make_phantom.py", call=lambda: train(absent, tmp_path / "out"))
    refused(absent, "--root_path", call=lambda: run_test(script_flags(absent, run)))


def test_own_data_are_not_taken_for_a_public_data_set(phantom_root, run, tmp_path):
    """Their classes and intensities differ, even if the layouts of the files agree."""
    own = tmp_path / "own"
    shutil.copytree(phantom_root, own)
    (own / "plan.json").write_text("{}", encoding="utf-8")
    words = ("holds own data (plan.json), not ACDC", "--root_path")
    refused(own, *words, call=lambda: train(own, tmp_path / "out"))
    refused(own, *words, call=lambda: run_test(script_flags(own, run)))
    refused(own, *words, call=lambda: recognise(own, "ACDC"))


def rewrite(path, **changes):
    """Change data sets of an HDF5 file; None removes one."""
    with h5py.File(path, "a") as file:
        for key, value in changes.items():
            if key in file:
                del file[key]
            if value is not None:
                file[key] = value


def first(data, name):
    return (data / name).read_text(encoding="utf-8").split()[0]


SLICE, VOLUME = "train_slices.list", "val.list"


@pytest.mark.parametrize(
    "which, changes, names",
    [
        (SLICE, {"image": None}, ["no data set of numbers 'image'"]),
        (SLICE, {"label": None}, ["no data set of numbers 'label'"]),
        (SLICE, {"label": np.zeros((3, 4), np.uint8)}, ["differ in shape"]),
        (SLICE, {"image": np.full((48, 48), np.nan)}, ["NaN"]),
        (SLICE, {"image": "a picture"}, ["'image' is not a data set of numbers"]),
        (SLICE, {"image": np.zeros((0, 48))}, ["(0, 48)"]),
        (VOLUME, {"image": np.zeros((4, 4))}, ["expected 3 dimensions"]),
        (
            VOLUME,
            {"image": np.zeros((2, 48, 48)), "label": np.full((2, 48, 48), 4)},
            ["4..4, expected 0..3"],
        ),
        (
            VOLUME,
            {"image": np.zeros((2, 48, 48)), "label": np.full((2, 48, 48), -1)},
            ["-1..-1, expected 0..3"],
        ),
        (
            VOLUME,
            {"image": np.zeros((2, 48, 48)), "label": np.full((2, 48, 48), 0.5)},
            ["fractions"],
        ),
        (
            VOLUME,
            {"image": np.zeros((2, 48, 48)), "label": np.full((2, 48, 48), np.nan)},
            ["expected 0..3"],
        ),
    ],
)
def test_faulty_cases_stop_a_training_before_it_begins(data, tmp_path, which, changes, names):
    path = data / "data" / ("slices" if which == SLICE else "") / f"{first(data, which)}.h5"
    rewrite(path, **changes)
    refused(path, *names, call=lambda: train(data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "key, value",
    [
        ("spacing_mm", (1.0, 2.0)),
        ("spacing_mm", (1.0, 0.0, 2.0)),
        ("affine", np.eye(3)),
        ("affine", "no"),
    ],
)
def test_faulty_geometry(data, run, key, value):
    path = data / "data" / f"{first(data, 'test.list')}.h5"
    with h5py.File(path, "a") as file:
        file.attrs[key] = value
    refused(path, key, "prepare the case again", call=lambda: run_test(script_flags(data, run)))


def test_damaged_cases(data, run, tmp_path):
    path = data / "data" / f"{first(data, 'test.list')}.h5"
    halve(path)
    refused(path, "not a readable HDF5", call=lambda: run_test(script_flags(data, run)))
    path = data / "data" / "slices" / f"{first(data, SLICE)}.h5"
    put(path, b"")
    refused(path, "not a readable HDF5", call=lambda: train(data, tmp_path / "out"))


def test_lists(data, tmp_path):
    def call():
        train(data, tmp_path / "out")

    put(data / VOLUME, "patient004_frame01\npatient999_frame01\n")
    refused(data / "data" / "patient999_frame01.h5", "case list", call=call)
    put(data / VOLUME, b"\xff\xfe\x00p")
    refused(data / VOLUME, "text file", call=call)
    put(data / VOLUME, "\n\n")
    refused(data / VOLUME, "empty", call=call)
    (data / VOLUME).unlink()  # the repository's own list takes its place
    refused(data / "data", ".h5", "no such file", call=call)
    (data / SLICE).unlink()
    refused(
        data / "data" / "slices" / "patient",
        "no such file",
        call=lambda: train(data, tmp_path / "out", "--labelnum", "7"),
    )
    assert not (tmp_path / "out").exists()


# resuming


@pytest.mark.parametrize(
    "content",
    [None, b"", b"garbage", {"net": {"w": torch.ones(2)}}, [1, 2], {"format": "another/1"}],
    ids=lambda c: str(c)[:12],
)
def test_a_bad_last_checkpoint_costs_only_the_steps_since_the_one_before(
    phantom_root, pretrained, capsys, content
):
    last = pretrained / PRE / "last.pth"
    whole = load(last)
    halve(last) if content is None else put(last, content)
    train(phantom_root, pretrained, "--run_mode", "pretrain")
    said = capsys.readouterr().out
    assert (
        f"warning: {last}" in said
        and "previous.pth at step 1" in said
        and "resuming at iteration 1" in said
    )
    again = load(last)
    assert again["progress"] == whole["progress"] and all(
        torch.equal(again["student"][k], v) for k, v in whole["student"].items()
    )


def test_the_best_checkpoint_will_do_to_resume(phantom_root, pretrained):
    """As a stage leaves it that was killed between its first two files."""
    for name in ("last.pth", "previous.pth"):
        (pretrained / PRE / name).unlink()
    train(phantom_root, pretrained)
    assert load(pretrained / SELF / "last.pth")["progress"]["step"] == 2


def test_no_intact_checkpoint(phantom_root, pretrained):
    for name in ("last.pth", "previous.pth", BEST):
        halve(pretrained / PRE / name)
    before = contents(pretrained)
    refused(
        pretrained / PRE / "last.pth",
        "--fresh",
        "--exp",
        call=lambda: train(phantom_root, pretrained),
    )
    assert contents(pretrained) == before


@pytest.mark.parametrize(
    "flags",
    [
        ["--base_lr", "0.5"],
        ["--max_iterations", "9"],
        ["--patch_size", "80", "80", "--egm", "published"],
    ],
)
def test_a_run_with_other_settings(phantom_root, run, flags):
    before = contents(run)
    refused(
        run / PRE / "last.pth",
        flags[0],
        "--exp",
        "--fresh",
        call=lambda: train(phantom_root, run, *flags),
    )
    assert contents(run) == before


def test_a_published_checkpoint_is_not_overwritten(phantom_root, tmp_path, published):
    path = put(tmp_path / PRE / BEST, published)
    before = path.read_bytes()
    refused(path, "--exp", "--fresh", call=lambda: train(phantom_root, tmp_path))
    assert path.read_bytes() == before


def test_fresh_moves_everything_aside(phantom_root, run, monkeypatch):
    before = {
        path.relative_to(run / RUN): path.read_bytes()
        for path in (run / RUN).rglob("*")
        if path.is_file()
    }
    monkeypatch.setattr(time, "strftime", lambda *_: "now")
    train(phantom_root, run, "--fresh", "--run_mode", "pretrain", "--pre_iterations", "1")
    aside = run / f"{RUN}.now"
    assert {
        path.relative_to(aside): path.read_bytes() for path in aside.rglob("*") if path.is_file()
    } == before
    assert load(run / PRE / "last.pth")["progress"]["step"] == 1 and not (run / SELF).exists()
    moved, second = contents(aside), contents(run / RUN)
    train(phantom_root, run, "--fresh")  # a second one in the same second
    assert contents(aside) == moved and contents(run / f"{RUN}.now-2") == second


def test_fresh_selftraining_keeps_the_pretraining(phantom_root, run):
    before = contents(run / RUN)
    train(phantom_root, run, "--fresh", "--run_mode", "selftrain")
    assert {
        path: content
        for path, content in contents(run / RUN).items()
        if path.parts[0] == "pre_train"
    }.items() <= before.items()
    (aside,) = (run / RUN).glob("self_train.*")
    assert contents(aside) == {
        path.relative_to("self_train"): x
        for path, x in before.items()
        if path.parts[0] == "self_train"
    }


# starting from a checkpoint


def test_selftraining_without_pretraining(phantom_root, tmp_path):
    refused(
        tmp_path / PRE / BEST,
        "--run_mode pretrain",
        call=lambda: train(phantom_root, tmp_path, "--run_mode", "selftrain"),
    )


def test_selftraining_from_a_published_checkpoint(phantom_root, tmp_path, published, capsys):
    path = put(tmp_path / PRE / BEST, published)
    before = path.read_bytes()
    train(phantom_root, tmp_path, "--run_mode", "selftrain")
    assert f"starting from {path}" in capsys.readouterr().out and path.read_bytes() == before
    assert load(tmp_path / SELF / "last.pth")["progress"]["step"] == 2


def test_selftraining_from_a_checkpoint_that_does_not_fit(phantom_root, tmp_path, three_classes):
    path = put(tmp_path / PRE / BEST, three_classes)

    def call():
        train(phantom_root, tmp_path, "--run_mode", "selftrain")

    refused(path, "out_conv", "number of classes", call=call)
    put(path, {"net": filled_state_dict("unet")})
    refused(path, "--egm", call=call)
    put(path, {"net": torch.ones(2)})
    refused(path, "state dict", call=call)
    put(path, {1: torch.ones(2)})
    refused(path, "state dict", call=call)
    halve(put(path, three_classes))
    refused(path, call=call)
    assert not contents(tmp_path / SELF)


class Evil:
    def __init__(self, marker) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("how", ["torch.save", "pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(phantom_root, tmp_path, how):
    marker = tmp_path / "marker"
    evil = tmp_path / "evil.pth"
    if how == "torch.save":
        torch.save({"net": Evil(marker)}, evil)
        torch.load(evil, weights_only=False)
    else:
        evil.write_bytes(pickle.dumps({"net": Evil(marker)}))
        pickle.loads(evil.read_bytes())
    marker.rmdir()  # it would have run

    refused(
        evil,
        "refused",
        call=lambda: run_test(script_flags(phantom_root, tmp_path, "--checkpoint", evil)),
    )
    for place, flags in ((PRE / BEST, ["--run_mode", "selftrain"]), (PRE / "last.pth", [])):
        path = put(tmp_path / place, evil.read_bytes())
        refused(path, "refused", call=lambda flags=flags: train(phantom_root, tmp_path, *flags))
    assert not marker.exists()


# a disk that does not take it


def test_full_disk_while_saving(phantom_root, pretrained, monkeypatch):
    last = pretrained / PRE / "last.pth"
    os.replace(
        pretrained / PRE / "previous.pth", last
    )  # where the run stood one step before its end
    before = contents(pretrained)

    def full(content, file):
        file.write(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training.checkpoint.torch, "save", full)
        message = refused(
            "No space left",
            "free space",
            call=lambda: train(phantom_root, pretrained, "--run_mode", "pretrain"),
        )
    assert (
        str(pretrained / PRE) in message
        and contents(pretrained) == before
        and not list(pretrained.rglob("*.unfinished"))
    )
    train(phantom_root, pretrained, "--run_mode", "pretrain")
    assert load(last)["progress"]["step"] == 2


def test_a_log_takes_names_that_are_not_utf8(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller"))
    log = RunLog(folder)
    log._logger.info(f"the run is in {folder}")
    log.close()
    assert "M\\udcfcller" in (folder / "train.log").read_text(encoding="utf-8")


def test_the_disks_own_reason_is_told(tmp_path):
    """torch.save hides it behind an error of its own."""
    path = tmp_path / "last.pth"
    save(path, {"step": 1})
    before = path.read_bytes()
    log = RunLog(tmp_path / "log")
    log.say("x" * 100_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        refused(tmp_path / "log" / "train.log", "File too large", call=lambda: log.say("more"))
        refused(
            path,
            "File too large",
            "intact",
            call=lambda: save(path, {"x": torch.zeros(100_000)}, keep=tmp_path / "previous.pth"),
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {
        "last.pth",
        "log",
    }


def test_a_file_where_a_folder_should_be(phantom_root, run, tmp_path):
    file = put(tmp_path / "file", "mine")
    refused(file, "--output_root", call=lambda: train(phantom_root, file))
    stage = put(tmp_path / "out" / PRE, "mine")
    refused(stage, "--output_root", call=lambda: train(phantom_root, tmp_path / "out"))
    refused(
        file,
        "--output_dir",
        call=lambda: run_test(script_flags(phantom_root, run, "--output_dir", file)),
    )
    for place in (file, file / "page"):
        refused(
            file,
            "--output",
            call=lambda place=place: report(script_flags(phantom_root, run, "--output", place)),
        )
    assert file.read_text(encoding="utf-8") == stage.read_text(encoding="utf-8") == "mine"


def test_a_loss_that_is_no_number(phantom_root, tmp_path):
    message = refused(
        "--base_lr",
        call=lambda: train(phantom_root, tmp_path, "--base_lr", "1e18", "--pre_iterations", "20"),
    )
    assert "the loss is" in message
    assert load(tmp_path / PRE / "last.pth")["progress"]["step"] >= 1


# testing and reporting


def test_checkpoints_that_cannot_be_tested(phantom_root, run, tmp_path, published, three_classes):
    def call(*flags):
        return lambda: run_test(script_flags(phantom_root, run, *flags))

    refused(tmp_path / "none.pth", "--checkpoint", call=call("--checkpoint", tmp_path / "none.pth"))
    refused(run / RUN / "supervised" / BEST, "train first", call=call("--stage_name", "supervised"))
    path = tmp_path / "x.pth"
    for content in (
        b"",
        b"garbage",
        [1],
        {"net": 3},
        {3: torch.ones(1)},
        {"net": {"w": torch.ones(1)}},
        three_classes,
    ):
        refused(path, call=call("--checkpoint", put(path, content)))
    refused(path, "number of classes", call=call("--checkpoint", path))
    put(path, load(run / SELF / "last.pth") | {"facts": {"name": "LA"}})
    refused(path, "LA", "expected one of ACDC", call=call("--checkpoint", path))
    put(path, published)
    refused("--patch_size 40 40", call=call("--checkpoint", path, "--patch_size", "40", "40"))
    refused(
        "--patch_size 32 32 32", call=call("--checkpoint", path, "--patch_size", "32", "32", "32")
    )
    refused("--model", "'vnet'", call=call("--checkpoint", path, "--model", "vnet"))
    halve(run / SELF / BEST)
    refused(run / SELF / BEST, call=call())
    assert not (tmp_path / "test").exists()


def test_report_on_a_run_that_is_not_complete(phantom_root, run, tmp_path):
    page = put(tmp_path / "index.html", "an earlier page")
    tested = run / RUN / TEST

    def call(*flags, output=run):
        return lambda: report(script_flags(phantom_root, output, "--output", tmp_path, *flags))

    refused(tmp_path / RUN, "no such folder", call=call(output=tmp_path))
    refused(tmp_path / "none", "no such folder", call=call("--predictions", tmp_path / "none"))
    refused(run / RUN, "last checkpoint", "run the test script first", call=call("--which", "last"))
    summary = (tested / "summary.json").read_bytes()
    for content in (b"", b"garbage", summary[: len(summary) // 2], b"{}", b"[]"):
        refused(put(tested / "summary.json", content), call=call())
    put(tested / "summary.json", summary)
    metrics = (tested / "metrics.csv").read_bytes()
    for content in (
        b"",
        b"garbage",
        metrics[: len(metrics) // 2],
        metrics.replace(b"0.", b"x.", 1),
    ):
        refused(put(tested / "metrics.csv", content), "test again", call=call())
    (tested / "metrics.csv").unlink()
    refused(tested / "metrics.csv", "test again", call=call())
    put(tested / "metrics.csv", metrics)
    put(run / SELF / "last.pth", {"net": {"w": torch.ones(1)}})
    refused(run / SELF / "last.pth", call=call())
    (tested / "summary.json").unlink()
    refused(run / RUN, "run the test script first", call=call())
    assert page.read_text(encoding="utf-8") == "an earlier page"


def test_report_says_why_it_has_no_pictures(phantom_root, data, run, tmp_path, capsys):
    """Everything else of the page is there."""
    name, page = first(phantom_root, "test.list"), tmp_path / "index.html"
    prediction = run / RUN / TEST / f"{name}_pred.nii.gz"
    rewrite(
        data / "data" / f"{name}.h5",
        image=np.zeros((2, 48, 48)),
        label=np.zeros((2, 48, 48), np.uint8),
    )
    report(script_flags(data, run, "--output", tmp_path))
    assert "but the case has (48, 48, 2); run the test again" in capsys.readouterr().out
    assert f"Not shown: {run / RUN / TEST}" in page.read_text(encoding="utf-8")
    halve(data / "data" / f"{name}.h5")
    report(script_flags(data, run, "--output", tmp_path))
    assert "not a readable HDF5" in capsys.readouterr().out
    halve(prediction)
    report(script_flags(phantom_root, run, "--output", tmp_path))
    assert f"{prediction}: cannot be read, it is damaged or incomplete" in capsys.readouterr().out
    prediction.unlink()
    report(script_flags(phantom_root, run, "--output", tmp_path))
    assert (
        f"{prediction}: no such prediction" in capsys.readouterr().out
        and page.stat().st_size > 10_000
    )


# the scripts themselves


def test_scripts_exit_2_with_one_line(tmp_path):
    damaged = put(tmp_path / "damaged.pth", b"PK\x03\x04 and no more")
    for name, flags, culprit in (
        ("ACDC_labelnum3_train.py", ["--learning_rate", "1"], "--learning_rate"),
        (
            "ACDC_labelnum7_train.py",
            ["--root_path", tmp_path / "absent", "--output_root", tmp_path],
            tmp_path / "absent",
        ),
        ("test_ACDC.py", ["--checkpoint", damaged], damaged),
        ("report.py", ["--labelnum", "three"], "--labelnum"),
    ):
        done = run_script(CODE / name, *flags)
        assert done.returncode == 2 and done.stdout == "", done
        assert (
            done.stderr.startswith("error: ")
            and done.stderr.count("\n") == 1
            and str(culprit) in done.stderr
        ), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.pth"]


@pytest.mark.long
def test_a_disk_full_of_logs_ends_the_script_with_one_line(phantom_root, tmp_path):
    """TensorBoard writes in a thread of its own, where an error could be printed as a traceback or
    block the loop for ever.
    """
    flags = "--labelnum 1 --patch_size 32 32 --egm none --batch_size 4 --labeled_bs 2 --pre_iterations 500 --val_every 500 --device cpu"
    done = subprocess.run(
        [
            sys.executable,
            CODE / "ACDC_labelnum3_train.py",
            "--root_path",
            phantom_root,
            "--output_root",
            tmp_path,
            *flags.split(),
        ],
        **{"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 120},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        f"error: {tmp_path / PRE / 'log'}: cannot be written"
    ), done.stderr
