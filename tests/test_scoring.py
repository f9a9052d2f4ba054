"""evaluate.py: anybody's predictions scored, as nnU-Net scores them too, and one line for each that
cannot be.
"""

import csv
import hashlib
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from raw_scans import ORIENTATIONS, blob, noise, write_scan
from scripts import compare, score
from started import run_script

from evaluation.class_values import read_classes
from evaluation.results import columns
from evaluation.scores import score_masks
from utils.errors import UserError

SCRIPT = Path(__file__).parents[1] / "code" / "evaluate.py"
SHAPE = (14, 12, 6)
DATASET = {
    "name": "Toy",
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "tumour": 5},
    "numTraining": 1,
}


@pytest.fixture
def folders(tmp_path):
    """Three cases, labels and predictions in nnU-Net's layout: noise over two structures, the
    second in neither map of case c.
    """
    rng = np.random.default_rng(3)
    for name in "abc":
        truth = np.maximum(
            blob(SHAPE, (2, 2, 1), (6, 6, 4)), blob(SHAPE, (8, 5, 1), (11, 9, 3), 5 * (name != "c"))
        )
        prediction = np.where(
            rng.random(SHAPE) < 0.15, rng.choice((0, 1, 5) if name != "c" else (0, 1), SHAPE), truth
        ).astype(np.uint8)
        write_scan(tmp_path / "labelsTs" / f"{name}.nii.gz", truth, (1, 1, 3))
        write_scan(tmp_path / "pred" / f"{name}.nii.gz", prediction, (1, 1, 3))
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET), encoding="utf-8")
    return tmp_path


def run(root, *flags):
    return score(
        [
            *(
                "--predictions",
                str(root / "pred"),
                "--labels",
                str(root / "labelsTs"),
                "--workers",
                "1",
            ),
            *map(str, flags),
        ]
    )


def summary(folder):
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def arrays(root, name):
    import SimpleITK as sitk

    return [
        sitk.GetArrayFromImage(sitk.ReadImage(str(root / folder / f"{name}.nii.gz")))
        for folder in ("pred", "labelsTs")
    ]


def nnunet_dice(root, values, ignore=None):
    """nnU-Net's published formula: 2 TP / (2 TP + FP + FN) without ignored voxels, nan where both
    are empty, its mean without nan.
    """
    dice = []
    for name in "abc":
        prediction, truth = arrays(root, name)
        counted = truth != ignore if ignore is not None else np.ones(truth.shape, bool)
        p, t = (np.isin(array, values) for array in (prediction, truth))
        tp, fp, fn = (int((mask & counted).sum()) for mask in (p & t, p & ~t, ~p & t))
        dice.append(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else np.nan)
    return dice, float(np.nanmean(dice))


@pytest.mark.parametrize(
    "labels, ignore",
    [
        ({"background": 0, "liver": 1, "tumour": 5}, None),
        ({"background": 0, "whole": [1, 5], "tumour": 5}, None),
        ({"background": 0, "liver": 1, "tumour": 5, "ignore": 7}, 7),
        ({"0": "background", "1": "liver", "5": "tumour"}, None),
    ],
    ids=["labels", "regions", "ignore", "first version"],
)
def test_dice_is_nnunets(folders, labels, ignore):
    (folders / "dataset.json").write_text(
        json.dumps({**DATASET, "labels": labels}), encoding="utf-8"
    )
    if ignore:
        truth = arrays(folders, "a")[1].T.copy()
        truth[:, :, 2] = ignore
        write_scan(folders / "labelsTs" / "a.nii.gz", truth, (1, 1, 3))
    assert run(folders) == 0
    found = summary(folders / "pred")
    expected = {
        name: nnunet_dice(folders, values, ignore)[1] for name, values in found["classes"].items()
    }
    assert {name: one["dice"] for name, one in found["nnunet"]["classes"].items()} == pytest.approx(
        expected, abs=1e-6
    )
    assert found["nnunet"]["mean"]["dice"] == pytest.approx(
        np.mean(list(expected.values())), abs=1e-6
    )
    if importlib.util.find_spec("nnunetv2"):
        from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
        from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

        regions = [
            tuple(one) if isinstance(one, list) else one for one in found["classes"].values()
        ]
        theirs = compute_metrics_on_folder(
            str(folders / "labelsTs"),
            str(folders / "pred"),
            None,
            SimpleITKIO(),
            ".nii.gz",
            regions,
            ignore,
            num_processes=1,
        )
        assert found["nnunet"]["mean"]["dice"] == pytest.approx(
            theirs["foreground_mean"]["Dice"], abs=1e-6
        )


