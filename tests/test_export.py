"""Checkpoints both ways: ours as the published code would have left them, and published optimiser
state into ours.
"""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from helpers import assert_same, narrowed, train
from reference import fill, filled_state_dict, published_shapes
from scripts import evaluate, export

from commands.export import ExportSettings, layout_and_prefix
from commands.networks import build_network, load_network
from commands.published_optimizer import published_optimizer, take_over, take_over_momentum
from datasets import acdc as acdc_page
from datasets import la, pancreas
from datasets.base import DatasetSpec
from networks import net_factory_ega, net_factory_la_ega
from networks.published_weights import (
    UNUSED_HEADS,
    import_state_dict,
    parameter_names,
    published_state_dict,
)
from training.checkpoint import Checkpoint, load, read
from utils.errors import UserError

NETWORKS = {
    "unet": lambda: net_factory_ega.net_factory(),
    "unet_bcp": lambda: net_factory_ega.net_factory(egm="none"),
    "vnet_la": lambda: net_factory_la_ega.net_factory(),
    "vnet_cogrnet": lambda: net_factory_la_ega.net_factory(egm="none"),
    "vnet_pancreas": lambda: net_factory_la_ega.net_factory("VNet_pancreas"),
    "vnet_pancreas_bcp": lambda: net_factory_la_ega.net_factory("VNet_pancreas", egm="none"),
}
ENTRIES = {"sgd": ("momentum_buffer",), "adam": ("exp_avg", "exp_avg_sq")}
SHORT = {"batch_size": 4, "labeled_bs": 2, "pre_iterations": 2, "max_iterations": 2, "val_every": 2}
VOLUMES = {**SHORT, "labelnum": 2, "patch_size": (32, 32, 16), "val_stride": (32, 32, 16)}
# page, numbers, folder of the run, where its stages' best checkpoints lie when published, in which
# layout
RUNS = {
    "ACDC": (
        acdc_page.DATASET,
        {**SHORT, "labelnum": 1, "patch_size": (80, 80)},
        "BCP/ACDC_BCP_1_labeled",
        ("pre_train/unet_best_model.pth", "self_train/unet_best_model.pth"),
        ("plain", ""),
    ),
    "LA": (
        la.DATASET,
        VOLUMES,
        "BCP/LA_BCP_2_labeled",
        ("pre_train/VNet_best_model.pth", "self_train/VNet_best_model.pth"),
        ("plain", "module."),
    ),
    "Pancreas": (
        pancreas.DATASET,
        {**VOLUMES, "labelnum": 25, "unit": "iteration"},
        "cutmix_25_labeled",
        ("pretrain/best_ema25_pre.pth", "self_train/best_ema_25_self.pth"),
        ("net", "module."),
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_exported_names_shapes_and_order_are_the_published_ones(network):
    net = NETWORKS[network]()
    import_state_dict(net, filled_state_dict(network))
    exported, published = published_state_dict(net.state_dict()), filled_state_dict(network)
    assert [(key, list(value.shape)) for key, value in exported.items()] == list(
        published_shapes(network).items()
    )
    for key, value in exported.items():
        assert value.dtype == published[key].dtype
        assert (
            not value.any() if key.startswith(UNUSED_HEADS) else torch.equal(value, published[key])
        ), key


def trained(net, kind):
    """The optimiser of a network that has learnt nothing yet."""
    return {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind](
        net.parameters(), lr=0.25, **({"momentum": 0.9} if kind == "sgd" else {})
    )


def published_file(network, kind, sobel=True):
    """{'net', 'opt'} with state filled by the names of its parameters, counted in the published
    order, and that state by name.
    """
    weights = filled_state_dict(network)
    names = parameter_names(weights, sobel)
    learning = {key for key, p in NETWORKS[network]().named_parameters() if p.requires_grad}
    by_name = {
        name: {key: fill(f"{key}.{name}", weights[name].shape).abs() for key in ENTRIES[kind]}
        for name in names
        if name in learning
    }
    for entry in by_name.values() if kind == "adam" else ():
        entry["step"] = 7
    state = {number: by_name[name] for number, name in enumerate(names) if name in by_name}
    group = {"lr": 0.5, "weight_decay": 0.125, "params": list(range(len(names)))}
    return {
        "net": {f"module.{key}": value for key, value in weights.items()},
        "opt": {"state": state, "param_groups": [group]},
    }, by_name


def published(file):
    """What reading such a file gives."""
    return Checkpoint(Path(), file["net"], file.get("opt"), {}, {})


def by_name(net, optimizer):
    names = {p: name for name, p in net.named_parameters()}
    return {names[p]: entry for p, entry in optimizer.state.items()}


@pytest.mark.parametrize("sobel", [True, False])
@pytest.mark.parametrize(
    "network, kind",
    [("unet", "sgd"), ("unet_bcp", "sgd"), ("vnet_la", "sgd"), ("vnet_pancreas", "adam")],
)
def test_published_momentum_is_taken_over_and_given_back(network, kind, sobel):
    """By name, whether or not Sobel kernels are counted; learning rate and weight decay stay ours;
    exported it is the same again.
    """
    net = NETWORKS[network]()
    optimizer, (file, expected) = trained(net, kind), published_file(network, kind, sobel)
    take_over(optimizer, net, published(file))
    found = by_name(net, optimizer)
    assert found.keys() == expected.keys() and len(found) > 50
    for name, entry in expected.items():
        assert found[name].keys() == entry.keys()
        assert all(
            torch.equal(found[name][key], torch.as_tensor(value, dtype=torch.float32))
            for key, value in entry.items()
        ), name
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.25, 0)
    opt = published_optimizer(
        Checkpoint(Path(), net.state_dict(), optimizer.state_dict(), {}, {}), sobel
    )
    assert opt["state"].keys() == file["opt"]["state"].keys()
    assert opt["param_groups"][0]["params"] == file["opt"]["param_groups"][0]["params"]
    for number, entry in file["opt"]["state"].items():
        assert all(
            torch.equal(opt["state"][number][key], torch.as_tensor(value))
            for key, value in entry.items()
        ), number


@pytest.mark.parametrize("ours", [True, False])
def test_learners_that_start_from_one_state_do_not_share_it(ours):
    net = NETWORKS["unet_bcp"]()
    first, (file, _) = trained(net, "sgd"), published_file("unet_bcp", "sgd")
    checkpoint = published(file)
    if ours:
        take_over(first, net, checkpoint)
        state = first.state_dict()
        checkpoint = Checkpoint(Path(), net.state_dict(), state, {}, {}, stage="pre_train")
    optimizers = [trained(net, "sgd"), trained(net, "sgd")]
    for optimizer in optimizers:
        take_over_momentum(optimizer, net, checkpoint)
    before, after = [by_name(net, optimizer) for optimizer in optimizers]
    key = "encoder.in_conv.conv_conv.0.weight"
    after[key]["momentum_buffer"].fill_(7)
    assert not (before[key]["momentum_buffer"] == 7).any()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda file: file.pop("opt"), "there is none"),
        (lambda file: file.update(opt={}), "there is none"),
        (lambda file: file["opt"]["param_groups"].append({}), "there is none"),
        (lambda file: file["opt"]["state"].clear(), "it is empty"),
        (
            lambda file: file["opt"]["param_groups"][0]["params"].pop(),
            r"that of \d+ parameters, the network has \d+",
        ),
        (lambda file: file["opt"]["state"][0].update(exp_avg=torch.ones(3)), "another optimiser's"),
        (
            lambda file: file["opt"]["state"][2].update(momentum_buffer=torch.ones(3)),
            "'momentum_buffer' of 'encoder.*' has another shape",
        ),
        (
            lambda file: file["opt"]["state"][2].update(momentum_buffer=None),
            "'momentum_buffer' of 'encoder.*' has another shape",
        ),
    ],
)
def test_momentum_that_does_not_fit_is_left_behind(damage, message):
    net = NETWORKS["unet_bcp"]()
    optimizer, (file, _) = trained(net, "sgd"), published_file("unet_bcp", "sgd")
    damage(file)
    with pytest.raises(ValueError, match=message):
        take_over(optimizer, net, published(file))
    assert not optimizer.state


