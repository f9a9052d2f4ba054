"""Tests, predictions, exports and reports find what training left, by the rules of
commands/runs.py; each choice is printed.
"""

import json
import os
import shutil

import pytest
import torch
from helpers import train, train_any
from reference import filled_state_dict
from scripts import evaluate, export, report
from scripts import run_test as evaluate_any

from commands.predict import with_checkpoints
from commands.predict_settings import PredictSettings
from commands.runs import RunRequest, best_files, choose, find_checkpoint, stage_names
from datasets import acdc, la, pancreas
from networks.registry import NETWORKS
from training.checkpoint import load, read
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("narrow")

TINY = {
    "labelnum": 1, "patch_size": (80, 80), "batch_size": 4, "labeled_bs": 2, "pre_iterations": 1, "max_iterations": 1, "val_every": 1,
}  # fmt: skip
BEST = "unet_best_model.pth"


def put(path, content=b"x", age=0):
    """A file that was written `age` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    time = path.stat().st_mtime - age
    os.utime(path, (time, time))
    return path


def flags(root, output, *more):
    return [
        *("--root_path", str(root), "--output_root", str(output), "--device", "cpu"),
        *map(str, more),
    ]


def summary_below(folder):
    """The one test's summary below a folder."""
    (path,) = folder.rglob("summary.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trained(phantom_root, tmp_path_factory):
    """A supervised run and an edge-guided one with the default names; the paths of their folders."""
    output = tmp_path_factory.mktemp("trained")
    train(acdc.DATASET, phantom_root, output, method="supervised", **TINY)
    train(acdc.DATASET, phantom_root, output, **TINY)
    return {
        "supervised": output / "BCP" / "ACDC_supervised_1_labeled",
        "edge_guided": output / "BCP" / "ACDC_BCP_1_labeled",
    }


@pytest.fixture
def output_of(trained, tmp_path):
    """An output root with copies of these runs."""

    def copy(*names):
        for name in names:
            shutil.copytree(trained[name], tmp_path / "out" / "BCP" / trained[name].name)
        return tmp_path / "out"

    return copy


# stages of a run


def test_self_training_is_the_final_stage_whatever_was_written_last(tmp_path):
    put(tmp_path / "self_train" / BEST, age=100)
    put(tmp_path / "pre_train" / BEST)
    put(tmp_path / "supervised" / BEST, age=10)
    assert stage_names(tmp_path) == ["self_train", "supervised", "pre_train"]


def test_without_self_training_the_stage_written_last_is_final(tmp_path):
    put(tmp_path / "warm_up" / "last.pth", age=50)
    put(tmp_path / "cross_train" / "last.pth", age=10)
    put(tmp_path / "pre_train" / "last.pth")
    assert stage_names(tmp_path) == ["cross_train", "warm_up", "pre_train"]


def test_stages_moved_aside_and_folders_without_checkpoints_do_not_count(tmp_path):
    put(tmp_path / "self_train.20261129-120000" / BEST)
    put(tmp_path / "self_train.20261129-120000-2" / BEST)
    put(tmp_path / "log" / "events")
    put(tmp_path / "test" / "predictions.nii.gz")
    put(tmp_path / "supervised" / ".unfinished-x-last.pth")
    assert stage_names(tmp_path) == []


# one best checkpoint


def test_snapshots_of_the_published_code_are_not_the_best_checkpoint(tmp_path):
    for name in (
        "iter_200_dice_0.8.pth",
        "iter_400_dice_0.9.pth",
        BEST,
        "last.pth",
        "previous.pth",
    ):
        put(tmp_path / name)
    assert [path.name for path in best_files(tmp_path)] == [BEST]


def test_the_latest_checkpoint_of_the_published_pancreas_code_is_not_its_best(tmp_path):
    put(tmp_path / "best_ema_20_self.pth")
    put(tmp_path / "best_ema_20_self_latest.pth")
    assert [path.name for path in best_files(tmp_path)] == ["best_ema_20_self.pth"]


def test_a_single_file_of_any_name_is_the_best_checkpoint(tmp_path):
    put(tmp_path / "weights.pth")
    put(tmp_path / "last.pth")
    assert [path.name for path in best_files(tmp_path)] == ["weights.pth"]


def test_of_two_networks_the_one_in_the_last_checkpoint_is_taken(trained, tmp_path):
    shutil.copytree(trained["supervised"] / "supervised", tmp_path / "supervised")
    put(tmp_path / "supervised" / "VNet_best_model.pth")
    path, notes = find_checkpoint(tmp_path)
    assert path == tmp_path / "supervised" / BEST
    assert any(BEST in note for note in notes)


def test_two_networks_that_nothing_tells_apart_are_refused(tmp_path):
    put(tmp_path / "self_train" / BEST)
    put(tmp_path / "self_train" / "VNet_best_model.pth")
    with pytest.raises(UserError, match="2 files that may be a best checkpoint") as caught:
        find_checkpoint(tmp_path)
    assert BEST in str(caught.value) and "VNet_best_model.pth" in str(caught.value)


def test_a_stage_without_a_best_checkpoint_names_the_last_one(tmp_path):
    put(tmp_path / "self_train" / "last.pth")
    with pytest.raises(UserError, match=r"no best checkpoint; name .*last\.pth itself"):
        find_checkpoint(tmp_path)


def test_a_file_stands_for_itself_and_a_stage_folder_for_its_best(tmp_path):
    best = put(tmp_path / "run" / "pre_train" / BEST)
    last = put(tmp_path / "run" / "pre_train" / "last.pth")
    put(tmp_path / "run" / "self_train" / BEST)
    assert find_checkpoint(last) == (last, ())
    assert find_checkpoint(best.parent)[0] == best


def test_an_exported_file_in_the_folder_of_the_run_is_not_its_checkpoint(tmp_path):
    put(tmp_path / "weights.pth")
    best = put(tmp_path / "self_train" / BEST)
    assert find_checkpoint(tmp_path)[0] == best


# the run


def test_the_published_place_comes_first(tmp_path):
    best = put(tmp_path / "BCP" / "ACDC_BCP_3_labeled" / "self_train" / BEST)
    put(tmp_path / "BCP" / "ACDC_other_3_labeled" / "self_train" / BEST)
    choice = choose(acdc.DATASET, tmp_path, RunRequest())
    assert choice.best == best
    assert any("--exp other --labelnum 3" in note for note in choice.notes)


def test_the_only_run_is_found_whatever_it_is_called(tmp_path):
    best = put(
        tmp_path / "BCP" / "ACDC_a b_c(1)_17_labeled" / "supervised" / BEST,
        filled_state_dict("unet"),
    )
    choice = choose(acdc.DATASET, tmp_path, RunRequest())
    assert (choice.best, choice.stage) == (best, "supervised")
    assert any("the only one of ACDC" in note for note in choice.notes)
    assert any(note.startswith("stage supervised") for note in choice.notes)


def test_several_runs_are_an_error_that_lists_them(tmp_path):
    weights = filled_state_dict("unet")
    put(tmp_path / "BCP" / "ACDC_one_3_labeled" / "self_train" / BEST, weights)
    put(tmp_path / "BCP" / "ACDC_two_7_labeled" / "self_train" / BEST, weights)
    with pytest.raises(UserError) as caught:
        choose(acdc.DATASET, tmp_path, RunRequest())
    assert "--exp one --labelnum 3; --exp two --labelnum 7" in str(caught.value)
    assert (
        choose(acdc.DATASET, tmp_path, RunRequest(exp="two")).best.parts[-3] == "ACDC_two_7_labeled"
    )
    assert (
        choose(acdc.DATASET, tmp_path, RunRequest(labelnum=3)).best.parts[-3]
        == "ACDC_one_3_labeled"
    )


def test_what_the_flags_name_is_never_replaced_by_another_run(tmp_path):
    put(tmp_path / "BCP" / "ACDC_one_3_labeled" / "self_train" / BEST, filled_state_dict("unet"))
    choice = choose(acdc.DATASET, tmp_path, RunRequest(exp="one", labelnum=7))
    assert choice.best == tmp_path / "BCP" / "ACDC_one_7_labeled" / "self_train" / BEST
    choice = choose(acdc.DATASET, tmp_path, RunRequest(exp="two"))
    assert choice.best == tmp_path / "BCP" / "ACDC_two_3_labeled" / "self_train" / BEST


def test_runs_moved_aside_are_not_found(tmp_path):
    put(tmp_path / "cutmix.20261129-120000" / "self_train" / "best_ema_20_self.pth")
    choice = choose(pancreas.DATASET, tmp_path, RunRequest())
    assert choice.run == tmp_path / "cutmix_20_labeled"


def test_a_run_of_a_data_set_whose_name_begins_alike_is_not_taken(trained, tmp_path):
    """ACDC_own's run `x` lies in ACDC_own_x_1_labeled, which could be ACDC's run `own_x`."""
    place = tmp_path / "BCP" / "ACDC_own_x_1_labeled" / "supervised"
    shutil.copytree(trained["supervised"] / "supervised", place)
    for path in place.glob("*.pth"):
        content = load(path)
        torch.save({**content, "facts": {**content["facts"], "name": "ACDC_own"}}, path)
    choice = choose(acdc.DATASET, tmp_path, RunRequest())
    assert choice.run.name == "ACDC_BCP_3_labeled"


def test_another_number_of_labels_is_not_taken_for_the_one_that_was_named(tmp_path):
    """The published Pancreas code has it only in the file's name."""
    put(tmp_path / "cutmix" / "self_train" / "best_ema_20_self.pth")
    assert choose(pancreas.DATASET, tmp_path, RunRequest()).run == tmp_path / "cutmix"
    assert choose(pancreas.DATASET, tmp_path, RunRequest()).best.name == "best_ema_20_self.pth"
    assert (
        choose(pancreas.DATASET, tmp_path, RunRequest(labelnum=10)).best.name
        == "best_ema_10_self.pth"
    )


# from training to the test


def test_a_single_stage_run_is_tested_without_further_flags(phantom_root, output_of, capsys):
    output = output_of("supervised")
    evaluate(acdc.DATASET, flags(phantom_root, output))
    out = capsys.readouterr().out
    assert "stage supervised" in out and "method: supervised" in out
    summary = summary_below(output)["checkpoint"]
    assert summary["path"].endswith(f"ACDC_supervised_1_labeled/supervised/{BEST}")
    assert summary["method"] == "supervised"


def test_an_edge_guided_run_is_named_in_test_and_report(phantom_root, output_of, tmp_path, capsys):
    output = output_of("edge_guided")
    evaluate(acdc.DATASET, flags(phantom_root, output))
    assert "method: edge-guided BCP, dual teacher" in capsys.readouterr().out
    assert summary_below(output)["checkpoint"]["method"] == "edge-guided BCP, dual teacher"
    dataset = tmp_path / "page"
    report(["--output_root", str(output), "--output", str(dataset), "--no-pictures"])
    text = (dataset / "index.html").read_text(encoding="utf-8")
    assert "<title>edge-guided BCP, dual teacher on ACDC</title>" in text


def test_the_method_names_the_run(phantom_root, output_of):
    output = output_of("edge_guided", "supervised")
    evaluate(acdc.DATASET, flags(phantom_root, output, "--method", "supervised"))
    assert summary_below(output)["checkpoint"]["method"] == "supervised"


def test_the_method_finds_a_run_with_another_name(phantom_root, output_of):
    output = output_of("edge_guided", "supervised")
    run = output / "BCP" / "ACDC_supervised_1_labeled"
    run.rename(run.with_name("ACDC_supervised_seed7_1_labeled"))
    evaluate(acdc.DATASET, flags(phantom_root, output, "--method", "supervised"))
    assert summary_below(output)["checkpoint"]["method"] == "supervised"


def test_several_runs_of_a_method_are_listed(phantom_root, output_of):
    output = output_of("edge_guided", "supervised")
    run = output / "BCP" / "ACDC_supervised_1_labeled"
    for seed in (7, 8):
        shutil.copytree(run, run.with_name(f"ACDC_supervised_seed{seed}_1_labeled"))
    shutil.rmtree(run)
    with pytest.raises(UserError) as caught:
        evaluate(acdc.DATASET, flags(phantom_root, output, "--method", "supervised"))
    listed = "--exp supervised_seed7 --labelnum 1; --exp supervised_seed8 --labelnum 1"
    assert str(caught.value).endswith(listed)


def test_a_test_of_la_finds_the_run_and_tests_an_iteration_once(la_root, tmp_path, capsys):
    """code/train.py --dataset LA has 3 labelled scans by default, the published test 4. The only
    validation is that of the last iteration, so the best checkpoint is the last one.
    """
    output = tmp_path / "out"
    words = [
        *("--dataset", "LA", "--method", "supervised", "--patch_size", "32", "32", "16"),
        *("--batch_size", "4", "--labeled_bs", "2", "--val_stride", "32", "32", "16"),
        *("--pre_iterations", "1", "--max_iterations", "1", "--val_every", "2"),
    ]
    train_any([*words, *flags(la_root, output)])
    capsys.readouterr()
    evaluate_any(["--dataset", "LA", "--stride", "32", "32", "16", *flags(la_root, output)])
    assert (
        "last.pth: the same network as VNet_best_model.pth, tested once" in capsys.readouterr().out
    )
    assert len(list(output.rglob("summary.json"))) == 1
    assert {path.parts[-3] for path in output.rglob("last.pth")} == {"LA_supervised_3_labeled"}


def test_the_network_comes_from_the_checkpoint(phantom_root, tmp_path, monkeypatch):
    class Other(NETWORKS["unet"]):
        """The U-Net by another name."""

    monkeypatch.setitem(NETWORKS, "other", Other)
    output = tmp_path / "out"
    train(acdc.DATASET, phantom_root, output, method="supervised", model="other", **TINY)
    evaluate(acdc.DATASET, flags(phantom_root, output))
    summary = summary_below(output)["checkpoint"]
    assert summary["path"].endswith("other_best_model.pth")
    assert summary["settings"]["model"] == "other"


@pytest.mark.parametrize(
    "more, named",
    [
        (("--model", "VNet"), "--model VNet"),
        (("--method", "bcp"), "--method bcp"),
        (("--labelnum", "7"), "--labelnum 7"),
    ],
)
def test_flags_that_contradict_the_checkpoint_are_refused(phantom_root, trained, more, named):
    best = trained["supervised"] / "supervised" / BEST
    argv = ["--root_path", str(phantom_root), "--checkpoint", str(best), "--device", "cpu"]
    with pytest.raises(UserError) as caught:
        evaluate(acdc.DATASET, [*argv, *more])
    assert named in str(caught.value) and "was trained with" in str(caught.value)
    assert not list(trained["supervised"].rglob("summary.json"))


def test_a_stage_that_the_run_does_not_have_is_refused(phantom_root, trained):
    output = trained["supervised"].parents[1]
    argv = flags(phantom_root, output, "--exp", "supervised", "--stage_name", "self_train")
    with pytest.raises(UserError, match=r"self_train/unet_best_model\.pth: no such checkpoint"):
        evaluate(acdc.DATASET, argv)


def test_a_checkpoint_flag_takes_a_folder(phantom_root, output_of, tmp_path):
    run = output_of("supervised") / "BCP" / "ACDC_supervised_1_labeled"
    for number, place in enumerate((run, run / "supervised")):
        output = tmp_path / f"scores{number}"
        words = ["--checkpoint", str(place), "--output_dir", str(output), "--device", "cpu"]
        evaluate_any([*words, "--root_path", str(phantom_root)])
        assert summary_below(output)["checkpoint"]["path"] == str(run / "supervised" / BEST)


def test_predict_takes_the_folder_of_a_run(trained, tmp_path, capsys):
    run = trained["edge_guided"]
    settings = PredictSettings(
        checkpoint=(run, run / "pre_train"), input=tmp_path / "in", output=tmp_path / "out"
    )
    files = with_checkpoints(settings).checkpoint
    assert files == (run / "self_train" / BEST, run / "pre_train" / BEST)
    assert f"taking self_train/{BEST}" in capsys.readouterr().out
    assert read(files[0]).stage == "self_train"


def test_export_takes_the_folder_of_a_run_and_names_its_method(trained, tmp_path, capsys):
    export([str(trained["edge_guided"]), str(tmp_path / "weights.pth")])
    out = capsys.readouterr().out
    assert "edge-guided BCP, dual teacher; self_train, iteration 1" in out


def test_the_last_checkpoint_of_a_detected_stage_can_be_tested(phantom_root, output_of):
    output = output_of("supervised")
    evaluate(acdc.DATASET, flags(phantom_root, output, "--which", "last"))
    assert summary_below(output)["checkpoint"]["path"].endswith("supervised/last.pth")


def test_a_published_file_of_another_network_is_built_as_its_name_says(la_root, tmp_path):
    place = tmp_path / "BCP" / "LA_BCP_4_labeled" / "self_train" / "VNet_best_model.pth"
    put(place, {"w": torch.ones(1)})
    with pytest.raises(UserError, match="VNet_best_model"):
        evaluate(la.DATASET, flags(la_root, tmp_path, "--patch_size", "32", "32", "16"))


def test_nothing_trained_yet_is_told_with_the_place(phantom_root, tmp_path):
    with pytest.raises(UserError, match="train first") as caught:
        evaluate(acdc.DATASET, flags(phantom_root, tmp_path))
    assert str(tmp_path / "BCP" / "ACDC_BCP_3_labeled" / "self_train" / BEST) in str(caught.value)


def test_published_pancreas_weights_of_another_number_of_labels_do_not_take_a_run(tmp_path):
    put(tmp_path / "cutmix" / "pretrain" / "best_ema20_pre.pth")
    assert pancreas.DATASET.folder(tmp_path, "cutmix", 20) == tmp_path / "cutmix"
    assert pancreas.DATASET.folder(tmp_path, "cutmix", 10) == tmp_path / "cutmix_10_labeled"
    assert pancreas.DATASET.folder(tmp_path, "cutmix", 0) == tmp_path / "cutmix_0_labeled"
