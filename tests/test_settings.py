"""Which value a setting has where page, script, method, keyword and flag name one, and options that
cannot go together.
"""

import dataclasses
import itertools
from dataclasses import dataclass, replace

import pytest
from helpers import from_flags, from_keywords, train, train_any

from commands.train_flags import configs_from_flags
from datasets import acdc, la, pancreas
from datasets.registry import all_datasets
from datasets.resolve import (
    RESERVED,
    check_option_names,
    default_config,
    default_exp,
    option_classes,
)
from methods.base import Method
from methods.registry import METHODS, run_title
from networks.registry import NETWORKS
from training.checkpoint import load
from utils.cli import last_value
from utils.errors import UserError

DATASETS = {
    **{f"{name}": dataset for name, dataset in all_datasets().items()},
    **{f"{name} with two slices": dataset for name, dataset in all_datasets("TWO_SLICES").items()},
}
COMBINATIONS = list(itertools.product(DATASETS, METHODS, NETWORKS))
TINY = {
    "labelnum": 1, "patch_size": (32, 32), "batch_size": 4, "labeled_bs": 2, "pre_iterations": 1, "max_iterations": 1, "val_every": 1,
}  # fmt: skip


def refused(call, *parts):
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def new_method(options, **attributes):
    """A method without stages, for settings only."""
    return Method("new method", options, stages=(), **attributes)


@dataclass(frozen=True)
class Consistency:
    consistency: float = 1.0
    """Weight of the consistency loss."""
    pre_max_iteration: int = 7
    """An option with the name of a published flag."""


@dataclass(frozen=True)
class Width:
    width: int = 8
    """Channels."""


@dataclass(frozen=True)
class OtherWidth:
    width: int = 3
    """Of something else."""


class PlainNetwork:
    """As much of a network as settings look at: it has no edge-guided module."""

    dims = 2
    auxiliary = "none"
    Options = Width


@pytest.fixture
def registered(monkeypatch):
    """Put a method or network into its registry for one test."""

    def register(registry, name, owner):
        monkeypatch.setitem(registry, name, owner)

    return register


# precedence


def test_explicit_keywords_win_over_the_presets_of_the_method():
    settings = from_keywords(acdc.DATASET, method="bcp", ema_decay=0.5, egm="published", exp="mine")
    assert (settings.ema_decay, settings.egm, settings.exp) == (0.5, "published", "mine")


def test_explicit_keywords_win_over_what_the_page_has_for_the_method():
    assert la.DATASET.methods["bcp"]["lr_drop_every"] == 2_500
    assert from_keywords(la.DATASET, method="bcp", lr_drop_every=9).lr_drop_every == 9


def test_presets_of_the_dimensions_of_the_data_win_over_those_of_all_data(registered):
    presets = {"base_lr": 0.1, "weight_decay": 0.2}
    method = new_method(Width, presets=presets, presets_of_dims={3: {"base_lr": 0.3}})
    registered(METHODS, "both", method)
    slices = from_keywords(acdc.DATASET, method="both")
    volumes = from_keywords(la.DATASET, method="both")
    assert (slices.base_lr, slices.weight_decay) == (0.1, 0.2)
    assert (volumes.base_lr, volumes.weight_decay) == (0.3, 0.2)


def test_a_preset_that_no_keyword_names_stays():
    settings = from_keywords(acdc.DATASET, method="bcp", ema_decay=0.5)
    assert (settings.mask, settings.egm) == ("fixed", "none")


def test_the_numbers_of_a_script_belong_to_its_own_method():
    """The ACDC script for three labels has ema_decay 0.89 for the edge-guided method; BCP's 0.99 is
    its own.
    """
    numbers = {"labelnum": 3, "ema_decay": 0.89}
    assert from_flags(acdc.DATASET, numbers, []).ema_decay == 0.89
    other = from_flags(acdc.DATASET, numbers, ["--method", "bcp"])
    assert (other.ema_decay, other.labelnum) == (0.99, 3)


def test_the_numbers_of_a_script_that_names_its_method_win_over_the_preset():
    numbers = {"method": "bcp", "ema_decay": 0.7}
    assert from_flags(acdc.DATASET, numbers, []).ema_decay == 0.7
    assert from_flags(acdc.DATASET, numbers, ["--method", "bcp"]).ema_decay == 0.7


