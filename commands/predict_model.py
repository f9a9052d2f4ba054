"""The networks that predict.py uses, and how scans are prepared for them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from commands.fast_networks import CompiledNetwork, fast_network
from commands.networks import check_patch, default_options, network_of
from commands.png_files import read_png
from commands.predict_settings import ModelSettings
from commands.predict_uncertainty import NO_UNCERTAINTY, Kind, Uncertainty, without_repetitions
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
from evaluation.passes import has_dropout
from evaluation.slices import SlicePredictor
from evaluation.sliding_window import VolumePredictor, check_stride
from evaluation.speed import accelerate_of
from evaluation.windows import Blend
from methods.registry import run_title
from training.checkpoint import Checkpoint, read
from training.device import autocast_type, in_words, place
from utils.errors import UserError
from utils.provenance import sha256


@dataclass(frozen=True, eq=False)
class Member:
    """The network of one checkpoint, how it predicts, and what predict.json records of it.

    `fast_net`: the form of `net` that predicts, which may be a faster one.
    """

    net: nn.Module
    fast_net: nn.Module
    predictor: SlicePredictor | VolumePredictor
    about: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Model:
    """Networks that are averaged, all trained on the same data.

    `values`: the label value of each class. `box`: the part of a scan that is predicted. `speed`:
    precision and acceleration in words. `uncertainty`: the maps that follow the probabilities.
    """

    info: DatasetInfo
    plan: Plan | None
    preparation: Preparation | None
    values: np.ndarray
    members: tuple[Member, ...]
    box: Box | None
    speed: str
    uncertainty: Uncertainty = NO_UNCERTAINTY

    def with_uncertainty(self, kinds: Iterable[Kind], passes: int) -> "Model":
        """The same networks, whose `planes` have uncertainty maps of these kinds too.

        `passes`: with dropout. Raises UserError for a kind that these networks do not have.
        """
        mirror = self.members[0].predictor.mirror
        uncertainty = Uncertainty(without_repetitions(kinds), passes, mirror=mirror)
        uncertainty.check()
        self._check_uncertainty(uncertainty)
        members: list[Member] = []
        for member in self.members:
            predictor = replace(member.predictor, extra=uncertainty.extra)
            members.append(replace(member, predictor=predictor))
        return replace(self, members=tuple(members), uncertainty=uncertainty)

    def _check_uncertainty(self, uncertainty: Uncertainty) -> None:
        kinds = uncertainty.kinds
        if kinds and any(isinstance(member.fast_net, CompiledNetwork) for member in self.members):
            raise UserError(
                "--uncertainty: not with --accelerate compile; use --accelerate fold, the default"
            )
        if "ensemble" in kinds and len(self.members) == 1:
            raise UserError(
                "--uncertainty ensemble: is the variance over several checkpoints, and there is "
                "one; name more with --checkpoint, or use another kind"
            )
        if "dropout" not in kinds:
            return
        for member in self.members:
            if not has_dropout(member.fast_net):
                raise UserError(
                    f"--uncertainty dropout: the network of {member.about['path']} has no dropout; "
                    f"use another kind, such as mirror"
                )

    def prepared(
        self, case: RawCase, warn: Callable[[str | None], None]
    ) -> tuple[np.ndarray, Mapping[str, Any]]:
        """The scan as the networks see it, (C, ...) float32, and the attributes of its prepared
        file.
        """
        if self.preparation is None:
            raise UserError(
                f"{case.images[0]}: the preparation of {self.info.name} is not known, so only "
                "pictures can be predicted; add a preparation to the data set's file "
                "(docs/extending.md)"
            )
        outputs = self.preparation.prepare(case, warn)
        volume = deque(outputs, maxlen=1).pop()  # its slices come before it
        image = volume.image.astype(np.float32, copy=False)
        if image.ndim == 3:
            image = image[None]
        return in_memory(self.info, image, None)[0], volume.attributes

    def picture(self, case: RawCase) -> np.ndarray:
        """A picture as the networks see it, (C, 1, H, W) float32: normalised as scans are."""
        return self.prepared_picture(read_picture(case.images[0]), case.images[0])

    def prepared_picture(self, image: np.ndarray, path: Path) -> np.ndarray:
        """As `picture`, of an array (C, H, W); `path` names it in messages."""
        channels = self.info.channels
        if channels == 1 and len(image) in (3, 4) and (image[:3] == image[0]).all():
            image = image[:1]  # grey, stored in colours
        if channels == 3 and len(image) == 4:
            image = image[:3]  # without opacity
        if len(image) != channels:
            raise UserError(
                f"{path}: has {len(image)} channels, the network takes {channels}; convert it"
            )
        if self.preparation is not None:
            image = self.preparation.prepare_picture(path, image)
        return in_memory(self.info, image.astype(np.float32)[:, None], None)[0]

    def planes(self, image: np.ndarray) -> Iterator[Tensor]:
        """Mean probabilities (K, rows, columns) of all networks along the image's first axis.

        The uncertainty maps follow: (K + M, rows, columns), which `Uncertainty.maps` splits.
        """
        streams = [planes_of(member, image) for member in self.members]
        for planes in zip(*streams, strict=True):
            yield self.uncertainty.combined(planes, self.info.classes)


def planes_of(member: Member, image: np.ndarray) -> Iterator[Tensor]:
    """Probabilities, and extra maps, of one network along the first axis of the image:
    (K + M, rows, columns).
    """
    for slab in member.predictor.slabs(member.fast_net, image):
        yield from slab.unbind(1)


def read_picture(path: Path) -> np.ndarray:
    """Read a PNG picture as (C, H, W), in the file's type."""
    array = read_png(path)
    if array.ndim == 2:
        return array[None]
    return np.moveaxis(array, -1, 0)


