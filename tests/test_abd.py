"""ABD: which patches are displaced, and what both networks learn from, in examples that can be
followed by hand.
"""

import json

import pytest
import torch
from helpers import Context
from method_vectors import record
from reference import VECTORS
from test_method_vectors import CASES

from methods import abd, displacement
from methods.displacement import Views, choose_patches, cut, displaced, joined, source_patch
from networks.net_factory_ega import net_factory


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 2, 8, 4, 12), (2, 1, 9, 11)])
def test_joined_patches_are_the_image(shape):
    x = torch.randn(shape)
    assert torch.equal(joined(cut(x), x), x)


def test_patches_are_numbered_row_by_row():
    x = torch.arange(64.0).view(1, 1, 8, 8)
    patches = cut(x)
    assert patches.shape == (1, 16, 1, 2, 2)
    assert patches[0, 1, 0].tolist() == [[2, 3], [10, 11]]
    assert patches[0, 4, 0].tolist() == [[16, 17], [24, 25]]


def test_volumes_have_four_patches_along_each_axis():
    x = torch.arange(8.0 * 4 * 4).view(1, 1, 8, 4, 4)
    patches = cut(x)
    assert patches.shape == (1, 64, 1, 2, 1, 1)
    assert patches[0, 1].flatten().tolist() == [1, 17]  # the next one along the last axis


def logits_of(confidences):
    """Two classes on an image of 4 x 4 pixels, each a patch: the given numbers are the logits of
    class 0, class 1 has 0.
    """
    first = torch.tensor(confidences).view(1, 1, 4, 4)
    return torch.cat([first, torch.zeros_like(first)], 1)


FIRST = logits_of([9.0, 8.0, -7.0, 6.0, *[1.0 + 0.1 * k for k in range(11)], 0.5])
SECOND = logits_of([0.2, *[1.0 + 0.1 * k for k in range(11)], -6.0, 7.0, 8.0, -9.0])


def test_the_least_confident_patch_takes_the_most_confident_one_of_the_other_view():
    chosen = choose_patches(Views(FIRST, SECOND), nearest=torch.tensor([False]))
    assert [int(number) for number in chosen] == [15, 15, 0, 0]


def test_the_least_confident_patch_takes_the_nearest_of_four_of_the_other_view():
    """The targets lean to class 0 (0.5 and 0.2): of 9, 8, -7, 6 the nearest is 6, patch 3; of -6,
    7, 8, -9 it is 7, patch 13.
    """
    chosen = choose_patches(Views(FIRST, SECOND), nearest=torch.tensor([True]))
    assert [int(number) for number in chosen] == [15, 13, 0, 3]


def test_the_divergence_is_that_of_the_target_from_the_candidate():
    """Target (0.2, 0.8): KL(target || candidate) is 0.19 for (0.5, 0.5) and 0.30 for (0.02, 0.98);
    the other direction would give 0.22 and 0.15.
    """
    patches = [[0.5, 0.5], [0.02, 0.98], [0.999, 0.001], [0.999, 0.001]]
    means = torch.tensor([patches]).log()
    confidence = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    target = torch.tensor([[0.2, 0.8]]).log()
    assert int(source_patch(confidence, means, target, torch.tensor([True]))) == 0


def test_displaced_views_exchange_one_patch_each():
    first = torch.zeros(1, 1, 4, 4)
    second = torch.arange(1.0, 17.0).view(1, 1, 4, 4)
    changed = displaced(Views(first, second), Views(FIRST, SECOND), torch.tensor([False]))
    expected_first, expected_second = first.clone(), second.clone()
    expected_first[0, 0, 3, 3] = 16
    expected_second[0, 0, 0, 0] = 0
    assert torch.equal(changed.first, expected_first)
    assert torch.equal(changed.second, expected_second)


@pytest.mark.long
def test_abd_displaces_the_published_patches(tmp_path, monkeypatch):
    """Every patch of the recorded run's iterations: [b, c, d, a] in the order of `Displaced`."""
    path = VECTORS / "methods" / "trajectory_abd_bcp_2d.json"
    expected = json.loads(path.read_text(encoding="utf-8"))["about"]["displaced"]
    seen = []

    def kept(logits, nearest):
        chosen = choose_patches(logits, nearest)
        seen.append(torch.stack(chosen, 1).tolist())
        return chosen

    monkeypatch.setattr(displacement, "choose_patches", kept)
    record("abd_bcp_2d", CASES["abd_bcp_2d"], tmp_path)
    assert seen == expected


@pytest.fixture
def stage():
    torch.manual_seed(0)
    context = Context(net_factory("unet", egm="none"), settings={"select_network": "other"})
    context.network = lambda number=0, model=None: net_factory("unet", egm="none")
    return abd.ABD(context)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return {"image": torch.rand(8, 1, 32, 32), "label": torch.randint(0, 4, (4, 32, 32))}


def test_a_network_has_no_gradient_of_the_other_networks_loss(stage, batch):
    first, second = stage.losses(batch, 0)
    first.total.backward()
    assert all(p.grad is None for p in stage.networks["other"].parameters())
    second.total.backward()
    assert all(p.grad is not None for p in stage.networks["other"].parameters())


def test_the_teacher_follows_the_first_network_with_its_statistics(stage, batch):
    list(stage.losses(batch, 0))
    teacher = stage.networks["ema_teacher"]
    key = "encoder.in_conv.conv_conv.1.running_mean"
    before = teacher.state_dict()[key].clone()
    stage.after_step(0)
    expected = 0.99 * before + 0.01 * stage.student.state_dict()[key]
    torch.testing.assert_close(teacher.state_dict()[key], expected)


def test_the_second_network_is_selected_with_its_flag(stage):
    assert stage.selected == "other"
    assert stage.validated == ("student", "other")