def test_flags_win_over_everything():
    numbers = {"method": "bcp", "ema_decay": 0.7}
    assert from_flags(acdc.DATASET, numbers, ["--ema_decay", "0.1"]).ema_decay == 0.1


def test_an_explicit_keyword_that_the_method_does_not_have_is_refused():
    refused(
        lambda: from_keywords(acdc.DATASET, method="supervised", u_weight=0.3),
        "--u_weight: it belongs to --method edge_guided",
    )


def test_a_number_of_a_script_that_its_own_method_does_not_have_is_refused():
    numbers = {"method": "supervised", "u_weight": 0.3}
    refused(lambda: from_flags(acdc.DATASET, numbers, []), "--u_weight: it belongs to")
    assert from_flags(acdc.DATASET, numbers, ["--method", "bcp"]).u_weight == 0.3


def test_flags_with_hyphens_mean_the_same(registered):
    registered(METHODS, "consistent", new_method(Consistency))
    argv = ["--method=consistent", "--pre-max-iteration", "9"]
    assert from_flags(la.DATASET, {}, argv).pre_max_iteration == 9
    assert last_value(["--root-path", "a", "--root_path=b"], "root_path") == "b"
    assert last_value(["--root_path", "a", "--root-path"], "root_path") is None


# options of one name


@pytest.mark.parametrize("dataset, method, model", COMBINATIONS)
def test_no_two_options_have_one_name(dataset, method, model):
    option_classes(DATASETS[dataset], method, model)


def test_a_method_and_a_network_with_an_option_of_one_name_are_refused(registered):
    registered(NETWORKS, "plain", PlainNetwork)
    registered(METHODS, "wide", new_method(OtherWidth))
    refused(
        lambda: from_flags(acdc.DATASET, {}, ["--method", "wide", "--model", "plain"]),
        "--width: an option of both",
        "OtherWidth",
        "test_settings.Width",
        "rename one",
    )
    assert from_flags(acdc.DATASET, {}, ["--method", "wide"]).width == 3


def test_a_method_that_redefines_a_setting_of_every_run_is_refused(registered):
    @dataclass(frozen=True)
    class Seed:
        seed: int = 5
        """Another seed."""

    registered(METHODS, "seeded", new_method(Seed))
    refused(
        lambda: from_keywords(acdc.DATASET, method="seeded"),
        "--seed: an option of both",
        "ExperimentOptions",
    )


@pytest.mark.parametrize("name", ["config", "dataset", "seeds"])
def test_an_option_with_the_name_of_a_flag_of_the_command_is_refused(name):
    options = dataclass(frozen=True)(type("Options", (), {"__annotations__": {name: int}, name: 1}))
    refused(lambda: check_option_names([options], RESERVED), f"--{name}: an option of", "rename")


# published flags


def test_an_option_of_a_method_is_not_taken_for_a_published_flag(registered, capsys):
    registered(METHODS, "consistent", new_method(Consistency))
    argv = ["--method", "consistent", "--consistency", "0.2", "--pre_max_iteration=9"]
    settings = from_flags(la.DATASET, {}, argv)
    assert (settings.consistency, settings.pre_max_iteration) == (0.2, 9)
    assert settings.pre_iterations == la.DATASET.defaults["pre_iterations"]
    assert "changes nothing" not in capsys.readouterr().out


def test_an_option_of_a_network_is_not_taken_for_a_published_flag(registered, capsys):
    @dataclass(frozen=True)
    class Options:
        magnitude: float = 1.0
        """Of something."""

    registered(NETWORKS, "loud", type("Loud", (), {"dims": 2, "Options": Options}))
    argv = ["--method", "bcp", "--model", "loud", "--magnitude", "3"]
    assert from_flags(acdc.DATASET, {}, argv).magnitude == 3
    assert "changes nothing" not in capsys.readouterr().out


def test_a_published_flag_that_nobody_has_still_changes_nothing_and_says_so(capsys):
    from_flags(acdc.DATASET, {}, ["--consistency", "0.2"])
    assert "--consistency 0.2: accepted, changes nothing" in capsys.readouterr().out


