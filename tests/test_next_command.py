"""The commands that scripts print as the next ones: each can be typed as it is printed."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from scripts import main_of

from commands.train_flags import configs_from_flags
from datasets.registry import find_dataset
from utils.cli import flat_options

REPOSITORY = Path(__file__).resolve().parents[1]
TINY = ("--train", 3, "--val", 1, "--test", 1, "--size", 48)
SIZES = {
    "ACDC": ("--train", 2, "--test", 1, "--size", 64),
    "LA": ("--train", 2, "--test", 1, "--size", 32, 32, 32),
    "Pancreas": ("--train", 2, "--labelled", 1, "--test", 1, "--size", 32, 32, 32),
    "LiTS": ("--train", 2, "--test", 1, "--size", 32, 32, 32),
}


@pytest.fixture
def next_words(capsys) -> Callable[..., list[str]]:
    """Run a script; return the words of the one command that it prints as the next one."""

    def words_after(script: str, *flags: object) -> list[str]:
        assert not main_of(Path(script).stem)([str(flag) for flag in flags])
        lines = [line for line in capsys.readouterr().out.splitlines() if "next: " in line]
        (line,) = lines
        program, *words = shlex.split(line.split("next: ")[1])
        assert program == "python"
        return words

    return words_after


def test_following_the_next_commands_leads_from_raw_scans_to_a_training(tmp_path, next_words):
    raw = tmp_path / "my scans"
    first = ("code/make_phantom.py", "--raw", "--labelled", 2, "--root", raw, *TINY)
    preparation = next_words(*first)
    assert next_words("code/check_data.py", "--root_path", raw) == preparation
    training = next_words(*next_words(*preparation))
    prepared = str(tmp_path / "my scans_prepared")
    assert training == ["code/train.py", "--root_path", prepared]
    short = [
        "--method",
        "supervised",
        "--pre_iterations",
        "1",
        "--max_iterations",
        "1",
        "--patch_size",
        "32",
        "32",
    ]
    short += ["--batch_size", "4", "--labeled_bs", "2", "--output_root", str(tmp_path / "runs")]
    assert not main_of("train")([*training[1:], *short])


@pytest.mark.parametrize("dataset", SIZES)
def test_checked_data_are_used_next_by_the_script_that_the_phantom_names(
    tmp_path, next_words, dataset
):
    phantom = ("--dataset", dataset, "--root", tmp_path, *SIZES[dataset])
    script, *flags = next_words("code/make_phantom.py", *phantom)
    assert (REPOSITORY / script).is_file()
    checked = next_words("code/check_data.py", "--dataset", dataset, "--root_path", tmp_path)
    assert checked[0] == script
    assert checked[-2:] == ["--root_path", str(tmp_path)]
    assert set(checked[1:]) <= set(flags)


@pytest.mark.parametrize("dataset", ["ACDC", "LA", "Pancreas"])
def test_the_training_after_a_phantom_is_short_and_smaller_than_published(
    tmp_path, next_words, dataset
):
    phantom = ("--dataset", dataset, "--root", tmp_path, *SIZES[dataset])
    _, *flags = next_words("code/make_phantom.py", *phantom)
    spec = find_dataset(dataset)
    (config,) = configs_from_flags(spec, flags, spec.script_defaults(4))
    (published,) = configs_from_flags(spec, [], spec.script_defaults(4))
    assert dict(flat_options(config))["max_iterations"] <= 1_000
    sides = zip(config.data.patch_size, published.data.patch_size, strict=True)
    assert all(side < whole for side, whole in sides)


def test_data_with_an_error_name_no_next_command(tmp_path, capsys):
    main_of("make_phantom")(["--raw", "--root", str(tmp_path), *map(str, TINY)])
    scan = next((tmp_path / "imagesTr").iterdir())
    scan.write_bytes(b"damaged")
    capsys.readouterr()
    assert main_of("check_data")(["--root_path", str(tmp_path)]) == 2
    assert "next:" not in capsys.readouterr().out


def test_training_takes_the_stride_by_the_name_that_tests_have():
    la = find_dataset("LA")
    (config,) = configs_from_flags(la, ["--stride", "32", "24", "8"])
    assert config.data.val_stride == (32, 24, 8)
