"""What reading nnU-Net's raw layout says of names: nothing but names is looked at, so all files are
empty.
"""

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scripts import prepare

from datasets.prepare.nnunet import RawDataset, read_dataset
from utils.errors import UserError


def dataset(root: Path, *names: str, **about) -> Path:
    """A data set of one modality with an image and a label of each name."""
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "organ": 1},
        "numTraining": len(names),
        "file_ending": ".nii.gz",
        **about,
    }
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    touch(root, *(f"imagesTr/{name}_0000.nii.gz" for name in names))
    touch(root, *(f"labelsTr/{name}.nii.gz" for name in names))
    return root


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def read(root: Path) -> tuple[RawDataset | None, list[str]]:
    """The data set and every fault; None where it cannot be read."""
    faults: list[str] = []
    try:
        return read_dataset(root, faults.append), faults
    except UserError as error:
        return None, [*faults, str(error)]


def faults_of(root: Path) -> dict[str, str]:
    """The fault of each case that has one."""
    found, faults = read(root)
    assert faults == []
    return {case.name: case.fault for case in found.cases if case.fault}


def explicit(root: Path, *names: str) -> Path:
    """A data set whose cases are given by the key `dataset`."""
    touch(root, "x.nii.gz", "y.nii.gz")
    cases = {name: {"images": ["x.nii.gz"], "label": "y.nii.gz"} for name in names}
    return dataset(root, numTraining=len(names), dataset=cases)


@pytest.mark.parametrize(
    "name",
    ["../../escaped", "/tmp/escaped", "sub/case", "a\\b", "", "a\nb", "con", "a:b", ".a", " a"],
)
def test_a_case_name_that_is_no_file_name_is_a_fault_of_that_case_alone(tmp_path, name):
    faults = faults_of(explicit(tmp_path, "good", name))
    assert list(faults) == [name] and "the case name" in faults[name]


def test_names_that_differ_in_case_only_are_both_refused(tmp_path):
    root = dataset(tmp_path, "Case", "other", "case")
    faults = faults_of(root)
    assert sorted(faults) == ["Case", "case"]
    assert "differ only in upper and lower case" in faults["case"]


def test_names_that_differ_in_case_only_are_refused_across_folders(tmp_path):
    root = dataset(tmp_path, "Case", "other")
    touch(root, "imagesTs/case_0000.nii.gz", "labelsTs/case.nii.gz")
    assert sorted(faults_of(root)) == ["Case", "case"]


def test_a_refused_name_is_never_the_one_that_is_held_out(tmp_path):
    found, _ = read(explicit(tmp_path, "a", "b", "z/c"))
    assert {case.name: case.part for case in found.cases} == {
        "a": "train",
        "b": "val",
        "z/c": "train",
    }


def test_files_of_a_case_may_lie_elsewhere_since_they_are_only_read(tmp_path):
    touch(tmp_path, "elsewhere/x.nii.gz", "elsewhere/y.nii.gz")
    absolute = str(tmp_path / "elsewhere" / "y.nii.gz")
    cases = {"a": {"images": ["../elsewhere/x.nii.gz"], "label": absolute}}
    root = dataset(tmp_path / "raw", numTraining=1, dataset=cases)
    assert faults_of(root) == {}


@pytest.mark.parametrize(
    "files",
    [{"images": "x.nii.gz", "label": "y.nii.gz"}, {"images": ["x.nii.gz"]}, ["x.nii.gz"], None],
)
def test_a_malformed_entry_is_a_fault_of_that_case_alone(tmp_path, files):
    touch(tmp_path, "x.nii.gz", "y.nii.gz")
    good = {"images": ["x.nii.gz"], "label": "y.nii.gz"}
    root = dataset(tmp_path, numTraining=2, dataset={"a": files, "b": good})
    faults = faults_of(root)
    assert list(faults) == ["a"] and "dataset must give the case a" in faults["a"]


def test_a_named_file_in_another_spelling_is_pointed_out(tmp_path):
    touch(tmp_path, "T2S.nii.gz", "y.nii.gz")
    cases = {"a": {"images": ["t2s.nii.gz"], "label": "y.nii.gz"}}
    faults = faults_of(dataset(tmp_path, numTraining=1, dataset=cases))
    assert re.search("t2s.nii.gz: no such file.*T2S.nii.gz is there", faults["a"])


