import pytest
import torch
import torch.nn.functional as F
from helpers import LOSS_2D, LOSS_3D
from reference import pieces

from utils.losses import Loss, Prediction, StepLoss, dice_2d, dice_3d, masked_mean, one_hot

PIECES = pieces()
PANCREAS, PANCREAS_PRE = (Loss({"dice": share, "ce": 1 - share}, dice_3d) for share in (0.42, 0.55))


@pytest.mark.parametrize(
    "name, weights",
    [
        ("unlabelled_outside", (0.5, 1.0)),
        ("labelled_outside", (1.0, 0.5)),
        ("pretrain", (1.0, 1.0)),
    ],
)
def test_mix_loss_as_published(name, weights):
    logits, outside, inside, mask = (
        PIECES[f"mix_2d.{key}"] for key in ("logits", "outside", "inside", "mask")
    )
    parts = LOSS_2D.mixed(logits, outside, inside, mask.float(), *weights)
    torch.testing.assert_close(
        torch.stack([parts["dice"], parts["ce"]]),
        PIECES[f"mix_2d.dice_ce_{name}"],
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("name, loss", [("la", LOSS_3D), ("pancreas", PANCREAS)])
@pytest.mark.parametrize("outer, weights", [("labelled", (1.0, 0.5)), ("unlabelled", (0.5, 1.0))])
def test_mix_loss_of_volumes_as_published(name, loss, outer, weights):
    logits, outside, inside, mask = (
        PIECES[f"mix_3d.{key}"] for key in ("logits", "outside", "inside", "mask")
    )
    total = loss.of_mixed(logits, outside, inside, mask.float(), *weights).total
    expected = PIECES[f"mix_3d.{name}_{outer}_outside"]
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-6)


def test_whole_loss_of_volumes_as_published():
    """Pre-training of the 3-D methods: Dice and cross entropy of the whole mixed image, weighed as
    each data set has it.
    """
    logits, label = PIECES["mix_3d.logits"], PIECES["mix_3d.outside"]
    for loss, share in ((LOSS_3D, 0.5), (PANCREAS_PRE, 0.55)):
        parts = loss.whole(logits, label)
        torch.testing.assert_close(parts["dice"], PIECES["mix_3d.mask_dice"], rtol=1e-6, atol=1e-6)
        expected = share * parts["dice"] + (1 - share) * F.cross_entropy(logits, label)
        torch.testing.assert_close(loss.combine(parts).total, expected)


def test_a_term_is_found_by_name_and_weighs_in():
    """The cross entropy of two equally likely classes is ln 2, the focal loss a quarter of it."""
    logits, label = torch.zeros(1, 2, 3, 3), torch.ones(1, 3, 3).long()
    loss = Loss({"ce": 1.0, "focal": 2.0}, dice_2d)
    step_loss = loss.of_whole(logits, label)
    scalars = step_loss.scalars
    assert scalars["loss_ce"].item() == pytest.approx(0.693147, abs=1e-6)
    assert scalars["loss_focal"].item() == pytest.approx(0.693147 / 4, abs=1e-6)
    assert step_loss.total.item() == pytest.approx(0.693147 * 1.5, abs=1e-6)


def test_a_method_adds_a_term_by_name():
    loss = StepLoss(torch.tensor(1.0), {"loss_ce": torch.tensor(2.0)})
    more = loss.plus("consistency", torch.tensor(3.0), weight=0.5)
    assert more.total == 2.5 and loss.total == 1.0
    assert more.scalars == {"loss_ce": 2.0, "loss_consistency": 3.0}


def test_an_unknown_term_is_an_error():
    with pytest.raises(KeyError):
        Loss({"hinge": 1.0}, dice_2d)


def prediction(probabilities):
    return Prediction(probabilities.log(), probabilities)


def test_dice_of_volumes_by_hand():
    """One sample, two voxels, the second masked away: p(1) = .5, truth 1.

    Class 0: 0 of .5, class 1: 2 * .5 of 1.5.
    """
    p1 = torch.tensor([[[[0.5, 1.0]]]])  # (N, X, Y, Z)
    loss = dice_3d(
        prediction(torch.stack([1 - p1, p1], 1)),
        one_hot(torch.ones(1, 1, 1, 2).long(), 2),
        torch.tensor([[[1.0, 0.0]]]),
    )
    assert loss.item() == pytest.approx(1 - (0 + 1 / 1.5) / 2, abs=1e-4)


def test_dice_by_hand():
    """Two pixels, two classes, the second pixel masked away: class 0 counts both, class 1 only the
    first.

    p(1) = [.5, 1], truth = [1, 1]. Class 0: overlap 0, sizes .25 + 0. Class 1: overlap .5, sizes
    .25 + 1.
    """
    p1 = torch.tensor([[[0.5, 1.0]]])  # (N, H, W)
    probabilities = torch.stack([1 - p1, p1], 1)
    loss = dice_2d(
        prediction(probabilities),
        one_hot(torch.ones(1, 1, 2).long(), 2),
        torch.tensor([[1.0, 0.0]]),
    )
    assert loss.item() == pytest.approx((1 + (1 - 1.0 / 1.25)) / 2, abs=1e-6)


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.rand(1, 2, 2), torch.zeros(2, 2)).item() == 0


def test_whole_loss_by_the_plain_formula():
    torch.manual_seed(0)
    logits, label = torch.randn(2, 4, 6, 5), torch.randint(0, 4, (2, 6, 5))
    whole = LOSS_2D.whole(logits, label)
    torch.testing.assert_close(whole["ce"], F.cross_entropy(logits, label))
    truth = F.one_hot(label, 4).permute(0, 3, 1, 2).float()
    p = logits.softmax(1)
    by_class = [
        1
        - (2 * (p[:, k] * truth[:, k]).sum() + 1e-10)
        / (p[:, k].square().sum() + truth[:, k].square().sum() + 1e-10)
        for k in range(4)
    ]
    torch.testing.assert_close(whole["dice"], torch.stack(by_class).mean())


def test_dice_of_the_batch_by_hand():
    """Two images of one pixel, probabilities (0.5, 0.5) and (0.2, 0.8), labels 0 and 1.

    Class 0: 2 * 0.5 / (0.25 + 0.04 + 1); class 1: 2 * 0.8 / (0.25 + 0.64 + 1). Without squares
    class 1: 2 * 0.8 / (0.5 + 0.8 + 1).
    """
    logits = torch.tensor([[0.5, 0.5], [0.2, 0.8]]).log()[:, :, None]
    label = torch.tensor([[0], [1]])
    background = 1 - 1.0 / 1.29
    foreground = 1 - 1.6 / 1.89
    for term, expected in (
        ("dice_squared", (background + foreground) / 2),
        ("dice_foreground", foreground),
        ("dice_foreground_plain", 1 - 1.6 / 2.3),
        ("half_dice", 1 - (0.5 / 1.29 + 0.8 / 1.89) / 2),
    ):
        total = Loss({term: 1.0}, dice_2d).of_whole(logits, label).total
        assert total.item() == pytest.approx(expected, abs=1e-5)


def test_squared_dice_of_no_pixel_at_all_is_0():
    logits, label = torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64)
    nowhere = torch.zeros(4)
    parts = Loss({"dice_squared": 1.0}, dice_2d).mixed(logits, label, label, nowhere, 1.0, 0.0)
    assert parts["dice_squared"].item() == 0
