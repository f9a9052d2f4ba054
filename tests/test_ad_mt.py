"""AD-MT: turns, boxes, ensemble and compromise by hand, and what a step does to its three networks."""

import pytest
import torch
from helpers import LOSS_2D, Context
from torch import nn

from methods import ad_mt
from methods.ad_mt import Turns
from methods.helpers import PublishedTime, boxes_around
from methods.teacher_ensemble import EnsembleTarget, compromise, ensemble


def test_turns_have_lengths_between_one_and_the_longest_and_all_occur():
    turns = Turns(3, seed=(1, 2))
    numbers = [turns.number(step) for step in range(300)]
    lengths = [numbers.count(turn) for turn in range(numbers[-1])]
    assert numbers == sorted(numbers) and numbers[0] == 0
    assert set(lengths) == {1, 2, 3}


def test_a_resumed_run_has_the_same_turns():
    whole = Turns(50, seed=(7,))
    numbers = [whole.number(step) for step in range(500)]
    resumed = Turns(50, seed=(7,))
    assert [resumed.number(step) for step in range(400, 500)] == numbers[400:]


def test_boxes_reach_half_a_side_on_each_side_of_their_centre_and_end_at_the_border():
    """8 x 8 with a mixing of 3/4: half of the side is 4, so 2 to each side.

    The second box is cut off at the left and lower border.
    """
    box = boxes_around([torch.tensor([4, 7]), torch.tensor([3, 0])], (8, 8), torch.tensor(0.75))
    expected = torch.zeros(2, 8, 8, dtype=torch.bool)
    expected[0, 2:6, 1:5] = True
    expected[1, 5:8, 0:2] = True
    assert torch.equal(box, expected)


def test_a_certain_teacher_has_a_hundred_times_the_weight_of_one_that_knows_nothing():
    """With 4 classes: entropy 0 and 2 bits, weights 1 and exp(-2)."""
    certain = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 4, 1, 1)
    flat = torch.full((1, 4, 1, 1), 0.25)
    weight = 1 / (1 + torch.tensor(-2.0).exp())
    target = ensemble(certain, flat)
    assert float(target.confidence) == pytest.approx(float(weight + (1 - weight) / 4), abs=1e-6)
    assert int(target.label) == 0


@pytest.mark.parametrize(
    "conflict, student, label, confidence",
    [
        (True, (0.1, 0.9), 1, 0.9),  # surer of another class
        (True, (0.4, 0.6), 0, 0.7),  # less sure
        (False, (0.1, 0.9), 0, 0.7),  # the teachers agree
        (True, (0.9, 0.1), 0, 0.7),  # the same class
    ],
)
def test_the_student_decides_only_where_teachers_disagree_and_it_is_surer_of_another_class(
    conflict, student, label, confidence
):
    target = EnsembleTarget(torch.tensor([[0]]), torch.tensor([[0.7]]), torch.tensor([[conflict]]))
    chosen = compromise(target, torch.tensor(student).view(1, 2, 1))
    assert int(chosen.label) == label
    assert float(chosen.confidence) == pytest.approx(confidence)


def test_a_published_iteration_is_reached_by_the_first_iteration_that_stands_for_it():
    time = PublishedTime(published=30_000, length=1_000)
    first = time.first(100)
    assert (first, time.step(first), time.step(first - 1)) == (4, 120, 90)
    assert PublishedTime(30_000, 30_000).first(100) == 100


class Shift(nn.Module):
    """A 'network' of one parameter: the logits of 4 classes of each pixel."""

    def __init__(self, value) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.modes = []

    def forward(self, x):
        self.modes.append((self.training, len(x)))
        return self.value * torch.cat([x, -x, 0 * x, 2 * x], 1)


def stage_of(dims=2, **settings):
    options = {"consistency": 2.0, "consistency_rampup": 1, "confidence": 0.0, "turn": 1}
    options |= {"ema_decay": 0.99, "select_network": "student", "lengths": "published", **settings}
    context = Context(Shift(1.0), LOSS_2D, settings=options)
    context.dims = dims
    context.network = lambda number=0, model=None: Shift(1.0 + number)
    return ad_mt.ADMT(context)


def batch():
    torch.manual_seed(0)
    return {"image": torch.rand(8, 1, 16, 16), "label": torch.randint(0, 4, (4, 16, 16))}


def test_the_teachers_start_with_weights_of_their_own():
    stage = stage_of()
    stage.begin()
    values = {name: float(net.value.detach()) for name, net in stage.networks.items()}
    assert values == {"student": 1.0, "teacher_a": 1.0, "teacher_b": 2.0}


def test_only_the_turns_teacher_is_in_training_mode_and_follows_the_student():
    stage = stage_of()
    for step, (active, other) in enumerate(
        (("teacher_a", "teacher_b"), ("teacher_b", "teacher_a"))
    ):
        list(stage.losses(batch(), step))
        assert stage.networks[active].modes[-1] == (True, 4)
        assert stage.networks[other].modes[-1] == (False, 4)
        assert stage.student.modes[-1] == (True, 12)
        stage.student.value.data.fill_(5.0 + step)
        before = float(stage.networks[other].value)
        stage.after_step(step)
        assert float(stage.networks[active].value) == 5.0 + step  # a copy: averaging has not begun
        assert float(stage.networks[other].value) == before


def test_decay_is_zero_while_the_ramp_counts_iterations_then_warms_up_on_every_second_one():
    """A ramp of 1: iterations 0 and 1 copy; then 1 - 1 / (k + 1) with k = 0, 0, 1, 1, 2."""
    stage = stage_of()
    decays = [stage.ema_decay(step) for step in range(7)]
    assert decays == pytest.approx([0, 0, 0, 0, 1 / 2, 1 / 2, 2 / 3])
    assert stage.ema_decay(10_000) == 0.99


def test_no_confident_pixel_gives_an_unlabelled_loss_of_zero():
    for dims in (2, 3):
        stage = stage_of(dims, confidence=1.0)
        (loss,) = stage.losses(batch(), 0)
        assert float(loss.scalars["loss_unsupervised"]) == 0


def test_volumes_validate_the_second_teacher_only_if_it_is_selected():
    assert stage_of(2).validated == ("student", "teacher_a", "teacher_b")
    assert stage_of(3).validated == ("student", "teacher_a")
    assert "teacher_b" in stage_of(3, select_network="teacher_b").validated


def test_a_mixed_image_takes_label_confidence_and_conflict_of_its_partner():
    stage = stage_of()
    stage.draw_partners = lambda image: torch.tensor([1, 0])
    stage.draw_boxes = lambda image: torch.tensor([[[True, False]], [[False, False]]])
    image = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 1, 2)
    rows = {"label": [3, 4], "confidence": [0.3, 0.4], "conflict": [False, True]}
    target = EnsembleTarget(
        *(torch.tensor(row).view(2, 1, 1).expand(2, 1, 2) for row in rows.values())
    )
    mixed, mixed_target = stage.mixed(image, target)
    assert mixed.flatten().tolist() == [2, 1, 2, 2]
    assert mixed_target.label.flatten().tolist() == [4, 3, 4, 4]
    assert mixed_target.conflict.flatten().tolist() == [True, False, True, True]
