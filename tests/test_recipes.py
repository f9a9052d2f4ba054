"""Every training script's own recipe, for two iterations per stage on a phantom; published 3-D
checkpoints at their documented places.
"""

import json
import runpy
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from helpers import from_flags, narrowed, train
from reference import filled_state_dict
from scripts import evaluate

from dataloaders.cases import read_cases
from datasets import acdc, la, pancreas
from evaluation.sliding_window import VolumePredictor
from networks.net_factory_la_ega import net_factory
from networks.published_weights import import_state_dict
from training.checkpoint import load

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = sorted([*REPOSITORY.glob("code/*_train.py"), *REPOSITORY.glob("pancreas/*_train.py")])
SMALL = {"batch_size": 4, "labeled_bs": 2, "pre_iterations": 2, "max_iterations": 2, "val_every": 2}


def test_all_published_recipes_are_here():
    names = [path.name for path in SCRIPTS]
    assert names == [
        *(
            "ACDC_labelnum3_train.py",
            "ACDC_labelnum7_train.py",
            "CoGRNet_train.py",
            "LA_labelnum4_train.py",
            "LA_labelnum8_train.py",
        ),
        "pancreas_labelnum20_train.py",
    ]


LONG = ("LA_labelnum8_train", "pancreas_labelnum20_train")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.long] * (path.stem in LONG))
        for path in SCRIPTS
    ],
)
def test_two_iterations_of_every_recipe(script, phantom_root, la_root, pancreas_root, tmp_path):
    script = runpy.run_path(str(script))
    dataset, numbers = script.get("DATASET", la.TWO_SLICES), script.get("DEFAULTS", {})
    root = {"ACDC": phantom_root, "LA": la_root, "Pancreas": pancreas_root}[dataset.info.name]
    small = {**SMALL, "labelnum": 2, "patch_size": (80, 80)}
    if dataset.info.dims == 3:
        small |= {"patch_size": (32, 16, 16), "val_stride": (32, 32, 16)}
    if dataset is pancreas.DATASET:
        small |= {"labelnum": 25, "pre_iterations": 1, "max_iterations": 1, "val_every": 1}
    with narrowed():
        train(
            dataset,
            root,
            tmp_path,
            *(["--labels", "dense"] if dataset is la.TWO_SLICES else []),
            **{**numbers, **small},
        )
    last = load(next(tmp_path.rglob("self_train/last.pth")))
    assert last["progress"]["validated"] == last["progress"]["step"] > 0
    assert all(value.isfinite().all() for value in last["student"].values())


BCP = {"egm": "none", "mask": "fixed", "ema_decay": 0.99}


@pytest.mark.parametrize(
    "script, dataset, own, bcp",
    [
        (
            "code/ACDC_labelnum3_train.py",
            acdc.DATASET,
            {"dice_background": "unmasked", "ema_decay": 0.89},
            {"dice_background": "masked"},
        ),
        (
            "code/ACDC_labelnum7_train.py",
            acdc.DATASET,
            {"dice_background": "unmasked", "ema_decay": 0.95},
            {"dice_background": "masked"},
        ),
        (
            "code/LA_labelnum8_train.py",
            la.DATASET,
            {"pre_weight_decay": 1e-3, "lr_drop_every": 5000},
            {"pre_weight_decay": 1e-4, "lr_drop_every": 2500},
        ),
        (
            "pancreas/pancreas_labelnum20_train.py",
            pancreas.DATASET,
            {
                "losses": (("dice", 0.42), ("ce", 0.58)),
                "pre_losses": (("dice", 0.55), ("ce", 0.45)),
                "seed": 1337,
            },
            {
                "losses": (("dice", 0.5), ("ce", 0.5)),
                "pre_losses": (("dice", 0.5), ("ce", 0.5)),
                "seed": 2020,
            },
        ),
    ],
)
def test_bcp_comes_with_its_own_numbers_and_flags_override_them(script, dataset, own, bcp):
    numbers = runpy.run_path(str(REPOSITORY / script))["DEFAULTS"]

    def values(names, *argv):
        settings = from_flags(dataset, numbers, argv)
        return {name: getattr(settings, name) for name in names}

    assert values(own) == own and values({**BCP, **bcp}, "--method", "bcp") == {**BCP, **bcp}
    assert values(
        ["seed", "ema_decay"], "--method", "bcp", "--seed", "3", "--ema_decay", "0.9"
    ) == {"seed": 3, "ema_decay": 0.9}
    assert values(["losses"], "--method", "bcp", "--losses", "dice", "0.7", "ce", "0.3") == {
        "losses": (("dice", 0.7), ("ce", 0.3))
    }