def test_the_same_tables_as_a_test_writes(folders, capsys):
    """Case c has no tumour and none is predicted: 0 as published, 1 honestly, left out by nnU-Net."""
    assert run(folders, "--output", folders / "scores") == 0
    with open(folders / "scores" / "metrics.csv", newline="") as file:
        rows = {(row["case"], row["class"]): row for row in csv.DictReader(file)}
    assert list(rows["a", "liver"]) == columns() and len(rows) == 6
    for name, values in (("liver", 1), ("tumour", 5)):
        for case, dice in zip("abc", nnunet_dice(folders, values)[0], strict=True):
            if not np.isnan(dice):
                assert (
                    float(rows[case, name]["dice"])
                    == float(rows[case, name]["honest_dice"])
                    == pytest.approx(dice, abs=1e-6)
                )
    empty = rows["c", "tumour"]
    assert (empty["dice"], empty["honest_dice"], empty["hd95_mm"]) == (
        "0.000000",
        "1.000000",
        "0.000000",
    )
    assert (empty["empty_prediction"], empty["empty_truth"]) == ("1", "1")
    found = summary(folders / "scores")
    assert (
        found["dataset"],
        found["split"],
        found["cases"],
        found["honest"]["empty_predictions"],
    ) == ("Toy", "labelsTs", 3, 0)
    assert (
        found["honest"]["classes"]["tumour"]["dice"]
        > found["nnunet"]["classes"]["tumour"]["dice"]
        > found["as_published"]["classes"]["tumour"]["dice"]
    )
    said = capsys.readouterr().out
    assert (
        "classes from" in said
        and "dataset.json: liver, tumour" in said
        and not (folders / "pred" / "metrics.csv").exists()
    )


def test_distances_in_mm_by_hand(tmp_path):
    """A structure predicted one slice of 3 mm too high: the 95th percentile of the border distances
    is 3 mm, or 1 voxel.
    """
    truth, prediction = blob(SHAPE, (2, 2, 1), (9, 9, 1)), blob(SHAPE, (2, 2, 2), (9, 9, 2))
    for ending, name, array in ((".nrrd", "labelsTs", truth), (".mha", "pred", prediction)):
        write_scan(tmp_path / name / f"x{ending}", array, (1, 1, 3))
    assert run(tmp_path) == 0
    honest = summary(tmp_path / "pred")["honest"]
    assert (
        honest["mean"]["hd95_voxel"],
        honest["millimetres"]["mean"]["hd95_mm"],
        honest["mean"]["dice"],
    ) == (1, 3, 0)
    assert summary(tmp_path / "pred")["classes"] == {"1": 1}


def test_a_volume_of_one_slice_is_scored_as_a_2d_image():
    """Two squares of 3 x 3, one column apart. The prediction's border has 8 pixels: 3 in its first
    column and 1 in its last are a pixel away from the true border, 4 lie on it.
    """
    prediction = np.zeros((9, 9), bool)
    truth = np.zeros((9, 9), bool)
    prediction[3:6, 3:6] = True
    truth[3:6, 4:7] = True
    score = score_masks("case", "a", prediction[None], truth[None], spacing=(10.0, 2.0, 2.0))
    assert score.voxel.values["asd"] == pytest.approx(4 / 8)
    assert score.mm is not None and score.mm.values["asd"] == pytest.approx(2 * 4 / 8)


def test_names_formats_and_orientations(folders):
    """CASE_pred, NRRD and a prediction stored in another order of the same voxels give the same
    figures.
    """
    assert run(folders) == 0
    before = summary(folders / "pred")["honest"]
    for name in "abc":
        path = folders / "pred" / f"{name}.nii.gz"
        prediction = arrays(folders, name)[0].T
        path.unlink()
        # voxel (0, 0, 0) of the turned array is the last one along y and z of the label's
        turned = prediction.transpose(1, 2, 0)[::-1, ::-1]
        direction = np.array(ORIENTATIONS["LPS"], float)[:, [1, 2, 0]] * [-1, -1, 1]
        write_scan(
            folders / "pred" / f"{name}_pred.nrrd",
            turned,
            (1, 3, 1),
            (0, SHAPE[1] - 1, 3 * (SHAPE[2] - 1)),
            direction,
        )
    assert run(folders) == 0
    assert summary(folders / "pred")["honest"] == before


def test_predictions_with_exchanged_label_values_are_not_scored(folders):
    """dataset.json next to the labels says liver 1 and tumour 5, the predictions say the reverse."""
    values = {"background": 0, "liver": 5, "tumour": 1}
    (folders / "pred" / "predict.json").write_text(json.dumps({"label_values": values}))
    with pytest.raises(
        UserError,
        match=r"predict.json: liver has the label value 5 in the predictions, but 1 in .*dataset.json",
    ):
        run(folders)


