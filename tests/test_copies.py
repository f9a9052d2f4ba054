"""A scan under two names is recognised by its voxels: whatever the file, its header, its number
type or its preparation.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from helpers import ACDC, LA
from raw_scans import write_raw_dataset
from scripts import prepare

from commands import prepare as command
from dataloaders.copies import Prints, ScanCase, are_copies, find_copies
from dataloaders.digest import image_prints, survey
from dataloaders.fingerprint import fingerprint
from utils.errors import UserError

IMAGE = np.random.default_rng(3).integers(0, 1000, (12, 10, 8)).astype(np.int16)
SAME_SCAN = "are the same scan under two names"


# fingerprints of arrays


SAVED_DIFFERENTLY = {
    "as float64": IMAGE.astype(np.float64),
    "as uint16": IMAGE.astype(np.uint16),
    "in Fortran order": np.asfortranarray(IMAGE),
    "axes reversed": IMAGE.transpose(2, 1, 0),
    "flipped": IMAGE[::-1, :, ::-1],
    "rotated": np.rot90(IMAGE, axes=(0, 1)),
}


@pytest.mark.parametrize("how", SAVED_DIFFERENTLY)
def test_a_scan_saved_differently_keeps_its_fingerprint(how):
    assert fingerprint(SAVED_DIFFERENTLY[how]) == fingerprint(IMAGE)


def test_minus_zero_is_zero():
    image = IMAGE.astype(np.float32)
    image[0] = 0
    negative = image.copy()
    negative[0] = -0.0
    assert fingerprint(negative) == fingerprint(image)


def test_one_other_voxel_changes_the_fingerprint():
    image = IMAGE.copy()
    image[5, 5, 5] += 1
    assert fingerprint(image) != fingerprint(IMAGE)


def test_the_same_values_at_other_places_are_another_scan():
    shuffled = np.random.default_rng(0).permutation(IMAGE.ravel()).reshape(IMAGE.shape)
    assert fingerprint(shuffled) != fingerprint(IMAGE)


BLANK = {
    "zero": np.zeros((9, 9)),
    "one value": np.full((9, 9, 9), 7),
    "one bright voxel": np.eye(1, 81, 40).reshape(9, 9),
    "a bright row": np.repeat(np.eye(1, 9, 3), 9, 0),
    "no axes": np.float32(3),
    "no voxels": np.zeros((0, 9, 9)),
}


@pytest.mark.parametrize("what", BLANK)
def test_a_blank_image_has_no_fingerprint(what):
    assert fingerprint(BLANK[what]) == ""


# cases


def slices_of(*numbers):
    return Prints(slices=frozenset(map(str, numbers)))


def test_a_few_slices_in_common_do_not_make_two_cases_copies():
    assert not are_copies(slices_of(1, 2, 3, 4, 5), slices_of(1, 2, 6, 7, 8, 9))


def test_a_case_of_which_only_some_slices_are_listed_is_a_copy():
    assert are_copies(slices_of(3, 4), slices_of(1, 2, 3, 4, 5, 6))


def test_cases_without_prints_are_no_copies():
    assert not are_copies(Prints(), Prints())


def case(split, name, *prints):
    return ScanCase(split, name, f"{name}.h5", Prints(frozenset(prints)))


@pytest.mark.parametrize(
    ("first", "second", "is_leak"),
    [
        ("labelled", "unlabelled", False),
        ("labelled", "test", True),
        ("unlabelled", "test", True),
        ("labelled", "val", True),
        ("val", "test", True),
        ("test", "test", False),
    ],
)
def test_training_validation_and_test_share_no_scan(first, second, is_leak):
    leaks, others = find_copies([case(first, "a", "x"), case(second, "b", "x")])
    line = f"b.h5 ({second}) and a.h5 ({first}) {SAME_SCAN}"
    assert (leaks, others) == (([line], []) if is_leak else ([], [line]))


def test_an_atlas_that_every_case_has_as_a_channel_is_no_copy():
    cases = [case("labelled", "abc"[k], "atlas", f"scan {k}") for k in range(3)]
    cases.append(case("test", "d", "atlas", "scan 3"))
    assert find_copies(cases) == ([], [])
    leaks, _ = find_copies([*cases, case("test", "e", "atlas", "scan 1")])
    assert leaks == [f"e.h5 (test) and b.h5 (labelled) {SAME_SCAN}"]


def test_four_copies_of_one_scan_are_copies():
    leaks, _ = find_copies([case(split, split, "x") for split in ("labelled", "val", "test")] * 2)
    assert leaks


def test_volumes_are_compared_with_slices_on_2d_data_sets():
    volume = image_prints(IMAGE.astype(np.float32), ACDC)
    slices = image_prints(IMAGE[3].astype(np.float64), ACDC)
    assert are_copies(volume, slices)
    assert not are_copies(volume, image_prints(IMAGE[3] + 1, ACDC))


def test_the_blank_slices_of_two_scans_are_no_copies():
    first = np.zeros((5, 10, 8))
    second = np.zeros((5, 10, 8))
    first[2] = IMAGE[2]
    second[2] = IMAGE[3]
    assert not are_copies(image_prints(first, ACDC), image_prints(second, ACDC))


# files of prepared data


def write(path, image, **attributes):
    with h5py.File(path, "w") as file:
        file["image"] = image
        file["label"] = np.zeros(image.shape, np.uint8)
        file.attrs.update(attributes)
    return path


def prints(path, info=LA):
    return survey(path.parent, info, {"test": [("a", path)]})["test"][0].prints


def test_files_of_one_array_in_two_types_are_copies(tmp_path):
    one = write(tmp_path / "one.h5", IMAGE.astype(np.float32), name="one")
    two = write(tmp_path / "two.h5", IMAGE.astype(np.float64), name="another")
    assert are_copies(prints(one), prints(two))


def test_files_of_two_crops_of_one_source_are_copies(tmp_path):
    source = json.dumps([fingerprint(IMAGE)])
    one = write(tmp_path / "one.h5", IMAGE[2:], source_voxels=source)
    two = write(tmp_path / "two.h5", IMAGE[:, 2:] / 7, source_voxels=source)
    assert are_copies(prints(one), prints(two))


def test_files_of_older_preparations_are_recognised_by_the_hash_of_their_image_only(tmp_path):
    """The label's hash comes last: two scans with one label, an empty one say, are no copies."""
    hashes = {"one": ["a", "l"], "two": ["a", "m"], "three": ["b", "l"]}
    found = {}
    for number, (name, sources) in enumerate(hashes.items()):
        path = tmp_path / f"{name}.h5"
        found[name] = prints(write(path, IMAGE + number, source_sha256=json.dumps(sources)))
    assert are_copies(found["one"], found["two"])
    assert not are_copies(found["one"], found["three"])


