"""Methods against recorded iterations of their published codes (tests/vectors/methods/README.md).

A row of `CASES` says how a method is set up for a vector; tests/method_vectors.py explains its
fields.
"""

import itertools
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from helpers import LOSS_BCP
from method_vectors import (
    Clock,
    MethodVector,
    Recording,
    assert_losses_as_published,
    assert_passes_as_published,
    assert_rates_as_published,
    assert_selection_as_published,
    assert_weights_as_published,
    noise,
    plain_vnet,
    record,
)
from reference import fill_module
from torch import Tensor, nn

from dataloaders import coarse
from methods import (
    abd,
    ad_mt,
    cps,
    desco,
    dtc,
    mc_net,
    mean_teacher,
    sdcl,
    ss_net,
    ua_mt,
    unimatch,
    urpc,
)
from methods.copy_paste import CopyPaste
from methods.helpers import boxes_around
from networks.contrast import ContrastiveHeads
from networks.net_factory_ega import net_factory
from networks.net_factory_la_ega import net_factory as net_factory_la
from utils.losses import Loss, dice_2d, dice_3d
from utils.schedules import poly, poly_late, step

SSL4MIS_LOSS = Loss({"dice_squared": 0.5, "ce": 0.5}, dice_2d)
SUPERVISED = {"loss": "loss", "loss_ce": "loss_ce", "loss_dice": "loss_dice_squared"}
CONSISTENCY = {"consistency": "loss_consistency", "weight": "consistency_weight"}


def urpc_draws(patch: pytest.MonkeyPatch, clock: Clock) -> None:
    """The share of the largest activity, and the relative noise over one sample's features."""

    def kept_activity(x: Tensor) -> float:
        return 0.7 + 0.02 * ((7 * clock.iteration) % 10)

    def relative_noise(x: Tensor) -> Tensor:
        entries = torch.arange(x[0].numel(), dtype=torch.float64)
        return (0.3 * torch.sin(entries + clock.iteration)).reshape(x.shape[1:]).to(x.dtype)

    patch.setattr("networks.urpc.kept_activity", kept_activity)
    patch.setattr("networks.urpc.relative_noise", relative_noise)


def unimatch_draws(patch: pytest.MonkeyPatch, clock: Clock) -> None:
    """The two strong views, in the order in which the method makes them, and the boxes of both."""
    exponents = itertools.cycle([0.8, 1.25])

    def cutmix_boxes(shape: torch.Size, seed: tuple[int, ...], device: torch.device) -> Tensor:
        view = 1 + seed[-1]
        mask = torch.zeros(shape[0], *shape[2:])
        for k in range(shape[0]):
            row = (7 * clock.iteration + 5 * k + 3 * view) % 48
            column = (11 * clock.iteration + 9 * k + 2 * view) % 48
            if (k + view) % 2:
                mask[k, row : row + 48, column : column + 48] = 1
        return mask

    patch.setattr("methods.unimatch.strong_view", lambda image: image ** next(exponents))
    patch.setattr("methods.unimatch.cutmix_boxes", cutmix_boxes)


def mc_net_vector(decoders: int) -> MethodVector:
    return MethodVector(
        stage=mc_net.MCNet,
        options=mc_net.Options(consistency_rampup=3, lengths="published"),
        names={"loss": "loss", "loss_dice": "loss_half_dice", **CONSISTENCY},
        loss=Loss({"half_dice": 1.0}, dice_2d),
        build=lambda: net_factory("unet_mcnet", decoders=decoders),
    )