def test_classes_from_a_plan_or_predict_json(tmp_path):
    plan = {
        "class_names": ["background", "liver", "tumour"],
        "label_values": [0, 1, 5],
        "name": "Own",
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    (tmp_path / "predict.json").write_text(
        json.dumps({"label_values": {"background": 0, "liver": 1, "tumour": 5}, "dataset": "Own"}),
        encoding="utf-8",
    )
    for name in ("plan.json", "predict.json"):
        found = read_classes(tmp_path / name)
        assert (dict(found.values), found.name, found.allowed) == (
            {"liver": (1,), "tumour": (5,)},
            "Own",
            (0, 1, 5),
        )


def test_the_checkpoint_in_predict_json_is_only_named_for_the_files_that_it_describes(
    folders, capsys
):
    predictions = folders / "pred"
    cases = {
        path.name: {"file": path.name, "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in predictions.iterdir()
    }
    content = {"checkpoints": [{"path": "best.pth", "sha256": "1"}], "cases": cases}
    content["made_with"] = {"checkpoints": ["1"], "preparation": None, "tta": "mirror"}
    (predictions / "predict.json").write_text(json.dumps(content), encoding="utf-8")
    assert run(folders) == 0
    assert summary(predictions)["checkpoint"]["path"] == "best.pth"
    assert summary(predictions)["predicted_with"] == {"tta": "mirror"}
    cases["b.nii.gz"]["file_sha256"] = "0"
    (predictions / "predict.json").write_text(json.dumps(content), encoding="utf-8")
    assert run(folders) == 0
    assert summary(predictions)["checkpoint"] is None
    assert summary(predictions)["predicted_with"] == {}
    assert "b.nii.gz is not the file that predict.json describes" in capsys.readouterr().out


def test_results_of_other_predictions_or_of_a_test_are_not_overwritten(folders):
    output = folders / "pred"
    assert run(folders) == 0
    path = output / "summary.json"
    scored = summary(output)
    for key, value, message in (
        ("labels", "elsewhere", "holds the results of other labels"),
        ("predictions", None, "holds the results of a test"),
    ):
        path.write_text(json.dumps(scored | {key: value}), encoding="utf-8")
        with pytest.raises(UserError, match=f"summary.json: {message}.*--output"):
            run(folders)
    path.write_text(json.dumps(scored), encoding="utf-8")
    assert run(folders) == 0  # the same predictions and labels again


def test_a_fold_of_the_labels(folders, capsys):
    (folders / "pred" / "b.nii.gz").unlink()
    assert run(folders) == 2
    assert "no prediction of b; predict it, or score" in capsys.readouterr().err
    assert run(folders, "--subset") == 0
    assert (summary(folders / "pred")["cases"], summary(folders / "pred")["left_out"]) == (2, ["b"])


def other_place(root):
    write_scan(root / "pred" / "a.nii.gz", arrays(root, "a")[0].T, (1, 1, 3), (0, 5, 0))


def labels_with(value):
    return blob(SHAPE, (0, 0, 0), (1, 1, 1), value)


FAULTS = {
    "shape": (
        lambda root: write_scan(root / "pred" / "a.nii.gz", labels_with(1)[:, :, :5], (1, 1, 3)),
        "a.nii.gz: has 14 x 12 x 5 voxels, its label 14 x 12 x 6",
    ),
    "place": (
        other_place,
        (
            "a.nii.gz: by the headers it lies up to 5.0 voxels from its label; fix the header, or "
            "compare voxel by voxel"
        ),
    ),
    "spacing": (
        lambda root: write_scan(root / "pred" / "a.nii.gz", arrays(root, "a")[0].T, (2, 1, 3)),
        "a.nii.gz: by the headers it lies up to 13.0 voxels",
    ),
    "prediction value": (
        lambda root: write_scan(root / "pred" / "a.nii.gz", labels_with(2), (1, 1, 3)),
        "pred/a.nii.gz: the label holds 2, expected 0, 1, 5 (",
    ),
    "label value": (
        lambda root: write_scan(root / "labelsTs" / "a.nii.gz", labels_with(9), (1, 1, 3)),
        "labelsTs/a.nii.gz: the label holds 9, expected 0, 1, 5 (",
    ),
    "probabilities": (
        lambda root: write_scan(
            root / "pred" / "a.nii.gz", np.full(SHAPE, 0.5, np.float32), (1, 1, 3)
        ),
        "pred/a.nii.gz: the label holds 0.5",
    ),
    "cut off": (
        lambda root: (root / "pred" / "a.nii.gz").write_bytes(
            (root / "pred" / "a.nii.gz").read_bytes()[:90]
        ),
        "pred/a.nii.gz: cannot be read",
    ),
    "no scan": (
        lambda root: (root / "labelsTs" / "a.nii.gz").write_bytes(b"text"),
        "labelsTs/a.nii.gz: not a scan in",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_nothing_is_written(folders, fault, capsys):
    damage, line = FAULTS[fault]
    damage(folders)
    assert run(folders, "--output", folders / "scores") == 2
    said = capsys.readouterr().err.splitlines()
    lines = [one for one in said if one.startswith("not scored: ")]
    assert len(lines) == 1 and line in lines[0].replace(os.sep, "/"), said
    assert "nothing was written" in said[-1] and not (folders / "scores").exists()


def test_geometry_can_be_ignored(folders, capsys):
    assert run(folders) == 0
    before = summary(folders / "pred")["honest"]
    other_place(folders)
    assert run(folders, "--ignore_geometry") == 0
    assert (
        summary(folders / "pred")["honest"] == before
        and "compared voxel by voxel" in capsys.readouterr().out
    )


def copied(source, to):
    """Predictions under other names."""
    to.mkdir()
    for path in source.iterdir():
        path.rename(to / f"x{path.name}")


WRONG = {
    "no predictions": (lambda root: [path.unlink() for path in (root / "pred").iterdir()], "no prediction below it"),
    "no labels": (lambda root: [path.unlink() for path in (root / "labelsTs").iterdir()], "no label below it"),
    "other names": (lambda root: (root / "pred").rename(root / "x") and copied(root / "x", root / "pred"), "no prediction has the name of a label"),
    "twice": (lambda root: write_scan(root / "pred" / "a_pred.nrrd", np.zeros(SHAPE, np.uint8)), "is of the same case as"),
    "nnU-Net's summary": (lambda root: (root / "pred" / "summary.json").write_text('{"foreground_mean": {}}'), "written by another program"),
    "damaged dataset.json": (lambda root: (root / "dataset.json").write_text("{"), "dataset.json: defines no classes"),
    "fractional class": (lambda root: (root / "dataset.json").write_text('{"labels": {"background": 0, "x": 0.5}}'), "label value 0.5"),
    "class named mean": (lambda root: (root / "dataset.json").write_text('{"labels": {"background": 0, "mean": 1}}'), "a class has the name of the mean over all classes"),
    "no class": (lambda root: (root / "dataset.json").write_text('{"labels": {"background": 0}}'), "no class except the background"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_folders_that_do_not_fit(folders, fault):
    damage, line = WRONG[fault]
    damage(folders)
    with pytest.raises(UserError) as caught:
        run(folders)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_flags_that_name_nothing(folders):
    for flags, line in (
        (["--predictions", "absent"], "--predictions absent: no such folder"),
        (["--labels", folders / "pred"], "is the folder of the labels too"),
        (["--classes", "absent.json"], "--classes absent.json: no such file"),
        (["--workers", "-1"], "--workers -1"),
    ):
        with pytest.raises(UserError, match=line):
            run(folders, *flags)


def test_two_sets_of_predictions_on_a_page(folders):
    """The image is found in imagesTs beside labelsTs; a set of predictions that nobody describes is
    a group of its own.
    """
    for name in "abc":
        write_scan(
            folders / "imagesTs" / f"{name}_0000.nii.gz",
            noise(SHAPE, arrays(folders, name)[1].T),
            (1, 1, 3),
        )
        write_scan(folders / "other" / f"{name}.nii.gz", arrays(folders, name)[1].T, (1, 1, 3))
    assert run(folders) == 0 and run(folders, "--predictions", folders / "other") == 0
    compare([str(folders / "pred"), str(folders / "other"), "--output", str(folders / "page")])
    numbers = json.loads((folders / "page" / "compare.json").read_text(encoding="utf-8"))
    assert [group["name"] for group in numbers["groups"]] == ["pred", "other"]
    assert numbers["groups"][1]["figures"]["honest"]["mean"]["dice"] == {
        "mean": 1,
        "sd": None,
        "values": [1],
    }
    page = (folders / "page" / "index.html").read_text(encoding="utf-8")
    # three cases from above and from the front: image, truth, two predictions
    assert (
        page.count("<img") == 3 * 2 * 4
        and page.count("coronal: the image") == 3
        and "No curves" in page
    )


def test_two_processes_say_the_same(folders):
    """The script itself, once, against one process in this one."""
    assert run(folders, "--output", folders / "one") == 0
    places = (
        "--predictions",
        folders / "pred",
        "--labels",
        folders / "labelsTs",
        "--output",
        folders / "two",
    )
    done = run_script(SCRIPT, *places, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert (folders / "one" / "metrics.csv").read_bytes() == (
        folders / "two" / "metrics.csv"
    ).read_bytes()
    assert "tumour" in done.stdout
