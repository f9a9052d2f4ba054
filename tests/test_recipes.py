"""Every training script's own recipe, for two iterations a stage on a phantom; published 3-D checkpoints at their documented places."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from reference import filled_state_dict

from dataloaders.cases import read_cases
from networks.net_factory_la_ega import net_factory
from networks.published import import_state_dict
from recipes import cogrnet, edge_guided
from recipes.evaluation import EvaluationSettings, evaluate
from recipes.tasks import ACDC_TASK, LA_TASK, PANCREAS_TASK
from training.checkpoint import load
from training.settings import CoGRNetSettings, VolumeSettings
from training.sliding import VolumePredictor

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = sorted([*REPOSITORY.glob("code/*_train.py"), *REPOSITORY.glob("pancreas/*_train.py")])
SMALL = {"batch_size": 4, "labeled_bs": 2, "pre_iterations": 2, "max_iterations": 2, "val_every": 2, "device": "cpu"}


def test_all_published_recipes_are_here():
    names = [path.name for path in SCRIPTS]
    assert names == [
        *("ACDC_labelnum3_train.py", "ACDC_labelnum7_train.py", "CoGRNet_train.py", "LA_labelnum4_train.py", "LA_labelnum8_train.py"),
        "pancreas_labelnum20_train.py",
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_two_iterations_of_every_recipe(script, phantom_root, la_root, pancreas_root, tmp_path):
    recipe = runpy.run_path(str(script))["RECIPE"]
    volumes = isinstance(recipe, VolumeSettings)
    task = PANCREAS_TASK if "pancreas" in script.name else LA_TASK if volumes else ACDC_TASK
    root = {ACDC_TASK: phantom_root, LA_TASK: la_root, PANCREAS_TASK: pancreas_root}[task]
    labelnum = 25 if task is PANCREAS_TASK else 2
    tiny = replace(recipe, **SMALL, labelnum=labelnum, root_path=root, output_root=tmp_path)
    if volumes:
        tiny = replace(tiny, patch_size=(32, 32, 16), val_stride=(32, 32, 16))
        tiny = replace(tiny, pre_iterations=1, max_iterations=1, val_every=1) if task is PANCREAS_TASK else tiny
    else:
        tiny = replace(tiny, patch_size=(80, 80))
    if isinstance(recipe, CoGRNetSettings):
        cogrnet.train(tiny, ["--labels", "dense", "--patch_size", "32", "32", "16"])
    else:
        edge_guided.train(task, tiny, [])
    last = load(next(tmp_path.rglob("self_train/last.pth")))
    assert last["progress"]["validated"] == last["progress"]["step"] > 0
    assert all(value.isfinite().all() for value in last["student"].values())


BCP = {"egm": "none", "mask": "fixed", "teachers": "ema", "ema_decay": 0.99}


@pytest.mark.parametrize(
    "script, published, own, bcp",
    [
        ("code/ACDC_labelnum3_train.py", ACDC_TASK, {"dice_background": "unmasked", "ema_decay": 0.89}, {"dice_background": "masked"}),
        ("code/ACDC_labelnum7_train.py", ACDC_TASK, {"dice_background": "unmasked", "ema_decay": 0.95}, {"dice_background": "masked"}),
        (
            "code/LA_labelnum8_train.py",
            LA_TASK,
            {"pre_weight_decay": 1e-3, "lr_drop_every": 5000},
            {"pre_weight_decay": 1e-4, "lr_drop_every": 2500},
        ),
        (
            "pancreas/pancreas_labelnum20_train.py",
            PANCREAS_TASK,
            {"dice_share": 0.42, "pre_dice_share": 0.55, "seed": 1337},
            {"dice_share": 0.5, "pre_dice_share": 0.5, "seed": 2020},
        ),
    ],
)
def test_bcp_comes_with_its_own_numbers_and_flags_override_them(script, published, own, bcp):
    recipe = runpy.run_path(str(REPOSITORY / script))["RECIPE"]

    def values(names, *argv):
        settings = edge_guided.settings_from_flags(published, recipe, argv)
        return {name: getattr(settings, name) for name in names}

    assert values(own) == own and values({**BCP, **bcp}, "--method", "bcp") == {**BCP, **bcp}
    assert values(["seed", "ema_decay"], "--method", "bcp", "--seed", "3", "--ema_decay", "0.9") == {"seed": 3, "ema_decay": 0.9}
    assert values(["dice_share"], "--method", "bcp", "--dice_share", "0.7") == {"dice_share": 0.7}


LA_PLACE, PANCREAS_PLACE = "BCP/LA_BCP_4_labeled/self_train/VNet_best_model.pth", "cutmix/self_train/best_ema_20_self.pth"


@pytest.mark.parametrize(
    "task, network, keys, place, wrap",
    [
        (LA_TASK, "VNet", "vnet_la", LA_PLACE, "module"),
        (PANCREAS_TASK, "VNet_pancreas", "vnet_pancreas", PANCREAS_PLACE, "net"),
        (PANCREAS_TASK, "VNet_pancreas", "vnet_pancreas_bcp", PANCREAS_PLACE, "plain"),
        (PANCREAS_TASK, "VNet_pancreas", "vnet_pancreas_bcp", PANCREAS_PLACE, "net"),
        (PANCREAS_TASK, "VNet_pancreas", "vnet_pancreas", "cutmix/pretrain/best_ema20_pre.pth", "net"),
    ],
)
def test_published_checkpoints_at_their_places(task, network, keys, place, wrap, la_root, pancreas_root, tmp_path):
    """A file as published, `module.` prefixes and unused heads in it, gives the published network's predictions; its keys tell whether
    it has edge-guided modules."""
    root, weights = la_root if task is LA_TASK else pancreas_root, filled_state_dict(keys)
    module = {f"module.{key}": value for key, value in weights.items()}
    (tmp_path / place).parent.mkdir(parents=True)
    torch.save({"plain": weights, "module": module, "net": {"net": module}}[wrap], tmp_path / place)
    default = EvaluationSettings(
        exp="BCP" if task is LA_TASK else "cutmix", labelnum=4 if task is LA_TASK else 20, model=network, which="both"
    )
    patch, stride = (32, 32, 16), (32, 32, 16)
    flags = ["--patch_size", *map(str, patch), "--stride", *map(str, stride), "--device", "cpu"]
    flags += ["--stage_name", "pre_train"] if "pretrain" in place else []
    evaluate(task, replace(default, root_path=root, output_root=tmp_path), flags)
    (folder,) = tmp_path.rglob("*_predictions")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["checkpoint"]["selection"].startswith("a published state dict") and summary["cases"] == 2
    net = net_factory(network, egm="none" if keys.endswith("bcp") else "published").eval()
    import_state_dict(net, weights)
    predict = VolumePredictor(patch, stride, torch.device("cpu"), 26 if task is LA_TASK else None)
    for case in read_cases(task.facts, root, "test"):
        file = nibabel.load(folder / f"{case.name}_pred.nii.gz")
        assert np.mean(np.asarray(file.dataobj) != predict(net, case.image)) < 1e-3  # in the volume's own axes; ties of rounding aside
        np.testing.assert_allclose(file.header.get_zooms(), case.spacing_mm, rtol=1e-5)
