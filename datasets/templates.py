"""What 2-D and what 3-D data sets share: a data set is one of these with its own description,
defaults and exceptions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

from dataloaders.augment import SpatialDraw, VolumeAugmentation, resize, turn_or_rotate
from dataloaders.dataset_info import DatasetInfo
from dataloaders.samples import ReadSamples
from dataloaders.slices import Slices, first_patients
from dataloaders.two_stream import StreamSampler, TwoPassSampler, TwoStreamSampler
from dataloaders.volumes import CacheKind, CoarsePatches, VolumePatches, first_cases
from datasets.base import DatasetSpec, labelled_folder
from datasets.prepare.published import PublishedPreparation
from datasets.published_tags import ACDC_TAGS, COGRNET_TAGS, LA_TAGS
from evaluation.slices import SlicePredictor
from evaluation.sliding_window import VolumePredictor, check_stride
from methods.copy_paste import Pasting
from methods.registry import METHODS
from training.config import AnyConfig, DataOptions
from utils.losses import Term, dice_2d, dice_3d
from utils.pseudo_label import class_pseudo_label


@dataclass(frozen=True)
class SliceOptions(DataOptions):
    """Settings of data sets that are trained slice by slice."""

    dice_background: Literal["unmasked", "masked"] = "unmasked"
    """Dice loss of the background. unmasked: over the whole image, as in the edge-guided code.
    masked: only in its part of the copy-paste mask, like the other classes, as in BCP's code.
    """
    cache: Literal["ram", "device"] = "ram"
    """Where training slices are kept. ram: in main memory. device: on the GPU (ACDC 0.3 GiB), which
    then makes the same batches itself.
    """


@dataclass(frozen=True)
class VolumeOptions(DataOptions):
    """Settings of data sets that are trained on patches of volumes."""

    val_stride: tuple[int, ...] = (18, 18, 4)
    """Stride of the sliding window in validation, in voxels per axis (--stride, the name in
    the test scripts, means the same). Larger strides are faster.
    """
    cache: CacheKind = "ram"
    """Where training volumes are kept. ram: in main memory. device: on the GPU (LA 0.7 GiB), which
    then makes the same batches itself. none: a volume is read each time it is drawn.
    """

    def check(self) -> None:
        """Raise UserError for a stride that cannot be used."""
        check_stride(self.val_stride, "val_stride")


@dataclass(frozen=True)
class TwoSliceOptions(VolumeOptions):
    """Settings of data sets with two annotated slices per labelled volume."""

    labels: Literal["coarse", "dense"] = "coarse"
    """coarse: labels that code/CoGRNet_register.py made from two slices per volume. dense: the
    complete labels of the same volumes, as an upper bound.
    """
    streams: Literal["independent", "shared"] = "independent"
    """independent: two loaders that shuffle independently, as published. shared: one shuffle; the
    two halves of each batch are the streams, so that no volume is in both at once.
    """
    loop_lengths: Literal["published_run", "published_text"] = "published_run"
    """Length of stages for which pre_iterations or max_iterations is 0. published_text: 2 000 and
    10 000, as the published code writes. published_run: where its loops, which count every
    iteration twice, really stop (5 labelled volumes: 1 001 and 5 001).
    """


def slice_predictor(
    patch_size: Sequence[int], stride: Sequence[int], device: torch.device, **unused: object
) -> SlicePredictor:
    """Make the predictor of slices, which has neither a stride nor a filter of components."""
    height, width = patch_size
    return SlicePredictor((height, width), device)


def patches(
    patch_size: tuple[int, ...], labelled: VolumeAugmentation, unlabelled: VolumeAugmentation
) -> tuple[tuple[SpatialDraw, ...], tuple[SpatialDraw, ...]]:
    """The spatial augmentations of labelled and unlabelled volumes, cropped to the patch size."""
    labelled = replace(labelled, patch_size=patch_size)
    unlabelled = replace(unlabelled, patch_size=patch_size)
    return (labelled.draw,), (unlabelled.draw,)


def slices(*, info: DatasetInfo, **options: Any) -> DatasetSpec:
    """A data set that is trained slice by slice.

    `options` are fields of `DatasetSpec` that replace the values here.
    """
    defaults = DatasetSpec(
        info=info,
        counted="slices",
        cases=first_patients,
        data=lambda config: Slices,
        spatial=_slice_augmentation,
        dice=_slice_dice,
        pasting=Pasting("mix", unlabelled_outside=(True, False), pseudo_label=class_pseudo_label),
        ema_scope="state",
        keeps_optimizer=True,
        options=SliceOptions,
        predictor=slice_predictor,
        published_tags=ACDC_TAGS,
        folder=labelled_folder("BCP", info.name),
    )
    return replace(defaults, **options)


def volumes(*, info: DatasetInfo, **options: Any) -> DatasetSpec:
    """A data set that is trained on patches of volumes and predicted by a sliding window; `options`
    as in `slices`.
    """
    augmentation = VolumeAugmentation((), spare=3)
    defaults = DatasetSpec(
        info=info,
        cases=first_cases,
        data=lambda config: partial(VolumePatches, cache=config.data.cache),
        spatial=partial(patches, labelled=augmentation, unlabelled=augmentation),
        dice=lambda options: dice_3d,
        pasting=Pasting(
            "whole",
            unlabelled_outside=(False, True),
            pseudo_label=partial(class_pseudo_label, connectivity=26),
        ),
        options=VolumeOptions,
        predictor=VolumePredictor,
        published_tags=LA_TAGS,
        stride=(18, 18, 4),
        folder=labelled_folder("BCP", info.name),
    )
    return replace(defaults, **options)


def two_slices(
    *,
    info: DatasetInfo,
    patch_size: tuple[int, ...],
    preparation: type[PublishedPreparation] | None = None,
) -> DatasetSpec:
    """A data set with two annotated slices per labelled volume, as CoGRNet uses it."""
    augmentation = VolumeAugmentation((), spare=3, crop_first=True)
    return volumes(
        info=info,
        script=("code/CoGRNet_register.py", "--dataset", info.name),
        preparation=preparation,
        data=_two_slice_data,
        sampler=_two_slice_sampler,
        spatial=partial(patches, labelled=augmentation, unlabelled=augmentation),
        options=TwoSliceOptions,
        defaults={
            "exp": "CoGRNet",
            "method": "cogrnet",
            "model": "VNet",
            "labelnum": 5,
            "pre_iterations": 0,
            "max_iterations": 0,
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
        published_tags=COGRNET_TAGS,
        commands="CoGRNet",
        test_defaults={"exp": "CoGRNet", "labelnum": 5, "model": "VNet", "which": "both"},
        folder=labelled_folder("CoGRNet", info.name),
    )


def published_lengths(config: AnyConfig) -> AnyConfig:
    """Replace a stage length of 0 by the published one.

    The published loops stop after half of the iterations that they count. An epoch of E steps
    counts 2 E, one E per loader, and whole epochs run until the written length is passed (5
    labelled volumes, 4 per batch: 1 001 and 5 001 iterations).
    """
    experiment = config.experiment
    pre_iterations = experiment.pre_iterations or _published_length(config, written=2_000)
    max_iterations = experiment.max_iterations or _published_length(config, written=10_000)
    experiment = replace(experiment, pre_iterations=pre_iterations, max_iterations=max_iterations)
    return replace(config, experiment=experiment)


def _published_length(config: AnyConfig, written: int) -> int:
    """Iterations of a stage whose published length is written as `written`."""
    if config.data.loop_lengths == "published_text":
        return written
    epoch = max(config.experiment.labelnum // config.data.labeled_bs, 1)
    epochs = written // (2 * epoch) + 1
    return epochs * epoch


def _slice_augmentation(
    patch_size: tuple[int, ...],
) -> tuple[tuple[SpatialDraw, ...], tuple[SpatialDraw, ...]]:
    """The spatial augmentations of labelled and of unlabelled slices, which are the same."""
    height, width = patch_size
    # its transforms take only arrays: slices on the GPU go through the index lists that Picks makes
    # of them
    augmentation = (turn_or_rotate, resize((height, width)))
    return augmentation, augmentation


def _slice_dice(options: SliceOptions) -> Term:
    return partial(dice_2d, mask_background=options.dice_background == "masked")


def _two_slice_data(config: AnyConfig) -> ReadSamples:
    if config.data.labels == "coarse":
        distances = METHODS[config.experiment.method].distances
        return partial(CoarsePatches, cache=config.data.cache, distances=distances)
    return partial(VolumePatches, cache=config.data.cache)


def _two_slice_sampler(config: AnyConfig) -> type[StreamSampler]:
    if config.data.streams == "independent":
        return TwoPassSampler
    return TwoStreamSampler
