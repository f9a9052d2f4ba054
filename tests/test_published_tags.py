"""The names of scalars that --tags published writes."""

from pathlib import Path

import pytest
from helpers import train

from datasets import acdc, la, pancreas, published_tags
from datasets.published_tags import PublishedTags

FIDELITY = Path(__file__).parents[1] / "docs" / "fidelity.md"
CODES = [tags for tags in vars(published_tags).values() if isinstance(tags, PublishedTags)]


def tags(dataset, pretraining):
    return dataset.published_tags.of_stage(pretraining, dataset.info.class_names)


def test_acdc_numbers_its_classes_from_one():
    names = tags(acdc.DATASET, pretraining=False)
    assert names["validation/dice_right_ventricle"] == "info/val_1_dice"
    assert names["validation/hd95_voxel_left_ventricle"] == "info/val_3_hd95"


def test_la_names_the_loss_by_its_stage():
    assert tags(la.DATASET, pretraining=True)["train/loss"] == "pre/loss_all"
    assert tags(la.DATASET, pretraining=False)["train/loss"] == "Self/loss_all"


def test_pancreas_names_the_validation_by_its_stage():
    assert tags(pancreas.DATASET, pretraining=True)["validation/dice"] == "test_dice"
    assert tags(pancreas.DATASET, pretraining=False)["validation/dice"] == "val_dice"


def test_cogrnet_names_distances_of_its_only_class():
    names = tags(la.TWO_SLICES, pretraining=False)
    assert names["validation/asd_voxel_left_atrium"] == "4_Var_dice/Average_surface_distance"


def test_a_tag_without_a_class_number_is_not_used_for_several_classes():
    names = la.TWO_SLICES.published_tags.of_stage(False, ["background", "a", "b"])
    assert "4_Var_dice/Jaccard" not in names.values()


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("pretraining", [True, False])
def test_no_two_scalars_have_one_published_tag(code, pretraining):
    names = code.of_stage(pretraining, ["background", "a"])
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize("code", CODES)
def test_the_guide_has_every_published_tag(code):
    guide = FIDELITY.read_text(encoding="utf-8")
    for published in {*code.pretraining.values(), *code.selftraining.values()}:
        assert f"`{published.format(number='{k}')}`" in guide, published


def test_a_run_with_published_tags_writes_them_in_place_of_ours(tmp_path, phantom_root):
    numbers = {"labelnum": 1, "patch_size": (32, 32), "batch_size": 4, "labeled_bs": 2}
    lengths = {"pre_iterations": 1, "max_iterations": 1, "val_every": 1}
    flags = ["--egm", "none", "--tags", "published", "--logger", "csv"]
    train(acdc.DATASET, phantom_root, tmp_path, *flags, **numbers, **lengths)
    (path,) = tmp_path.rglob("self_train/log/scalars.csv")
    written = {line.split(",")[1] for line in path.read_text(encoding="utf-8").splitlines()}
    ours = tags(acdc.DATASET, pretraining=False)
    assert set(ours.values()) <= written
    assert not written & set(ours)
