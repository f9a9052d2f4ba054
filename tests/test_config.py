"""Which source of an option wins, config.json, and runs that start from a file or from given
weights.
"""

import itertools
import json
from dataclasses import dataclass, replace

import pytest
import torch
from helpers import from_flags, train, train_any

import fewlabels
from commands.train_flags import configs_from_flags
from datasets import acdc, la
from datasets.resolve import option_classes, resolve
from methods.base import Method
from methods.registry import METHODS
from training.checkpoint import load
from training.config import MAY_DIFFER, OptimizationOptions, RunConfig
from utils.errors import UserError
from utils.losses import TERMS

SOURCES = ("data set", "script", "preset", "explicit")
NAMED = [subset for count in range(5) for subset in itertools.combinations(SOURCES, count)]
TINY = {
    "labelnum": 1, "patch_size": (32, 32), "batch_size": 4, "labeled_bs": 2, "pre_iterations": 1,
    "max_iterations": 1, "val_every": 1, "egm": "none", "exp": "mine",
}  # fmt: skip
FLAGS = ["--labelnum", "1", "--patch_size", "32", "32", "--batch_size", "4", "--labeled_bs", "2",
         "--pre_iterations", "1", "--max_iterations", "1", "--val_every", "1", "--egm", "none"]  # fmt: skip


@dataclass(frozen=True)
class NoOptions:
    """A method without options."""


def refused(call, *parts):
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# precedence


def learning_rate(monkeypatch, named, script_method):
    """The base_lr of a run of the method `chosen`, each of the `named` sources giving it a value of
    its own.

    `script_method`: the method that the script was written for.
    """
    value = {source: number for number, source in enumerate(SOURCES, 1) if source in named}
    presets = {"base_lr": value["preset"]} if "preset" in value else {}
    numbers = {"base_lr": value["data set"]} if "data set" in value else {}
    script = {"base_lr": value["script"]} if "script" in value else {}
    explicit = {"base_lr": value["explicit"]} if "explicit" in value else {}
    for name in ("chosen", "other"):
        method = Method(name, NoOptions, stages=(), presets=presets if name == "chosen" else {})
        monkeypatch.setitem(METHODS, name, method)
    dataset = replace(acdc.DATASET, defaults=numbers, methods={})
    script["method"] = script_method
    config = resolve(dataset, script, method="chosen", explicit=explicit)
    return config.optimization.base_lr


def first_named(named, order):
    """The value that `learning_rate` gives the first source in `order` that is named, else the
    default.
    """
    for source in order:
        if source in named:
            return SOURCES.index(source) + 1
    return OptimizationOptions.base_lr


@pytest.mark.parametrize("named", NAMED, ids=" and ".join)
def test_a_script_of_the_chosen_method_wins_over_the_presets(monkeypatch, named):
    expected = first_named(named, ["explicit", "script", "preset", "data set"])
    assert learning_rate(monkeypatch, named, script_method="chosen") == expected


@pytest.mark.parametrize("method", ["bcp", "mean_teacher", "ua_mt", "ad_mt"])
def test_the_ema_decay_of_a_script_is_for_the_method_of_the_script(method):
    """The edge-guided method has decay 0.89 with 3 labelled patients, the others 0.99."""
    script = acdc.DATASET.script_defaults(3)
    assert resolve(acdc.DATASET, script).method.ema_decay == 0.89
    assert resolve(acdc.DATASET, script, method=method).method.ema_decay == 0.99


@pytest.mark.parametrize("named", NAMED, ids=" and ".join)
def test_the_presets_win_over_a_script_of_another_method(monkeypatch, named):
    expected = first_named(named, ["explicit", "preset", "script", "data set"])
    assert learning_rate(monkeypatch, named, script_method="other") == expected


def test_flags_win_over_presets_and_script():
    script = {"method": "bcp", "ema_decay": 0.7}
    assert from_flags(acdc.DATASET, script, ["--ema_decay", "0.1"]).ema_decay == 0.1


# groups


def test_the_groups_of_a_configuration_have_the_classes_of_method_and_data_set():
    config = resolve(la.DATASET, method="bcp")
    assert isinstance(config, RunConfig)
    classes = option_classes(la.DATASET, "bcp", model="VNet")
    assert {name: type(group) for name, group in config.groups()} == vars(classes)


def test_flat_options_are_those_of_all_groups():
    config = resolve(acdc.DATASET)
    assert config.flat() == {
        name: value for _, group in config.groups() for name, value in vars(group).items()
    }


