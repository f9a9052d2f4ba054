"""Files and names that somebody made wrong, or meant ill with: one line each, and nothing outside
is read or written.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import ACDC, LA, from_flags, unfinished
from scripts import evaluate, report

from commands.networks import build_network, check_patch
from dataloaders.coarse import write_coarse
from dataloaders.hdf5 import list_lines, numbers, opened, read_attributes, read_case, write_hdf5
from dataloaders.phantom.case_files import write_case
from dataloaders.plan import Plan
from datasets.acdc import DATASET
from datasets.la import DATASET as LA_PAGE
from training.distributed import check_batch
from utils.cli import run
from utils.errors import UserError
from utils.files import remove_unfinished, replacing
from utils.workers import check_processes

CODE = Path(__file__).parents[1] / "code"


def line(call, *names):
    """The message of the UserError that `call` raises, one printable line with `names` in it."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert (
        message.isprintable() and len(message) < 600 and all(str(name) in message for name in names)
    ), message
    return message


# HDF5


def write(path, fill):
    with h5py.File(path, "w") as file:
        file["label"] = np.zeros((4, 4), np.uint8)
        fill(file)
    return path


def external(file):
    """An image whose numbers lie in another file."""
    other = Path(file.filename).with_name("other.bin")
    other.write_bytes(bytes(64))
    file.create_dataset("image", (4, 4), np.float32, external=[(str(other), 0, 64)])


def virtual(file):
    other = write(
        Path(file.filename).with_name("other.h5"),
        lambda other: other.create_dataset("x", (4, 4), "f4"),
    )
    layout = h5py.VirtualLayout((4, 4), np.float32)
    layout[:] = h5py.VirtualSource(str(other), "x", (4, 4))
    file.create_virtual_dataset("image", layout)


def linked(file):
    other = write(
        Path(file.filename).with_name("other.h5"),
        lambda other: other.create_dataset("x", (4, 4), "f4"),
    )
    file["image"] = h5py.ExternalLink(str(other), "x")


def linked_twice(file):
    """A soft link to a link out of the file."""
    linked(file)
    file.move("image", "there")
    file["image"] = h5py.SoftLink("/there")


def dates(file):
    """Of a type that numpy has not."""
    h5py.h5d.create(file.id, b"image", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((4, 4)))


