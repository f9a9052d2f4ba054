"""The benchmarks of training steps run and print what they measured."""

import json

import pytest

from benchmarks import acdc_step, fast_operations, method_steps, predict_speed, vnet_step
from networks.fast.matrices import _cached_matrix


@pytest.mark.long
def test_each_fast_operation_is_measured(capsys):
    small = ["--patch_size", "32", "32", "16", "--rounds", "1"]
    fast_operations.main(["--step", "la", *small, "--names", "pool_pixels", "smooth_part_3d"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["all", "pool_pixels", "smooth_part_3d"]


@pytest.mark.long
def test_a_step_of_acdc_is_timed_next_to_a_busy_process(capsys):
    acdc_step.main(
        [
            "--patch_size",
            "80",
            "80",
            "--batch_size",
            "4",
            "--steps",
            "1",
            "--no_memory",
            "--neighbours",
            "1",
        ]
    )
    said = capsys.readouterr().out
    assert (
        said.count("whole step") == 2
        and "next to 1 busy" in said
        and said.splitlines()[-1].startswith("peak memory of the process")
    )


@pytest.mark.long
@pytest.mark.parametrize("kinds", ["both", "plain"])
def test_a_pass_of_the_v_net_is_timed(kinds, capsys):
    """The plain kind alone too: in a process of its own it finds nothing that the other has made."""
    _cached_matrix.cache_clear()
    vnet_step.main(
        ["--kinds", kinds, "--patch_size", "32", "32", "16", "--steps", "1", "--no_memory"]
    )
    assert "plain    forward" in capsys.readouterr().out


@pytest.mark.long
def test_the_prediction_of_a_volume_is_timed(capsys):
    predict_speed.main(
        [
            "--patch_size",
            "32",
            "32",
            "16",
            "--size",
            "48",
            "32",
            "16",
            "--rounds",
            "1",
        ]
    )
    printed = capsys.readouterr().out
    assert "float32, as in the tests" in printed and "--amp auto --accelerate fold" in printed


@pytest.mark.long
@pytest.mark.usefixtures("narrow")
def test_the_steps_of_methods_are_timed_on_volumes(tmp_path):
    path = tmp_path / "costs.json"
    small = ["--patch_size", "32", "32", "16", "--batch_size", "4", "--steps", "1"]
    method_steps.main(
        ["--dataset", "LA", *small, "--methods", "bcp", "supervised", "--json", str(path)]
    )
    costs = json.loads(path.read_text())["methods"]
    assert costs["bcp"]["time"] == costs["bcp"]["memory"] == 1
    # two students' passes of a quarter of the batch each, and the teacher's pass of half of it
    assert costs["bcp"]["passes"] == 1
    assert costs["supervised"]["passes"] == 0.5
    assert "pre_time" in costs["bcp"] and "pre_time" not in costs["supervised"]