def test_equal_blank_files_are_no_copies(tmp_path):
    one = write(tmp_path / "one.h5", np.zeros((4, 5), np.float32))
    two = shutil.copy(one, tmp_path / "two.h5")
    assert not are_copies(prints(one, ACDC), prints(Path(two), ACDC))


def test_damaged_records_of_a_source_are_ignored(tmp_path):
    for number, text in enumerate(("{", "3", '{"a": 1}', "[1, null]")):
        path = write(tmp_path / f"{number}.h5", IMAGE, source_voxels=text, source_sha256=text)
        assert fingerprint(IMAGE) in prints(path).whole


# from raw scans to a test: 2-D and 3-D


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    @contextmanager
    def threads(_):
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr(command, "worker_pool", threads)


def own(tmp_path):
    """Three labelled cases (the last one for validation), one unlabelled and one to test, of two
    modalities.
    """
    return write_raw_dataset(
        tmp_path / "raw", {"imagesTr": 3, "imagesUn": 1, "imagesTs": 1}, (1, 5)
    )


def prepare_own(raw, root, *flags):
    return prepare(["--dataset", "own", "--source", str(raw), "--root_path", str(root), *flags])


def copy_as(raw, case, folder, name, change=lambda array, affine: (array, affine)):
    """Save both modalities of a case of imagesTr once more, changed, and its label where the folder
    needs one.
    """
    for channel in ("0000", "0001"):
        scan = nibabel.load(raw / "imagesTr" / f"{case}_{channel}.nii.gz")
        array, affine = change(np.asarray(scan.dataobj), scan.affine)
        nibabel.save(nibabel.Nifti1Image(array, affine), raw / folder / f"{name}_{channel}.nii.gz")
    if folder != "imagesUn":
        scan = nibabel.load(raw / "labelsTr" / f"{case}.nii.gz")
        array, affine = change(np.asarray(scan.dataobj), scan.affine)
        label = nibabel.Nifti1Image(array.astype(np.uint8), affine)
        nibabel.save(label, raw / f"labels{folder[6:]}" / f"{name}.nii.gz")