CASES = {
    "mt_2d": MethodVector(
        stage=mean_teacher.MeanTeacher,
        options=mean_teacher.Options(
            consistency_rampup=3, consistency_start=2, lengths="published"
        ),
        names={**SUPERVISED, **CONSISTENCY},
        networks={"student": "student", "teacher": "ema_teacher"},
        loss=SSL4MIS_LOSS,
        schedule=poly_late,
    ),
    "uamt_2d": MethodVector(
        stage=ua_mt.UncertaintyAwareMeanTeacher,
        options=ua_mt.Options(consistency_rampup=3, lengths="published"),
        names={**SUPERVISED, **CONSISTENCY},
        networks={"student": "student", "teacher": "ema_teacher"},
        loss=SSL4MIS_LOSS,
        sharper=4,
        base_lr=0.003,
        schedule=poly_late,
        noise_number=lambda iteration, draw: 5 * iteration + draw,
    ),
    "cps_2d": MethodVector(
        stage=cps.CrossPseudoSupervision,
        options=cps.Options(consistency_rampup=3, lengths="published"),
        names={
            "loss": "loss_student",
            "loss_2": "loss_other",
            "weight": "consistency_weight",
            "pseudo_1": "loss_pseudo_student",
            "pseudo_2": "loss_pseudo_other",
        },
        networks={"student": "student", "student_2": "other"},
        loss=SSL4MIS_LOSS,
        schedule=poly,
    ),
    "urpc_2d": MethodVector(
        stage=urpc.UncertaintyRectifiedPyramid,
        options=urpc.Options(consistency=10.0, consistency_rampup=3, lengths="published"),
        names={
            "loss": "loss",
            "loss_ce": "finest_ce",
            "loss_dice": "finest_dice_squared",
            **CONSISTENCY,
        },
        loss=SSL4MIS_LOSS,
        build=lambda: net_factory("unet_urpc"),
        schedule=poly_late,
        patches=urpc_draws,
    ),
    "unimatch_2d": MethodVector(
        stage=unimatch.UniMatch,
        options=unimatch.Options(),
        names={
            "loss": "loss",
            "supervised": "loss_supervised",
            "loss_s1": "loss_strong_1",
            "loss_s2": "loss_strong_2",
            "feature": "loss_feature",
            "mask_ratio": "confident",
            "kept_s1": "confident_1",
        },
        loss=SSL4MIS_LOSS,
        build=lambda: net_factory("unet_unimatch"),
        sharper=6,
        base_lr=0.003,
        schedule=poly_late,
        patches=unimatch_draws,
    ),
    "mcnet_v1_2d": mc_net_vector(decoders=2),
    "mcnet_v2_2d": mc_net_vector(decoders=3),
}

CASES["dtc_la"] = MethodVector(
    stage=dtc.DualTask,
    options=dtc.Options(consistency=1.0, consistency_rampup=2, lengths="published"),
    names={
        "loss": "loss",
        "loss_dice": "loss_dice_foreground",
        "loss_sdf": "loss_distance",
        **CONSISTENCY,
    },
    loss=Loss({"dice_foreground": 1.0}, dice_3d),
    build=lambda: net_factory_la("VNet_dtc"),
    schedule=partial(step, every=4),
)


def powered(image, clock):
    """The README's strong view: x^0.8 in even iterations, x^1.25 in odd ones."""
    return image ** (1.25 if clock.iteration % 2 else 0.8)


def shifted(image, clock):
    """The README's strong view of volumes: 0.9 x + 0.1 in even iterations, 0.9 x - 0.1 in odd ones."""
    return 0.9 * image + (-0.1 if clock.iteration % 2 else 0.1)


def fixed_boxes(patch, clock):
    """The README's copy-paste box: side 64 of 96, first corner ((7 t) mod 32, (11 t) mod 32)."""
    patch.setattr(CopyPaste, "corner", lambda self, shape, step: (7 * step % 32, 11 * step % 32))


def abd_patches(patch, clock):
    """The nearest of four patches for every second image."""
    fixed_boxes(patch, clock)
    patch.setattr("methods.abd.strong_view", lambda image: powered(image, clock))
    nearest = torch.tensor([True, False, True, False])
    patch.setattr(abd.ABD, "draw_nearest", lambda self, image: nearest)