@dataclass(frozen=True, eq=False)
class _Source:
    """A checkpoint and the data it was trained on.

    `plan`: of own data. `dataset`: of a published checkpoint, or the description that --dataset
    names.
    """

    checkpoint: Checkpoint
    info: DatasetInfo
    plan: Plan | None
    dataset: DatasetSpec | None


def read_model(settings: ModelSettings, device: torch.device) -> Model:
    """Read the checkpoints that the flags name.

    Raises UserError if they are not of one data set, or if flags do not suit them.
    """
    sources = [_read(settings, path) for path in settings.checkpoint]
    first = sources[0]
    for other in sources[1:]:
        if _trained_on(other) != _trained_on(first):
            raise UserError(
                f"{other.checkpoint.path}: was trained on other data or with another "
                f"preparation than {first.checkpoint.path}; predict with each one separately"
            )
    amp = autocast_type(settings.amp, device)
    members = tuple(_member(settings, source, first.info, device, amp) for source in sources)
    box = _box(settings)
    preparation = _preparation(settings, first, box)
    values = tuple(range(first.info.classes))
    if preparation is not None:
        values = preparation.class_values
    return Model(
        first.info,
        plan=first.plan,
        preparation=preparation,
        values=np.array(values, np.min_scalar_type(max(values))),
        members=members,
        box=box,
        speed=f"{in_words(device, amp)}; --accelerate {accelerate_of(settings.accelerate)}",
    )


def _trained_on(source: _Source) -> tuple[object, ...]:
    """Everything of a checkpoint's data that decides how its network is used."""
    info = source.info
    prepared = None
    if source.plan is not None:
        plan = replace(source.plan, why={})
        prepared = OwnPreparation(plan, ()).settings | {"class_names": plan.class_names}
    return info.name, info.class_names, info.channels, info.dims, prepared


def _preparation(settings: ModelSettings, source: _Source, box: Box | None) -> Preparation | None:
    """How scans are prepared for the networks; None if that is not known."""
    name = source.info.name
    kind: type[PublishedPreparation] | None = None
    if source.plan is None:
        known = source.dataset or all_datasets().get(name)
        if known is not None:
            kind = known.preparation
    if kind is not None:
        return make_preparation(kind, "none", variant=settings.variant, size=settings.size, box=box)
    flags = (("--variant", settings.variant), ("--size", settings.size), ("--box", box))
    for flag, value in flags:
        if value is not None:
            raise UserError(f"{flag}: the preparation of {name} has no such option; remove it")
    if source.plan is not None:
        return OwnPreparation(source.plan, ())
    return None