def moved(array, affine):
    affine = affine.copy()
    affine[:3, 3] += 5
    return array, affine


def turned(array, affine):
    """The first axis stored from its other end; the affine follows."""
    affine = affine.copy()
    affine[:3, 3] += affine[:3, 0] * (len(array) - 1)
    affine[:3, 0] *= -1
    return np.ascontiguousarray(array[::-1]), affine


CHANGES = {
    "as it is": lambda array, affine: (array, affine),
    "as floats": lambda array, affine: (array.astype(np.float32), affine),
    "moved": moved,
    "with other spacing": lambda array, affine: (array, affine @ np.diag([1.5, 1.5, 1.5, 1])),
    "turned": turned,
    "turned without its header": lambda array, affine: (turned(array, affine)[0], affine),
}


@pytest.mark.parametrize("change", CHANGES)
def test_prepare_refuses_a_training_scan_among_the_test_scans(tmp_path, change):
    raw = own(tmp_path)
    copy_as(raw, "tr0", "imagesTs", "new", CHANGES[change])
    with pytest.raises(
        UserError,
        match=r"imagesTs/new_0000.nii.gz \(test\) and .*imagesTr/tr0_0000.nii.gz \(train\) are the same scan .*remove one",
    ):
        prepare_own(raw, tmp_path / "out")
    assert not (tmp_path / "out" / "train.list").exists()


def test_prepare_refuses_the_copy_of_one_modality(tmp_path):
    raw = own(tmp_path)
    shutil.copy(raw / "imagesTr" / "tr0_0001.nii.gz", raw / "imagesTs" / "ts0_0001.nii.gz")
    with pytest.raises(
        UserError, match=r"ts0_0000.nii.gz \(test\) and .*tr0_0000.nii.gz \(train\)"
    ):
        prepare_own(raw, tmp_path / "out")


def test_prepare_refuses_a_test_scan_among_the_unlabelled_ones(tmp_path):
    raw = own(tmp_path)
    for channel in ("0000", "0001"):
        shutil.copy(
            raw / "imagesTs" / f"ts0_{channel}.nii.gz", raw / "imagesUn" / f"un7_{channel}.nii.gz"
        )
    with pytest.raises(UserError, match=r"ts0_0000.nii.gz \(test\) and .*un7_0000.nii.gz \(unlab"):
        prepare_own(raw, tmp_path / "out")


def test_prepare_finds_copies_among_finished_cases_again(tmp_path):
    raw, out = own(tmp_path), tmp_path / "out"
    copy_as(raw, "tr0", "imagesTs", "new")
    for _ in range(2):
        with pytest.raises(UserError, match=SAME_SCAN):
            prepare_own(raw, out)
    for path in (raw / "imagesTs").glob("new_*"):
        path.unlink()
    (raw / "labelsTs" / "new.nii.gz").unlink()
    assert prepare_own(raw, out) == 0
    assert (out / "test.list").read_text().split() == ["ts0"]


def test_prepare_finds_copies_of_cases_that_an_older_version_prepared(tmp_path):
    raw, out = own(tmp_path), tmp_path / "out"
    assert prepare_own(raw, out) == 0
    for path in (out / "data").glob("*.h5"):
        with h5py.File(path, "a") as file:
            del file.attrs["source_voxels"]
    copy_as(raw, "tr0", "imagesTs", "new")
    with pytest.raises(UserError, match=SAME_SCAN):
        prepare_own(raw, out)