class Tiny(NamedTuple):
    """A tiny run of both stages with the full method; `folder` is that of the run below `output`."""

    dataset: DatasetSpec
    numbers: dict
    root: Path
    output: Path
    folder: str
    places: tuple[str, str]
    layout: tuple[str, str]

    def best(self, stage):
        return best(self.output / self.folder / stage)


@pytest.fixture(scope="module")
def make(phantom_root, la_root, pancreas_root, tmp_path_factory):
    roots = {"ACDC": phantom_root, "LA": la_root, "Pancreas": pancreas_root}

    def get(name):
        dataset, numbers, *rest = RUNS[name]
        made = Tiny(dataset, numbers, roots[name], tmp_path_factory.mktemp(name), *rest)
        train(dataset, roots[name], made.output, **numbers)
        return made

    return get


@pytest.fixture(
    scope="module",
    params=["ACDC", *(pytest.param(name, marks=pytest.mark.long) for name in ("LA", "Pancreas"))],
)
def run(request, make):
    """Of narrow networks, as are all that a test of it builds."""
    with narrowed():
        yield make(request.param)


@pytest.fixture(scope="module")
def acdc(make):
    return make("ACDC")


def widthless(names):
    """Names without the numbers of channels that some hold."""
    return [re.sub(r"_\d+_to_\d+", "", name) for name in names]


