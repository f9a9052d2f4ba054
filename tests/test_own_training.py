"""Somebody's own raw scans, from nnU-Net's layout through preparation, training and test to
predictions on the scans' own grids.
"""

import json
import math
import shutil

import h5py
import nibabel
import numpy as np
import pytest
import torch
from helpers import assert_same, signalled, train_any, train_two_slices
from raw_scans import own_case, write_raw_dataset, write_scan
from scripts import predict, prepare, register, run_test, run_test_two_slices

from commands import stage_setup
from dataloaders.coarse import Annotation, read_annotation, training_label
from dataloaders.plan import read_plan
from datasets.own import own_dataset, own_two_slices
from datasets.prepare.drawn import drawn_slices, only_slice
from datasets.resolve import resolve
from methods.base import Validation, class_scalar
from methods.registry import METHODS
from methods.supervised import Supervised
from scans.reading import read_scan
from training.checkpoint import load
from utils.errors import Interrupted, UserError

pytestmark = pytest.mark.usefixtures("narrow")

CASES = {
    "imagesTr": 4,
    "imagesUn": 9,
    "imagesTs": 4,
}  # the last by name of imagesTr validates: 3 are labelled
VALUES = (1, 5, 7)
RUN = [
    "--pre_iterations",
    "2",
    "--max_iterations",
    "2",
    "--val_every",
    "2",
    "--batch_size",
    "4",
    "--labeled_bs",
    "2",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw_dataset(tmp_path_factory.mktemp("own") / "raw", CASES, VALUES)


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    """The raw scans prepared as slices and as volumes."""
    roots = {dims: tmp_path_factory.mktemp(f"prepared{dims}") for dims in (2, 3)}
    for dims, root in roots.items():
        assert (
            prepare(
                [
                    "--dataset",
                    "own",
                    "--source",
                    str(raw),
                    "--root_path",
                    str(root),
                    "--dims",
                    str(dims),
                    "--workers",
                    "1",
                ]
            )
            == 0
        )
    return roots


@pytest.mark.parametrize("dims", [pytest.param(2, marks=pytest.mark.long), 3])
def test_from_raw_scans_to_predictions_on_their_own_grid(
    raw, prepared, tmp_path, dims, capsys, request
):
    """Predictions of the raw test scans are those that the test program made of the prepared ones,
    turned back, in original values.
    """
    if dims == 2:
        request.getfixturevalue("published_width")  # a narrow U-Net finds no class in so few steps
    root, common = (
        prepared[dims],
        ["--root_path", str(prepared[dims]), "--output_root", str(tmp_path)],
    )
    train_any([*common, *RUN])  # all 3 of train.list are labelled, if no --labelnum says otherwise
    run_test([*common, "--output_dir", str(tmp_path / "out")])
    assert "selection: best mean Dice on val.list" in capsys.readouterr().out
    best = next(path for path in tmp_path.rglob("self_train/*best*.pth"))
    arithmetic_of_the_test = ["--amp", "off", "--accelerate", "off"]
    if dims == 3:
        arithmetic_of_the_test += ["--blend", "uniform"]
    else:
        arithmetic_of_the_test += ["--interpolation", "nearest"]
    assert load(best)["plan"] == read_plan(root).as_dict()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["cases"] == 4 and "organ 5" in json.dumps(summary)
    assert (
        predict(
            [
                "--checkpoint",
                str(best),
                "--input",
                str(raw / "imagesTs"),
                "--output",
                str(tmp_path / "back"),
                "--device",
                "cpu",
                *arithmetic_of_the_test,
            ]
        )
        == 0
    )
    found = set()
    for number in range(4):
        there = nibabel.load(tmp_path / "out" / f"ts{number}_pred.nii.gz")
        back = nibabel.load(tmp_path / "back" / f"ts{number}.nii.gz")
        scan = nibabel.load(raw / "imagesTs" / f"ts{number}_0000.nii.gz")
        assert np.allclose(back.affine, scan.affine) and back.shape == scan.shape
        classes = np.asarray(nibabel.as_closest_canonical(there).dataobj)
        found |= set(np.unique(classes))
        assert np.array_equal(
            np.array((0, *VALUES))[classes], np.asarray(nibabel.as_closest_canonical(back).dataobj)
        )
    assert len(found) > 1  # else equal files would say nothing


def test_own_data_are_tested_without_the_flags_of_their_training(prepared, tmp_path, capsys):
    """A supervised run with another number of labels than the default: only the data and the
    output's place are named.
    """
    common = ["--root_path", str(prepared[2]), "--output_root", str(tmp_path)]
    train_any([*common, *RUN, "--method", "supervised", "--labelnum", "2", "--egm", "none"])
    capsys.readouterr()
    run_test([*common, "--device", "cpu"])
    out = capsys.readouterr().out
    assert "the only one of" in out and "stage supervised" in out and "method: supervised" in out
    (summary,) = tmp_path.rglob("summary.json")
    settings = json.loads(summary.read_text(encoding="utf-8"))["checkpoint"]["settings"]
    assert (settings["labelnum"], settings["method"]) == (2, "supervised")


OF_WHOLE_LABELS = [name for name in METHODS if name not in ("cogrnet", "desco")]


@pytest.mark.long
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", OF_WHOLE_LABELS)
def test_every_method_trains_on_own_data(prepared, tmp_path, method, dims, request):
    """Four classes, one of which may be in no patch; the method chooses its network."""
    if method == "sdcl":
        # torch 2.13 aborts on the CPU in the backward pass of a narrow Res-U-Net for one image of
        # 80 x 80
        request.getfixturevalue("published_width")
    flags = ["--root_path", str(prepared[dims]), "--output_root", str(tmp_path), *RUN]
    if method == "edge_guided":
        flags += ["--egm", "none"]
    train_any([*flags, "--method", method, "--labelnum", "2"])
    last = f"{METHODS[method].stages[-1].name}/last.pth"
    (history,) = [load(path)["progress"]["history"] for path in tmp_path.rglob(last)]
    assert math.isfinite(history[-1]["loss"])


def test_predict_takes_the_folder_of_a_run_on_own_data(raw, prepared, tmp_path):
    common = ["--root_path", str(prepared[2]), "--output_root", str(tmp_path / "runs")]
    train_any([*common, *RUN, "--method", "supervised", "--egm", "none"])
    (run,) = (tmp_path / "runs" / "BCP").iterdir()
    words = ["--input", str(raw / "imagesTs"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert predict(["--checkpoint", str(run), *words]) == 0
    record = json.loads((tmp_path / "out" / "predict.json").read_text(encoding="utf-8"))
    assert record["checkpoints"][0]["path"] == str(run / "supervised" / "unet_best_model.pth")
    assert record["checkpoints"][0]["method"] == "supervised"


def test_seeds_make_runs_of_their_own_and_one_labelled_case_fills_a_batch(prepared, tmp_path):
    flags = [
        "--root_path",
        str(prepared[2]),
        "--output_root",
        str(tmp_path),
        "--labelnum",
        "1",
        *RUN,
        "--method",
        "bcp",
    ]
    train_any([*flags, "--exp", "mine", "--seeds", "3", "4"])
    runs = sorted(
        {
            path.parent.parent.name
            for path in tmp_path.rglob("last.pth")
            if path.parent.name == "self_train"
        }
    )
    assert (
        len(runs) == 2
        and "mine_seed3" in str(list(tmp_path.rglob("*seed3*")))
        and "mine_seed4" in str(list(tmp_path.rglob("*seed4*")))
    )
    settings = [
        load(path)["settings"]["seed"] for path in sorted(tmp_path.rglob("self_train/last.pth"))
    ]
    assert settings == [3, 4]


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--dims", "3"],
            (
                "--dims 3: the data were prepared with --dims 2; prepare them again in another "
                "--root_path"
            ),
        ),
        (["--labelnum", "9"], "--labelnum 9"),
        (["--seeds", "one"], "--seeds: .*'one'"),
    ],
)
def test_wrong_flags(prepared, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        train_any(["--root_path", str(prepared[2]), "--output_root", str(tmp_path), *RUN, *flags])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_resumed_run_draws_the_same_samples_by_class(prepared, tmp_path, monkeypatch, dims):
    flags = ["--root_path", str(prepared[dims]), *RUN, "--method", "supervised"]
    flags += ["--foreground_sampling", "0.7"]
    if dims == 2:
        flags += ["--egm", "none"]
    train_any([*flags, "--output_root", str(tmp_path / "whole")])
    again = [*flags, "--output_root", str(tmp_path / "again")]
    with signalled(monkeypatch, Supervised, 1), pytest.raises(Interrupted):
        train_any(again)
    train_any(again)
    whole, resumed = (
        load(next((tmp_path / run).rglob("last.pth")))["student"] for run in ("whole", "again")
    )
    assert_same(whole, resumed)


def test_foreground_sampling_changes_what_a_network_learns(prepared, tmp_path):
    flags = ["--root_path", str(prepared[3]), *RUN, "--method", "supervised"]
    weights = []
    for share in ("0", "1"):
        output = tmp_path / share
        train_any([*flags, "--output_root", str(output), "--foreground_sampling", share])
        weights.append(load(next(output.rglob("last.pth")))["student"])
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_lost_classes_and_the_dice_of_each_class_are_in_the_log(prepared, tmp_path, monkeypatch):
    """Six validations of a network that finds organ 1 and 5, but never organ 7."""
    dice = {"organ 1": 0.9, "organ 5": 0.2, "organ 7": 0.0}
    scalars = {class_scalar("dice", name): value for name, value in dice.items()}

    def validate(*arguments, **options):
        return Validation(0.5, {"dice": 0.5, **scalars}, dice)

    monkeypatch.setattr(stage_setup, "validate", validate)
    flags = ["--root_path", str(prepared[3]), "--output_root", str(tmp_path), *RUN]
    flags += ["--method", "supervised", "--pre_iterations", "3", "--max_iterations", "3"]
    train_any([*flags, "--val_every", "1"])
    log = next(tmp_path.rglob("train.log")).read_text(encoding="utf-8")
    assert (
        "supervised 3/6: val Dice by class: organ 1 0.9000, organ 5 0.2000, organ 7 0.0000" in log
    )
    assert log.count("warning: organ 7: validation Dice 0 in the last 5 validations") == 1
    assert "warning: organ 5" not in log


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan"])
def test_a_share_of_foreground_samples_lies_between_0_and_1(prepared, tmp_path, share):
    flags = ["--root_path", str(prepared[3]), "--output_root", str(tmp_path), *RUN]
    with pytest.raises(UserError, match=f"--foreground_sampling {share}: .*between 0 and 1"):
        train_any([*flags, "--foreground_sampling", share])


def test_own_data_with_several_classes_have_defaults_of_their_own(prepared):
    """UA-MT needs the V-Net's dropout for its uncertainty; MC-Net has no cross entropy."""
    for dims in (2, 3):
        dataset = own_dataset(read_plan(prepared[dims]), prepared[dims])
        bcp = resolve(dataset, method="bcp", explicit={}).flat()
        assert bcp["foreground_sampling"] == 0.33
        assert bcp["pre_losses"] == (("dice_present", 1.0), ("ce_sqrt", 1.0))
    assert bcp["losses"] == (("dice_present", 0.1), ("ce_sqrt", 0.1))
    assert bcp["has_dropout"] is False
    assert resolve(dataset, method="ua_mt", explicit={}).flat()["has_dropout"] is True
    mc_net = resolve(dataset, method="mc_net", explicit={}).flat()
    assert mc_net["losses"] == (("dice_present", 0.5),)
    abd = resolve(dataset, method="abd", explicit={}).flat()
    assert abd["base_lr"] == 0.01
    assert abd["losses"] == (("dice_present", 0.5), ("ce_sqrt", 0.5))


# --- two drawn slices


def test_two_slices_are_told_from_whole_labels():
    whole = np.zeros((12, 14, 10), np.uint8)
    whole[3:9, 4:11, 2:8] = 1
    drawn = np.zeros_like(whole)
    drawn[:, :, 5], drawn[6] = whole[:, :, 5], whole[6]
    assert (
        drawn_slices(drawn) == ((2, 5), (0, 6))
        and drawn_slices(whole) is None
        and drawn_slices(np.zeros_like(whole)) is None
    )
    third = drawn.copy()
    third[:, 7] = whole[:, 7]
    assert drawn_slices(third) is None and only_slice(drawn) is None
    one = np.zeros_like(whole)
    one[:, 7] = whole[:, 7]
    assert only_slice(one) == (1, 7) and drawn_slices(one) is None


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """A case of two drawn slices, whose spacing is not the median, three whole ones, the last for
    validation; one test case.
    """
    root = write_raw_dataset(
        tmp_path_factory.mktemp("sparse") / "raw", {"imagesTr": 4, "imagesTs": 1}, (2,), (1, 1, 1)
    )
    own_case(root, "imagesTr", "tr0", (2,), (1, 0.5, 1), (26, 40, 20))
    path = root / "labelsTr" / "tr0.nii.gz"
    label = read_scan(path).array
    drawn = np.zeros_like(label)
    drawn[6], drawn[:, :, 8] = label[6], label[:, :, 8]
    write_scan(path, drawn, (1, 0.5, 1), (5, -7, 9))
    return root


def command(raw, root, *flags) -> list[str]:
    return [
        "--dataset",
        "own",
        "--source",
        str(raw),
        "--root_path",
        str(root),
        "--workers",
        "1",
        *flags,
    ]


def test_drawn_slices_are_found_registered_and_trained(sparse, tmp_path, capsys):
    """From NIfTI: 26 x 40 x 20 voxels, L P S; turned, the drawn slices are x = 19 and z = 8, and y
    is resampled from 0.5 to 1 mm.
    """
    root = tmp_path / "out"
    assert prepare(command(sparse, root, "--dims", "3")) == 0
    with h5py.File(root / "data" / "tr0.h5") as file:
        label, annotated = file["label"][()], file.attrs["annotated"]
    assert label.shape == (26, 20, 20) and np.array_equal(annotated, ((2, 8), (0, 19)))
    rest = label.copy()
    rest[19], rest[:, :, 8] = 0, 0
    assert not rest.any() and label[19].any() and label[:, :, 8].any()
    info = own_two_slices(read_plan(root), root).info
    first, second = read_annotation(root / "data" / "tr0.h5", info)
    assert (first.axis, first.index, second.axis, second.index) == (2, 8, 0, 19)
    with pytest.raises(
        UserError,
        match="only the slices 8 along axis 2 and 19 along axis 0 are annotated; omit --planes",
    ):
        read_annotation(root / "data" / "tr0.h5", info, ("middle", "middle"))

    # no dense label: neither is it learnt as one nor compared with
    flags = ["--root_path", str(root), "--output_root", str(tmp_path / "runs")]
    with pytest.raises(
        UserError, match=r"tr0.h5: only two slices of the label are annotated.*CoGRNet_register.py"
    ):
        train_any([*flags, *RUN])
    with pytest.raises(
        UserError,
        match=r"tr0.h5: .* only two annotated slices, and --report_against_truth .* omit the flag",
    ):
        register(["--root_path", str(root), "--labelnum", "1", "--report_against_truth"])
    with pytest.raises(UserError, match=r"CoGRNet_register.py --root_path .* --labelnum 1"):
        train_two_slices([*flags, *RUN, "--labelnum", "1"])

    register(
        ["--root_path", str(root), "--labelnum", "1", "--propagation", "improved", "--workers", "1"]
    )
    assert (root / "coarse_report" / "tr0.png").is_file()
    with h5py.File(root / "data" / "tr0px.h5") as file:
        coarse = file["label"][()]
    assert np.array_equal(coarse[:, :, 8], first.mask) and np.array_equal(coarse[19], second.mask)
    assert (
        coarse[17:23].any((1, 2)).all() and not coarse[:10].any()
    )  # the object lies at x = 17 to 22
    assert np.array_equal(training_label(coarse, Annotation(2, 8, first.mask)), coarse)
    train_two_slices(
        [*flags, *RUN, "--labelnum", "1", "--max_iterations", "1", "--pre_iterations", "1"]
    )
    assert len(list((tmp_path / "runs").rglob("self_train/last.pth"))) == 1
    run_test_two_slices([*flags, "--labelnum", "1", "--output_dir", str(tmp_path / "tested")])
    assert (
        json.loads((tmp_path / "tested" / "summary.json").read_text(encoding="utf-8"))["cases"] == 1
    )
    assert (
        own_two_slices(read_plan(root), root).test_defaults["labelnum"] == 3
    )  # all of train.list, as training and registration


def test_without_recorded_slices_registration_starts_in_the_middle_of_the_object(
    prepared, tmp_path
):
    """The object is on slices 2 to 6 of z and 4 to 7 of y; the volume has 20 slices."""
    label = np.zeros((20, 20, 20), np.uint8)
    label[3:15, 4:8, 2:7] = 1
    path = tmp_path / "case.h5"
    with h5py.File(path, "w") as file:
        file["image"] = np.zeros(label.shape, np.float32)
        file["label"] = label
    info = own_two_slices(read_plan(prepared[3]), prepared[3]).info
    slices = [(drawn.axis, drawn.index) for drawn in read_annotation(path, info)]
    assert slices == [(2, 4), (1, 5)]


def test_two_slices_where_whole_labels_are_needed(sparse, tmp_path, capsys):
    assert prepare(command(sparse, tmp_path / "slices", "--dims", "2")) == 2
    assert (
        "labelsTr/tr0.nii.gz: only two slices are annotated, which is CoGRNet's annotation of volumes; prepare with "
        "--dims 3" in capsys.readouterr().err
    )
    raw = shutil.copytree(sparse, tmp_path / "raw")
    (raw / "splits_final.json").write_text(
        json.dumps([{"train": ["tr1", "tr2", "tr3"], "val": ["tr0"]}]), encoding="utf-8"
    )
    assert prepare(command(raw, tmp_path / "volumes", "--dims", "3")) == 2
    assert (
        "labelsTr/tr0.nii.gz: only two slices are annotated, but it is a validation case"
        in capsys.readouterr().err
    )
    label = read_scan(raw / "labelsTr" / "tr1.nii.gz").array
    one = np.zeros_like(label)
    one[:, :, 8] = label[:, :, 8]
    write_scan(raw / "labelsTr" / "tr1.nii.gz", one, (1, 1, 1), (5, -7, 9))
    (raw / "splits_final.json").write_text(
        json.dumps([{"train": ["tr1", "tr2"], "val": ["tr3"]}]), encoding="utf-8"
    )
    assert prepare(command(raw, tmp_path / "one", "--dims", "3")) == 0
    assert "tr1.nii.gz: only one slice has a label, number 8 along z" in capsys.readouterr().out
