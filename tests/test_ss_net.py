"""SS-Net: memory, contrast and smoothness by hand, and the published numbers of its runs."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers import LOSS_2D, Context, from_keywords
from torch import nn

from datasets import acdc, la
from methods.class_memory import MEMORY_SIZE, ClassMemory, distance_to_memory, pixels
from methods.ss_net import Options, SSNet, dice_distance, unit_length
from networks.contrast import ContrastiveHeads
from networks.net_factory_ega import net_factory
from networks.published_weights import HEAD_WIDTH

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


def memory_of_features():
    """A memory of features of 32 channels, which projection leaves as they are.

    The rank of a pixel is its first entry.
    """
    heads = ContrastiveHeads(HEAD_WIDTH, 4)
    heads.projection_head = nn.Identity()
    for number in (1, 2, 3):
        heads.add_module(f"contrastive_class_selector_{number}", FirstEntry())
    return ClassMemory(heads, 4, torch.device("cpu"))


def line_of_pixels(values):
    """Features (1, 32, P, 1) of P pixels whose first entries are these."""
    feature = torch.zeros(1, HEAD_WIDTH, len(values), 1)
    feature[0, 0, :, 0] = torch.tensor(values)
    return feature


def first_entries(memory, number):
    return memory.vectors[number][:, 0].tolist()


def test_the_memory_keeps_correctly_predicted_pixels_of_their_class():
    memory = memory_of_features()
    label = torch.tensor([[[0], [1], [1], [2], [2]]])
    is_correct = torch.tensor([[[False], [True], [False], [True], [True]]])
    memory.replace(line_of_pixels([1.0, 2.0, 3.0, 4.0, 5.0]), label, is_correct)
    assert [first_entries(memory, number) for number in (1, 2, 3)] == [[2.0], [4.0, 5.0], []]


def test_of_many_pixels_the_memory_keeps_those_with_the_lowest_ranks():
    memory = memory_of_features()
    values = [(7 * k) % 40 / 8 for k in range(40)]
    ones = torch.ones(1, 40, 1, dtype=torch.long)
    memory.replace(line_of_pixels(values), ones, ones.bool())
    assert sorted(first_entries(memory, 1)) == [k / 8 for k in range(MEMORY_SIZE)]


def test_the_length_of_a_vector_does_not_depend_on_how_many_are_kept(monkeypatch):
    monkeypatch.setattr("methods.class_memory.MEMORY_SIZE", 5)
    assert memory_of_features().vectors[1].shape == (0, HEAD_WIDTH)


def test_a_class_without_a_correct_pixel_keeps_its_memory():
    memory = memory_of_features()
    ones = torch.ones(1, 2, 1, dtype=torch.long)
    memory.replace(line_of_pixels([1.0, 2.0]), ones, ones.bool())
    memory.replace(line_of_pixels([8.0, 9.0]), 2 * ones, ones.bool())
    assert first_entries(memory, 1) == [1.0, 2.0]
    assert first_entries(memory, 2) == [8.0, 9.0]


def test_only_correctly_predicted_foreground_pixels_reach_the_memory(monkeypatch):
    stage = ss_net()
    data = batch()
    seen = []
    monkeypatch.setattr(stage.memory, "replace", lambda *arguments: seen.append(arguments))
    logits = torch.zeros(4, 4, 32, 32)
    logits[:, 2] = 1  # class 2 everywhere
    feature = torch.zeros(4, stage.student.feature_channels, 32, 32)
    monkeypatch.setattr(stage, "call_with_auxiliary", lambda name, image: (logits, feature))
    next(stage.losses(data, 0))
    ((_, label, is_correct),) = seen
    assert torch.equal(label, data["label"])
    assert torch.equal(is_correct, data["label"] == 2)
    logits[:, 0] = 2  # background everywhere
    next(stage.losses(data, 0))
    assert not seen[1][2].any()


def test_the_memory_resumes():
    stage = ss_net()
    list(stage.losses(batch(), 0))
    assert sum(len(one) for one in stage.memory.vectors.values()) > 0
    other = ss_net()
    other.load_state_dict(stage.state_dict())
    for number, vectors in stage.memory.vectors.items():
        assert torch.equal(other.memory.vectors[number], vectors)


# the contrast


def test_the_distance_to_the_memory_is_the_weighted_mean_of_1_minus_cosine_over_all_pairs():
    """Vectors along x and along y, memory along x (twice as long) and along -x: cosines (1, -1) and
    (0, 0).

    Ranks 0.2 and 0.6 give weights 2 * 0.2 / 0.8 and 2 * 0.6 / 0.8.
    """
    vectors = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    memory = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    ranks = torch.tensor([0.2, 0.6])
    first = (0 + 2 + 0) / 3
    expected = (0.5 * first + 1.5 * 1) / 2
    assert distance_to_memory(vectors, memory, ranks).item() == pytest.approx(expected)


def test_the_contrast_is_divided_by_all_classes_and_skips_those_with_too_few_pixels():
    heads = ContrastiveHeads(5, 4).eval()  # the same statistics for each call
    memory = ClassMemory(heads, 4, torch.device("cpu"))
    feature = torch.rand(1, 5, 2, 3)
    label = torch.tensor([[[1, 1, 0], [2, 3, 3]]])
    vectors = torch.rand(4, HEAD_WIDTH)
    memory.vectors.update({1: vectors, 2: vectors, 3: vectors[:1]})
    predictions = heads.predict(pixels(feature))[:2]
    ranks = heads.rank(predictions, 1)
    expected = distance_to_memory(predictions, vectors, ranks) / 4
    torch.testing.assert_close(memory.distance(feature, label), expected)


def test_the_selector_of_an_absent_class_has_a_gradient_of_0():
    """Every process then exchanges gradients of the same parameters."""
    heads = ContrastiveHeads(5, 4)
    memory = ClassMemory(heads, 4, torch.device("cpu"))
    background = torch.zeros(1, 2, 3, dtype=torch.long)
    distance = memory.distance(torch.rand(1, 5, 2, 3), background)
    assert distance.item() == 0
    distance.backward()
    assert all(weights.grad is not None for weights in heads.parameters())
    assert not any(weights.grad.any() for weights in heads.parameters())


def test_features_learn_through_the_cosines_and_selectors_through_the_ranks():
    """With constants in place of the ranks, the features' gradient is the same."""
    heads = ContrastiveHeads(5, 4).eval()  # the same statistics for each call
    memory = ClassMemory(heads, 4, torch.device("cpu"))
    memory.vectors[1] = torch.rand(3, HEAD_WIDTH)
    with torch.no_grad():
        heads.selector(1)[3].weight.mul_(20)  # so that ranks differ
    feature = torch.rand(1, 5, 2, 3, requires_grad=True)
    ones = torch.ones(1, 2, 3, dtype=torch.long)
    (gradient,) = torch.autograd.grad(memory.distance(feature, ones), feature, retain_graph=True)
    predictions = heads.predict(pixels(feature))
    ranks = heads.rank(predictions, 1).detach()
    expected = distance_to_memory(predictions, memory.vectors[1], ranks) / 4
    (expected_gradient,) = torch.autograd.grad(expected, feature)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-8)
    memory.distance(feature, ones).backward()
    assert heads.selector(1)[0].weight.grad.any()


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

    def __init__(self) -> None:
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


