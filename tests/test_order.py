"""In which order a stage counts, validates, selects and refreshes its static teacher, through the
loop itself.
"""

import numpy as np
import pytest
import torch
from helpers import Context
from torch import nn

from commands.stage_setup import best_decimals
from datasets.registry import all_datasets
from methods.base import Validation
from methods.copy_paste import CopyPaste
from methods.edge_guided import DualTeacher, RefreshRule
from training.checkpoint import load
from training.log import RunLog
from training.loop import Run, StageSetup, run_stages
from utils.losses import StepLoss

pytestmark = pytest.mark.usefixtures("narrow")


class Counting(DualTeacher):
    """A student of one number that learns nothing to speak of; notes after which iteration the
    static teacher was renewed.
    """

    def __init__(self, rule: RefreshRule) -> None:
        settings = {
            "static_start": rule.start,
            "static_step": rule.step,
            "static_range": (rule.lowest, rule.highest),
        }
        super().__init__(Context(nn.Linear(1, 1), epoch=rule.epoch, settings=settings))
        self.renewed = []

    def losses(self, batch, step):
        yield StepLoss(self.forward(torch.ones(1, 1)).square().sum(), {})

    def after_iteration(self, step):
        before = self.counter
        super().after_iteration(step)
        if self.counter < before:
            self.renewed.append(step + 1)

    def pictures(self):
        return {}


def run(tmp_path, rule, scores, steps, val_every, val_lead=0, best_decimals=None):
    """The phase after a stage whose validations give `scores` in turn, then its last and its best
    checkpoint.
    """
    phase, scores = Counting(rule), iter(scores)
    stage = StageSetup(
        stage=phase,
        optimizers={"student": torch.optim.SGD(phase.student.parameters(), lr=1e-3, momentum=0.9)},
        steps=steps,
        val_every=val_every,
        val_lead=val_lead,
        best_decimals=best_decimals,
        batches=lambda steps: ({} for _ in steps),
        validate=lambda net, stopped, step: Validation(next(scores), {}),
        learning_rate=lambda step: 1e-3,
        seed=(0,),
    )
    about = {"settings": {}, "facts": {"name": "ACDC"}, "selection": ""}
    info = Run(
        tmp_path, lambda name: "best.pth", about, torch.device("cpu"), 2, None, RunLog(tmp_path)
    )
    run_stages(info, {phase.name: lambda: stage})
    return phase, *(load(tmp_path / phase.name / name) for name in ("last.pth", "best.pth"))


# The published numbers (start 1000, step 500, range 500..2000, a validation every 200 iterations)
# divided by 100.
RULE = RefreshRule(10, 5, 5, 20)
ZIGZAG = [0.1, 0.05, 0.2, 0.15, 0.3, 0.25, 0.4, 0.35, 0.5, 0.45, 0.6, 0.55]
ZIGZAG += [0.7, 0.65, 0.8, 0.75, 0.9, 0.85, 0.91, 0.86, 0.92, 0.87, 0.93, 0.88]


@pytest.mark.parametrize(
    "scores, renewed",
    [
        ([0.1, 0.05, 0.2, 0.15, 0.3, *(0.3 + 0.01 * k for k in range(1, 26))], [20, 40, 60]),
        ([0.0, 0.3, 0.2, 0.4, 0.35, 0.5, 0.45, 0.4, 0.35, 0.6], [6, 11, 16]),
        (ZIGZAG, [12, 24, 36, 48]),
    ],
)
def test_static_teacher_is_renewed_after_the_validation_has_moved_its_interval(
    tmp_path, scores, renewed
):
    phase, _, _ = run(tmp_path, RULE, scores, 2 * len(scores), val_every=2)
    assert phase.renewed == renewed


def test_pancreas_validates_and_renews_before_an_epoch_is_trained(tmp_path):
    """Epochs of 3 steps, published numbers. Before epoch 10 the counter is 10; before 20 the score
    improves (interval 15); before 25 it is 15; before 40 the score falls (10), 15 have passed;
    before 50; before 60 it improves (15). After 60 an extra validation, the best of all, selects
    nothing.
    """
    rule = RefreshRule(10, 5, 5, 20, epoch=3)
    phase, last, best = run(tmp_path, rule, [0.3, 0.2, 0.4, 0.9], 180, val_every=60, val_lead=3)
    trained = [step / 3 + 1 for step in phase.renewed]
    assert trained == [10, 25, 40, 50]
    assert [row["step"] for row in last["progress"]["history"]] == [57, 117, 177, 180]
    assert (best["progress"]["step"], last["progress"]["best_score"]) == (177, 0.4)


def test_the_box_counts_pancreas_epochs_from_one():
    boxes = CopyPaste("dynamic", 5 / 9, 200, (0,), epoch=25)
    assert [boxes.sides((96,), step)[0] for step in (0, 24, 99 * 25, 199 * 25 + 24)] == [
        63,
        63,
        58,
        53,
    ]


