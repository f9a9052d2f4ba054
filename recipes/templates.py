"""What 2-D and what 3-D data sets share; a page is one of these with its own facts, numbers and exceptions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from dataloaders.augment import VolumeAugmentation, resize, turn_or_rotate
from dataloaders.facts import DatasetFacts
from dataloaders.slices import Slices, first_patients
from dataloaders.two_stream import TwoPassSampler, TwoStreamSampler
from dataloaders.volumes import CacheKind, CoarsePatches, VolumePatches, first_cases
from methods.copy_paste import Pasting
from recipes.page import Page, labelled_folder
from training.evaluate import SlicePredictor
from training.sliding import VolumePredictor, check_stride
from utils.losses import dice_2d, dice_3d
from utils.pseudo_label import class_pseudo_label


@dataclass(frozen=True)
class SliceOptions:
    dice_background: Literal["unmasked", "masked"] = "unmasked"
    """Dice loss of the background: over the whole image, as the edge-guided code has it, or like the other classes where its part of
    the copy-paste mask is, as BCP's has it."""
    cache: Literal["ram", "device"] = "ram"
    """Where the training slices are kept; device: on the GPU (ACDC 0.3 GiB), which then makes the same batches without the host."""


@dataclass(frozen=True)
class VolumeOptions:
    val_stride: tuple[int, ...] = (18, 18, 4)
    """Steps of the sliding window in validations; larger ones are faster."""
    cache: CacheKind = "ram"
    """ram: read every volume once; device: the same, and keep them on the GPU (LA 0.7 GiB), which then makes the same batches without the
    host; none: read at every draw."""

    def check(self) -> None:
        check_stride(self.val_stride, "val_stride")


@dataclass(frozen=True)
class TwoSliceOptions:
    labels: Literal["coarse", "dense"] = "coarse"
    """coarse: what code/CoGRNet_register.py made of two slices per volume; dense: the whole labels of the same volumes, the upper bound."""
    streams: Literal["independent", "shared"] = "independent"
    """independent: two loaders that each shuffle for themselves, as published; shared: one shuffle whose batches' halves are the two
    streams, so that no volume is in both at once."""
    lengths: Literal["published_run", "published_text"] = "published_run"
    """Length of the stages where pre_iterations and max_iterations do not say: published_text: 2 000 and 10 000 as written;
    published_run: where the published loops, which count every iteration twice, really stop (5 labelled volumes: 1 001 and 5 001)."""
    pre_iterations: int = 0
    """Length of pre-training, in iterations; 0: as --lengths has it."""
    max_iterations: int = 0
    """Length of self-training, in iterations; 0: as --lengths has it."""


def slice_predictor(
    patch_size: Sequence[int], stride: Sequence[int], device: torch.device, **volumes_alone
) -> SlicePredictor:
    """Slices need neither stride nor component filter."""
    return SlicePredictor(tuple(patch_size), device)


def patches(
    patch_size: tuple[int, ...], labelled: VolumeAugmentation, unlabelled: VolumeAugmentation
) -> tuple:
    return tuple(
        (replace(augmentation, patch_size=patch_size).draw,)
        for augmentation in (labelled, unlabelled)
    )


def slices(*, facts: DatasetFacts, **own) -> Page:
    """A data set whose slices are learnt one by one; `own` are the page's own keywords of `Page`."""
    return Page(
        facts=facts,
        **{
            "counted": "slices",
            "cases": first_patients,
            "data": lambda settings: Slices,
            "spatial": lambda patch_size: 2 * ((turn_or_rotate, resize(patch_size)),),
            "dice": lambda settings: partial(
                dice_2d, mask_background=settings.dice_background == "masked"
            ),
            "pasting": Pasting(
                "mix", unlabelled_outside=(True, False), pseudo_label=class_pseudo_label
            ),
            "ema_scope": "state",
            "keeps_optimizer": True,
            "options": (SliceOptions,),
            "predictor": slice_predictor,
            "folder": labelled_folder("BCP", facts.name),
            **own,
        },
    )


def volumes(*, facts: DatasetFacts, **own) -> Page:
    """A data set of volumes, learnt in patches and predicted by a sliding window; `own` as in `slices`."""
    both = VolumeAugmentation((), spare=3)
    return Page(
        facts=facts,
        **{
            "cases": first_cases,
            "data": lambda settings: partial(VolumePatches, cache=settings.cache),
            "spatial": partial(patches, labelled=both, unlabelled=both),
            "dice": lambda settings: dice_3d,
            "pasting": Pasting(
                "whole",
                unlabelled_outside=(False, True),
                pseudo_label=partial(class_pseudo_label, connectivity=26),
            ),
            "options": (VolumeOptions,),
            "predictor": VolumePredictor,
            "stride": (18, 18, 4),
            "folder": labelled_folder("BCP", facts.name),
            **own,
        },
    )


def two_slices(*, facts: DatasetFacts, patch_size: tuple[int, ...]) -> Page:
    """A data set of which two slices per labelled volume are annotated, as CoGRNet has it (spec: CoGRNet)."""
    both = VolumeAugmentation((), spare=3, crop_first=True)
    return volumes(
        facts=facts,
        data=lambda settings: partial(
            CoarsePatches if settings.labels == "coarse" else VolumePatches, cache=settings.cache
        ),
        sampler=lambda settings: (
            TwoPassSampler if settings.streams == "independent" else TwoStreamSampler
        ),
        spatial=partial(patches, labelled=both, unlabelled=both),
        options=(TwoSliceOptions, VolumeOptions),
        numbers={
            "exp": "CoGRNet",
            "method": "cogrnet",
            "model": "VNet",
            "labelnum": 5,
            "patch_size": patch_size,
            "batch_size": 8,
            "labeled_bs": 4,
            "lr_schedule": "step",
            "lr_drop_every": 2_500,
            "select": "test",
        },
        methods={"edge_guided": {"exp": "edge_guided"}},
        settled=published_lengths,
        rounded_best=("cogrnet",),
        commands="CoGRNet",
        test_numbers={"exp": "CoGRNet", "labelnum": 5, "model": "VNet", "which": "both"},
        folder=labelled_folder("CoGRNet", facts.name),
    )


def published_lengths(settings):
    """The settings with the published length for each stage whose own is 0.

    The published loops end when they have made half of the iterations that they count: an epoch of E steps adds 2 E, one E per loader,
    and whole epochs are made until `length` is passed (5 labelled volumes, 4 per batch: 1 001 and 5 001).
    """
    epoch = max(settings.labelnum // settings.labeled_bs, 1)

    def length(own: int, text: int) -> int:
        return own or (
            text if settings.lengths == "published_text" else (text // (2 * epoch) + 1) * epoch
        )

    return replace(
        settings,
        pre_iterations=length(settings.pre_iterations, 2_000),
        max_iterations=length(settings.max_iterations, 10_000),
    )
