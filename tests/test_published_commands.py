"""Command lines as the published scripts take them: each runs here, or is answered in one line;
what changes nothing says so.
"""

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from helpers import from_flags
from reference import filled_state_dict

from datasets import la
from training.checkpoint import load
from utils.errors import UserError
from utils.label_maps import largest_component_per_class

CODE = Path(__file__).parents[1] / "code"
ACDC3, ACDC7, LA4, LA8, COGRNET = (
    f"{name}_train.py"
    for name in ("ACDC_labelnum3", "ACDC_labelnum7", "LA_labelnum4", "LA_labelnum8", "CoGRNet")
)
PANCREAS = "pancreas/pancreas_labelnum20_train.py"
RAMP = ("--consistency 0.1", "--consistency_rampup 200.0", "--magnitude 6.0")
UNUSED = {
    "ACDC": (*RAMP, "--s_param 6", "--num_classes 4"),
    "LA": (
        *RAMP,
        "--max_samples 80",
        "--local_rank 0",
        "--mask_ratio 0.66",
        "--u_alpha 2.0",
        "--loss_weight 0.5",
    ),
    "pancreas": ("--local-rank=0", "--local_rank -1"),
}
UNUSED["CoGRNet"] = (
    *(flag for flag in UNUSED["LA"] if "mask_ratio" not in flag),
    "--mask_ratio 0.6667",
    "--slice_weight 0.1",
    "--slice_weight_step 50",
    "--split train",
)
TRAINED = {"ACDC": ACDC3, "LA": LA4, "pancreas": PANCREAS, "CoGRNet": COGRNET}


def settings(script: str, line: str):
    """What a training script would run with, given the words of `line`."""
    own = runpy.run_path(str(CODE / script))
    dataset = own.get("DATASET", la.TWO_SLICES)  # the script of CoGRNet finds its page by --dataset
    return from_flags(dataset, own.get("DEFAULTS", {}), line.split())


@pytest.mark.parametrize(
    "script, line, expected",
    [
        (
            ACDC3,
            "--run_mode pretrain_then_selftrain",
            {"run_mode": "pretrain_then_selftrain", "labelnum": 3},
        ),
        (ACDC7, "--run_mode selftrain --gpu 1", {"run_mode": "selftrain", "gpu": "1"}),
        (ACDC3, "--deterministic 1", {"deterministic": True}),
        (ACDC3, "--deterministic=0 --seed 1", {"deterministic": False, "seed": 1}),
        (LA4, "", {"labelnum": 4, "max_iterations": 15_000}),
        (LA4, "--deterministic", {"deterministic": True}),
        (LA4, "--no_deterministic", {"deterministic": False}),
        (
            LA8,
            "--pre_max_iteration 30 --self_max_iteration=40",
            {"pre_iterations": 30, "max_iterations": 40},
        ),
        (PANCREAS, "--deterministic 0 --gpu 0", {"deterministic": False, "gpu": "0"}),
        (COGRNET, "", {"pre_iterations": 1_001, "max_iterations": 5_001}),
        (COGRNET, "--deterministic 0", {"deterministic": False}),
    ],
)
def test_published_lines_mean_what_they_say(script, line, expected, capsys):
    made = settings(script, line)
    assert {key: getattr(made, key) for key in expected} == expected
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name, words",
    [(name, words) for name, flags in UNUSED.items() for words in (*flags, " ".join(flags))],
)
def test_flags_that_change_nothing_say_so(name, words, capsys):
    script = TRAINED[name]
    assert settings(script, words) == settings(script, "")
    flags = [word.split("=")[0] for word in words.split() if word.startswith("--")]
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == flags
    assert all("accepted, changes nothing: " in line for line in said)


def test_flags_after_an_unused_one_still_count(capsys):
    assert settings(LA4, "--consistency 1.0 --seed 5 --u_alpha 2 --exp mine") == settings(
        LA4, "--seed 5 --exp mine"
    )