def best(folder):
    (path,) = (
        path for path in folder.glob("*.pth") if path.name not in ("last.pth", "previous.pth")
    )
    return path


def test_selftraining_from_the_exported_pretraining_is_the_same_bit_for_bit(run, tmp_path, capsys):
    """Exported to its published place, weights and momentum start the stage that ours started."""
    path = tmp_path / run.folder / run.places[0]
    export([str(run.output / run.folder / "pre_train"), str(path)])
    exported, ours = load(path), load(run.best("pre_train"))
    assert (
        exported.keys() == {"net", "opt"}
        and len(exported["opt"]["state"]) == len(ours["optimizer"]["state"]) > 50
    )
    train(run.dataset, run.root, tmp_path, "--run_mode", "selftrain", **run.numbers)
    said = capsys.readouterr().out
    assert (
        f"starting from {path}" in said
        and ("with its momentum" in said) == run.dataset.keeps_optimizer
    )
    again, before = (
        load(root / run.folder / "self_train/last.pth") for root in (tmp_path, run.output)
    )
    for key in ("student", "phase", "optimizer"):
        assert_same(again[key], before[key], key)


def test_the_exported_network_is_ours_in_the_published_layout(run, tmp_path):
    out, (layout, prefix) = tmp_path / "weights.pth", run.layout
    export([str(run.output / run.folder), str(out)])
    content = load(out)
    names = published_shapes(
        {"ACDC": "unet", "LA": "vnet_la", "Pancreas": "vnet_pancreas"}[run.dataset.info.name]
    )
    found = list(content["net"] if layout == "net" else content)
    assert widthless(found) == widthless(f"{prefix}{name}" for name in names)
    net = build_network(run.dataset.info, run.dataset.defaults["model"], {"egm": "published"})
    load_network(net, read(out))
    assert not read(out).ours
    assert_same(dict(net.state_dict()), dict(load(run.best("self_train"))["student"]))


def test_our_test_script_finds_the_same_in_an_exported_file(acdc, tmp_path):
    export([str(acdc.output / acdc.folder), str(tmp_path / "weights.pth")])
    results = []
    for path in (acdc.best("self_train"), tmp_path / "weights.pth"):
        flags = [
            "--root_path",
            acdc.root,
            "--checkpoint",
            path,
            "--patch_size",
            80,
            80,
            "--device",
            "cpu",
        ]
        evaluate(acdc.dataset, list(map(str, [*flags, "--output_dir", tmp_path / path.stem])))
        results.append((tmp_path / path.stem / "metrics.csv").read_text(encoding="utf-8"))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "layout, keys", [("plain", None), ("net", {"net"}), ("net_opt", {"net", "opt"})]
)
@pytest.mark.parametrize("flag", ["--module_prefix", "--no_module_prefix"])
def test_layout_and_prefix_by_flag(acdc, tmp_path, layout, keys, flag):
    export(
        [
            str(acdc.best("self_train").with_name("last.pth")),
            str(tmp_path / "x.pth"),
            "--layout",
            layout,
            flag,
        ]
    )
    content = load(tmp_path / "x.pth")
    assert keys is None or content.keys() == keys
    assert all(
        name.startswith("module.") == (flag == "--module_prefix")
        for name in (content if keys is None else content["net"])
    )