@pytest.mark.parametrize(
    "scores, step",
    [([0.0, 0.0, 0.0], 6), ([0.0, 0.2, 0.2], 4), ([0.1, 0.3, 0.2], 4)],
    ids=["all 0: a best file all the same", "only a larger score is better", "the largest"],
)
def test_the_best_checkpoint(tmp_path, scores, step):
    _, last, best = run(tmp_path, RULE, scores, 6, val_every=2)
    assert best["progress"]["step"] == last["progress"]["best_step"] == step


def test_a_first_validation_of_zero_shortens_the_interval(tmp_path):
    phase, _, _ = run(tmp_path, RULE, [0.0], 2, val_every=2)
    assert phase.interval == 5


# The published LA and CoGRNet codes store the best Dice rounded to 4 digits and compare the next
# one, unrounded, with it.


@pytest.mark.parametrize(
    "scores, best_step, interval",
    [
        ([0.80004, 0.80002], 4, 20),  # stored as 0.8, which 0.80002 exceeds
        ([0.80006, 0.80008], 2, 10),  # stored as 0.8001, which 0.80008 does not exceed
        ([0.80006, 0.80011], 4, 20),
        ([0.8, 0.8], 2, 10),
        ([0.00003, 0.00002], 4, 20),  # stored as 0
        ([0.00003, 0.0], 2, 10),
        ([0.80004, 0.80002, 0.80001, 0.79999], 6, 15),
    ],
)
def test_scores_are_compared_with_the_rounded_best(tmp_path, scores, best_step, interval):
    """The interval is 10 at first; an improvement makes it 5 longer, at most 20, any other score 5
    shorter.
    """
    phase, last, best = run(tmp_path, RULE, scores, 2 * len(scores), val_every=2, best_decimals=4)
    assert best["progress"]["step"] == last["progress"]["best_step"] == best_step
    assert phase.interval == interval


@pytest.mark.parametrize(
    "scores, best_step, interval",
    [([0.80004, 0.80002], 2, 10), ([0.80006, 0.80008], 4, 20), ([0.00003, 0.00002], 2, 10)],
)
def test_without_rounding_only_a_larger_score_is_an_improvement(
    tmp_path, scores, best_step, interval
):
    phase, _, best = run(tmp_path, RULE, scores, 4, val_every=2)
    assert best["progress"]["step"] == best_step
    assert phase.interval == interval


def published_refreshes(scores, val_every, steps):
    """When a static teacher is renewed by the rule written out for LA, with the numbers of RULE."""
    best = 0
    counter = 0
    interval = 10
    renewed = []
    for iteration in range(1, steps + 1):
        if iteration % val_every == 0:
            score = scores[iteration // val_every - 1]
            if score > best:
                best = round(score, 4)
                interval = min(interval + 5, 20)
            else:
                interval = max(interval - 5, 5)
        counter += 1
        if counter >= interval:
            renewed.append(iteration)
            counter = 0
    return renewed


@pytest.mark.parametrize("seed", range(5))
def test_the_static_teacher_is_renewed_when_the_published_code_renews_it(tmp_path, seed):
    """Scores within a few ten-thousandths of each other, as late in training."""
    rng = np.random.default_rng(seed)
    scores = (0.9 + 0.0002 * rng.random(40)).tolist()
    phase, _, _ = run(tmp_path, RULE, scores, 80, val_every=2, best_decimals=4)
    assert phase.renewed == published_refreshes(scores, 2, 80)


def test_a_resumed_stage_compares_with_the_rounded_best_too(tmp_path):
    """Checkpoints hold the score itself, as older ones do."""
    _, last, _ = run(tmp_path, RULE, [0.80004], 2, val_every=2, best_decimals=4)
    assert last["progress"]["best_score"] == 0.80004
    phase, last, _ = run(tmp_path, RULE, [0.80002], 4, val_every=2, best_decimals=4)
    assert (last["progress"]["best_step"], phase.interval) == (4, 20)


@pytest.mark.parametrize(
    "dataset, kind, method, decimals",
    [
        ("LA", "DATASET", "edge_guided", 4),
        ("LA", "DATASET", "bcp", 4),
        ("LA", "DATASET", "mean_teacher", None),
        ("ACDC", "DATASET", "edge_guided", None),
        ("ACDC", "DATASET", "bcp", None),
        ("Pancreas", "DATASET", "edge_guided", None),
        ("Pancreas", "DATASET", "bcp", None),
        ("LA", "TWO_SLICES", "cogrnet", 4),
        ("KiTS19", "TWO_SLICES", "cogrnet", 4),
        ("LiTS", "TWO_SLICES", "cogrnet", 4),
    ],
)
def test_the_best_score_is_rounded_where_the_published_code_rounds_it(
    dataset, kind, method, decimals
):
    spec = all_datasets(kind)[dataset]
    assert best_decimals(spec, method) == decimals
