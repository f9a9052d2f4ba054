"""Somebody's own data, prepared by prepare_data.py: the page follows from the plan that lies beside them."""

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from dataloaders.facts import DatasetFacts
from dataloaders.hdf5 import list_lines
from dataloaders.plan import Plan
from dataloaders.slices import first_patients
from dataloaders.splits import case_of_slice
from recipes.acdc import PAGE as ACDC
from recipes.la import PAGE as LA
from recipes.page import Page, same
from recipes.registry import pages
from recipes.templates import SliceOptions, VolumeOptions, slices, two_slices, volumes
from utils.errors import UserError

STEP = 16  # the networks halve four times
SMALLEST = {
    2: 80,
    3: 16,
}  # the edge-guided U-Net takes no smaller slices; they are scaled to the patch
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


@dataclass(frozen=True)
class OwnOptions:
    dims: Literal[2, 3] = 3
    """What the data were prepared for: slices (2) or volumes (3)."""


def own_page(plan: Plan, root: Path) -> Page:
    """The page of prepared data below `root`: the first `--labelnum` cases of train.list are labelled (default: all of them), the others
    and those of unlabelled.list are not.

    Numbers are ACDC's for slices and LA's for volumes; the patch is theirs, shrunk to the data; the best checkpoint is chosen on val.list.
    """
    template, like, options = (
        (slices, ACDC, SliceOptions) if plan.dims == 2 else (volumes, LA, VolumeOptions)
    )
    patch = patch_size(plan, like.numbers["patch_size"])
    stride = () if plan.dims == 2 else tuple(side // 2 for side in patch)
    labelled = max(len(list_lines(root / plan.lists["train"])), 1)
    own = (
        {"cases": partial(first_patients, patient=case_of_slice)}
        if plan.dims == 2
        else {"stride": stride}
    )
    return template(
        facts=facts(plan, root),
        **own,
        plan=plan.as_dict(),
        options=(OwnOptions, options),
        settled=partial(_as_prepared, plan.dims),
        numbers={
            **_numbers(like, TAKEN + SCHEDULE),
            "patch_size": patch,
            "labelnum": labelled,
            "select": "val",
            "dims": plan.dims,
            **({"val_stride": stride} if stride else {}),
        },
        methods=like.methods if plan.dims == 2 else {"bcp": {"pre_weight_decay": 1e-4}},
        test_numbers={"model": like.numbers["model"], "labelnum": labelled},
    )


def own_two_slices(plan: Plan, root: Path) -> Page:
    """The page of own volumes with two drawn slices per labelled case, for CoGRNet: all classes are one object, as KiTS19's are.

    Raises UserError for data prepared as slices.
    """
    if plan.dims == 2:
        raise UserError(
            f"{root}: prepared for training on slices, CoGRNet needs volumes; prepare the scans with --dims 3 elsewhere"
        )
    whole = facts(plan, root)
    objects = " and ".join(plan.class_names[1:])
    whole = replace(
        whole,
        class_names=("background", objects),
        file_classes=plan.classes,
        foreground=tuple(range(1, plan.classes)),
        planes=((2, None), (1, None)),
    )
    patch = patch_size(plan, (112, 112, 80))
    page = two_slices(facts=whole, patch_size=patch)
    stride = tuple(side // 2 for side in patch)
    labelled = max(len(list_lines(root / plan.lists["train"])), 1)
    numbers = {
        **page.numbers,
        "labelnum": labelled,
        "select": "val",
        "dims": plan.dims,
        "val_stride": stride,
    }
    settled = partial(_as_prepared, plan.dims, settled=page.settled)
    tested = {**page.test_numbers, "labelnum": labelled}
    page = replace(page, numbers=numbers, test_numbers=tested, stride=stride, settled=settled)
    return replace(page, plan=plan.as_dict(), options=(OwnOptions, *page.options))


def facts(plan: Plan, root: Path) -> DatasetFacts:
    """What the plan says of the data, as training reads it."""
    part = "_slices" if plan.dims == 2 else ""
    unlabelled = plan.lists[f"unlabelled{part}"]
    name = re.sub(r"[^\w.-]", "_", plan.name) or "own"
    return DatasetFacts(
        name=f"{name}_own" if name in pages() else name,
        class_names=plan.class_names,
        channels=plan.channels,
        dims=plan.dims,
        file=plan.file,
        slice_file=str(Path(plan.slice_file).with_name("{}.h5")) if plan.dims == 2 else None,
        train_list=plan.lists[f"train{part}"],
        unlabelled_list=unlabelled if list_lines(root / unlabelled) else None,
        test_list=plan.lists["test"],
        axes=plan.axes,
    )


def patch_size(plan: Plan, published: tuple[int, ...]) -> tuple[int, ...]:
    """The published patch, no side longer than the median training scan needs, in steps of 16."""
    sides = [plan.median_shape[axis] for axis in plan.stored[3 - plan.dims :]]
    return tuple(
        min(limit, max(-(-side // STEP) * STEP, SMALLEST[plan.dims]))
        for limit, side in zip(published, sides, strict=True)
    )


def _as_prepared(dims: int, settings, settled=same):
    if settings.dims != dims:
        raise UserError(
            f"--dims {settings.dims}: the data were prepared with --dims {dims}; prepare them again in another --root_path"
        )
    return settled(settings)


def _numbers(like: Page, names: tuple[str, ...]) -> dict:
    return {name: like.numbers[name] for name in names if name in like.numbers}