CASES["abd_bcp_2d"] = MethodVector(
    stage=abd.ABD,
    options=abd.Options(),
    names={
        "loss": "loss",
        "loss_1": "loss_student",
        "loss_2": "loss_other",
        "mix_dice_1": "loss_dice",
        "mix_ce_1": "loss_ce",
        "mix_dice_2": "loss_dice_other",
        "mix_ce_2": "loss_ce_other",
        "cross_1": "loss_cross",
        "cross_2": "loss_cross_other",
        "cross_3": "loss_displaced",
        "cross_4": "loss_displaced_other",
    },
    networks={"student": "student", "student_2": "other", "teacher": "ema_teacher"},
    base_lr=0.003,
    patches=abd_patches,
    # One class has few pixels in the second network's prediction: a pixel that rounding moves to
    # another class changes this loss by 1e-4. In float64 it agrees to 3e-5 in the second iteration.
    exact={"cross_1": 1},
)

SDCL_MIXES = {
    f"net{net}_{theirs}_loss_{part}": f"loss_{ours}_{number}{suffix}"
    for net, suffix in ((1, ""), (2, "_other"))
    for theirs, ours in (("mse", "difference"), ("kl", "entropy"))
    for number, part in enumerate(("lab", "unlab"))
}
CASES["sdcl_2d"] = MethodVector(
    stage=sdcl.SDCL,
    options=sdcl.Options(),
    names={
        "loss": "loss_student",
        "loss_2": "loss_other",
        "mix_dice": "loss_dice",
        "mix_ce": "loss_ce",
        "mix_dice_2": "loss_dice_other",
        "mix_ce_2": "loss_ce_other",
        "differ_share": "differing",
        **SDCL_MIXES,
    },
    networks={
        "student": "student",
        "student_2": "other",
        "teacher": "ema_teacher",
        "mean of both": "mean",
    },
    loss=LOSS_BCP,
    base_lr=0.0001,
    optimizer=torch.optim.Adam,
    weight_decay=0.0,
    patches=fixed_boxes,
    # Adam's first steps multiply rounding: 9e-5 in the last iteration. In float64 the first
    # student's loss is within 2e-5, the second student's within 1.5e-4.
    exact={"loss": 7},
)