@pytest.mark.parametrize(
    "stray, remedy",
    [
        ("c4_0000.nii", "ends in .nii, file_ending in dataset.json is .nii.gz; convert it"),
        ("c4_0000.NII.GZ", "ends in .NII.GZ.* rename it to c4_0000.nii.gz"),
        ("c4_0000.Nii.gz", "ends in .Nii.gz.* rename it to c4_0000.nii.gz"),
        ("c4_0000.nrrd", "ends in .nrrd, file_ending in dataset.json is .nii.gz; convert it"),
        ("c4.nii.gz", "the name ends in no channel number; rename it, such as c4_0000.nii.gz"),
    ],
)
def test_a_wrong_number_of_cases_is_explained_by_the_file_that_is_not_read(tmp_path, stray, remedy):
    root = dataset(tmp_path, "c0", "c1", "c2", "c3", numTraining=5)
    touch(root, f"imagesTr/{stray}", "labelsTr/c4.nii.gz")
    _, faults = read(root)
    assert any(re.search(f"imagesTr/{re.escape(stray)}: .*{remedy}", fault) for fault in faults)
    assert "numTraining is 5, but there are 4 training cases; look at these first: " in faults[-1]
    assert stray in faults[-1]


def test_a_wrong_number_of_cases_is_explained_by_a_missing_image(tmp_path):
    root = dataset(tmp_path, "c0", "c1", numTraining=3)
    touch(root, "labelsTr/c2.nii.gz")
    _, faults = read(root)
    assert (
        "labelsTr/c2.nii.gz: a label without image; put c2_0000.nii.gz into imagesTr" in faults[0]
    )
    assert (
        "numTraining is 3, but there are 2 training cases; look at these first: c2.nii.gz"
        in faults[1]
    )


def test_a_wrong_number_without_other_faults_is_to_be_corrected(tmp_path):
    _, faults = read(dataset(tmp_path, "c0", "c1", numTraining=3))
    assert faults == [
        f"{tmp_path}/dataset.json: numTraining is 3, but there are 2 training cases; correct that"
    ]


def test_a_scan_of_another_format_is_a_warning_where_the_number_is_right(tmp_path):
    root = dataset(tmp_path, "c0", "c1")
    touch(root, "imagesTr/c2_0000.nii", "imagesTr/notes.txt")
    found, faults = read(root)
    assert faults == []
    assert any("c2_0000.nii: ends in .nii" in line for line in found.warnings)
    assert any("notes.txt: skipped" in line for line in found.warnings)


def test_a_number_that_belongs_to_the_case_is_told_from_a_channel_by_the_labels(tmp_path):
    root = dataset(tmp_path, numTraining=1)
    touch(root, "imagesTr/patient_0001.nii.gz", "labelsTr/patient_0001.nii.gz")
    faults = faults_of(root)
    assert "rename patient_0001.nii.gz to patient_0001_0000.nii.gz" in faults["patient"]


def test_patients_that_are_read_as_channels_of_one_case_explain_the_number(tmp_path):
    root = dataset(tmp_path, numTraining=3)
    for number in (1, 2, 3):
        touch(root, f"imagesTr/patient_000{number}.nii.gz", f"labelsTr/patient_000{number}.nii.gz")
    found, faults = read(root)
    assert "rename patient_0001.nii.gz to patient_0001_0000.nii.gz" in found.cases[0].fault
    assert "look at these first" in faults[-1] and "patient" in faults[-1]


def test_channel_numbers_that_start_at_1_are_told(tmp_path):
    root = dataset(tmp_path, numTraining=1, channel_names={"0": "T1", "1": "T2"})
    touch(root, "imagesTr/a_0001.nii.gz", "imagesTr/a_0002.nii.gz", "labelsTr/a.nii.gz")
    fault = faults_of(root)["a"]
    assert "channels [1, 2] of a are there, expected 0 to 1" in fault
    assert "channel numbers start at 0: rename a_0001.nii.gz to a_0000.nii.gz" in fault