@pytest.mark.parametrize("script", [ACDC3, LA4, PANCREAS, COGRNET])
def test_of_a_list_of_gpus_the_first_is_used(script, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert settings(script, "--gpu 2,3").gpu == "2"
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("--gpu 2,3") and line.endswith(
        f"CUDA_VISIBLE_DEVICES=2,3 torchrun --nproc_per_node 2 {script}"
    )


def test_one_of_several_processes_speaks(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, lines in (("0", 2), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert settings(PANCREAS, f"--local-rank={rank} --gpu 0,1").gpu == "0"
        said = capsys.readouterr().out.splitlines()
        assert len(said) == lines and not any("torchrun" in line for line in said)


def test_published_lengths_of_cogrnet_are_made_in_full_and_it_says_so(capsys):
    made = settings(COGRNET, "--pre_max_iteration 2000 --self_max_iteration 10000")
    assert (made.pre_iterations, made.max_iterations) == (2_000, 10_000)
    assert capsys.readouterr().out.count("--loop_lengths published_run") == 2


@pytest.mark.parametrize(
    "script, line, error",
    [
        (
            LA4,
            "--max_samples 40",
            "--max_samples 40: must be 80, because all cases of the training list are used; "
            "remove it, and shorten train.list in --root_path to use fewer",
        ),
        (
            LA4,
            "--method bcp --mask_ratio 0.5",
            "--mask_ratio 0.5: must be 2/3, because BCP's box has 2/3 of the patch's sides; "
            "remove it",
        ),
        (
            LA4,
            "--method bcp --mask_ratio 0.66",
            "--mask_ratio 0.66: must be 2/3, because BCP's box has 2/3 of the patch's sides; "
            "remove it",
        ),
        (
            COGRNET,
            "--mask_ratio",
            "--mask_ratio: must be 2/3, because the box of pre-training has 2/3 of the patch's "
            "sides; remove it",
        ),
        (
            COGRNET,
            "--mask_ratio 0.5",
            "--mask_ratio 0.5: must be 2/3, because the box of pre-training has 2/3 of the "
            "patch's sides; remove it",
        ),
        (
            COGRNET,
            "--max_samples 100",
            "--max_samples 100: must be 80, because all cases of the training list are used; "
            "remove it, and shorten train.list in --root_path to use fewer",
        ),
        (
            COGRNET,
            "--split test",
            "--split test: must be train, because training reads the training list; remove it",
        ),
    ],
)
def test_a_published_flag_that_would_change_something_takes_its_published_value_only(
    script, line, error
):
    with pytest.raises(UserError) as caught:
        settings(script, line)
    assert str(caught.value) == error


def test_the_published_ratio_of_bcps_box_is_accepted_as_the_published_code_has_it():
    made = settings(LA4, "--method bcp --mask_ratio 0.6666666666666666")
    assert made == settings(LA4, "--method bcp")


@pytest.mark.parametrize(
    "script, line, named",
    [
        (LA4, "--consistancy 1", "--consistancy"),
        (LA4, "--consistency", "--consistency: takes a number"),
        (LA4, "--consistency --seed 1", "--consistency: takes a number"),
        (LA4, "--u_alpha two", "--u_alpha two: takes a number"),
        (LA4, "--s_param 6", "--s_param"),
        (LA4, "--nms 1", "--nms"),
        (LA4, "--deterministic 2", "--deterministic 2: give 0 or 1"),
        (LA4, "--pre_max_iteration", "--pre_max_iteration: takes a value"),
        (LA4, "--pre_max_iteration many", "--pre_iterations"),
        (LA4, "--gpu 0,x", "--gpu 0,x: give the number"),
        (LA4, "--gpu", "--gpu: give the number"),
        (ACDC3, "--num_classes 2", "--num_classes 2: must be 4"),
        (ACDC3, "--pre_max_iteration 5", "did you mean --pre_iterations"),
        (ACDC3, "--slice_weight 1", "--slice_weight"),
        (PANCREAS, "--consistency 1", "--consistency"),
        (COGRNET, "--s_param 6", "--s_param"),
    ],
)
def test_wrong_flags_stay_errors(script, line, named, capsys):
    with pytest.raises(UserError) as caught:
        settings(script, line)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert "accepted" not in capsys.readouterr().out


@pytest.mark.long
def test_published_launcher(pancreas_root, tmp_path):
    """Typed where the published README types it; the launcher, torchrun by an older name, hands
    over `--local-rank`.
    """
    small = "--labelnum 50 --patch_size 32 32 16 --val_stride 32 32 16 --batch_size 8 --labeled_bs 4 --device cpu"
    length = "--unit iteration --run_mode pretrain --pre_iterations 2 --val_every 2 --egm none"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.launch",
        "--standalone",
        "--nproc_per_node=2",
        "pancreas_labelnum20_train.py",
    ]
    command += [
        "--root_path",
        str(pancreas_root),
        "--output_root",
        str(tmp_path),
        *small.split(),
        *length.split(),
    ]
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    result = subprocess.run(
        command,
        cwd=CODE / "pancreas",
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert result.returncode == 0, result.stderr
    assert (
        "--local-rank 0: accepted, changes nothing" in result.stdout and "cpu x 2" in result.stdout
    )
    assert load(tmp_path / "cutmix_50_labeled" / "pre_train" / "last.pth")["progress"]["step"] == 2


@pytest.fixture
def typed(monkeypatch, capsys):
    """Run a script of `code` with the words of `line` and flags that name paths; its exit status,
    what it said, its errors.
    """

    def run(script: str, line: str, *paths: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [script, *line.split(), *map(str, paths)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(CODE / script), run_name="__main__")
        return stop.value.code, *capsys.readouterr()

    return run


def test_nms_and_detail_of_test_la(la_root, tmp_path, typed):
    checkpoint = tmp_path / "VNet_best_model.pth"
    torch.save(filled_state_dict("vnet_la"), checkpoint)
    said, masks = [], []
    for flags in ("", "--nms 1 --detail 1", "--nms 0 --detail 0"):
        output = tmp_path / f"run{len(said)}"
        line = f"--patch_size 32 32 16 --stride 32 32 16 --device cpu {flags}"
        status, out, error = typed(
            "test_LA.py",
            line,
            "--root_path",
            la_root,
            "--checkpoint",
            checkpoint,
            "--output_dir",
            output,
        )
        assert status == 0, error
        said.append(" ".join(out.split()))
        masks.append(
            [
                np.asarray(nibabel.load(path).dataobj)
                for path in sorted(output.glob("*_pred.nii.gz"))
            ]
        )
        assert json.loads((output / "summary.json").read_text(encoding="utf-8"))[
            "largest_component"
        ] is ("--nms 0" not in flags)
    default, one, everything = masks
    assert len(default) == 2
    for a, b, c in zip(default, one, everything, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(
            b, largest_component_per_class(c[None].astype(np.uint8), 2, 26)[0]
        )
        assert b.sum() < c.sum()
    with open(tmp_path / "run1" / "metrics.csv") as file:
        for row in csv.DictReader(file):
            line = f"{row['case']} {row['class']} {float(row['dice']):.4f} {float(row['jaccard']):.4f} {float(row['hd95_voxel']):.2f}"
            assert [line in out for out in said] == [False, True, False]
            assert row["case"] not in said[0] + said[2]


def test_test_acdc_as_published(phantom_root, tmp_path, typed):
    place = tmp_path / "BCP" / "ACDC_BCP_3_labeled" / "self_train" / "unet_best_model.pth"
    place.parent.mkdir(parents=True)
    torch.save(filled_state_dict("unet"), place)
    line = "--labelnum 3 --num_classes 4 --gpu 0 --patch_size 80 80 --device cpu"
    status, said, error = typed(
        "test_ACDC.py", line, "--root_path", phantom_root, "--output_root", tmp_path
    )
    assert status == 0, error
    assert (
        "--num_classes 4: accepted, changes nothing" in said
        and "published, distances in voxels" in said
    )


def test_published_weights_of_cogrnet_are_tested_in_the_folder_of_a_run(la_root, tmp_path, typed):
    place = tmp_path / "CoGRNet" / "LA_CoGRNet_5_labeled" / "self_train" / "VNet_best_model.pth"
    place.parent.mkdir(parents=True)
    torch.save(filled_state_dict("vnet_cogrnet"), place)
    line = "--dataset LA --patch_size 32 32 16 --stride 32 32 16 --device cpu"
    status, said, error = typed(
        "test_CoGRNet.py", line, "--root_path", la_root, "--output_root", tmp_path
    )
    assert status == 0, error
    assert str(place) in said


@pytest.mark.parametrize(
    "script, words, named",
    [
        ("test_LA.py", "--nms 2", "--nms 2: give 0 or 1"),
        ("test_LA.py", "--nsm 1", "--nsm (did you mean --nms?)"),
        ("test_LA.py", "--num_classes 2", "--num_classes"),
        ("test_ACDC.py", "--nms 0", "--nms"),
        ("test_ACDC.py", "--num_classes 2", "--num_classes 2: must be 4"),
        ("test_CoGRNet.py", "--nms 0", "--nms"),
        ("test_LA.py", "--local_rank 0", "--local_rank"),
        (LA4, "--detail 1", "--detail"),
        (PANCREAS, "--local-rank", "--local-rank: takes a number"),
    ],
)
def test_wrong_flags_end_a_script_with_status_2(script, words, named, typed):
    status, said, error = typed(script, words)
    assert status == 2 and said == ""
    assert error.startswith("error: ") and named in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "script, words, ours",
    [
        ("train.py", "", "code/CoGRNet_train.py"),
        ("train.py", "--labelnum 5 --slice_weight 0.95", "code/CoGRNet_train.py"),
        ("train.py", "--dataset LA --method cogrnet", "code/CoGRNet_train.py"),
        ("test.py", "", "code/test_CoGRNet.py"),
        ("test.py", "--exp CoGRNet --model VNet --split test", "code/test_CoGRNet.py"),
        ("utils/registration", "", "code/CoGRNet_register.py"),
        ("utils/registration.py", "", "code/CoGRNet_register.py"),
    ],
)
def test_commands_of_cogrnet_are_answered_with_ours(script, words, ours, typed):
    status, said, error = typed(script, words)
    assert status == 2 and said == ""
    assert error.startswith("error: ") and ours in error and error.count("\n") == 1


def test_the_folder_of_the_registration_command_hides_no_package():
    """Python finds the package at the root although `code` is on the path before it."""
    show = "import utils, registration; print(utils.__file__, registration.__file__)"
    root = CODE.parent
    path = os.pathsep.join(map(str, (CODE, CODE / "utils", root)))
    done = subprocess.run(
        [sys.executable, "-c", show],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        cwd=root / "docs",
    )
    assert done.stdout.split() == [
        str(root / "utils" / "__init__.py"),
        str(CODE / "utils" / "registration.py"),
    ]


def test_the_published_name_of_the_requirements_installs_ours():
    lines = (CODE.parent / "requirement.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and line[0] != "#"] == ["-r requirements.txt"]
    assert (CODE.parent / "requirements.txt").is_file()