def admt_patches(patch, clock, dims, strong):
    """Turns of 2 iterations; boxes of half a side around the README's centres, each from the next
    image.
    """
    patch.setattr(ad_mt.Turns, "number", lambda self, step: step // 2)
    patch.setattr("methods.ad_mt.strong_view", lambda image: strong(image, clock))

    def draw_boxes(self, image):
        side = image.shape[-1]
        smallest, range_ = side // 8, side - side // 8
        factors = ((7, 5), (11, 9), (13, 3))[:dims]
        k = torch.arange(4)
        t = clock.iteration
        centres = [smallest + (a * t + b * k) % range_ for a, b in factors]
        return boxes_around(centres, image.shape[2:], mixing=torch.tensor(0.75))

    patch.setattr(ad_mt.ADMT, "draw_boxes", draw_boxes)
    patch.setattr(ad_mt.ADMT, "draw_partners", lambda self, image: torch.tensor([1, 2, 3, 0]))


ADMT_NAMES = {
    "loss": "loss",
    "supervised": "loss_supervised",
    "unsupervised": "loss_unsupervised",
    "weight": "consistency_weight",
    "kept": "kept",
    "kept_before_compromise": "kept_before",
    "teachers_differ": "conflict",
}
ADMT_NETWORKS = {name: name for name in ("student", "teacher_a", "teacher_b")}
CASES["admt_2d"] = MethodVector(
    stage=ad_mt.ADMT,
    options=ad_mt.Options(consistency_rampup=1, lengths="published"),
    names=ADMT_NAMES,
    networks=ADMT_NETWORKS,
    loss=SSL4MIS_LOSS,
    sharper=6.0,
    base_lr=0.001,
    schedule=poly_late,
    patches=partial(admt_patches, dims=2, strong=powered),
)
CASES["admt_la"] = MethodVector(
    stage=ad_mt.ADMT,
    options=ad_mt.Options(consistency_rampup=1, confidence=0.8, lengths="published"),
    names=ADMT_NAMES,
    networks=ADMT_NETWORKS,
    loss=SSL4MIS_LOSS,
    build=plain_vnet,
    sharper=4.0,
    base_lr=0.001,
    schedule=poly_late,
    patches=partial(admt_patches, dims=3, strong=shifted),
)


def ss_net_draws(patch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Heads filled by name, and the start of the search for an adversarial direction: 0.5
    sin(k + t).
    """

    def heads(features: int, class_num: int) -> nn.Module:
        module = ContrastiveHeads(features, class_num)
        fill_module(module, "")
        return module

    def direction(image: Tensor) -> Tensor:
        return 0.2 * noise(image, clock.iteration)  # 2.5 sin(k + t)

    patch.setattr(ss_net, "ContrastiveHeads", heads)
    patch.setattr(ss_net, "random_direction", direction)


CASES["ssnet_2d"] = MethodVector(
    stage=ss_net.SSNet,
    options=ss_net.Options(consistency_rampup=3, lengths="published"),
    names={
        "loss": "loss",
        "loss_dice": "loss_dice",
        "vat": "loss_vat",
        "contrast_labelled": "loss_contrast_labelled",
        "contrast_unlabelled": "loss_contrast_unlabelled",
        "correct_foreground": "correct_foreground",
        "weight": "consistency_weight",
    },
    heads=(ss_net.HEADS,),
    unused=("contrastive_class_selector_memory",),
    loss=Loss({"dice": 1.0}, dice_2d),
    patches=ss_net_draws,
)


def two_slice_batch(batch):
    """DeSCO's batch: both networks see the same images; the second one's label is the first one's,
    rolled by 4 along the last axis.
    """
    labelled, unlabelled = batch["image"].chunk(2)
    label = batch["label"]
    shape = tuple(label.shape[1:])
    first = coarse.Annotation(axis=2, index=21, mask=np.zeros((48, 48)))
    second = coarse.Annotation(axis=1, index=24, mask=np.zeros((48, 48)))
    distances = [
        torch.from_numpy(coarse.slice_distance(shape, drawn, other)).expand(4, *shape)
        for drawn, other in ((first, second), (second, first))
    ]
    return {
        "image": torch.cat([labelled, labelled, unlabelled, unlabelled]),
        "label": torch.cat([label, label.roll(4, -1)]),
        "distance": torch.cat(distances),
    }


CASES["desco_la"] = MethodVector(
    stage=desco.DeSCO,
    options=desco.Options(consistency_rampup=2, lengths="published"),
    names={
        "loss": "loss_student",
        "loss_2": "loss_other",
        "loss_ce (2nd network)": "loss_ce_other",
        "loss_dice (2nd network)": "loss_dice_other",
        "consistency (2nd network)": "loss_consistency_other",
        "mask_share (2nd network)": "certain_other",
        "weight": "consistency_weight",
        "threshold": "threshold",
    },
    networks={"student": "student", "student_2": "other"},
    build=plain_vnet,
    sharper=4.0,
    schedule=partial(step, every=4),
    # of ten draws per iteration the first and the sixth are not used
    noise_number=lambda iteration, draw: 10 * iteration + draw + (1 if draw < 4 else 2),
    prepared=two_slice_batch,
)


@dataclass
class Trained:
    """A vector that was run, and what the loop did."""

    name: str
    vector: MethodVector
    recording: Recording


LONG = ("admt_la", "desco_la")
"""Vectors that take more than half a minute."""
PARAMETERS = [
    pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in CASES
]


@pytest.fixture(scope="module", params=PARAMETERS)
def trained(request, tmp_path_factory) -> Trained:
    name = request.param
    vector = CASES[name]
    return Trained(name, vector, record(name, vector, tmp_path_factory.mktemp(name)))


def test_losses_are_the_published_ones(trained):
    assert_losses_as_published(trained.name, trained.vector, trained.recording)


def test_weights_at_the_end_are_the_published_ones(trained):
    assert_weights_as_published(trained.name, trained.vector, trained.recording)


def test_passes_have_the_published_order_and_mode(trained):
    assert_passes_as_published(trained.name, trained.recording)


def test_learning_rates_are_the_published_ones(trained):
    assert_rates_as_published(trained.name, trained.recording)


def test_the_selected_network_is_validated_and_kept_as_published(trained):
    assert_selection_as_published(trained.name, trained.vector, trained.recording)
