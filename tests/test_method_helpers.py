"""The helpers that methods share, against numbers computed by hand."""

import math

import pytest
import torch
from helpers import Context

from methods.helpers import (
    consistency_ramp,
    cutmix,
    ema_decay_with_warm_up,
    entropy,
    gaussian_noise,
    hard_pseudo_label,
    mean_squared_difference,
    monte_carlo_probabilities,
    published_time,
    sharpen,
    uncertainty_threshold,
)


def test_the_teacher_equals_the_student_after_the_first_step_and_warms_up():
    decays = [ema_decay_with_warm_up(step, 0.99) for step in (0, 1, 3, 98, 99, 500)]
    assert decays == [0, 0.5, 0.75, 1 - 1 / 99, 0.99, 0.99]


def test_the_consistency_ramp_counts_epochs_of_150_iterations():
    ramp = [consistency_ramp(step, 200) for step in (0, 149, 150, 15_000, 30_000, 60_000)]
    quarter = math.exp(-5 * 0.25)
    assert ramp == pytest.approx([math.exp(-5)] * 2 + [math.exp(-5 * 0.995**2), quarter, 1, 1])


def test_noise_is_clipped():
    torch.manual_seed(0)
    image = torch.zeros(4, 1, 50, 50)
    noise = gaussian_noise(image)
    assert noise.abs().max() == pytest.approx(0.2)
    assert 0.09 < noise.std() < 0.1


def test_monte_carlo_probabilities_are_the_mean_over_passes_and_copies():
    seen = []

    def network(x):
        seen.append(x)
        sign = 1.0 if len(seen) % 2 else -1.0
        return torch.full((len(x), 2, 3), 0.0) + torch.tensor([0.0, sign]).view(1, 2, 1)

    mean = monte_carlo_probabilities(network, torch.zeros(3, 1, 3), passes=4)
    assert [tuple(x.shape) for x in seen] == [(6, 1, 3)] * 4
    assert not torch.equal(seen[0], seen[1])
    torch.testing.assert_close(mean, torch.full((3, 2, 3), 0.5))


def test_entropy_is_zero_for_certainty_and_ln_2_for_even_odds():
    probabilities = torch.tensor([[[1.0, 0.5], [0.0, 0.5]]])
    expected = torch.tensor([[0.0, math.log(2)]])
    torch.testing.assert_close(entropy(probabilities), expected, atol=3e-6, rtol=0)


def test_the_uncertainty_threshold_rises_to_ln_2():
    assert uncertainty_threshold(100, 100) == pytest.approx(math.log(2))
    start = (0.75 + 0.25 * math.exp(-5)) * math.log(2)
    assert uncertainty_threshold(0, 100) == pytest.approx(start)


def test_sharpening_keeps_one_half_and_pushes_the_rest_apart():
    sharp = sharpen(torch.tensor([0.0, 0.4, 0.5, 0.6, 1.0]))
    six = 0.6**10 / (0.6**10 + 0.4**10)
    torch.testing.assert_close(sharp, torch.tensor([0.0, 1 - six, 0.5, six, 1.0]))


def test_the_pseudo_label_is_the_class_of_the_largest_logit():
    probabilities = torch.tensor([[[0.9, 0.7, 0.2], [0.1, 0.3, 0.8]]])  # (1, 2, 3)
    assert hard_pseudo_label(probabilities.log()).tolist() == [[0, 0, 1]]


def test_cutmix_takes_the_partner_inside_the_mask():
    mask = torch.tensor([[1.0, 0.0]])
    image = cutmix(torch.zeros(1, 2, 2), torch.ones(1, 2, 2), mask)
    assert image.tolist() == [[[1, 0], [1, 0]]]
    assert cutmix(torch.tensor([[3, 4]]), torch.tensor([[5, 6]]), mask).tolist() == [[5, 4]]


def test_squared_differences_are_averaged_over_the_mask():
    first, second = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), torch.zeros(1, 2, 2)
    assert mean_squared_difference(first, second) == 0.25
    mask = torch.tensor([[1.0, 0.0]])
    assert mean_squared_difference(first, second, mask) == 0.5


def time_of(length, epoch=None, dims=2, lengths="relative"):
    settings = {"lengths": lengths}
    context = Context(torch.nn.Identity(), length=length, epoch=epoch, dims=dims, settings=settings)
    return published_time(context, {2: 30_000, 3: 6_000})


def test_a_run_of_the_published_length_has_the_published_iterations():
    time = time_of(30_000)
    assert [time.step(step) for step in (0, 1, 999, 29_999)] == [0, 1, 999, 29_999]


def test_in_a_shorter_run_an_iteration_stands_for_the_same_share_of_the_published_run():
    assert [time_of(200).step(step) for step in (0, 1, 100, 199)] == [0, 150, 15_000, 29_850]
    assert time_of(200, dims=3).step(100) == 3_000


def test_epochs_are_counted_in_iterations():
    assert time_of(20, epoch=10).step(100) == 15_000


def test_published_lengths_are_iterations_of_every_run():
    assert [time_of(200, lengths="published").step(step) for step in (0, 100)] == [0, 100]
