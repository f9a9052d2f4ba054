"""What predict.py predicts with: one or several checkpoints, and how scans are prepared for them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from commands.networks import check_patch, default_options, network_of
from commands.png_files import read_png
from commands.predict_settings import ModelSettings
from dataloaders.cases import in_memory
from dataloaders.dataset_info import DatasetInfo
from dataloaders.plan import Plan
from datasets.base import DatasetSpec
from datasets.prepare.crop import Box
from datasets.prepare.own_scans import OwnPreparation
from datasets.prepare.preparation import Preparation
from datasets.prepare.prepared_files import RawCase
from datasets.prepare.published import PublishedPreparation, make_preparation
from datasets.registry import all_datasets, find_dataset
from evaluation.slices import SlicePredictor
from evaluation.sliding_window import VolumePredictor, check_stride
from methods.registry import run_title
from training.checkpoint import Checkpoint, read
from training.device import place
from utils.errors import UserError
from utils.provenance import sha256


@dataclass(frozen=True, eq=False)
class Member:
    """One checkpoint's network, and what cuts an image into pieces for it."""

    net: nn.Module
    predictor: SlicePredictor | VolumePredictor
    about: dict


@dataclass(frozen=True, eq=False)
class Model:
    """Networks that are averaged, all of the same data; `values`: the label value of each class; `box`: what of a scan is looked at."""

    info: DatasetInfo
    plan: Plan | None
    preparation: Preparation | None
    values: np.ndarray
    members: tuple[Member, ...]
    box: Box | None

    def prepared(
        self, case: RawCase, warn: Callable[[str | None], None]
    ) -> tuple[np.ndarray, Mapping]:
        """The scan as the networks see it, (C, ...) float32, and the attributes that its file would have."""
        if self.preparation is None:
            raise UserError(
                f"{case.images[0]}: how scans of {self.info.name} are prepared is not known here, only pictures can be predicted"
            )
        for output in self.preparation.prepare(case, warn):
            last = output  # the volume; slices come before it
        image = last.image.astype(np.float32, copy=False)
        image = image if image.ndim == 4 else image[None]
        return in_memory(self.info, image, None)[0], last.attributes

    def picture(self, case: RawCase) -> np.ndarray:
        """A picture as the networks see it, (C, 1, H, W) float32: normalised as scans are."""
        return self.prepared_picture(read_picture(case.images[0]), case.images[0])

    def prepared_picture(self, image: np.ndarray, path: Path) -> np.ndarray:
        """As `picture`, of an array (C, H, W); `path` names it in messages."""
        if len(image) in (3, 4) and self.info.channels == 1 and (image[:3] == image[0]).all():
            image = image[:1]  # grey, stored in colours
        if len(image) == 4 and self.info.channels == 3:
            image = image[:3]  # without opacity
        if len(image) != self.info.channels:
            raise UserError(
                f"{path}: has {len(image)} channels, the network takes {self.info.channels}; convert it"
            )
        if self.preparation is not None:
            image = self.preparation.prepare_picture(path, image)
        return in_memory(self.info, image.astype(np.float32)[:, None], None)[0]

    def planes(self, image: np.ndarray) -> Iterator[Tensor]:
        """Probabilities (K, rows, columns) along the first axis of the image, the mean of all networks."""
        for found in zip(*(planes_of(member, image) for member in self.members), strict=True):
            yield found[0] if len(found) == 1 else torch.stack(found).mean(0)


def planes_of(member: Member, image: np.ndarray) -> Iterator[Tensor]:
    for slab in member.predictor.slabs(member.net, image):
        yield from slab.unbind(1)


def read_picture(path: Path) -> np.ndarray:
    """(C, H, W) of whatever type the file has."""
    array = read_png(path)
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def read_model(s: ModelSettings, device: torch.device) -> Model:
    """The checkpoints that the flags name; raises UserError where they are none of one data set, or flags do not suit them."""
    found = [_read(s, path) for path in s.checkpoint]
    first, info, plan, dataset = found[0]
    for other, its_facts, its_plan, _ in found[1:]:
        alike = all(
            getattr(its_facts, key) == getattr(info, key)
            for key in ("name", "class_names", "channels", "dims")
        )
        if not alike or _decided(its_plan) != _decided(plan):
            raise UserError(
                f"{other.path}: of other data, or data prepared in another way, than {first.path}; predict with each by itself"
            )
    members = tuple(_member(s, checkpoint, info, dataset, device) for checkpoint, *_ in found)
    box = _box(s)
    preparation = _preparation(s, info=info, plan=plan, dataset=dataset, box=box)
    values = tuple(range(info.classes))
    if preparation is not None:
        values = preparation.class_values
    label_type = np.min_scalar_type(max(values))
    return Model(info, plan, preparation, np.array(values, label_type), members, box)


