"""SS-Net: memory, contrast and smoothness by hand, what resumes, and the published numbers of its runs."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers import LOSS_2D, Context
from torch import nn

from datasets import acdc, la
from datasets.run_settings import make_settings
from methods.ss_net import (
    MEMORY_SIZE,
    Options,
    SSNet,
    dice_distance,
    distance_to_memory,
    pixels,
    unit_length,
)
from networks.net_factory_ega import net_factory

pytestmark = pytest.mark.usefixtures("narrow")


@dataclass
class OptionsContext(Context):
    """A context whose options are those of the method only."""

    method_options: Any = None

    @property
    def options(self):
        return self.method_options


def ss_net(**options):
    torch.manual_seed(0)
    student = net_factory("unet", egm="none")
    stage = SSNet(OptionsContext(student, LOSS_2D, method_options=Options(**options)))
    stage.student.train()
    return stage


def batch(size=32):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(4, 1, size, size, generator=generator)
    label = torch.randint(0, 4, (2, size, size), generator=generator)
    return {"image": image, "label": label}


# the memory


class FirstEntry(nn.Module):
    """A 'head' that returns the first entry of its vectors."""

    def forward(self, x):
        return x[:, :1]


def with_plain_heads(stage):
    """Projections are the features themselves, and the rank of a pixel is the first entry of its features."""
    stage.heads.projection_head = nn.Identity()
    for number in (1, 2, 3):
        stage.heads.add_module(f"contrastive_class_selector_{number}", FirstEntry())
    return stage


def line_of_pixels(values):
    """Features (1, 32, P, 1) of P pixels whose first entries are these."""
    feature = torch.zeros(1, MEMORY_SIZE, len(values), 1)
    feature[0, 0, :, 0] = torch.tensor(values)
    return feature


def test_the_memory_keeps_correctly_predicted_foreground_pixels_of_their_class():
    stage = with_plain_heads(ss_net())
    label = torch.tensor([[[0], [1], [1], [2], [2]]])
    predicted = torch.tensor([[[0], [1], [2], [2], [2]]])  # the third pixel is wrong
    stage.remember(line_of_pixels([1.0, 2.0, 3.0, 4.0, 5.0]), predicted, label)
    assert {number: one[:, 0].tolist() for number, one in stage.memory.items()} == {
        1: [2.0],
        2: [4.0, 5.0],
        3: [],
    }


def test_of_many_pixels_the_memory_keeps_those_with_the_lowest_ranks():
    stage = with_plain_heads(ss_net())
    values = [(7 * k) % 40 / 8 for k in range(40)]
    ones = torch.ones(1, 40, 1, dtype=torch.long)
    stage.remember(line_of_pixels(values), ones, ones)
    kept = sorted(stage.memory[1][:, 0].tolist())
    assert kept == [k / 8 for k in range(MEMORY_SIZE)]


def test_a_class_without_a_correct_pixel_keeps_its_memory():
    stage = with_plain_heads(ss_net())
    ones = torch.ones(1, 2, 1, dtype=torch.long)
    stage.remember(line_of_pixels([1.0, 2.0]), ones, ones)
    stage.remember(line_of_pixels([8.0, 9.0]), 2 * ones, 2 * ones)
    assert stage.memory[1][:, 0].tolist() == [1.0, 2.0]
    assert stage.memory[2][:, 0].tolist() == [8.0, 9.0]


def test_the_memory_resumes():
    stage = ss_net()
    list(stage.losses(batch(), 0))
    assert sum(len(one) for one in stage.memory.values()) > 0
    other = ss_net()
    other.load_state_dict(stage.state_dict())
    for number, vectors in stage.memory.items():
        assert torch.equal(other.memory[number], vectors)


# the contrast


def test_the_distance_to_the_memory_is_the_weighted_mean_of_1_minus_cosine_over_all_pairs():
    """Vectors along x and along y, memory along x (twice as long) and along -x: cosines (1, -1) and (0, 0).

    Ranks 0.2 and 0.6 give weights 2 * 0.2 / 0.8 and 2 * 0.6 / 0.8.
    """
    vectors = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    memory = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    ranks = torch.tensor([0.2, 0.6])
    first = (0 + 2 + 0) / 3
    expected = (0.5 * first + 1.5 * 1) / 2
    assert distance_to_memory(vectors, memory, ranks).item() == pytest.approx(expected)


def test_the_contrast_is_divided_by_all_classes_and_leaves_out_those_with_too_few_pixels():
    stage = ss_net()
    feature = torch.rand(1, stage.student.feature_channels, 2, 3)
    label = torch.tensor([[[1, 1, 0], [2, 3, 3]]])
    generator = torch.Generator().manual_seed(2)
    vectors = torch.rand(4, MEMORY_SIZE, generator=generator)
    stage.memory.update({1: vectors, 2: vectors, 3: vectors[:1]})
    stage.heads.eval()  # the same statistics for each call
    predictions = stage.heads.predict(pixels(feature))[:2]
    ranks = stage.heads.rank(predictions, 1)
    expected = distance_to_memory(predictions, vectors, ranks) / 4
    torch.testing.assert_close(stage.contrast(feature, label), expected)


def test_the_selectors_do_not_change_the_features():
    """The rank of a pixel is computed from its detached prediction: with equal ranks its gradient is that of the cosines only."""
    stage = ss_net()
    vectors = torch.rand(5, MEMORY_SIZE, requires_grad=True)
    memory = torch.rand(3, MEMORY_SIZE)
    constant = torch.ones(5)
    distance_to_memory(vectors, memory, constant).backward()
    expected = vectors.grad.clone()
    vectors.grad = None
    ranks = stage.heads.rank(vectors.detach(), 1)
    weights = len(ranks) * ranks / ranks.sum()
    distance_to_memory(vectors, memory, ranks).backward()
    torch.testing.assert_close(vectors.grad, expected * weights.detach()[:, None])
    assert stage.heads.selector(1)[0].weight.grad.any()


def test_pixels_are_the_rows_of_a_feature():
    feature = torch.arange(12.0).view(1, 3, 2, 2)
    assert pixels(feature).tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]


# the smoothness


def test_the_distance_of_two_probability_maps_by_hand():
    """One pixel, (0.5, 0.5) and (0, 1). Class 0: 0 of 0.25; class 1: 2 * 0.5 of 0.25 + 1."""
    first = torch.tensor([[[0.5], [0.5]]])
    second = torch.tensor([[[0.0], [1.0]]])
    expected = (1 + (1 - 1 / 1.25)) / 2
    assert dice_distance(first, second).item() == pytest.approx(expected)
    assert dice_distance(first, first).item() == pytest.approx(0)


def test_each_sample_gets_unit_length():
    x = torch.tensor([[[3.0, 4.0]], [[0.0, 0.5]]])
    torch.testing.assert_close(unit_length(x), torch.tensor([[[0.6, 0.8]], [[0.0, 1.0]]]))


class Slope(nn.Module):
    """A 'network' whose prediction depends on the first pixel only; it keeps the images."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.05))
        self.feature_channels = 1
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        value = self.weight * x[:, :1, :1]
        return torch.cat([value, -value], 1)


