"""Several learners: an optimiser and a learning rate for each, when they step, and which of them is
validated and selected.
"""

import math
import os

import pytest
import torch
from helpers import Context, assert_same, step_loss, together
from torch import nn

from methods.base import TrainingStage, Validation
from methods.stage_networks import MEAN
from networks.mean import MeanOfNetworks
from training.checkpoint import load, read
from training.distributed import process_group
from training.log import RunLog
from training.loop import Run, merged_results, run_stages
from training.memory import step_memory
from training.optimizers import states_by_learner
from training.precision import Precision
from training.stage import StageSetup
from training.step import train_step
from utils.losses import StepLoss

CPU = torch.device("cpu")


def weight(value: float) -> nn.Module:
    """A network of one weight: x to weight * x."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


class Pair(TrainingStage):
    """Both learners' losses are their weight times the student's weight at that time: the student's
    4, the other's 2.

    With a rate of 1 and no momentum the student falls by its weight's gradient, which is 4
    (detached), to 0.
    """

    name = "pair"

    def __init__(
        self, early: bool = False, validated: tuple[str, ...] = (), selected="student"
    ) -> None:
        super().__init__(Context(weight(4.0)))
        self.add_learner("other", weight(2.0), lr_schedule="constant")
        self.early = early
        self.validated = validated
        self.selected = selected

    def losses(self, batch, step):
        for name in self.learners:
            factor = self.student.weight.detach().sum()
            loss = StepLoss(factor * self.call(name, torch.ones(1, 1)).sum(), {})
            yield loss.then_step(name) if self.early else loss

    def pictures(self):
        return {}


def sgd(stage: TrainingStage, rate: float = 1.0, momentum: float = 0.0) -> dict:
    return {
        name: torch.optim.SGD(network.parameters(), lr=rate, momentum=momentum)
        for name, network in stage.learners.items()
    }


def weights(stage: TrainingStage) -> dict[str, float]:
    return {name: float(network.weight.detach().sum()) for name, network in stage.learners.items()}


def test_all_learners_step_after_the_last_loss():
    stage = Pair()
    train_step(stage, sgd(stage), {}, 0, Precision(CPU))
    assert weights(stage) == {"student": 4 - 4, "other": 2 - 4}  # the other's gradient: 4


def test_a_learner_that_steps_early_has_stepped_when_the_next_loss_is_formed():
    stage = Pair(early=True)
    train_step(stage, sgd(stage), {}, 0, Precision(CPU))
    assert weights(stage) == {"student": 4 - 4, "other": 2 - 0}  # the student's weight was 0 then


def test_a_learner_cannot_step_twice_in_a_step():
    stage = Pair()
    losses = stage.losses

    def repeated(batch, step):
        for loss in losses(batch, step):
            yield loss.then_step("student")

    stage.losses = repeated
    with pytest.raises(ValueError, match="student"):
        train_step(stage, sgd(stage), {}, 0, Precision(CPU))


def test_a_request_to_step_survives_a_further_term():
    loss = StepLoss(torch.ones(()), {}).then_step("other").plus("more", torch.ones(()), weight=2.0)
    assert loss.steps_now == "other"
    assert float(loss.total) == 3


def test_gradients_that_overflow_in_one_learner_halve_the_scale_once_and_leave_the_other_alone():
    """65536 x 1e38 is infinite in float32; the other's gradient is 65536 x 1."""
    stage = Pair()
    nn.init.constant_(stage.student.weight, 4.0)
    huge = torch.tensor(1e38)

    def losses(batch, step):
        yield StepLoss(huge * stage.student.weight.sum(), {})
        yield StepLoss(stage.learners["other"].weight.sum(), {})

    stage.losses = losses
    precision = Precision(CPU, torch.float16)
    scalars = train_step(stage, sgd(stage), {}, 0, precision)
    assert weights(stage) == {"student": 4, "other": 2 - 1}
    assert float(scalars["loss_scale"]) == 65536
    assert precision.scaler is not None
    assert precision.scaler.get_scale() == 32768