def _preparation(
    s: ModelSettings,
    info: DatasetInfo,
    plan: Plan | None,
    dataset: DatasetSpec | None,
    box: Box | None,
) -> Preparation | None:
    """How scans are prepared for the networks; None where that is not known."""
    kind: type[PublishedPreparation] | None = None
    if plan is None:
        known = dataset or all_datasets().get(info.name)
        kind = known.preparation if known is not None else None
    if kind is not None:
        return make_preparation(kind, "none", variant=s.variant, size=s.size, box=box)
    for flag, value in (("--variant", s.variant), ("--size", s.size), ("--box", box)):
        if value is not None:
            raise UserError(f"{flag}: the preparation of {info.name} has no such option; remove it")
    if plan is not None:
        return OwnPreparation(plan, ())
    return None


def plan_of(checkpoint: Checkpoint) -> Plan | None:
    """The plan that a checkpoint of somebody's own data carries."""
    try:
        return Plan.from_dict(checkpoint.plan) if checkpoint.plan else None
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{checkpoint.path}: its plan is not understood ({error}); use the version that trained it"
        ) from None


def _read(
    s: ModelSettings, path
) -> tuple[Checkpoint, DatasetInfo, Plan | None, DatasetSpec | None]:
    """A checkpoint with the facts of its data, its plan if it has one, and the page of a published one."""
    checkpoint = read(path)
    if checkpoint.ours:
        info = DatasetInfo.from_plain(checkpoint.info)
        if s.dataset and s.dataset != info.name and not s.dataset.endswith(".py"):
            raise UserError(
                f"--dataset {s.dataset}: {path} is a checkpoint of {info.name}; leave --dataset out"
            )
        plan = plan_of(checkpoint)
        described = find_dataset(s.dataset) if s.dataset and plan is None else None
        return checkpoint, info, plan, described
    if not s.dataset:
        raise UserError(
            f"{path}: a published checkpoint does not say of what data set it is; name it with --dataset"
        )
    dataset = find_dataset(s.dataset)
    return checkpoint, dataset.info, None, dataset


def _member(
    s: ModelSettings,
    checkpoint: Checkpoint,
    info: DatasetInfo,
    dataset: DatasetSpec | None,
    device: torch.device,
) -> Member:
    numbers = {} if dataset is None else dataset.numbers
    model = checkpoint.settings.get("model", numbers.get("model"))
    net = network_of(checkpoint, info, model, default_options(model) | checkpoint.settings)
    patch_size = s.patch_size or tuple(
        checkpoint.settings.get("patch_size", numbers.get("patch_size"))
    )
    check_patch(net, patch_size)
    net = place(net, device, info.dims).eval()
    mirror = s.tta == "mirror"
    if info.dims == 2:
        if s.stride:
            raise UserError(
                f"--stride: {info.name} is predicted slice by slice, without a sliding window; leave it out"
            )
        predictor = SlicePredictor(patch_size, device, s.batch or SlicePredictor.batch, mirror)
    else:
        stride = s.stride or tuple(max(side // 2, 1) for side in patch_size)
        check_stride(stride, "stride")
        predictor = VolumePredictor(
            patch_size,
            stride,
            device,
            batch=s.batch or VolumePredictor.batch,
            progress=True,
            mirror=mirror,
        )
    about = {
        "path": str(checkpoint.path),
        "sha256": sha256(checkpoint.path),
        "method": run_title(checkpoint.settings),
        "selection": checkpoint.selection,
    }
    about["settings"] = checkpoint.settings if checkpoint.ours else None
    return Member(net, predictor, about)


def _box(s: ModelSettings) -> Box | None:
    if not s.box:
        return None
    if len(s.box) != 6:
        raise UserError(
            f"--box {' '.join(map(str, s.box))}: give start and end of each axis of the file, as in --box 100 250 120 260 0 88"
        )
    return s.box[::2], s.box[1::2]


def _decided(plan: Plan | None) -> dict | None:
    """What of a plan decides about prepared scans and label values."""
    if plan is None:
        return None
    return {**OwnPreparation(replace(plan, why={}), ()).settings, "class_names": plan.class_names}
