"""MC-Net: its consistency by hand, and the published numbers of its runs."""

import pytest
import torch
from helpers import from_keywords

from datasets import acdc, la, pancreas
from methods.mc_net import mutual_consistency
from utils.errors import UserError


def test_the_consistency_is_the_sum_over_all_ordered_pairs_of_decoders():
    """One pixel, probabilities of its two classes (a, 1 - a). Sharpening keeps 0.5 and makes 1 of
    1.

    Two decoders with a = 0.5 and a = 1: (0.5 - 1)^2 and (1 - 0.5)^2, the means over both classes. A
    third one with a = 0.5 adds the two pairs with the second decoder; with the first it agrees.
    """
    unsure = torch.tensor([[[0.5], [0.5]]])
    sure = torch.tensor([[[1.0], [0.0]]])
    assert mutual_consistency([unsure, sure]).item() == pytest.approx(0.5)
    assert mutual_consistency([unsure, sure, unsure]).item() == pytest.approx(1.0)
    assert mutual_consistency([unsure, unsure]).item() == pytest.approx(0.0)


def test_the_consistency_compares_with_sharpened_probabilities():
    mild = torch.tensor([[[0.6], [0.4]]])
    sharp = 0.6**10 / (0.6**10 + 0.4**10)
    assert mutual_consistency([mild, mild]).item() == pytest.approx(2 * (sharp - 0.6) ** 2)


def published(settings):
    return (
        settings.model,
        settings.losses,
        settings.consistency,
        settings.consistency_rampup,
        settings.max_iterations,
    )


def test_slices_are_trained_with_the_published_numbers():
    settings = from_keywords(acdc.DATASET, method="mc_net")
    assert published(settings) == ("unet_mcnet", (("half_dice", 1.0),), 0.1, 200, 30_000)
    assert (settings.batch_size, settings.labeled_bs) == (24, 12)


@pytest.mark.parametrize("dataset", [la.DATASET, pancreas.DATASET], ids=["LA", "Pancreas"])
def test_volumes_are_trained_with_the_published_numbers(dataset):
    settings = from_keywords(dataset, method="mc_net")
    losses = (("dice_foreground_plain", 0.5),)
    assert published(settings) == ("VNet_mcnet", losses, 1.0, 40, 15_000)
    assert (settings.batch_size, settings.labeled_bs) == (4, 2)
    assert (settings.unit, settings.optimizer, settings.base_lr) == ("iteration", "sgd", 0.01)
    assert settings.lr_schedule == "constant"


def test_a_network_with_one_decoder_is_refused():
    with pytest.raises(UserError, match=r"--model unet .*choose --model from unet_mcnet"):
        from_keywords(acdc.DATASET, method="mc_net", model="unet")