def test_a_missing_channel_is_named(tmp_path):
    root = dataset(tmp_path, numTraining=1, channel_names={"0": "T1", "1": "T2"})
    touch(root, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    assert "put a_0001.nii.gz there" in faults_of(root)["a"]


@pytest.mark.parametrize(
    "image, label, ending",
    [
        ("T2S", "t2s.nii.gz", ".nii.gz"),
        ("t2s", "T2S.nii.gz", ".nii.gz"),
        ("a", "a_0000.nii.gz", ".nii.gz"),
        ("a", "a.seg.nrrd", ".nrrd"),
        ("a", "a.nii", ".nii.gz"),
        ("a", "a.NII.GZ", ".nii.gz"),
        ("a", "a_seg.nii.gz", ".nii.gz"),
        ("a", "A-label.nii.gz", ".nii.gz"),
        ("brain_scan", "brain_scn.nii.gz", ".nii.gz"),
    ],
)
def test_a_label_in_another_spelling_is_named_with_the_name_it_needs(
    tmp_path, image, label, ending
):
    root = dataset(tmp_path, numTraining=1, file_ending=ending)
    touch(root, f"imagesTr/{image}_0000{ending}", f"labelsTr/{label}")
    fault = faults_of(root)[image]
    assert f"labelsTr/{image}{ending}: no such label, but {label} is there" in fault
    assert f"rename it to {image}{ending}" in fault


def test_a_label_of_another_number_is_not_taken_for_the_case_s(tmp_path):
    root = dataset(tmp_path, "case_11")
    touch(root, "imagesTr/case_12_0000.nii.gz", "labelsTr/case_13.nii.gz")
    (root / "dataset.json").write_text(
        (root / "dataset.json").read_text().replace('"numTraining": 1', '"numTraining": 2')
    )
    assert faults_of(root)["case_12"].endswith(
        "case_12.nii.gz: no such label; a case without label belongs in imagesUn"
    )


def test_a_test_label_in_another_spelling_is_not_left_out_silently(tmp_path):
    root = dataset(tmp_path, "a", "b")
    touch(root, "imagesTs/T2S_0000.nii.gz", "labelsTs/t2s.nii.gz", "imagesTs/c_0000.nii.gz")
    found, faults = read(root)
    (case,) = [case for case in found.cases if case.part == "test"]
    assert faults == [] and "T2S.nii.gz: no such label, but t2s.nii.gz is there" in case.fault


@pytest.mark.parametrize("folder, other", [("labelsTr", "LabelsTr"), ("imagesTr", "imagestr")])
def test_a_folder_in_another_spelling_is_named(tmp_path, folder, other):
    root = dataset(tmp_path, "a", "b")
    (root / folder).rename(root / other)
    if (root / folder).exists():
        return  # a file system that does not tell them apart needs no message
    _, faults = read(root)
    assert [
        f"{root / folder}: no such folder, but {other} is there; rename it to {folder}"
    ] == faults


@pytest.mark.parametrize("files", [("1.dcm",), ("IM0001",), ("DICOMDIR", "x/IM1")])
def test_a_dicom_folder_among_the_training_images_is_an_error_that_explains_the_key(
    tmp_path, files
):
    root = dataset(tmp_path, "a", "b")
    for file in files:
        touch(root, f"imagesTr/study/{file}")
        (root / "imagesTr" / "study" / file).write_bytes(bytes(128) + b"DICM")
    _, faults = read(root)
    (fault,) = faults
    assert fault.startswith(f"{root}/imagesTr/study: a folder of DICOM files")
    assert 'key "dataset": {"CASE": {"images": ["FOLDER"], "label": "FILE"}}' in fault


def test_a_folder_of_scans_among_the_training_images_is_an_error(tmp_path):
    root = dataset(tmp_path, "a", "b")
    touch(root, "imagesTr/c/c_0000.nii.gz")
    assert "scans must lie directly in imagesTr" in read(root)[1][0]


def test_an_ending_in_another_case_is_named(tmp_path):
    root = dataset(tmp_path, "a", "b", file_ending=".NII.GZ")
    _, (fault,) = read(root)
    assert "no case in it that ends in _0000.NII.GZ; look at file_ending" in fault
    assert "a_0000.nii.gz: ends in .nii.gz" in fault


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_accepted_in_both_files(tmp_path, encoding):
    root = dataset(tmp_path, "a", "b")
    text = (root / "dataset.json").read_text(encoding="utf-8")
    (root / "dataset.json").write_bytes(text.encode(encoding))
    (root / "splits_final.json").write_bytes('[{"train": ["b"], "val": ["a"]}]'.encode(encoding))
    found, faults = read(root)
    assert faults == [] and {case.name: case.part for case in found.cases} == {
        "a": "val",
        "b": "train",
    }


def test_label_values_in_quotes_are_read_as_the_numbers_they_are(tmp_path):
    labels = {"background": "0", "organ": "2"}
    found, faults = read(dataset(tmp_path, "a", "b", labels=labels, numTraining="2"))
    assert faults == [] and found.labels == ((0, "background"), (2, "organ"))


def test_labels_of_the_older_layout_are_explained(tmp_path):
    _, (fault,) = read(dataset(tmp_path, "a", "b", labels={"0": "background", "1": "organ"}))
    assert "exchange names and values" in fault


def test_a_label_that_is_declared_twice_is_refused(tmp_path):
    root = dataset(tmp_path, "a", "b")
    path = root / "dataset.json"
    path.write_text(path.read_text().replace('"organ": 1', '"organ": 1, "organ": 2'))
    assert "'organ' is given twice" in read(root)[1][0]


@pytest.mark.parametrize(
    "about",
    [
        {"labels": {"background": 0, "a\x1b[31m": 1}},
        {"labels": {"background": 0, " ": 1}},
        {"channel_names": {"0": "a\nb"}},
        {"name": "a\x07"},
    ],
)
def test_a_name_that_no_terminal_or_table_can_show_is_refused(tmp_path, about):
    _, faults = read(dataset(tmp_path, "a", "b", **about))
    assert len(faults) == 1 and faults[0].isprintable()


def test_all_keys_at_fault_are_told(tmp_path):
    root = dataset(tmp_path, "a", "b", labels=[], channel_names={}, file_ending="nii.gz")
    _, faults = read(root)
    assert sorted(re.findall("json: (channel_names|labels|file_ending)", " ".join(faults))) == [
        "channel_names",
        "file_ending",
        "labels",
    ]


def test_every_name_of_a_fold_that_is_no_case_is_told_with_the_nearest(tmp_path):
    root = dataset(tmp_path, "Patient_1", "b")
    (root / "splits_final.json").write_text('[{"train": ["patient_1", "zzz"], "val": ["b"]}]')
    _, faults = read(root)
    assert (
        "fold 0 names patient_1, which is not a case of imagesTr (did you mean Patient_1?)"
        in faults[0]
    )
    assert "fold 0 names zzz, which is not a case of imagesTr; " in faults[1]


def test_a_fold_that_is_no_list_of_names_is_one_fault(tmp_path):
    root = dataset(tmp_path, "a", "b")
    (root / "splits_final.json").write_text('[{"train": "ab", "val": ["b"]}]')
    assert "expected a list of folds" in read(root)[1][0]


def test_prepare_prints_every_fault_and_raises_the_first(tmp_path, capsys):
    root = dataset(tmp_path / "raw", "c0", "c1", numTraining=3)
    touch(root, "imagesTr/c2.nii.gz")
    flags = ["--dataset", "own", "--source", str(root), "--root_path", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"c2\.nii\.gz: the name ends in no channel number"):
        prepare(flags)
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_fold_may_store_accents_otherwise_than_the_file_system(tmp_path):
    root = dataset(tmp_path, "Mu\u0308ller", "b")
    split = '[{"train": ["M\u00fcller"], "val": ["b"]}]'
    (root / "splits_final.json").write_text(split, encoding="utf-8")
    found, faults = read(root)
    parts = {case.name: case.part for case in found.cases}
    assert faults == [] and parts == {"Mu\u0308ller": "train", "b": "val"}


def detached(root: Path, ending: str, images: dict[str, list[str]]) -> Path:
    """A data set of images with a header each and the files that hold its voxels, one slice a file."""
    shape = "NDims = 3\nDimSize = 2 3 {}\nElementType = MET_UCHAR\nElementDataFile = LIST\n"
    for name, files in images.items():
        touch(root, f"imagesTr/{name}_0000{ending}", f"labelsTr/{name}{ending}")
        header = shape.format(len(files)) + "\n".join(files)
        (root / "imagesTr" / f"{name}_0000{ending}").write_text(header)
        for file in files:
            (root / "imagesTr" / file).parent.mkdir(exist_ok=True)
            (root / "imagesTr" / file).write_bytes(bytes(6))
    return dataset(root, file_ending=ending, numTraining=len(images))


def test_voxel_files_of_headers_are_no_wrong_files(tmp_path):
    images = {"a": ["a.raw", "a.zraw"], "b": ["voxels/b0.raw", "voxels/b1"]}
    found, faults = read(detached(tmp_path / "raw", ".mhd", images))
    assert faults == [] and [case.name for case in found.cases] == ["a", "b"]
    assert not any("raw" in line.split("/")[-1] or "voxels" in line for line in found.warnings)


def test_a_file_that_no_header_names_is_left_out_with_a_warning(tmp_path):
    root = detached(tmp_path / "raw", ".mhd", {"a": ["a.raw"], "b": ["b.raw"]})
    touch(root, "imagesTr/other.raw")
    found, _ = read(root)
    assert [line for line in found.warnings if "other.raw: skipped" in line]


def test_the_voxels_of_a_pair_are_not_to_be_converted_or_removed(tmp_path):
    root = dataset(tmp_path / "raw", file_ending=".hdr", numTraining=2)
    for name in ("a", "b"):
        (root / "labelsTr").mkdir(exist_ok=True)
        for path in (root / "imagesTr" / f"{name}_0000.hdr", root / "labelsTr" / f"{name}.hdr"):
            path.parent.mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Pair(np.zeros((2, 2, 2), np.uint8), np.eye(4)), path)
    found, faults = read(root)
    assert faults == [] and not any(".img" in line for line in found.warnings)


def test_voxels_of_a_label_without_header_are_not_to_be_renamed(tmp_path):
    root = dataset(tmp_path / "raw", file_ending=".hdr", numTraining=2)
    touch(root, "imagesTr/a_0000.hdr", "imagesTr/b_0000.hdr", "labelsTr/b.hdr", "labelsTr/a.img")
    assert "rename" not in faults_of(root)["a"]
