"""Own data, prepared by prepare_data.py: the description of the data set follows from the plan in
its folder.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dataloaders.dataset_info import DatasetInfo
from dataloaders.hdf5 import list_lines
from dataloaders.plan import Plan
from dataloaders.samples import ReadSamples
from dataloaders.slices import Slices, first_patients
from dataloaders.splits import case_of_slice
from dataloaders.volumes import VolumePatches
from datasets.acdc import DATASET as ACDC
from datasets.base import DatasetSpec, unchanged
from datasets.la import DATASET as LA
from datasets.registry import all_datasets
from datasets.templates import (
    SliceOptions,
    TwoSliceOptions,
    VolumeOptions,
    slices,
    two_slices,
    volumes,
)
from methods.registry import METHODS
from training.config import HALF_DICE, AnyConfig, DataOptions
from utils.errors import UserError

STEP = 16  # the networks halve an image four times
# Smallest side of a patch, by dimensions: the edge-guided U-Net takes no smaller slices, which are
# resized to the patch.
SMALLEST = {2: 80, 3: 16}
TAKEN = (
    "exp",
    "model",
    "batch_size",
    "labeled_bs",
    "pre_iterations",
    "max_iterations",
    "base_lr",
    "weight_decay",
    "pre_weight_decay",
)
SCHEDULE = (
    "lr_schedule",
    "lr_drop_every",
    "box_end",
    "static_start",
    "static_step",
    "static_range",
)

ONE_CLASS_LOSS = (("dice_present", 0.5), ("ce", 0.5))
MANY_CLASSES_LOSS = (("dice_present", 1.0), ("ce_sqrt", 1.0))
MANY_CLASSES_3D = {
    "base_lr": 0.05,
    "lr_schedule": "poly",  # at a constant rate, successive validations find different classes
    "pre_lr_schedule": "poly",
    "lr_drop_every": 0,
    # Self-training takes several losses in a step, half of them on pseudo labels: at the rate of
    # pre-training it forgets what pre-training has found.
    "losses": (("dice_present", 0.1), ("ce_sqrt", 0.1)),
    "has_dropout": False,  # it drops half of 16 channels, too many to tell the classes apart
}
"""Numbers of volumes with several foreground classes; measured in docs/results/own.md."""


@dataclass(frozen=True)
class OwnOptions(DataOptions):
    """Settings of own data."""

    dims: Literal[2, 3] = 3
    """Dimensions that the data were prepared for: slices (2) or volumes (3)."""


@dataclass(frozen=True)
class OwnWholeLabelOptions(OwnOptions):
    """Settings of own data whose labelled cases are labelled as a whole."""

    foreground_sampling: float = 0.33
    """Share of the labelled samples that are drawn for a class. The class is drawn uniformly, so
    that rare classes are drawn as often as large ones, and the patch (with --dims 2 the slice)
    contains this class. 0: none, as in the published codes.
    """

    def check(self) -> None:
        """Raise UserError for a share that is none."""
        if not 0 <= self.foreground_sampling <= 1:
            raise UserError(
                f"--foreground_sampling {self.foreground_sampling}: is a share; choose a number "
                "between 0 and 1"
            )


@dataclass(frozen=True)
class OwnSliceOptions(OwnWholeLabelOptions, SliceOptions):
    """Settings of own data that are trained slice by slice."""


@dataclass(frozen=True)
class OwnVolumeOptions(OwnWholeLabelOptions, VolumeOptions):
    """Settings of own data that are trained on patches of volumes."""


@dataclass(frozen=True)
class OwnTwoSliceOptions(OwnOptions, TwoSliceOptions):
    """Settings of own data with two annotated slices per labelled volume."""


def own_dataset(plan: Plan, root: Path) -> DatasetSpec:
    """Describe the prepared data in `root`.

    The first `--labelnum` cases of train.list are labelled (default: all). The other ones and those
    of unlabelled.list are not. Numbers are those of ACDC for slices and of LA for volumes, with
    their patch reduced to the data. The best checkpoint is selected on val.list.
    """
    if plan.dims == 2:
        return _own_slices(plan, root)
    return _own_volumes(plan, root)


def _own_slices(plan: Plan, root: Path) -> DatasetSpec:
    return slices(
        info=info(plan, root),
        cases=partial(first_patients, patient=case_of_slice),
        data=_slice_data,
        plan=plan.as_dict(),
        options=OwnSliceOptions,
        settled=partial(_check_dims, plan.dims),
        defaults=_own_defaults(plan, root, like=ACDC),
        methods=_own_methods(ACDC.methods, plan),
        test_defaults={"model": ACDC.defaults["model"], "labelnum": _train_cases(plan, root)},
    )


def _own_volumes(plan: Plan, root: Path) -> DatasetSpec:
    defaults = _own_defaults(plan, root, like=LA)
    stride = tuple(side // 2 for side in defaults["patch_size"])
    defaults["val_stride"] = stride
    if plan.classes > 2:
        defaults.update(MANY_CLASSES_3D)
    methods: dict[str, dict[str, Any]] = {
        "bcp": {"pre_weight_decay": 1e-4},
        "pseudo_label": {"pre_weight_decay": 1e-4},
        "ua_mt": {"has_dropout": True},  # whose uncertainty comes from dropout
    }
    return volumes(
        info=info(plan, root),
        stride=stride,
        data=_volume_data,
        plan=plan.as_dict(),
        options=OwnVolumeOptions,
        settled=partial(_check_dims, plan.dims),
        defaults=defaults,
        methods=_own_methods(methods, plan),
        test_defaults={"model": LA.defaults["model"], "labelnum": _train_cases(plan, root)},
    )


def _slice_data(config: AnyConfig) -> ReadSamples:
    return partial(Slices, foreground_sampling=config.data.foreground_sampling)


def _volume_data(config: AnyConfig) -> ReadSamples:
    data = config.data
    return partial(VolumePatches, cache=data.cache, foreground_sampling=data.foreground_sampling)


def own_two_slices(plan: Plan, root: Path) -> DatasetSpec:
    """Describe own volumes with two annotated slices per labelled case, for CoGRNet: all classes
    are one object, as in KiTS19.

    Raises UserError for data prepared as slices.
    """
    if plan.dims == 2:
        raise UserError(
            f"{root}: prepared for training on slices, but CoGRNet needs volumes; "
            f"prepare the scans with --dims 3 in another folder"
        )
    one_object = replace(
        info(plan, root),
        class_names=("background", " and ".join(plan.class_names[1:])),
        file_classes=plan.classes,
        foreground=tuple(range(1, plan.classes)),
        planes=((2, "object"), (1, "object")),
    )
    patch = patch_size(plan, (112, 112, 80))
    stride = tuple(side // 2 for side in patch)
    labelled = _train_cases(plan, root)
    dataset = two_slices(info=one_object, patch_size=patch)
    defaults = {
        **dataset.defaults,
        "labelnum": labelled,
        "select": "val",
        "dims": plan.dims,
        "val_stride": stride,
    }
    return replace(
        dataset,
        defaults=defaults,
        test_defaults={**dataset.test_defaults, "labelnum": labelled},
        stride=stride,
        settled=partial(_check_dims, plan.dims, settled=dataset.settled),
        plan=plan.as_dict(),
        options=OwnTwoSliceOptions,
    )


def data_set_name(name: str) -> str:
    """Return the name of own data as folders and records have it."""
    return re.sub(r"[^\w.-]", "_", name) or "own"


def info(plan: Plan, root: Path) -> DatasetInfo:
    """What training has to know about the data, as the plan in `root` records it."""
    part = ""
    slice_file = None
    if plan.dims == 2:
        part = "_slices"
        slice_file = str(Path(plan.slice_file).with_name("{}.h5"))
    unlabelled: str | None = plan.lists[f"unlabelled{part}"]
    if not list_lines(root / unlabelled):
        unlabelled = None
    name = data_set_name(plan.name)
    if name in all_datasets():
        name = f"{name}_own"
    return DatasetInfo(
        name=name,
        class_names=plan.class_names,
        channels=plan.channels,
        dims=plan.dims,
        file=plan.file,
        slice_file=slice_file,
        train_list=plan.lists[f"train{part}"],
        unlabelled_list=unlabelled,
        test_list=plan.lists["test"],
        axes=plan.axes,
    )


def patch_size(plan: Plan, published: tuple[int, ...]) -> tuple[int, ...]:
    """The published patch, no side longer than the median training scan needs, in steps of 16."""
    sides = [plan.median_shape[axis] for axis in plan.stored[3 - plan.dims :]]
    patch = []
    for limit, side in zip(published, sides, strict=True):
        rounded_up = -(-side // STEP) * STEP
        patch.append(min(limit, max(rounded_up, SMALLEST[plan.dims])))
    return tuple(patch)


def _check_dims(
    dims: int, config: AnyConfig, settled: Callable[[AnyConfig], AnyConfig] = unchanged
) -> AnyConfig:
    """Apply `settled`. Raises UserError where --dims is not what the data were prepared with."""
    if config.data.dims != dims:
        raise UserError(
            f"--dims {config.data.dims}: the data were prepared with --dims {dims}; "
            f"prepare them again in another --root_path"
        )
    return settled(config)


def _own_defaults(plan: Plan, root: Path, like: DatasetSpec) -> dict[str, Any]:
    """The defaults of own data: those of the published data set `like`, fitted to the data."""
    names = [name for name in TAKEN + SCHEDULE if name in like.defaults]
    losses = ONE_CLASS_LOSS
    if plan.classes > 2:
        losses = MANY_CLASSES_LOSS
    return {
        **{name: like.defaults[name] for name in names},
        "patch_size": patch_size(plan, like.defaults["patch_size"]),
        "labelnum": _train_cases(plan, root),
        "select": "val",
        "dims": plan.dims,
        "losses": losses,
        "pre_losses": losses,
    }


def _own_methods(methods: Mapping[str, Mapping[str, Any]], plan: Plan) -> dict[str, dict[str, Any]]:
    """Return the values of each method on own data: those in `methods`, the loss that the method
    presets with the terms of own data in place of its own, and for CT no intensity transform that
    changes grey values, which are physical units there.
    """
    values = {name: dict(defaults) for name, defaults in methods.items()}
    for name, method in METHODS.items():
        presets = {**method.presets, **method.presets_of_dims.get(plan.dims, {})}
        losses = presets.get("losses", ())
        if not losses and "base_lr" in presets:
            losses = HALF_DICE  # whose rate the method's own one was chosen for
        if losses:
            terms = [_own_term(term, weight, classes=plan.classes) for term, weight in losses]
            values.setdefault(name, {})["losses"] = tuple(terms)
        intensity = presets.get("intensity", ())
        if "noise" in intensity and _has_ct(plan):
            values.setdefault(name, {})["intensity"] = ("noise",)
    return values


def _has_ct(plan: Plan) -> bool:
    return any(one.scheme == "ct" for one in plan.normalisation)


def _own_term(term: str, weight: float, classes: int) -> tuple[str, float]:
    """Return the term of own data that stands for one of a published loss, and its weight.

    `half_dice` is half of another Dice loss, apart from a constant.
    """
    if term == "half_dice":
        return "dice_present", weight / 2
    if term.startswith("dice"):
        return "dice_present", weight
    if term == "ce" and classes > 2:
        return "ce_sqrt", weight
    return term, weight


def _train_cases(plan: Plan, root: Path) -> int:
    """Number of cases in the training list, at least 1."""
    return max(len(list_lines(root / plan.lists["train"])), 1)