def step_in_process(rank, ports, folder):
    """One step of a pair whose student starts with a gradient of 2 in the first process and of 6 in
    the second.
    """
    os.environ["MASTER_PORT"] = str(ports[0])
    with process_group(CPU):
        stage = Pair(early=True)
        losses = stage.losses

        def scaled(batch, step):
            for loss in losses(batch, step):
                yield loss._replace(total=loss.total * (0.5 if rank == 0 else 1.5))

        stage.losses = scaled
        train_step(stage, sgd(stage, rate=0.5), {}, 0, Precision(CPU))
        torch.save(weights(stage), folder / f"{rank}.pt")


def test_a_learner_that_steps_early_has_the_mean_gradient_of_all_processes(tmp_path):
    """The student's mean gradient is 4, so its weight becomes 4 - 2 = 2; the other's is 2 then, and
    its weight 2 - 1 = 1.
    """
    assert together(step_in_process, tmp_path) == [0, 0]
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == {"student": 2, "other": 1}


def run(folder, stage, steps, scores=None, momentum=0.5):
    """Run the stage with validation every second step; the rate is 0.1 in the first two steps, then
    0.01, constant for the other.
    """
    score_of = iter(scores or [0.5] * 100)
    validated = []

    def validate(network, stopped, step):
        names = [name for name, one in stage.networks.items() if one is network]
        validated.append(names[0] if names else MEAN)
        return Validation(next(score_of), {"dice": 0.25})

    setup = StageSetup(
        stage=stage,
        optimizers=sgd(stage, rate=9.0, momentum=momentum),
        steps=steps,
        val_every=2,
        batches=lambda steps: ({} for _ in steps),
        validate=validate,
        learning_rate=lambda step: 0.1 if step < 2 else 0.01,
        own_learning_rates={"other": lambda step: 0.1},
        seed=(0,),
    )
    about = {"settings": {}, "facts": {"name": "none"}, "selection": ""}
    info = Run(folder, lambda name: "best.pth", about, CPU, 2, None, RunLog(folder))
    run_stages(info, {stage.name: lambda: setup})
    return load(folder / "pair" / "last.pth"), validated


def test_a_learner_with_its_own_schedule_keeps_its_rate(tmp_path):
    stage = Pair()
    last, _ = run(tmp_path, stage, steps=3)
    rates = [last["optimizer"], last["other_optimizers"]["other"]]
    assert [state["param_groups"][0]["lr"] for state in rates] == [0.01, 0.1]


def test_two_learners_resumed_end_as_in_one_run(tmp_path):
    whole, _ = run(tmp_path / "one", Pair(early=True), steps=6)
    run(tmp_path / "two", Pair(early=True), steps=4)
    resumed, _ = run(tmp_path / "two", Pair(early=True), steps=6)
    assert_same(resumed, whole)


def test_a_checkpoint_with_one_optimiser_for_both_learners_is_resumed(tmp_path):
    """Older versions numbered the parameters of all learners through: here 0 is the student's, 1
    the other's.
    """
    whole, _ = run(tmp_path / "one", Pair(), steps=4)
    run(tmp_path / "two", Pair(), steps=2)
    path = tmp_path / "two" / "pair" / "last.pth"
    content = load(path)
    other = content.pop("other_optimizers")["other"]
    content["optimizer"]["state"][1] = other["state"][0]
    content["optimizer"]["param_groups"][0]["params"] = [0, 1]
    torch.save(content, path)
    resumed, _ = run(tmp_path / "two", Pair(), steps=4)
    assert_same(resumed, whole)


def test_one_optimiser_of_other_parameters_is_refused(tmp_path):
    run(tmp_path, Pair(), steps=2)
    path = tmp_path / "pair" / "last.pth"
    content = load(path)
    del content["other_optimizers"]
    content["optimizer"]["param_groups"][0]["params"] = [0, 1, 2]
    torch.save(content, path)
    with pytest.raises(ValueError, match="optimiser belongs to other parameters"):
        states_by_learner(read(path), sgd(Pair()))