def test_train_py_takes_no_flags_that_change_nothing():
    refused(
        lambda: configs_from_flags(acdc.DATASET, ["--consistency", "0.2"], published=False),
        "unrecognized option --consistency",
    )


# what a method cannot do without


def test_the_edge_guided_method_needs_a_network_with_edges(registered):
    registered(NETWORKS, "plain", PlainNetwork)
    refused(
        lambda: from_flags(acdc.DATASET, {}, ["--model", "plain"]),
        "--method edge_guided: --model plain has no edge-guided module",
        "--method bcp",
    )


def test_egm_on_a_network_without_edges_is_refused(registered):
    registered(NETWORKS, "plain", PlainNetwork)
    argv = ["--method", "bcp", "--model", "plain", "--egm", "published"]
    refused(lambda: from_flags(acdc.DATASET, {}, argv), "--egm", "--model unet")
    keywords = {"method": "bcp", "model": "plain", "egm": "published"}
    refused(lambda: from_keywords(acdc.DATASET, **keywords), "--egm", "--model unet")


def test_other_methods_take_a_network_without_edges(registered):
    registered(NETWORKS, "plain", PlainNetwork)
    assert from_flags(acdc.DATASET, {}, ["--method", "bcp", "--model", "plain"]).width == 8


def test_a_method_that_needs_features_refuses_a_network_without_them(registered):
    registered(NETWORKS, "plain", PlainNetwork)
    registered(METHODS, "contrastive", new_method(Consistency, auxiliary="feature"))
    argv = ["--method", "contrastive", "--model"]
    refused(
        lambda: from_flags(acdc.DATASET, {}, [*argv, "plain"]),
        "--model plain does not return what it needs (feature); choose --model from unet",
    )
    assert from_flags(acdc.DATASET, {}, [*argv, "unet"]).model == "unet"


@pytest.mark.parametrize(
    "dataset", [acdc.DATASET, la.DATASET, pancreas.DATASET], ids=["ACDC", "LA", "Pancreas"]
)
def test_cogrnet_does_not_train_on_whole_labels_unasked(dataset):
    refused(
        lambda: from_flags(dataset, {}, ["--method", "cogrnet"]),
        "--method cogrnet",
        "code/CoGRNet_train.py",
    )


def test_own_data_refuse_cogrnet_as_well():
    dataset = dataclasses.replace(la.DATASET, plan={"name": "mine"}, commands="")
    refused(lambda: from_flags(dataset, {}, ["--method", "cogrnet"]), "code/CoGRNet_train.py")


def test_cogrnet_trains_where_two_slices_are_drawn():
    assert from_flags(la.TWO_SLICES, {}, []).labels == "coarse"
    assert from_flags(all_datasets()["KiTS19"], {}, ["--method", "cogrnet"]).labels == "coarse"


def test_train_py_refuses_cogrnet_before_it_reads_data(tmp_path):
    argv = ["--dataset", "LA", "--method", "cogrnet", "--root_path", str(tmp_path)]
    refused(lambda: train_any(argv), "code/CoGRNet_train.py")


# names


def test_default_names_of_runs_differ_between_all_methods():
    for dataset in DATASETS.values():
        names = [default_exp(dataset, method) for method in METHODS]
        assert len(set(names)) == len(names), dataset.info.name


def test_the_published_method_keeps_the_published_name():
    assert default_config(acdc.DATASET, "edge_guided", "unet").experiment.exp == "BCP"
    assert (
        default_config(pancreas.DATASET, "edge_guided", "VNet_pancreas").experiment.exp == "cutmix"
    )
    assert default_config(la.TWO_SLICES, "cogrnet", "VNet").experiment.exp == "CoGRNet"


def test_a_method_without_a_name_for_its_runs_gets_its_own(registered):
    registered(METHODS, "mine", new_method(Width))
    assert from_keywords(acdc.DATASET, method="mine").exp == "mine"


