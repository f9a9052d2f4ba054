"""UniMatch's boxes, targets and networks, by hand."""

import numpy as np
import pytest
import torch
from helpers import Context

from methods.helpers import BOX_PROBABILITY, cutmix_boxes
from methods.unimatch import PseudoTarget, UniMatch, mixed_target, target_of
from networks.registry import build

CPU = torch.device("cpu")


def stage(confidence=0.95):
    torch.manual_seed(0)
    settings = {"confidence": confidence}
    return UniMatch(Context(build("unet_unimatch", 1, 4, {}), settings=settings))


@pytest.mark.parametrize("sides", [(40, 60), (20, 30, 24)])
def test_boxes_cover_2_to_40_percent_of_half_of_the_images(sides):
    masks = cutmix_boxes((400, 1, *sides), seed=(1, 2, 3), device=CPU)
    shares = masks.flatten(1).mean(1).numpy()
    assert abs((shares > 0).mean() - BOX_PROBABILITY) < 0.08
    shares = shares[shares > 0]
    assert shares.max() <= 0.4
    assert shares.min() > 0.01  # sides are rounded down to whole pixels
    assert np.ptp(shares) > 0.3


def test_a_box_is_one_rectangle():
    for mask in cutmix_boxes((50, 1, 30, 40), seed=(5,), device=CPU):
        rows, columns = (mask.amax(axis) for axis in (1, 0))
        assert torch.equal(mask, rows[:, None] * columns)
        for line in (rows, columns):
            assert line.diff().abs().sum() <= 2


def test_boxes_follow_from_the_seed():
    first, again, other = (
        cutmix_boxes((8, 1, 30, 30), seed=seed, device=CPU) for seed in ((1, 7), (1, 7), (1, 8))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_pseudo_label_is_the_most_probable_class_with_its_probability():
    target = target_of(torch.tensor([[[0.7, 0.2], [0.3, 0.8]]]).log())
    assert target.label.tolist() == [[0, 1]]
    torch.testing.assert_close(target.confidence, torch.tensor([[0.7, 0.8]]))


def test_the_pasted_part_has_its_own_label_and_confidence():
    host = PseudoTarget(torch.tensor([[1, 2]]), torch.tensor([[0.9, 0.6]]))
    pasted = PseudoTarget(torch.tensor([[3, 0]]), torch.tensor([[0.5, 0.7]]))
    mixed = mixed_target(host, pasted, torch.tensor([[0.0, 1.0]]))
    assert mixed.label.tolist() == [[1, 0]]
    torch.testing.assert_close(mixed.confidence, torch.tensor([[0.9, 0.7]]))


def test_without_a_confident_pixel_the_loss_is_0():
    target = PseudoTarget(torch.zeros(2, 4, 4, dtype=torch.int64), torch.full((2, 4, 4), 0.9))
    logits = torch.rand(2, 4, 4, 4)
    assert stage().dice(logits, target).item() == 0
    assert stage(confidence=0.9).dice(logits, target).item() > 0.1


def test_only_confident_pixels_count():
    """One class is certain and right where the confidence is 1, and wrong where it is 0.5."""
    label = torch.tensor([[[0, 0], [1, 1]]])
    confidence = torch.tensor([[[1.0, 0.5], [1.0, 0.5]]])
    right = torch.tensor([[[0, 1], [1, 0]]])
    logits = 50.0 * torch.nn.functional.one_hot(right, 4).permute(0, 3, 1, 2).float()
    assert stage().dice(logits, PseudoTarget(label, confidence)).item() < 1e-6


def test_the_pass_in_evaluation_mode_moves_no_statistics_and_ends_in_training_mode():
    method = stage()
    before = {name: buffer.clone() for name, buffer in method.student.named_buffers()}
    method.prediction_in_eval_mode(torch.rand(2, 1, 32, 32))
    assert method.student.training
    for name, buffer in method.student.named_buffers():
        assert torch.equal(buffer, before[name])


@pytest.mark.parametrize(
    "name, plain, dims", [("unet_unimatch", "unet", 2), ("VNet_unimatch", "VNet", 3)]
)
def test_the_weights_are_those_of_the_plain_network(name, plain, dims):
    torch.manual_seed(0)
    net = build(name, 1, 3, {}).eval()
    other = build(plain, 1, 3, {"egm": "none"}).eval()
    other.load_state_dict(net.state_dict())
    x = torch.rand(2, 1, *[32] * dims)
    logits, dropped = net(x, auxiliary=True)
    torch.testing.assert_close(logits, other(x))
    torch.testing.assert_close(dropped, logits)  # nothing is dropped in evaluation mode


def test_in_training_channels_are_dropped_from_one_version():
    torch.manual_seed(0)
    net = build("unet_unimatch", 1, 3, {}).eval()
    net.feature_dropout.train()
    logits, dropped = net(torch.rand(2, 1, 32, 32), auxiliary=True)
    assert not torch.allclose(logits, dropped, atol=1e-3)