@pytest.mark.parametrize("dims, first_step_of_epoch_1", [(2, 150), (3, 149)])
def test_the_ramp_counts_as_the_published_code_for_slices_or_volumes(dims, first_step_of_epoch_1):
    options = Options(lengths="published")
    network = net_factory("unet", egm="none")
    stage = SSNet(OptionsContext(network, dims=dims, method_options=options))
    before = stage.consistency_weight(first_step_of_epoch_1 - 1)
    assert before == stage.consistency_weight(0)
    assert stage.consistency_weight(first_step_of_epoch_1) > before


# runs


def test_slices_are_trained_with_the_published_numbers():
    settings = from_keywords(acdc.DATASET, method="ss_net")
    assert (settings.model, settings.losses) == ("unet", (("dice", 1.0),))
    assert (settings.consistency, settings.consistency_rampup) == (0.1, 200)
    assert (settings.vat_epsilon, settings.contrast_weight) == (6.0, 0.1)
    assert (settings.lr_schedule, settings.max_iterations) == ("constant", 30_000)


def test_volumes_are_trained_with_the_published_numbers():
    settings = from_keywords(la.DATASET, method="ss_net")
    assert (settings.model, settings.losses) == ("VNet", (("dice_foreground_plain", 1.0),))
    assert (settings.consistency, settings.consistency_rampup) == (1.0, 40)
    assert (settings.vat_epsilon, settings.contrast_weight) == (10.0, 0.1)
    assert (settings.lr_schedule, settings.lr_drop_every) == ("step", 2_500)
    assert (settings.max_iterations, settings.batch_size, settings.labeled_bs) == (15_000, 4, 2)