def unknown_filter(file):
    """Chunks that a filter made which nobody has."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4, 4))
    plist.set_filter(33333, h5py.h5z.FLAG_OPTIONAL, ())
    item = h5py.h5d.create(
        file.id, b"image", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4, 4)), plist
    )
    item.write_direct_chunk((0, 0), bytes(64), filter_mask=0)


@pytest.mark.parametrize(
    "fill, says",
    [
        (
            lambda file: file.create_dataset("image", (2**40,), "f4", chunks=(1024,)),
            "claims 4096 GiB",
        ),
        (
            lambda file: file.create_dataset(
                "image", (2**20, 2**20, 2**20), "f8", chunks=(8, 8, 8)
            ),
            "more than the file can hold",
        ),
        (
            lambda file: file.create_dataset("image", data=h5py.Empty("f4")),
            "not a data set of numbers",
        ),
        (dates, "not a data set of numbers"),
        (
            lambda file: file.update({"\x1b[31mred\n": np.zeros(1)}),
            r"found: '\x1b[31mred\n', label",
        ),
        (
            lambda file: file.create_dataset(
                "image", (4, 4), "f4", chunks=(2**14, 2**14), maxshape=(None, None)
            ),
            "is stored in chunks of 1024 MiB, more than its 0 MiB",
        ),
        (unknown_filter, "not a readable HDF5 file"),
        (external, "'image' leads to another file"),
        (virtual, "'image' leads to another file"),
        (linked, "'image' leads to another file"),
        (linked_twice, "'image' leads to another file"),
    ],
)
def test_hostile_hdf5_is_one_line(tmp_path, fill, says):
    path = write(tmp_path / "case.h5", fill)
    line(lambda: read_case(path, ACDC, 2), path, says)


def test_a_small_file_whose_chunk_is_larger_than_its_data_is_read(tmp_path):
    """As files are stored that may grow."""
    path = tmp_path / "case.h5"
    image = np.arange(16, dtype=np.float32).reshape(4, 4)
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=image, chunks=(64, 64), maxshape=(None, None))
    with opened(path) as file:
        assert np.array_equal(numbers(path, file, "image")[()], image)


def test_good_files_are_read_whatever_their_size(tmp_path):
    """An empty label of 64 MiB in a compressed file of a few kB is no forgery; nor is an attribute
    that numpy has no type for a fault.
    """
    path = tmp_path / "case.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "label",
            data=np.zeros((512, 512, 400), np.uint8),
            compression="gzip",
            compression_opts=9,
        )
        space = h5py.h5s.create(h5py.h5s.SCALAR)
        h5py.h5a.create(file.id, b"when", h5py.h5t.UNIX_D32LE, space)
        file.attrs["spacing_mm"] = (1.0, 2.0, 3.0)
    assert path.stat().st_size < 2**20
    with opened(path) as file:
        assert numbers(path, file, "label").shape == (512, 512, 400)
        assert list(read_attributes(file)) == ["spacing_mm"]


def test_a_full_disk_while_hdf5_is_written_is_one_line(tmp_path):
    """h5py raises on closing, and the process died of it when it ended: so the scripts themselves,
    in processes of their own.
    """
    done = subprocess.run(
        [
            sys.executable,
            CODE / "make_phantom.py",
            "--root",
            tmp_path / "data",
            "--train",
            "2",
            "--val",
            "1",
            "--test",
            "1",
        ],
        **{"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 120},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)),
    )
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: "), done
    assert (
        "File too large" in done.stderr
        and "Traceback" not in done.stderr
        and not list(tmp_path.rglob(".*"))
    )


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "case.h5"
    image, label = np.arange(2**14, dtype=np.float32).reshape(128, 128), np.eye(128, dtype=np.uint8)
    write_case(path, image, label, (1.0, 2.0, 3.0))
    again, _, attributes = read_case(path, ACDC, 2)
    assert np.array_equal(again[0], image) and attributes["spacing_mm"].tolist() == [1, 2, 3]
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        line(
            lambda: write_coarse(path, np.random.default_rng(0).random((64, 64)), label, label, {}),
            path,
            "File too large",
        )
        with pytest.raises(OSError):
            write_hdf5(path, {"image": np.random.default_rng(0).random((64, 64))}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["case.h5"]


# names


@pytest.mark.parametrize(
    "name, says",
    [
        ("../../victim", "would name another folder"),
        ("..", "would name another folder"),
        (".", "would name another folder"),
        ("/etc/passwd", "would name another folder"),
        ("a/b", "would name another folder"),
        ("a\\b", "would name another folder"),
        (".h5", "is empty"),
        ("a\x1b[2Jb", r"'a\x1b[2Jb' holds control characters"),
        ("a\x0bb", r"'a\x0bb' holds control characters"),
        ("a\u202eb", r"'a\u202eb' holds control characters"),
        ("x" * 300, "longer than 180 bytes in UTF-8"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_on_reading_the_list(tmp_path, name, says):
    path = tmp_path / "test.list"
    path.write_bytes(f"good\n{name}\n".encode())
    line(lambda: LA.read_list(tmp_path, "test.list"), path, "line 2", says)


def test_marks_and_line_ends_of_windows(tmp_path):
    path = tmp_path / "test.list"
    path.write_bytes("\ufeffpatient001\r\n  patient 2.h5,60\r\nHerz_ä\r\n\r\n".encode())
    assert list_lines(path) == ["patient001", "patient 2", "Herz_ä"]


@pytest.mark.parametrize(
    "make",
    [Path.mkdir, lambda path: path.symlink_to("nowhere"), os.mkfifo],
    ids=["folder", "broken link", "pipe"],
)
def test_a_list_that_is_no_file_is_no_reason_to_take_the_repositorys(tmp_path, make):
    make(tmp_path / "val.list")
    line(
        lambda: ACDC.read_list(tmp_path, "val.list"),
        tmp_path / "val.list",
        "not a readable text file",
    )
    line(lambda: list_lines(tmp_path / "val.list"), tmp_path / "val.list")


@pytest.mark.parametrize("exp", ["../x", "/tmp/x", "a/b", ".", "", "a\nb", "x" * 300])
def test_exp_is_one_plain_folder(exp):
    line(lambda: from_flags(DATASET, {}, ["--exp", exp]), "--exp", "give a name without folders")
    line(lambda: evaluate(DATASET, ["--exp", exp]), "--exp", "give a name without folders")
    line(lambda: report(["--exp", exp]), "--exp", "give a name without folders")


def test_a_plan_stays_in_its_folder():
    normal = {"scheme": "zscore"}
    plan = {
        "name": "x", "class_names": ["background", "a"], "label_values": [0, 1], "channel_names": ["mr"], "normalisation": [normal],
        "dims": 3, "axes": "xyz", "spacing_mm": [1, 1, 1], "median_spacing_mm": [1, 1, 1], "median_shape": [9, 9, 9],
        "lists": {"train": "train.list"}, "version": 1,
    }  # fmt: skip
    Plan.from_dict(json.loads(json.dumps(plan)))
    for changes in (
        {"file": "../{}.h5"},
        {"slice_file": "/tmp/{}_slice_{}.h5"},
        {"lists": {"train": "../../train.list"}},
    ):
        with pytest.raises(ValueError, match="leads out of the folder"):
            Plan.from_dict(plan | changes)


# numbers


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--static_start", "9" * 25], "--static_start 9"),
        (["--labelnum", "9" * 25], "between -2^63 and 2^63 - 1"),
        (["--static_range", "1", "9" * 25], "--static_range 9"),
        (["--max_iterations", str(2**60)], "at most 10^9"),
        (["--num_workers", "1000"], "--num_workers 1000: more processes than"),
    ],
)
def test_numbers_out_of_this_world(flags, says):
    line(lambda: from_flags(DATASET, {}, flags), says)


def test_patches_batches_and_processes_that_no_machine_has():
    line(
        lambda: check_patch(build_network(ACDC, "unet", {}), (10**9, 10**9)),
        "--patch_size 1000000000 1000000000",
        "smaller sides",
    )
    line(lambda: check_patch(build_network(LA, "VNet", {}), (10**9,) * 3), "smaller sides")
    check_patch(build_network(LA_PAGE.info, "VNet", {}), (112, 112, 80))
    line(lambda: check_batch(2**40, 2**39), "--batch_size", "lower it")
    line(lambda: check_processes("workers", 1000), "--workers 1000", "at most")


def test_more_images_are_advised_only_where_they_help():
    net = build_network(LA_PAGE.info, "VNet", {})
    with pytest.raises(UserError, match=r"more images \(--labeled_bs sets how many\)$"):
        check_patch(net, (16, 16, 16), images=1)
    with pytest.raises(UserError, match=r"multiples of 16$"):
        check_patch(net, (20, 16, 16), images=1)


def test_a_single_labelled_image_is_refused_with_the_smallest_number():
    with pytest.raises(UserError, match="--labeled_bs 1: must be at least 2"):
        check_batch(2, 1)


@pytest.mark.parametrize(
    "error", [OSError(36, "File name too long", "xxx"), MemoryError("Unable to allocate 7 TiB")]
)
def test_what_the_system_refuses_is_one_line(capsys, error):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as stop:
        run(main)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1, said


# what killed processes leave


def test_leftovers_are_swept_and_nothing_else(tmp_path):
    """Files that a process is writing stay, and so do a user's own, hidden and numbered as they may
    be.
    """
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    left = unfinished(folder / "case.h5")
    mine = [
        folder / name for name in (".2024-notes.txt", ".unfinished-thesis.txt", "my.unfinished")
    ]
    for path in (left, *mine):
        path.write_text("x")
    with replacing(folder / "now.h5") as path:
        path.write_text("being written")
        remove_unfinished(tmp_path)
        assert set(folder.iterdir()) == {path, *mine}
    assert set(folder.iterdir()) == {folder / "now.h5", *mine}