def plan_of(checkpoint: Checkpoint) -> Plan | None:
    """The plan in a checkpoint of own data."""
    if not checkpoint.plan:
        return None
    try:
        return Plan.from_dict(checkpoint.plan)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{checkpoint.path}: its plan is not understood ({error}); use the version that "
            f"trained it"
        ) from None


def _read(settings: ModelSettings, path: Path) -> _Source:
    checkpoint = read(path)
    if settings.network is not None:
        checkpoint = checkpoint.of_network(settings.network)
    name = settings.dataset
    if not checkpoint.ours:
        if not name:
            raise UserError(
                f"{path}: a published checkpoint does not record its data set; name it with "
                f"--dataset"
            )
        dataset = find_dataset(name)
        return _Source(checkpoint, dataset.info, plan=None, dataset=dataset)
    info = DatasetInfo.from_plain(checkpoint.info)
    if name and name != info.name and not name.endswith(".py"):
        raise UserError(
            f"--dataset {name}: {path} is a checkpoint of {info.name}; remove --dataset"
        )
    plan = plan_of(checkpoint)
    dataset = None
    if name and plan is None:
        dataset = find_dataset(name)
    return _Source(checkpoint, info, plan=plan, dataset=dataset)


def _member(
    settings: ModelSettings,
    source: _Source,
    info: DatasetInfo,
    device: torch.device,
    amp: torch.dtype | None,
) -> Member:
    checkpoint = source.checkpoint
    trained = dict(checkpoint.settings)
    if source.dataset is not None:
        trained = dict(source.dataset.defaults) | trained
    model = str(trained.get("model"))
    net = network_of(checkpoint, info, model, default_options(model) | checkpoint.settings)
    patch_size = settings.patch_size or tuple(trained.get("patch_size", ()))
    check_patch(net, patch_size)
    about = {
        "path": str(checkpoint.path),
        "sha256": sha256(checkpoint.path),
        "method": run_title(checkpoint.settings),
        "network": checkpoint.selected,
        "selection": checkpoint.selection,
        "settings": checkpoint.recorded_settings,
    }
    if info.dims == 3:
        blend = settings.blend or _usual_blend(source)
        predictor = _volume_predictor(settings, patch_size, device, blend)
    else:
        predictor = _slice_predictor(settings, info, patch_size, device)
    predictor = replace(predictor, amp=amp)
    how = accelerate_of(settings.accelerate)
    fast_net = fast_network(net.eval(), how, device, predictor.batch, amp)
    return Member(net, place(fast_net, device, info.dims, amp), predictor, about)


def _usual_blend(source: _Source) -> Blend:
    """The default of --blend: that of the published tests, except for networks of own data."""
    if source.plan is not None:
        return "gaussian"
    return "uniform"


def _volume_predictor(
    settings: ModelSettings, patch_size: tuple[int, ...], device: torch.device, blend: Blend
) -> VolumePredictor:
    if settings.interpolation is not None:
        raise UserError(
            "--interpolation: is for networks of slices; this one predicts volumes, which are not "
            "resized; remove it"
        )
    stride = settings.stride or tuple(max(side // 2, 1) for side in patch_size)
    check_stride(stride, "stride")
    return VolumePredictor(
        patch_size,
        stride,
        device,
        batch=settings.batch or VolumePredictor.batch,
        progress=True,
        mirror=settings.tta == "mirror",
        blend=blend,
        skip_background=True,
    )


def _slice_predictor(
    settings: ModelSettings, info: DatasetInfo, patch_size: tuple[int, ...], device: torch.device
) -> SlicePredictor:
    flags = (("--stride", settings.stride), ("--blend", settings.blend))
    for flag, value in flags:
        if value:
            raise UserError(
                f"{flag}: {info.name} is predicted slice by slice, without a sliding window; "
                f"remove it"
            )
    height, width = patch_size
    return SlicePredictor(
        (height, width),
        device,
        batch=settings.batch or SlicePredictor.batch,
        mirror=settings.tta == "mirror",
        interpolation=settings.interpolation or "linear",
    )


def _box(settings: ModelSettings) -> Box | None:
    box = settings.box
    if not box:
        return None
    if len(box) != 6:
        numbers = " ".join(str(number) for number in box)
        raise UserError(
            f"--box {numbers}: give start and end of each axis of the file, as in "
            f"--box 100 250 120 260 0 88"
        )
    return box[::2], box[1::2]