def test_the_adversarial_step_goes_along_the_gradient_with_the_given_length():
    torch.manual_seed(3)
    net = Slope()
    stage = SSNet(OptionsContext(net, method_options=Options(vat_epsilon=6.0)))
    image = torch.zeros(2, 1, 2, 2)
    stage.smoothness(image).backward()
    clean, searched, moved = net.seen
    assert torch.equal(clean, image)
    for sample in searched:
        assert sample.norm().item() == pytest.approx(10.0)
    for sample in moved:
        assert sample.norm().item() == pytest.approx(6.0, rel=1e-4)
    assert moved[:, 0, 0].all()
    assert not moved[:, 0, 1].any()


def test_only_the_clean_pass_moves_the_running_statistics():
    stage = ss_net()
    norm = stage.student.encoder.in_conv.conv_conv[1]
    before = norm.num_batches_tracked.item()
    image = batch()["image"]
    stage.smoothness(image)
    assert norm.num_batches_tracked.item() == before + 1
    mean = norm.running_mean.clone()
    other = ss_net()
    other.forward(image)
    torch.testing.assert_close(other.student.encoder.in_conv.conv_conv[1].running_mean, mean)


def test_the_search_for_the_direction_leaves_no_gradient_in_the_parameters(monkeypatch):
    """Without the last pass, nothing is left to learn from."""
    stage = ss_net()
    seen = []

    def distance(first, second):
        seen.append([p.grad is None for p in stage.student.parameters()])
        return dice_distance(first, second)

    monkeypatch.setattr("methods.ss_net.dice_distance", distance)
    stage.smoothness(batch()["image"])
    before_search, after_search = seen
    assert all(before_search)
    assert all(after_search)


# runs


def test_slices_are_trained_with_the_published_numbers():
    settings = make_settings(acdc.DATASET, method="ss_net")
    assert (settings.model, settings.losses) == ("unet", (("dice", 1.0),))
    assert (settings.consistency, settings.consistency_rampup) == (0.1, 200)
    assert (settings.vat_epsilon, settings.contrast_weight) == (6.0, 0.1)
    assert (settings.lr_schedule, settings.max_iterations) == ("constant", 30_000)


def test_volumes_are_trained_with_the_published_numbers():
    settings = make_settings(la.DATASET, method="ss_net")
    assert (settings.model, settings.losses) == ("VNet", (("dice_foreground_plain", 1.0),))
    assert (settings.consistency, settings.consistency_rampup) == (1.0, 40)
    assert (settings.vat_epsilon, settings.contrast_weight) == (10.0, 0.1)
    assert (settings.lr_schedule, settings.lr_drop_every) == ("step", 2_500)
    assert (settings.max_iterations, settings.batch_size, settings.labeled_bs) == (15_000, 4, 2)
