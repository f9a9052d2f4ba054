"""DeSCO (Cai et al., CVPR 2023): two networks that learn from labels propagated from one of two
orthogonal annotated slices each.

A voxel's label counts less the farther it lies from the annotated slice it was propagated from, and
during training less and less. On unlabelled images each network learns the other one's prediction
where the other one is certain. The second network's losses are formed when the first one has made
its step.

Cost of a step: each network makes one pass with gradient over half of the batch, and nine passes
over a quarter of it without.
Published protocol: LA, KiTS19 and LiTS, 5 labelled volumes, 1 + 1 patches for each network, 6 000
iterations, SGD 0.01; only the first network's rate is divided by 10 after 2 500 and 5 000. The last
checkpoint of the first network is tested.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods.base import Batch, Method, StageContext, StageSpec, TrainingStage, halves, split_batch
from methods.helpers import (
    SGD_PRESETS,
    ConsistencyOptions,
    entropy,
    hard_pseudo_label,
    monte_carlo_probabilities,
    published_time,
    ramped_consistency,
    total_steps,
    uncertainty_threshold,
)
from utils.losses import Prediction, StepLoss, dice_foreground, one_hot, predicted
from utils.schedules import STEPS_PER_EPOCH

OTHER = "other"
PUBLISHED_ITERATIONS = {2: 6_000, 3: 6_000}
DECAY_STEPS = 1_000
"""Published iterations after which labels far from their slice lose weight again."""
DECAY_EPOCHS = 40
"""Epochs of half a cosine from 1 to 0 that gives the later factors (train_desco.py)."""
FIRST_DECAY = 0.95
SMOOTH = 1e-5


@dataclass(frozen=True)
class Options(ConsistencyOptions):
    """Options of DeSCO."""

    consistency_rampup: int = 40
    """Length of the ramp of the unlabelled loss in epochs of 150 iterations of the published run
    (see --lengths)."""
    select_network: Literal["student", "other"] = "student"
    """Network that is selected, tested and exported: student learns from the first annotated slice,
    other from the second."""


class DeSCO(TrainingStage[Options]):
    """Two networks. The first halves of the labelled and of the unlabelled images are the first
    network's, the second halves the other's."""

    name = "train"

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.add_learner(OTHER, context.network(1), lr_schedule="constant")
        self.selected = self.options.select_network
        self.time = published_time(context, PUBLISHED_ITERATIONS)
        self.steps = total_steps(context)

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        labelled, unlabelled = map(halves, split_batch(batch))
        labels = halves(batch["label"])
        weights = halves(self.label_weights(batch, step))
        learners = ("student", OTHER)
        for number, name in enumerate(learners):
            loss = self.network_loss(
                name,
                learners[1 - number],
                labelled=labelled[number],
                unlabelled=unlabelled[number],
                label=labels[number],
                weight=weights[number],
                step=step,
            )
            self.log(f"loss_{name}", loss.total)
            if name == "student":
                yield loss.then_step(name)
            else:
                yield loss.renamed(name)

    def network_loss(
        self,
        name: str,
        other: str,
        labelled: Tensor,
        unlabelled: Tensor,
        label: Tensor,
        weight: Tensor,
        step: int,
    ) -> StepLoss:
        """Return the loss of one network; the network `other` teaches it on unlabelled images."""
        count = len(labelled)
        logits = self.call(name, torch.cat([labelled, unlabelled]))
        if name == "student":
            self.show(labelled, logits, label)
        pseudo_label, certain = self.taught(other, unlabelled, step)
        self.log(f"certain_{name}", certain.mean())
        prediction = predicted(logits[:count])
        truth = one_hot(label, logits.shape[1])
        ce = weighted_ce(prediction, truth, weight)
        dice = dice_foreground(prediction, truth, weight)
        pseudo_truth = one_hot(pseudo_label, logits.shape[1])
        consistency = weighted_ce(predicted(logits[count:]), pseudo_truth, certain)
        share = ramped_consistency(self.options, self.time.step(step))
        self.log("consistency_weight", share)
        loss = StepLoss((1 - share) * (0.5 * ce + 0.5 * dice), {"loss_ce": ce, "loss_dice": dice})
        return loss.plus("consistency", consistency, share)

    @torch.no_grad()
    def taught(self, other: str, image: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the other network's classes of images (U, C, ...), and a mask, 1.0 where it is
        certain, (U, ...) each.

        The entropy of eight noisy predictions is compared with the threshold of UA-MT.
        """
        pseudo_label = hard_pseudo_label(self.call(other, image))
        mean = monte_carlo_probabilities(lambda x: self.call(other, x), image, passes=4)
        threshold = uncertainty_threshold(step, self.steps)
        self.log("threshold", threshold)
        return pseudo_label, (entropy(mean) < threshold).float()

    def label_weights(self, batch: Batch, step: int) -> Tensor:
        """Return the weight of each voxel's label, (L, ...): a power of its distance to the
        annotated slice; 0 outside of the volume.

        Without distances (complete labels) all voxels have the weight 1.
        """
        if "distance" not in batch:
            return torch.ones(batch["label"].shape, device=batch["label"].device)
        distance = batch["distance"].float() - 1
        weight = self.weight_decay(step) ** distance
        return torch.where(distance < 0, torch.zeros_like(weight), weight)

    def weight_decay(self, step: int) -> float:
        """Return the factor by which a label's weight falls per voxel: 0.95 at first, then along a
        cosine in steps of 1 000 iterations."""
        rounds = self.time.step(step) // DECAY_STEPS
        if rounds == 0:
            return FIRST_DECAY
        epoch = rounds * DECAY_STEPS // STEPS_PER_EPOCH
        return 0.5 * (math.cos(math.pi * epoch / DECAY_EPOCHS) + 1)


def weighted_ce(prediction: Prediction, truth: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted cross entropy of each sample, mean over samples; truth (N, K, ...),
    weight (N, ...).

    As published, the weights are counted once for every class, next to a smoothing term.
    """
    classes = truth.shape[1]
    likelihood = (prediction.log_probabilities * truth).sum(1) * weight
    total = classes * likelihood.flatten(1).sum(1) - SMOOTH
    return -(total / (classes * weight.flatten(1).sum(1) + SMOOTH)).mean()


METHOD = Method(
    title="DeSCO",
    options=Options,
    presets={
        **SGD_PRESETS,
        "exp": "desco",
        "lr_schedule": "two_drops",
        "max_iterations": PUBLISHED_ITERATIONS[3],
        "batch_size": 4,
        "labeled_bs": 2,
        "select": "last",
    },
    required={
        "labels": "learns from two annotated slices of a volume, not from whole labels; train it "
        "with code/CoGRNet_train.py (LA, KiTS19, LiTS or own volumes)"
    },
    distances=True,
    stages=(StageSpec(DeSCO),),
)