def test_help_shows_everyday_flags_first_then_the_groups(capsys):
    with pytest.raises(SystemExit):
        configs_from_flags(acdc.DATASET, ["--help"], {"labelnum": 3})
    text = capsys.readouterr().out
    order = ["--seeds", "--config", "experiment options", "--labelnum", "--init", "data options",
             "--patch_size", "method options", "--ema_decay", "network options", "--egm",
             "optimization options", "--base_lr", "runtime options", "--amp"]  # fmt: skip
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_every_flag_has_a_help_text(capsys):
    with pytest.raises(SystemExit):
        configs_from_flags(la.TWO_SLICES, ["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name in option_classes(la.TWO_SLICES, "cogrnet", model="VNet").types():
        assert f"--{name}" in text
        assert f"--{name} (default" not in text


@pytest.mark.parametrize("columns", [60, 100])
def test_the_description_in_help_is_wrapped_to_the_width_of_the_terminal(
    columns, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        configs_from_flags(acdc.DATASET, ["--help"], description=20 * "Some words.\n")
    lines = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert columns - 20 < max(map(len, lines)) <= columns


def test_an_indented_line_of_the_description_is_kept(capsys):
    with pytest.raises(SystemExit):
        configs_from_flags(acdc.DATASET, ["--help"], description=f"One.\n\n    {100 * 'x'}\n")
    assert f"\n    {100 * 'x'}\n" in capsys.readouterr().out


def test_help_names_every_loss_term(capsys):
    with pytest.raises(SystemExit):
        configs_from_flags(acdc.DATASET, ["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"Terms: dice, {', '.join(TERMS)}." in text


# config.json


@pytest.fixture(scope="module")
def run(phantom_root, tmp_path_factory):
    """A short run of bcp: the folder, and its config.json as it was before the run resumed."""
    output = tmp_path_factory.mktemp("config")
    train(acdc.DATASET, phantom_root, output, method="bcp", **TINY)
    folder = output / "BCP" / "ACDC_mine_1_labeled"
    return folder, json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_config_json_holds_what_the_run_was_started_with(run, phantom_root):
    folder, record = run
    config = resolve(
        acdc.DATASET,
        {**TINY, "method": "bcp", "root_path": phantom_root, "output_root": folder.parents[1],
         "device": "cpu"},
    )  # fmt: skip
    assert record["options"] == json.loads(json.dumps(config.plain_groups()))
    assert record["dataset"] == "ACDC"
    assert record["versions"]["torch"] == torch.__version__
    assert record["data"]["cases"]["labelled"] > 0
    assert {"command", "git_commit", "date"} <= record.keys()


def test_config_json_counts_the_files_of_splits_only(run):
    _, record = run
    assert record["data"]["cases"].keys() <= {"labelled", "unlabelled", "train", "val", "test"}


def test_checkpoints_hold_the_same_options_without_groups(run):
    folder, record = run
    settings = load(folder / "self_train" / "last.pth")["settings"]
    flat = {name: value for group in record["options"].values() for name, value in group.items()}
    assert settings.items() <= flat.items()
    assert flat.keys() - settings.keys() <= MAY_DIFFER


def test_a_run_that_resumes_keeps_its_config_json_and_adds_the_command(run, phantom_root):
    folder, record = run
    train(acdc.DATASET, phantom_root, folder.parents[1], method="bcp", **TINY, log_every=3)
    resumed = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert resumed["options"] == record["options"]
    assert len(resumed["resumed"]) == 1
    assert "command" in resumed["resumed"][0]


def test_a_run_that_keeps_validated_networks_has_a_checkpoint_of_each(tmp_path, phantom_root):
    options = {**TINY, "max_iterations": 2}
    train(acdc.DATASET, phantom_root, tmp_path, method="bcp", **options, keep_validated=True)
    (kept,) = tmp_path.rglob("self_train/validated")
    assert sorted(path.name for path in kept.iterdir()) == ["1.pth", "2.pth"]
    assert load(kept / "1.pth")["progress"]["step"] == 1
    assert fewlabels.test(kept / "1.pth", root_path=phantom_root, device="cpu").scores


def test_train_log_has_the_command_and_the_versions(run):
    folder, _ = run
    log = (folder / "train.log").read_text(encoding="utf-8")
    assert "command: " in log
    assert f"torch {torch.__version__}" in log


def test_train_log_has_all_options_of_config_json(run):
    folder, record = run
    log = (folder / "train.log").read_text(encoding="utf-8")
    for group, options in record["options"].items():
        assert f"options of {group}: {json.dumps(options)}\n" in log


def test_train_log_has_the_hash_of_the_data_and_the_device(run):
    folder, record = run
    log = (folder / "train.log").read_text(encoding="utf-8")
    assert f"sha256 {record['data']['sha256']}" in log
    assert f"device: cpu, {torch.get_num_threads()} threads" in log


def test_train_log_has_the_remaining_time_of_all_stages(tmp_path, phantom_root):
    options = {**TINY, "max_iterations": 3}
    train(acdc.DATASET, phantom_root, tmp_path, method="bcp", **options, log_every=1)
    (path,) = tmp_path.rglob("train.log")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if " left in" in line]
    assert [line.endswith("in all stages at this speed") for line in lines] == [True] + 3 * [False]


def test_a_run_from_config_json_has_its_options_unless_flags_name_others(run):
    folder, _ = run
    argv = ["--config", str(folder / "config.json")]
    (same,) = configs_from_flags(acdc.DATASET, argv)
    assert (same.experiment.method, same.data.patch_size) == ("bcp", (32, 32))
    (other,) = configs_from_flags(acdc.DATASET, [*argv, "--exp", "again", "--ema_decay", "0.5"])
    assert (other.experiment.exp, other.method.ema_decay) == ("again", 0.5)
    assert other.experiment.labelnum == 1


def test_another_method_than_that_of_config_json_brings_its_presets(run):
    folder, _ = run
    argv = ["--config", str(folder / "config.json"), "--method", "edge_guided"]
    (config,) = configs_from_flags(acdc.DATASET, argv)
    assert (config.method.mask, config.experiment.exp) == ("dynamic", "mine")
    assert config.experiment.labelnum == 1


def test_config_json_of_another_data_set_is_refused(run):
    argv = ["--config", str(run[0] / "config.json")]
    refused(lambda: configs_from_flags(la.DATASET, argv), "--config", "ACDC, not LA")


def test_train_py_takes_the_data_set_from_config_json(run, tmp_path):
    argv = ["--config", str(run[0] / "config.json"), "--output_root", str(tmp_path), "--seed", "7"]
    train_any(argv)
    assert (tmp_path / "BCP" / "ACDC_mine_1_labeled" / "self_train" / "last.pth").is_file()


def test_the_python_door_takes_config_json(run):
    folder, _ = run
    result = fewlabels.train(folder / "config.json", dataset="ACDC", progress=False)
    assert result.folder == folder


@pytest.mark.parametrize(
    "content, part",
    [
        ("{", "not a JSON file"),
        ("[]", "must hold an object"),
        ('{"options": {"data": 3}}', "groups of options"),
        ('{"metod": "bcp"}', "metod: unknown option"),
        ('{"labelnum": "three"}', "labelnum='three'"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(tmp_path, content, part):
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    refused(lambda: configs_from_flags(acdc.DATASET, ["--config", str(path)]), str(path), part)


# --seeds


def test_seeds_give_every_run_a_name_and_a_seed_of_its_own():
    script = {"labelnum": 3, "ema_decay": 0.89}
    configs = configs_from_flags(acdc.DATASET, ["--seeds", "5", "6", "5"], script)
    assert [(one.experiment.exp, one.experiment.seed) for one in configs] == [
        ("BCP_seed5", 5),
        ("BCP_seed6", 6),
    ]
    assert [one.method.ema_decay for one in configs] == [0.89, 0.89]


# --init


def test_init_starts_the_student_of_the_first_stage_from_the_given_weights(
    run, phantom_root, tmp_path
):
    """With a learning rate of 0 the weights stay as they began; running averages move."""
    folder, _ = run
    source = folder / "self_train" / "last.pth"
    flags = ["--init", source, "--base_lr", "0", "--run_mode", "pretrain"]
    results = train(acdc.DATASET, phantom_root, tmp_path, *flags, method="bcp", **TINY)
    weights = load(source)["student"]
    trained = results["pre_train/last.pth"]["student"]
    for name in weights:
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(trained[name], weights[name]), name
    record = tmp_path / "BCP" / "ACDC_mine_1_labeled" / "config.json"
    init = json.loads(record.read_text(encoding="utf-8"))["init"]
    assert init["path"] == str(source) and len(init["sha256"]) == 64


def test_a_run_that_resumes_does_not_read_init_again(run, phantom_root):
    folder, _ = run
    missing = folder / "no such file"
    train(acdc.DATASET, phantom_root, folder.parents[1], "--init", missing, method="bcp", **TINY)


def test_weights_of_another_network_are_refused_in_one_line(run, phantom_root, tmp_path):
    source = run[0] / "self_train" / "last.pth"
    numbers = {**TINY, "egm": "published", "patch_size": (80, 80), "method": "bcp"}
    refused(
        lambda: train(acdc.DATASET, phantom_root, tmp_path, "--init", source, **numbers),
        str(source),
        "--egm",
    )
    assert not list(tmp_path.rglob("*.pth"))


def test_init_without_the_first_stage_is_refused(run, phantom_root, tmp_path):
    flags = ["--init", run[0], "--run_mode", "selftrain"]
    refused(
        lambda: train(acdc.DATASET, phantom_root, tmp_path, *flags, method="bcp", **TINY),
        "--init",
        "pre_train",
        "remove one",
    )