def test_networks_are_validated_in_order_and_the_selected_one_decides(tmp_path):
    """Scores of student, other and mean in turn: the other's best is the first, of step 2."""
    stage = Pair(validated=("student", "other", MEAN), selected="other")
    last, validated = run(tmp_path, stage, steps=4, scores=[0.3, 0.4, 0.1, 0.9, 0.35, 0.95])
    assert validated == ["student", "other", MEAN] * 2
    assert (last["progress"]["best_score"], last["progress"]["best_step"]) == (0.4, 2)
    assert last["selected"] == "other"
    assert [row["score"] for row in last["progress"]["history"]] == [0.4, 0.35]


def test_a_selected_network_that_is_not_listed_is_validated_last(tmp_path):
    _, validated = run(tmp_path, Pair(validated=("student",), selected="other"), steps=2)
    assert validated == ["student", "other"]


def test_without_a_list_only_the_selected_network_is_validated(tmp_path):
    _, validated = run(tmp_path, Pair(selected="other"), steps=2)
    assert validated == ["other"]


def test_the_checkpoint_of_the_mean_names_all_learners(tmp_path):
    stage = Pair(selected=MEAN)
    stage.models["other"] = "resunet"
    run(tmp_path, stage, steps=2)
    checkpoint = read(tmp_path / "pair" / "best.pth")
    assert checkpoint.selected == MEAN
    assert checkpoint.models == {"student": "", "other": "resunet"}
    assert checkpoint.weights_of("other")["weight"].shape == (1, 1)


def test_other_networks_scores_are_logged_under_their_names():
    results = {
        "student": Validation(0.5, {"dice": 0.5}),
        "other": Validation(0.75, {"dice": 0.75}),
    }
    merged = merged_results(results, "other")
    assert merged.score == 0.75
    assert merged.scalars == {"dice": 0.75, "student_dice": 0.5}


def test_the_mean_of_networks_is_the_mean_of_their_softmaxes():
    """Logits (0, ln 3) and (ln 3, 0) are probabilities 1/4, 3/4 and 3/4, 1/4; (0, 0) is 1/2, 1/2."""
    first = nn.Conv2d(1, 2, 1)
    second = nn.Conv2d(1, 2, 1)
    for network, bias in ((first, [0.0, math.log(3)]), (second, [0.0, 0.0])):
        nn.init.zeros_(network.weight)
        network.bias.data = torch.tensor(bias)
    probabilities = MeanOfNetworks([first, second])(torch.zeros(1, 1, 1, 1)).softmax(1)
    assert probabilities.flatten().tolist() == pytest.approx([3 / 8, 5 / 8])


def test_the_mean_of_networks_with_a_class_of_probability_zero_is_finite():
    network = nn.Conv2d(1, 2, 1)
    network.bias.data = torch.tensor([1e4, 0.0])
    logits = MeanOfNetworks([network])(torch.zeros(1, 1, 1, 1))
    assert logits.isfinite().all()


class TwoPasses(TrainingStage):
    """The student sees all images in one pass, the other learner one at a time."""

    name = "two_passes"

    def __init__(self) -> None:
        super().__init__(Context(nn.Conv2d(1, 4, 3, padding=1)))
        self.add_learner("other", nn.Conv2d(1, 4, 3, padding=1))

    def losses(self, batch, step):
        yield StepLoss(self.forward(batch["image"]).square().mean(), {})
        for image in batch["image"].split(1):
            yield StepLoss(self.call("other", image).square().mean(), {})


def test_the_memory_estimate_counts_the_passes_of_every_learner():
    assert step_memory(TwoPasses(), 2, 0, 1, (32, 32), moments=1).images == 1


def test_losses_of_a_stage_that_lets_a_learner_step_early_can_be_summed():
    assert float(step_loss(Pair(early=True), {})) == 4 * 4 + 4 * 2