@pytest.mark.parametrize(
    "settings, title",
    [
        ({"method": "edge_guided", "egm": "published"}, "edge-guided BCP, dual teacher"),
        ({"method": "edge_guided", "egm": "corrected"}, "edge-guided BCP, dual teacher"),
        ({"method": "edge_guided", "egm": "none"}, "BCP, dual teacher"),
        (
            {"method": "edge_guided", "egm": "published", "teachers": "ema", "mask": "fixed"},
            "edge-guided BCP, fixed box",
        ),
        (
            {"method": "edge_guided", "egm": "none", "teachers": "ema", "mask": "fixed"},
            "BCP",
        ),
        ({"method": "bcp"}, "BCP"),
        ({"method": "bcp", "mask": "dynamic"}, "BCP, dynamic box"),
        ({"method": "bcp", "egm": "published"}, "edge-guided BCP, fixed box"),
        ({"method": "supervised"}, "supervised"),
        ({"method": "supervised", "egm": "published"}, "supervised, edge-guided network"),
        ({"method": "averaged_copy_paste", "egm": "none"}, "averaged copy-paste"),
        ({"method": "mean_teacher"}, "mean teacher"),
        ({"method": "cogrnet"}, "CoGRNet"),
        ({"method": "cross_teaching"}, "cross teaching"),
        ({"egm": "published"}, "published weights with edge guidance"),
        ({"egm": "none"}, "published weights"),
    ],
)
def test_a_run_is_called_after_what_it_computes(settings, title):
    assert run_title(settings) == title


def test_no_run_with_edges_is_called_bcp():
    for dataset in DATASETS.values():
        settings = default_config(dataset, "edge_guided", dataset.defaults["model"])
        assert run_title(settings.plain()) == "edge-guided BCP, dual teacher"


# --fresh twice


def test_fresh_twice_in_one_process_writes_each_log_where_its_run_is(phantom_root, tmp_path):
    numbers = {**TINY, "method": "supervised", "egm": "none"}
    seeds = (1, 2, 3)
    for seed in seeds:
        train(acdc.DATASET, phantom_root, tmp_path, "--fresh", "--seed", seed, **numbers)
    folders = sorted((tmp_path / "BCP").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    by_seed = {
        load(folder / "supervised" / "last.pth")["settings"]["seed"]: folder for folder in folders
    }
    assert set(by_seed) == set(seeds)
    logs = [(by_seed[seed] / "train.log").read_text(encoding="utf-8") for seed in seeds]
    assert [log.count("method: supervised") for log in logs] == [1, 1, 1]
    assert [log.count("checkpoints are selected by") for log in logs] == [1, 1, 1]


def test_two_methods_do_not_share_a_folder(phantom_root, tmp_path):
    numbers = {**TINY, "egm": "none", "exp": "mine"}
    train(acdc.DATASET, phantom_root, tmp_path, **numbers)
    refused(
        lambda: train(acdc.DATASET, phantom_root, tmp_path, method="supervised", **numbers),
        "mine_1_labeled",
        "--method edge_guided",
        "--exp",
    )


def test_a_run_that_began_under_the_name_of_the_data_set_is_found_again(
    phantom_root, tmp_path, monkeypatch, capsys
):
    supervised = METHODS["supervised"]
    unnamed = replace(supervised, presets={"egm": "none"})
    monkeypatch.setitem(METHODS, "unnamed", unnamed)
    numbers = {**TINY, "method": "unnamed"}
    train(acdc.DATASET, phantom_root, tmp_path, "--exp", "BCP", **numbers)
    capsys.readouterr()
    train(acdc.DATASET, phantom_root, tmp_path, **numbers)
    out = capsys.readouterr().out
    assert "complete" in out and "--exp BCP" in out
    assert [folder.name for folder in (tmp_path / "BCP").iterdir()] == ["ACDC_BCP_1_labeled"]


def test_the_name_of_the_data_set_is_not_taken_from_another_method(
    phantom_root, tmp_path, monkeypatch
):
    supervised = METHODS["supervised"]
    unnamed = replace(supervised, presets={"egm": "none"})
    monkeypatch.setitem(METHODS, "unnamed", unnamed)
    train(acdc.DATASET, phantom_root, tmp_path, "--run_mode", "pretrain", **TINY, egm="none")
    train(acdc.DATASET, phantom_root, tmp_path, **TINY, method="unnamed")
    names = {folder.name for folder in (tmp_path / "BCP").iterdir()}
    assert names == {"ACDC_BCP_1_labeled", "ACDC_unnamed_1_labeled"}