def test_what_cannot_be_exported(acdc, tmp_path, capsys):
    shutil.copytree(acdc.output / acdc.folder, tmp_path / "run")
    ours, out = best(tmp_path / "run/self_train"), tmp_path / "out.pth"
    before = ours.read_bytes()
    torch.save(filled_state_dict("unet"), tmp_path / "published.pth")
    (tmp_path / "none").mkdir()
    for arguments, message in (
        ((tmp_path / "missing", out), "missing: no such run; give"),
        (
            (tmp_path / "none", out),
            "none: 0 files that may be a best checkpoint, expected one; name",
        ),
        (
            (tmp_path / "published.pth", out),
            "published.pth: not a checkpoint of this project; .* use it as it is",
        ),
        ((ours, ours, "--overwrite"), "the checkpoint to export itself"),
        ((ours, tmp_path), "a folder; name the file"),
        ((ours, tmp_path / "published.pth"), "published.pth: exists; .*--overwrite"),
        ((ours, out, "--module_prefix", "--no_module_prefix"), "contradict each other"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            export(list(map(str, arguments)))
        assert "\n" not in str(caught.value)
    assert ours.read_bytes() == before and not out.exists()
    shutil.move(tmp_path / "run/self_train", tmp_path / "run/supervised")
    export([str(tmp_path / "run"), str(tmp_path / "published.pth"), "--overwrite"])
    assert str(tmp_path / "run/supervised") in capsys.readouterr().out


def test_settings_that_the_published_network_has_not_are_told(acdc, tmp_path, capsys):
    content = load(acdc.best("self_train"))
    for changes, told in (
        ({"egm": "corrected"}, "--egm corrected"),
        ({"upsampling": "bilinear"}, "--upsampling bilinear"),
        ({}, ""),
    ):
        torch.save(content | {"settings": content["settings"] | changes}, tmp_path / "x.pth")
        export([str(tmp_path / "x.pth"), str(tmp_path / "out.pth"), "--overwrite"])
        said = capsys.readouterr().out
        assert told in said and ("warning" in said) == bool(told)


def test_cogrnet_has_no_prefix(acdc, tmp_path):
    """Unlike the edge-guided method on the same data set."""
    content = load(acdc.best("self_train"))
    for settings, prefix in (({}, True), ({"labels": "coarse"}, False)):
        changed = {"facts": {"name": "LA"}, "settings": content["settings"] | settings}
        torch.save(content | changed, tmp_path / "x.pth")
        export([str(tmp_path / "x.pth"), str(tmp_path / "out.pth"), "--overwrite"])
        assert next(iter(load(tmp_path / "out.pth"))).startswith("module.") == prefix


@pytest.mark.parametrize(
    "dataset, method, network, prefix",
    [
        ("ACDC", "edge_guided", "unet", ""),
        ("ACDC", "bcp", "unet_bcp", ""),
        ("LA", "edge_guided", "vnet_la", "module."),
        (
            "LA",
            "bcp",
            "vnet_cogrnet",
            "",
        ),  # BCP's LA code has no DataParallel; its V-Net is CoGRNet's
        ("LA", "cogrnet", "vnet_cogrnet", ""),
        ("Pancreas", "edge_guided", "vnet_pancreas", "module."),
        ("Pancreas", "bcp", "vnet_pancreas_bcp", "module."),
    ],
)
@pytest.mark.usefixtures("published_width")
@pytest.mark.parametrize("stage", ["pre_train", "self_train"])
def test_names_are_those_that_the_published_test_script_loads(
    tmp_path, dataset, method, network, prefix, stage
):
    net = NETWORKS[network]()
    egm = "published" if method == "edge_guided" else "none"
    checkpoint = Checkpoint(
        tmp_path / "best.pth",
        net.state_dict(),
        {
            "state": {},
            "param_groups": [{"lr": 0.01, "params": list(range(len([*net.parameters()])))}],
        },
        {"method": method, "egm": egm},
        {"name": dataset},
        stage=stage,
    )
    layout, has_prefix = layout_and_prefix(
        checkpoint, ExportSettings(tmp_path, tmp_path / "out.pth")
    )
    names = ["module." * has_prefix + name for name in published_state_dict(checkpoint.weights)]
    assert names == [prefix + name for name in published_shapes(network)]
    expected_layout = "net" if dataset == "Pancreas" else "plain"
    assert layout == ("net_opt" if stage == "pre_train" else expected_layout)


@pytest.mark.usefixtures("published_width")
def test_an_exported_bcp_network_of_la_loads_as_bcps_test_script_loads_it(acdc, tmp_path):
    """That script builds a plain V-Net, without DataParallel, and loads the file strictly."""
    net = NETWORKS["vnet_cogrnet"]()
    import_state_dict(net, filled_state_dict("vnet_cogrnet"))
    content = load(acdc.best("self_train"))
    settings = content["settings"] | {"method": "bcp", "egm": "none", "model": "VNet"}
    changed = {"facts": {"name": "LA"}, "settings": settings, "student": net.state_dict()}
    torch.save(content | changed, tmp_path / "x.pth")
    export([str(tmp_path / "x.pth"), str(tmp_path / "out.pth")])
    exported = torch.load(tmp_path / "out.pth", weights_only=True)
    assert {name: list(value.shape) for name, value in exported.items()} == published_shapes(
        "vnet_cogrnet"
    )


def test_our_pretraining_wins_over_the_published_name(tmp_path):
    ours, published = (
        tmp_path / "pre_train/best_ema_20_pre.pth",
        tmp_path / "pretrain/best_ema20_pre.pth",
    )
    found = [pancreas.DATASET.best(tmp_path, "pre_train", "VNet_pancreas", 20)]
    for path in (published, ours):
        path.parent.mkdir()
        path.touch()
        found.append(pancreas.DATASET.best(tmp_path, "pre_train", "VNet_pancreas", 20))
    assert found == [ours, published, ours]
    assert (
        pancreas.DATASET.best(tmp_path, "self_train", "VNet_pancreas", 20)
        == tmp_path / "self_train/best_ema_20_self.pth"
    )


def test_a_small_checkpoint_has_half_precision_and_predicts_as_the_rounded_weights(acdc, tmp_path):
    trained_file = acdc.best("self_train")
    small = tmp_path / "weights.pth"
    export([str(acdc.output / acdc.folder), str(small), "--layout", "small"])
    assert small.stat().st_size < 0.3 * trained_file.stat().st_size
    whole, read_again = read(trained_file), read(small)
    assert load(small)["student"].keys() == whole.weights.keys()
    for name, value in read_again.weights.items():
        assert value.dtype == whole.weights[name].dtype
        assert torch.equal(value, whole.weights[name].half().to(value.dtype)), name
    assert read_again.selection == whole.selection
    assert read_again.info == whole.info


def test_a_small_checkpoint_is_tested_without_a_flag_of_the_run(acdc, tmp_path):
    small = tmp_path / "weights.pth"
    export([str(acdc.output / acdc.folder), str(small), "--layout", "small"])
    output = tmp_path / "out"
    flags = ["--checkpoint", str(small), "--output_dir", str(output)]
    evaluate(acdc.dataset, [*flags, "--root_path", str(acdc.root)])
    assert (output / "summary.json").is_file()


def test_a_small_checkpoint_takes_no_prefix(acdc, tmp_path):
    flags = [
        str(acdc.output / acdc.folder),
        str(tmp_path / "out.pth"),
        "--layout",
        "small",
        "--module_prefix",
    ]
    with pytest.raises(UserError, match="--layout small: has this project's names"):
        export(flags)