@pytest.mark.parametrize(
    "dataset, names",
    [
        (la.DATASET, ["pre_weight_decay", "lr_drop_every"]),
        (pancreas.DATASET, ["pre_losses", "losses", "seed"]),
    ],
)
def test_the_ablation_without_copy_paste_has_the_defaults_of_bcp(dataset, names):
    bcp = from_flags(dataset, {}, ["--method", "bcp"])
    ablation = from_flags(dataset, {}, ["--method", "pseudo_label"])
    for name in names:
        assert getattr(ablation, name) == getattr(bcp, name)


LA_PLACE, PANCREAS_PLACE = (
    "BCP/LA_BCP_4_labeled/self_train/VNet_best_model.pth",
    "cutmix/self_train/best_ema_20_self.pth",
)


@pytest.mark.parametrize(
    "dataset, network, keys, place, wrap",
    [
        (la.DATASET, "VNet", "vnet_la", LA_PLACE, "module"),
        (pancreas.DATASET, "VNet_pancreas", "vnet_pancreas", PANCREAS_PLACE, "net"),
        (pancreas.DATASET, "VNet_pancreas", "vnet_pancreas_bcp", PANCREAS_PLACE, "plain"),
        pytest.param(
            pancreas.DATASET,
            "VNet_pancreas",
            "vnet_pancreas_bcp",
            PANCREAS_PLACE,
            "net",
            marks=pytest.mark.long,
        ),
        (
            pancreas.DATASET,
            "VNet_pancreas",
            "vnet_pancreas",
            "cutmix/pretrain/best_ema20_pre.pth",
            "net",
        ),
    ],
)
def test_published_checkpoints_at_their_places(
    dataset, network, keys, place, wrap, la_root, pancreas_root, tmp_path
):
    """A file as published, `module.` prefixes and unused heads in it, gives the published network's
    predictions; its keys tell whether it has edge-guided modules.
    """
    root, weights = la_root if dataset is la.DATASET else pancreas_root, filled_state_dict(keys)
    module = {f"module.{key}": value for key, value in weights.items()}
    (tmp_path / place).parent.mkdir(parents=True)
    torch.save({"plain": weights, "module": module, "net": {"net": module}}[wrap], tmp_path / place)
    patch, stride = (32, 32, 16), (32, 32, 16)
    flags = ["--patch_size", *map(str, patch), "--stride", *map(str, stride), "--device", "cpu"]
    flags += ["--stage_name", "pre_train"] if "pretrain" in place else []
    evaluate(dataset, flags, root_path=root, output_root=tmp_path)
    (folder,) = tmp_path.rglob("test/*_best_test")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert (
        summary["checkpoint"]["selection"].startswith("a published state dict")
        and summary["cases"] == 2
    )
    net = net_factory(network, egm="none" if keys.endswith("bcp") else "published").eval()
    import_state_dict(net, weights)
    predict = VolumePredictor(
        patch, stride, torch.device("cpu"), 26 if dataset is la.DATASET else None
    )
    for case in read_cases(dataset.info, root, "test"):
        file = nibabel.load(folder / f"{case.name}_pred.nii.gz")
        assert (
            np.mean(np.asarray(file.dataobj) != predict(net, case.image)) < 1e-3
        )  # in the volume's own axes; ties of rounding aside
        np.testing.assert_allclose(file.header.get_zooms(), case.spacing_mm, rtol=1e-5)
