"""Somebody's own data: nnU-Net's raw layout to plan, lists and files."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from raw_scans import (
    ORIENTATIONS,
    blob,
    body,
    noise,
    own_case,
    series,
    write_raw_dataset,
    write_scan,
)
from scripts import prepare

from commands import prepare as command
from dataloaders.plan import Normalisation, Plan, read_plan
from dataloaders.splits import case_of, listed_path
from datasets.own import own_dataset
from datasets.prepare import grid_labels
from scans.reading import read_scan
from utils.errors import UserError

CASES = {"imagesTr": 3, "imagesUn": 2, "imagesTs": 1}


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    @contextmanager
    def threads(_):
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr(command, "worker_pool", threads)


def run(source: Path, root: Path, *flags) -> int:
    return prepare(
        ["--dataset", "own", "--source", str(source), "--root_path", str(root), *map(str, flags)]
    )


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None, dict]:
    with h5py.File(path) as file:
        return file["image"][()], file["label"][()] if "label" in file else None, dict(file.attrs)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split()


def test_volumes(tmp_path, capsys):
    raw, out = write_raw_dataset(tmp_path / "raw", CASES), tmp_path / "out"
    assert run(raw, out) == 0
    plan = read_plan(out)
    assert (plan.dims, plan.axes, plan.orientation) == (
        3,
        "xyz",
        "RAS",
    ) and "neither thick nor few" in plan.why["dims"]
    assert plan.class_names == (
        "background",
        "organ 1",
        "organ 5",
        "organ 7",
    ) and plan.label_values == (0, 1, 5, 7)
    assert (
        plan.channel_names == ("T1", "T2")
        and [one.scheme for one in plan.normalisation] == ["zscore"] * 2
    )
    assert np.allclose(plan.spacing_mm, (1.2, 0.9, 1.1)) and plan.median_shape == (26, 24, 20)
    assert lines(out / "train.list") == ["tr0", "tr1"] and lines(out / "val.list") == [
        "tr2"
    ]  # without splits_final.json
    assert lines(out / "unlabelled.list") == ["un0", "un1"] and lines(out / "test.list") == ["ts0"]
    assert "no splits_final.json: tr2 held out" in capsys.readouterr().out
    image, label, attributes = read(out / "data" / "tr1.h5")
    scans = [
        read_scan(raw / "imagesTr" / f"tr1_{k:04d}.nii.gz").array.astype(float) for k in (0, 1)
    ]
    for channel, scan in zip(image, scans, strict=True):  # L, P, S becomes R, A, S
        assert np.allclose(channel, ((scan - scan.mean()) / scan.std())[::-1, ::-1], atol=1e-6)
    truth = read_scan(raw / "labelsTr" / "tr1.nii.gz").array[::-1, ::-1]
    assert set(np.unique(label)) == {0, 1, 2, 3} and np.array_equal(
        np.take(plan.label_values, label), truth
    )
    assert np.allclose(attributes["spacing_mm"], (1.2, 0.9, 1.1))
    corner = attributes["affine"] @ (
        0,
        0,
        0,
        1,
    )  # the last voxel in x and y of the file, in NIfTI's world
    assert np.allclose(corner[:3], (-(5 + 1.2 * 26), -(-7 + 0.9 * 23), 9), atol=1e-4)
    unlabelled, nothing, _ = read(out / "data" / "un0.h5")
    assert unlabelled.shape == (2, 26, 24, 20) and nothing is None


def test_slices_of_thick_scans_keep_their_distance(tmp_path):
    raw, out = write_raw_dataset(tmp_path / "raw", CASES, spacing=(0.8, 0.8, 5)), tmp_path / "out"
    own_case(raw, "imagesUn", "coarse", (), (1.6, 0.8, 4), (14, 24, 12))  # other pixels and slices
    assert run(raw, out) == 0
    plan = read_plan(out)
    assert (plan.dims, plan.axes, plan.spacing_mm) == (
        2,
        "zyx",
        (0.8, 0.8, None),
    ) and "slices are thick" in plan.why["dims"]
    image, label, attributes = read(out / "data" / "ts0.h5")
    assert (
        image.shape == (2, 20, 24, 26)
        and label.shape == (20, 24, 26)
        and np.allclose(attributes["spacing_mm"], (5, 0.8, 0.8))
    )
    image, _, attributes = read(out / "data" / "coarse.h5")
    assert image.shape == (2, 12, 24, 28) and np.allclose(attributes["spacing_mm"], (4, 0.8, 0.8))
    names = lines(out / "train_slices.list")
    assert names == [f"tr{case}_slice_{k}" for case in (0, 1) for k in range(1, 21)] and lines(
        out / "train.list"
    ) == ["tr0", "tr1"]
    assert len(lines(out / "unlabelled_slices.list")) == 2 * 20 + 12
    whole, truth, _ = read(out / "data" / "tr0.h5")
    plane, marked, about = read(out / "data" / "slices" / "tr0_slice_7.h5")
    assert (
        np.array_equal(plane, whole[:, 6])
        and np.array_equal(marked, truth[6])
        and about["slice"] == 6
    )
    assert not list((out / "data" / "slices").glob("ts*")) and not list(
        (out / "data" / "slices").glob("tr2*")
    )


def test_dims_can_be_chosen_and_few_slices_make_two(tmp_path):
    raw = write_raw_dataset(tmp_path / "raw", {"imagesTr": 2}, spacing=(0.8, 0.8, 5))
    assert run(raw, tmp_path / "volumes", "--dims", 3) == 0
    plan = read_plan(tmp_path / "volumes")
    assert (plan.dims, plan.axes, plan.spacing_mm) == (3, "xyz", (0.8, 0.8, None)) and plan.why[
        "dims"
    ] == "chosen by --dims"
    flat = write_raw_dataset(
        tmp_path / "flat", {"imagesTr": 2}, spacing=(1, 1, 2), shape=(26, 24, 13)
    )
    assert run(flat, tmp_path / "slices") == 0
    assert (
        read_plan(tmp_path / "slices").dims == 2
        and "slices are few" in read_plan(tmp_path / "slices").why["dims"]
    )


@pytest.mark.parametrize("letters", ORIENTATIONS)
def test_every_orientation_becomes_the_same_array(tmp_path, letters):
    """One body, stored in five ways: all give the array that RAS gives, and the same place in the
    world.
    """
    shape, spacing = np.array((26, 24, 20)), np.array((1.2, 0.9, 1.1))
    raw, out = (
        write_raw_dataset(tmp_path / "raw", {"imagesTr": 2}, shape=tuple(shape)),
        tmp_path / "out",
    )
    files = ("imagesTr/tr0_0000.nii.gz", "imagesTr/tr0_0001.nii.gz", "labelsTr/tr0.nii.gz")
    source = [read_scan(raw / file) for file in files]
    direction = np.array(ORIENTATIONS[letters], float)
    axes = [int(np.abs(column).argmax()) for column in direction.T]
    flips = [bool(direction[axis, k] < 0) for k, axis in enumerate(axes)]
    for scan in source:
        moved = scan.array.transpose(axes)[
            tuple(slice(None, None, -1 if flip else 1) for flip in flips)
        ]
        origin = scan.geometry.origin.copy()
        for axis, flip in zip(axes, flips, strict=True):
            origin[axis] += (shape[axis] - 1) * spacing[axis] * flip
        write_scan(scan.path, moved, spacing[axes], origin, direction)
    assert run(raw, out) == 0
    image, label, attributes = read(out / "data" / "tr0.h5")
    expected = np.stack([scan.array[::-1, ::-1] for scan in source[:2]]).astype(float)
    expected = [(volume - volume.mean()) / volume.std() for volume in expected]
    assert np.allclose(image, expected, atol=1e-6) and np.array_equal(
        np.take(read_plan(out).label_values, label), source[2].array[::-1, ::-1]
    )
    affine = np.diag((*spacing, 1))
    affine[:3, 3] = -(5 + 1.2 * 25), -(-7 + 0.9 * 23), 9
    assert np.allclose(attributes["affine"], affine, atol=1e-4)


def test_scans_are_brought_to_the_median_spacing(tmp_path):
    raw = write_raw_dataset(tmp_path / "raw", {"imagesTr": 3})
    shape, spacing = (60, 48, 40), (0.7, 0.5, 0.6)
    truth = blob(shape, (12, 10, 8), (45, 37, 31), 5)
    for k in (0, 1):
        write_scan(
            raw / "imagesTs" / f"fine_{k:04d}.nii.gz", noise(shape, truth), spacing, (5, -7, 9)
        )
    write_scan(raw / "labelsTs" / "fine.nii.gz", truth, spacing, (5, -7, 9))
    assert run(raw, tmp_path / "out") == 0
    image, label, attributes = read(tmp_path / "out" / "data" / "fine.h5")
    assert image.shape == (2, 35, 27, 22) and np.allclose(attributes["spacing_mm"], (1.2, 0.9, 1.1))
    assert set(np.unique(label)) == {0, 2}
    assert (
        abs((label > 0).sum() * 1.2 * 0.9 * 1.1 / ((truth > 0).sum() * 0.7 * 0.5 * 0.6) - 1) < 0.05
    )
    assert image[0][label > 0].mean() > image[0][label == 0].mean() + 1
    # both grids have one centre
    fine = read_scan(raw / "labelsTs" / "fine.nii.gz")
    old, new = (
        fine.geometry.affine @ (29.5, 23.5, 19.5, 1),
        attributes["affine"] @ (17, 13, 10.5, 1),
    )
    assert np.allclose(old, new, atol=1e-4)
    values = read_scan(raw / "imagesTs" / "fine_0000.nii.gz").array.astype(float)
    assert (
        image[0].max() <= (values.max() - values.mean()) / values.std() + 1e-5
    )  # splines do not swing beyond


def test_ct_is_normalised_by_the_labelled_foreground(tmp_path):
    raw, shape = tmp_path / "raw", (30, 28, 24)
    write_raw_dataset(
        raw,
        {},
        channel_names={"0": "CT"},
        labels={"background": 0, "liver": 3},
        numTraining=3,
        name="Livers",
    )
    inside = []
    for number in range(3):
        label = blob(shape, (8, 8, 8), (20, 20, 16), 3)
        image = body(shape) + 30 * noise(shape, seed=number) * (label > 0)
        write_scan(
            raw / "imagesTr" / f"case{number}_0000.nii.gz", image.astype(np.int16), (1, 1, 1.5)
        )
        write_scan(raw / "labelsTr" / f"case{number}.nii.gz", label, (1, 1, 1.5))
        inside.append(image[label > 0])
    (raw / "splits_final.json").write_text(
        json.dumps([{"train": ["case0", "case1"], "val": ["case2"]}])
    )
    assert run(raw, tmp_path / "out") == 0
    plan = read_plan(tmp_path / "out")
    pooled = np.concatenate(inside[:2]).astype(float)  # the training cases alone
    (ct,) = plan.normalisation
    assert plan.name == "Livers" and ct.scheme == "ct"
    assert np.allclose(
        (ct.low, ct.high, ct.mean, ct.sd),
        (*np.percentile(pooled, (0.5, 99.5)), pooled.mean(), pooled.std()),
    )
    image, label, _ = read(tmp_path / "out" / "data" / "case2.h5")
    raw2 = read_scan(raw / "imagesTr" / "case2_0000.nii.gz").array[::-1, ::-1]
    assert image.ndim == 3  # one modality: no channel axis
    assert np.allclose(image, (raw2.clip(ct.low, ct.high) - ct.mean) / ct.sd, atol=1e-5) and set(
        np.unique(label)
    ) == {0, 1}


def test_labels_of_unlabelled_cases_are_never_looked_for(tmp_path, monkeypatch):
    raw = write_raw_dataset(tmp_path / "raw", CASES)
    for folder in (
        "labelsUn",
        "labelsTr",
    ):  # neither a folder of that name nor a label of that name is opened
        (raw / folder).mkdir(exist_ok=True)
        (raw / folder / "un0.nii.gz").write_bytes(b"not to be read")
    opened = []
    original = grid_labels.read_label
    monkeypatch.setattr(
        grid_labels,
        "read_label",
        lambda path, *more: opened.append(path.name) or original(path, *more),
    )
    assert run(raw, tmp_path / "out") == 0
    assert sorted(opened) == ["tr0.nii.gz", "tr1.nii.gz", "tr2.nii.gz", "ts0.nii.gz"]


def test_a_plan_stays_while_cases_are_added_and_is_made_anew_on_request(tmp_path, capsys):
    raw, out = write_raw_dataset(tmp_path / "raw", {"imagesTr": 2}), tmp_path / "out"
    assert run(raw, out) == 0
    before = (out / "plan.json").read_bytes()
    for number in range(5):
        own_case(raw, "imagesUn", f"more{number}", (), (2, 2, 2), (20, 20, 20))
    assert run(raw, out) == 0
    assert (
        out / "plan.json"
    ).read_bytes() == before and "5 cases prepared, 2 kept" in capsys.readouterr().out
    assert read(out / "data" / "more0.h5")[0].shape == (2, 33, 44, 36)
    assert run(raw, out, "--redo") == 0 and read_plan(out).spacing_mm == (2, 2, 2)
    assert read(out / "data" / "more0.h5")[0].shape == (2, 20, 20, 20)
    with pytest.raises(UserError, match=r"plan.json: made with other --dims \(3, now 2\)"):
        run(raw, out, "--dims", 2)


def test_a_root_that_cannot_be_written_is_told_before_the_scans_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "make_plan", None)  # any use of it would fail
    (tmp_path / "out").write_text("a file")
    with pytest.raises(
        UserError,
        match=r"out: cannot be written \(Not a directory\); choose another folder with --root_path",
    ):
        run(write_raw_dataset(tmp_path / "raw", CASES), tmp_path / "out")


def test_explicit_paths(tmp_path):
    raw = write_raw_dataset(tmp_path / "raw", {})
    own_case(raw / "there", "imagesTr", "a", (1, 5, 7), (1, 1, 1), (26, 24, 20))
    files = {
        "images": ["there/imagesTr/a_0000.nii.gz", "there/imagesTr/a_0001.nii.gz"],
        "label": "there/labelsTr/a.nii.gz",
    }
    content = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    (raw / "dataset.json").write_text(
        json.dumps({**content, "numTraining": 1, "dataset": {"a": files}})
    )
    assert run(raw, tmp_path / "out") == 0 and lines(tmp_path / "out" / "train.list") == ["a"]


@pytest.mark.parametrize("channel", ["CT", "MR"])
def test_a_case_of_explicit_paths_may_be_a_dicom_series(tmp_path, channel):
    raw, shape = tmp_path / "raw", (16, 16, 20)
    series(raw / "study", 20)
    truth = write_scan(raw / "label.nii.gz", blob(shape, (4, 5, 6), (9, 12, 14)), (1, 1, 2))
    about = {
        "channel_names": {"0": channel},
        "numTraining": 1,
        "dataset": {"a": {"images": ["study"], "label": truth.name}},
    }
    write_raw_dataset(raw, {}, values=(1,), **about)
    assert run(raw, tmp_path / "out") == 0
    image, label, attributes = read(tmp_path / "out" / "data" / "a.h5")
    assert (
        image.shape == shape
        and label.sum() == 6 * 8 * 9
        and np.allclose(attributes["spacing_mm"], (1, 1, 2))
    )


def test_a_plan_is_its_own_copy_after_a_checkpoint():
    names, ct = ("background", "b", "a"), Normalisation("ct", 0, 1, 0.5, 2)
    plan = Plan(
        "x", names, (0, 7, 300), ("CT",), (ct,), 2, "zyx", (1, 1, None), (1, 1, 4), (9, 9, 3), {}
    )
    assert Plan.from_dict(plan.as_dict()) == plan
    label = np.array([[0, 300], [7, 7]])
    assert np.array_equal(plan.to_classes(label), [[0, 2], [1, 1]])
    assert np.allclose(plan.normalisation[0].apply(np.array([-3, 0.5, 9])), (-0.25, 0, 0.25))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"version": 2}', '{"version": 1, "name": "x"}'])
def test_a_damaged_plan_is_one_line(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(
        UserError, match=r"plan.json: not a plan \(.*\); prepare the data again with --redo"
    ) as raised:
        read_plan(tmp_path)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="no such plan; make it: python"):
        read_plan(tmp_path / "nowhere")


def test_a_plan_with_a_list_that_has_no_ending_is_one_line(tmp_path):
    raw, out = write_raw_dataset(tmp_path / "raw", {"imagesTr": 2}), tmp_path / "out"
    assert run(raw, out) == 0
    content = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    content["lists"]["test"] = "x"
    (out / "plan.json").write_text(json.dumps(content), encoding="utf-8")
    message = (
        r"plan.json: not a plan \(the list of test cases is x, expected a name.list\); prepare the "
        "data again with --redo"
    )
    with pytest.raises(UserError, match=message):
        read_plan(out)


ODD_NAMES = ("a,1", "b.h5", "c_slice_0", "c_slice_1", "#d", "=e")


@pytest.mark.parametrize("dims", [2, 3])
def test_every_name_that_is_prepared_is_found_again_by_training(tmp_path, dims):
    raw, out = write_raw_dataset(tmp_path / "raw", {}, numTraining=len(ODD_NAMES)), tmp_path / "out"
    for seed, name in enumerate(ODD_NAMES):
        own_case(raw, "imagesTr", name, (1, 5, 7), (1, 1, 1), (26, 24, 20), seed)
    assert run(raw, out, "--dims", dims) == 0
    dataset = own_dataset(read_plan(out), out)
    names, labelled = dataset.cases(out, dataset.info, len(ODD_NAMES) - 1)
    paths = [listed_path(out, dataset.info, "labelled", name) for name in names[:labelled]]
    assert len(paths) == (len(ODD_NAMES) - 1) * (20 if dims == 2 else 1)
    assert all(path.is_file() for path in paths)
    cases = {case_of(dataset.info, "labelled", name) for name in names}
    assert cases | set(dataset.info.held_out(out, "val")) == set(ODD_NAMES)


def test_a_case_name_that_leads_elsewhere_is_not_prepared_and_the_others_are(tmp_path, capsys):
    raw, out = write_raw_dataset(tmp_path / "raw", {}), tmp_path / "deep" / "out"
    names = ("good1", "good2", "../../escaped", str(tmp_path / "absolute"), "sub/case")
    content = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    cases = {}
    for seed, name in enumerate(names):
        own_case(raw, "imagesXX", f"f{seed}", (1, 5, 7), (1, 1, 1), (26, 24, 20), seed)
        images = [f"imagesXX/f{seed}_{channel:04d}.nii.gz" for channel in (0, 1)]
        cases[name] = {"images": images, "label": f"labelsXX/f{seed}.nii.gz"}
    content |= {"numTraining": len(names), "dataset": cases}
    (raw / "dataset.json").write_text(json.dumps(content))
    assert run(raw, out) == 2
    written = set(tmp_path.rglob("*.h5"))
    assert written == {out / "data" / "good1.h5", out / "data" / "good2.h5"}
    assert lines(out / "train.list") == ["good1"] and lines(out / "val.list") == ["good2"]
    said = capsys.readouterr().err.splitlines()
    assert sum("so it would name another folder" in line for line in said) == 3


def test_a_name_cannot_steer_the_terminal(tmp_path, capsys):
    raw = write_raw_dataset(tmp_path / "raw", {"imagesTr": 2}, numTraining=3)
    own_case(raw, "imagesTr", "x\x1b[2J", (1, 5, 7), (1, 1, 1), (26, 24, 20))
    assert run(raw, tmp_path / "out") == 2
    said = capsys.readouterr()
    assert "\x1b[2J" not in said.out + said.err and "x\\x1b[2J" in said.err


THICK = (1, 1, 5)


def thick_dataset(root: Path, names: tuple[str, ...], **about) -> Path:
    """Labelled cases that are trained on in slices, with 6 slices each."""
    raw = write_raw_dataset(root, {}, values=(1,), numTraining=len(names), **about)
    for seed, name in enumerate(names):
        own_case(raw, "imagesTr", name, (1,), THICK, (26, 24, 6), seed)
    return raw


def split_cases(raw: Path, train: list[str], val: list[str]) -> None:
    (raw / "splits_final.json").write_text(json.dumps([{"train": train, "val": val}]))


def slice_names(case: str, count: int) -> list[str]:
    return [f"{case}_slice_{number}" for number in range(1, count + 1)]


def test_a_case_that_moves_from_validation_to_training_gets_slices(tmp_path, capsys):
    raw, out = thick_dataset(tmp_path / "raw", ("c1", "c2", "c3")), tmp_path / "out"
    split_cases(raw, ["c1", "c2"], ["c3"])
    assert run(raw, out, "--dims", 2) == 0
    split_cases(raw, ["c2", "c3"], ["c1"])
    assert run(raw, out) == 0
    printed = capsys.readouterr().out
    assert "c3.h5: has no slices, which training needs; the case was prepared again" in printed
    assert "1 cases prepared, 2 kept" in printed
    assert lines(out / "train.list") == ["c2", "c3"]
    assert lines(out / "train_slices.list") == slice_names("c2", 6) + slice_names("c3", 6)


def test_a_case_that_moves_from_test_to_training_gets_slices(tmp_path):
    raw, out = thick_dataset(tmp_path / "raw", ("c1", "c2")), tmp_path / "out"
    split_cases(raw, ["c1"], ["c2"])
    own_case(raw, "imagesTs", "c3", (1,), THICK, (26, 24, 6), 7)
    assert run(raw, out, "--dims", 2) == 0
    for part in ("images", "labels"):
        for path in list((raw / f"{part}Ts").iterdir()):
            path.rename(raw / f"{part}Tr" / path.name)
    split_cases(raw, ["c1", "c3"], ["c2"])
    content = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    (raw / "dataset.json").write_text(json.dumps({**content, "numTraining": 3}))
    assert run(raw, out) == 0
    assert lines(out / "train_slices.list") == slice_names("c1", 6) + slice_names("c3", 6)


def test_no_list_names_a_training_case_without_slices(tmp_path, capsys):
    raw, out = thick_dataset(tmp_path / "raw", ("c1", "c2", "c3")), tmp_path / "out"
    split_cases(raw, ["c1", "c2"], ["c3"])
    assert run(raw, out, "--dims", 2) == 0
    split_cases(raw, ["c2", "c3"], ["c1"])
    assert run(raw, out, "--cases", "c2") == 0
    assert lines(out / "train.list") == ["c2"]
    assert lines(out / "train_slices.list") == slice_names("c2", 6)
    assert "train.list names 1 of 2 cases: the others are not" in capsys.readouterr().out


def test_slices_of_a_deleted_volume_do_not_stay(tmp_path):
    names = ("c", "c_slice_1", "c_slice_12")
    raw, out = thick_dataset(tmp_path / "raw", names), tmp_path / "out"
    split_cases(raw, list(names), [])
    assert run(raw, out, "--dims", 2) == 0
    (out / "data" / "c.h5").unlink()
    own_case(raw, "imagesTr", "c", (1,), THICK, (26, 24, 3), 9)
    assert run(raw, out) == 0
    expected = slice_names("c", 3) + slice_names("c_slice_1", 6) + slice_names("c_slice_12", 6)
    assert lines(out / "train_slices.list") == expected
    assert {path.stem for path in (out / "data" / "slices").iterdir()} == set(expected)


def test_redo_of_some_cases_keeps_the_plan_of_the_others(tmp_path):
    raw, out = write_raw_dataset(tmp_path / "raw", {"imagesTr": 3}), tmp_path / "out"
    assert run(raw, out) == 0
    plan = (out / "plan.json").read_bytes()
    other = (out / "data" / "tr1.h5").read_bytes()
    for number, name in enumerate(("tr0", "tr2")):  # most of the scans
        own_case(raw, "imagesTr", name, (1, 5, 7), (2, 2, 2), (26, 24, 20), 50 + number)
    assert run(raw, out, "--redo", "--cases", "tr0", "tr2") == 0
    assert (out / "plan.json").read_bytes() == plan
    assert (out / "data" / "tr1.h5").read_bytes() == other
    assert np.allclose(read(out / "data" / "tr0.h5")[2]["spacing_mm"], (1.2, 0.9, 1.1))


def test_redo_of_some_cases_with_other_settings_is_refused(tmp_path):
    raw, out = write_raw_dataset(tmp_path / "raw", {"imagesTr": 3}), tmp_path / "out"
    assert run(raw, out) == 0
    message = (
        r"plan.json: made with other --dims \(3, now 2\); use another --root_path, the same --dims "
        "as for the other cases, or --redo without --cases to prepare all"
    )
    with pytest.raises(UserError, match=message):
        run(raw, out, "--redo", "--cases", "tr0", "--dims", 2)
    assert read_plan(out).dims == 3
    assert run(raw, out, "--redo", "--dims", 2) == 0 and read_plan(out).dims == 2
