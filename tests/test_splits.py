"""Lists are checked before any image is read: by check_data.py, and by every training."""

import pytest
from helpers import ACDC, LA, train

from dataloaders.phantom.write import write_phantom
from dataloaders.splits import case_of, list_faults
from datasets import la
from utils.errors import UserError


def put(root, info, *names):
    for name in names:
        path = root / (info.slice_file if "_slice_" in name else info.file).format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_good_lists_have_no_faults_and_no_file_is_opened(tmp_path):
    slices = [f"patient001_frame01_slice_{k}" for k in (1, 2)]
    put(tmp_path, ACDC, *slices, "patient002_frame01")  # empty files: whoever opened one would fail
    assert (
        list_faults(
            tmp_path, ACDC, {"labelled": slices, "unlabelled": [], "val": ["patient002_frame01"]}
        )
        == []
    )


def test_a_training_slice_is_of_the_case_before_its_last_slice_number():
    assert case_of(ACDC, "labelled", "patient001_frame01_slice_12") == "patient001_frame01"
    assert case_of(ACDC, "unlabelled", "a_slice_3_slice_12") == "a_slice_3"


def test_a_volume_is_its_own_case_whatever_its_name():
    assert case_of(ACDC, "val", "a_slice_3") == "a_slice_3"
    assert case_of(LA, "labelled", "a_slice_3") == "a_slice_3"


def test_volumes_that_are_named_like_slices_are_different_cases(tmp_path):
    for name in ("a_slice_0", "a_slice_1"):
        file = tmp_path / LA.file.format(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    lists = {"labelled": ["a_slice_0"], "unlabelled": ["a_slice_1"]}
    assert list_faults(tmp_path, LA, lists) == []


@pytest.mark.parametrize(
    "lists, says",
    [
        ({"labelled": ["a", "b", "a"]}, "a is listed twice for labelled; remove one line"),
        (
            {"labelled": ["a"], "unlabelled": ["b", "a"]},
            "case a is listed for labelled and for unlabelled; remove it from one",
        ),
        (
            {"labelled": ["a", "b"], "val": ["c"], "test": ["b"]},
            "case b is listed for labelled and for test; remove it from one",
        ),
    ],
)
def test_a_case_listed_twice_is_told(tmp_path, lists, says):
    put(tmp_path, LA, "a", "b", "c")
    assert list_faults(tmp_path, LA, lists) == [f"{tmp_path}: {says}"]


def test_a_volume_whose_slices_are_trained_on_is_told_once(tmp_path):
    slices = [f"patient001_frame01_slice_{k}" for k in (1, 2, 3)]
    put(tmp_path, ACDC, *slices, "patient001_frame01")
    (fault,) = list_faults(tmp_path, ACDC, {"labelled": slices, "test": ["patient001_frame01"]})
    assert "case patient001_frame01 is listed for labelled and for test" in fault


def test_missing_files_come_first(tmp_path):
    put(tmp_path, LA, "a")
    faults = list_faults(tmp_path, LA, {"labelled": ["a", "a", "gone"]})
    assert [fault.split(": ")[0] for fault in faults] == [
        str(tmp_path / LA.file.format("gone")),
        str(tmp_path),
    ]
    assert "no such file, though a case list names it (labelled)" in faults[0]


def test_training_refuses_a_leaking_list_before_it_begins(tmp_path):
    root, out = tmp_path / "data", tmp_path / "out"
    write_phantom(LA, root, train=4, test=2, size=(32, 32, 32))
    stolen = (root / "test.list").read_text(encoding="utf-8").split()[0]
    with open(root / "train.list", "a") as file:
        file.write(f"{stolen}\n")
    with pytest.raises(
        UserError, match=f"case {stolen} is listed for unlabelled and for test; remove it from one$"
    ):
        train(la.DATASET, root, out, labelnum=2)
    with open(root / "train.list", "a") as file:
        file.write("nobody\n")
    with pytest.raises(
        UserError,
        match=r"nobody.*no such file.* \(and 1 more: python code/check_data.py --root_path",
    ):
        train(la.DATASET, root, out, labelnum=2)
    assert not out.exists()
