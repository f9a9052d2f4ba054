"""Count the device operations of a training step, without a device.

    python benchmarks/counts.py
    python benchmarks/counts.py --dataset LA --method edge_guided --top 20

The loop's own step runs on torch's `meta` device, which computes nothing, while every operation is
counted:

launches: operations that compute or copy on the device. Batched `_foreach` operations count once,
    so the true number is a little higher, and a convolution may be more than one kernel.
GB moved: what they read and write, each tensor once, as if there was no cache.
host to device, device to host: copies.
scalars waited for: scalars that the host reads.
host ms: measured on the CPU at 16 pixels a side, with every network's pass replaced by one
    operation. What remains is the overhead of Python and torch in seeds, losses, optimiser and EMA.
"""

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from commands.stage_context import RunStageContext
from commands.stage_setup import build_optimizers
from datasets.base import DatasetSpec
from datasets.registry import all_datasets
from datasets.resolve import resolve
from methods.base import StageSpec, TrainingStage
from methods.registry import METHODS
from training.device import autocast_type
from training.log import RunLog
from training.loop import Run, StageSetup, _StageRunner
from utils.cli import parse, run

COLUMNS = (
    "",
    "launches",
    "GB moved",
    "host to device",
    "device to host",
    "scalars waited for",
    "host ms",
)
# names of events
TO_DEVICE = "to device"
TO_HOST = "to host"
WAIT = "wait"
CONSTRUCTORS = ("new_tensor", "tensor", "as_tensor")
# operations that launch no kernel
NO_KERNEL = {
    "empty",
    "empty_strided",
    "empty_like",
    "new_empty",
    "new_empty_strided",
    "detach",
    "lift_fresh",
    "alias",
    "_reshape_alias",
}


class _Constants(TorchFunctionMode):
    """Notes tensors on the `meta` device that are made from Python's numbers.

    Each is a copy that the host waits for, but no operation that is dispatched.
    """

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        result = function(*args, **(kwargs or {}))
        is_constructor = getattr(function, "__name__", "") in CONSTRUCTORS
        if is_constructor and not isinstance(args[-1], Tensor) and result.is_meta:
            self.events.append(TO_DEVICE)
        return result


class Counting(TorchDispatchMode):
    """Counts the operations on the `meta` device within its context.

    A copy to the host gives zeros, a scalar that the host reads is 1. `events` has the copies, the
    scalars that the host waits for, and "convolution", in their order.
    """

    def __init__(self) -> None:
        """Begin with no counts."""
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.bytes = 0
        self.events: list[str] = []
        self._constants = _Constants(self.events)

    def __enter__(self) -> "Counting":
        """Begin to count."""
        self._constants.__enter__()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        """Stop counting."""
        super().__exit__(*error)
        self._constants.__exit__(*error)

    def __torch_dispatch__(
        self,
        function: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        inputs = tensors_in((args, kwargs))
        if name in ("_local_scalar_dense", "item") and inputs[0].is_meta:
            self.events.append(WAIT)
            if inputs[0].is_floating_point():
                return 1.0
            return 1
        if name == "_to_copy" and inputs[0].is_meta and goes_to_host(kwargs):
            self.events.append(TO_HOST)
            return torch.zeros(inputs[0].shape, dtype=kwargs.get("dtype") or inputs[0].dtype)
        result = function(*args, **kwargs)
        on_device = [tensor for tensor in inputs + tensors_in(result) if tensor.is_meta]
        if not on_device:
            return result
        if name in ("_to_copy", "copy_") and not inputs[-1].is_meta:
            self.events.append(TO_DEVICE)
        if "convolution" in name:
            self.events.append("convolution")
        if name not in NO_KERNEL and not function.is_view:
            self.launches[name] += 1
            different = {id(tensor): tensor.nbytes for tensor in on_device}
            self.bytes += sum(different.values())
        return result

    def count(self, event: str) -> int:
        """Return how often an event occurred."""
        return self.events.count(event)


def tensors_in(values: object) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def goes_to_host(options: Mapping[str, Any]) -> bool:
    """Whether a copy with these options has the CPU as its target."""
    return torch.device(options.get("device") or "meta").type == "cpu"


class BareRun:
    """A run without data, for networks on any device."""

    def __init__(
        self,
        dataset: DatasetSpec,
        device: torch.device,
        new_context: Callable[..., RunStageContext] = RunStageContext,
        **numbers: Any,
    ) -> None:
        """Resolve the settings; `numbers` are those that differ from the data set's.

        `new_context`: builds what a stage is built from, perhaps with other networks.
        """
        self.dataset = dataset
        self.device = device
        self.config = resolve(dataset, method=numbers.get("method"), explicit=numbers)
        self.amp = autocast_type(self.config.runtime.amp, device)
        self.new_context = new_context

    def context(self, spec: StageSpec) -> RunStageContext:
        """Return what a stage is built from."""
        return self.new_context(
            spec=spec,
            dataset=self.dataset,
            config=self.config,
            device=self.device,
            amp=self.amp,
            folder=Path(),
            labelled=max(self.config.experiment.labelnum, self.config.data.labeled_bs),
            unlabelled=60,
        )


def runner(
    dataset: DatasetSpec, device: torch.device, stage: int = -1, **numbers: Any
) -> tuple[_StageRunner, dict[str, Tensor]]:
    """Return a stage of a method that is ready for a step, and a batch for it on the host.

    `stage`: number of the stage, by default the last one.
    """
    bare = BareRun(dataset, device, **numbers)
    data = bare.config.data
    options = bare.config.optimization
    spec = METHODS[bare.config.experiment.method].stages[stage]
    context = bare.context(spec)
    method_stage = spec.stage(context)
    count = data.labeled_bs
    if spec.uses_unlabelled:
        count = data.batch_size
    setup = StageSetup(
        stage=method_stage,
        optimizers=build_optimizers(method_stage, context),
        steps=1000,
        val_every=1000,
        batches=lambda steps: (),
        validate=lambda net, stopped, step: None,
        learning_rate=lambda step: options.base_lr,
        seed=(0,),
    )
    for optimizer in setup.optimizers.values():
        for group in optimizer.param_groups:
            group["foreach"] = device.type == "meta"  # as torch chooses on CUDA
    run = Run(
        Path(),
        best_name=lambda stage: "best.pth",
        about={"settings": {}},
        device=device,
        dims=dataset.info.dims,
        amp=bare.amp,
        log=cast(RunLog, None),  # a step writes nothing to it
    )
    batch = {
        "image": torch.rand(count, dataset.info.channels, *data.patch_size),
        "label": torch.zeros(data.labeled_bs, *data.patch_size, dtype=torch.uint8),
    }
    return _StageRunner(run, setup), batch


def counted(dataset: DatasetSpec, **numbers: Any) -> Counting:
    """Count a step on the meta device.

    A step before it makes what is made only once, such as the optimiser's moments.
    """
    steps, batch = runner(dataset, torch.device("meta"), **numbers)
    with Counting():
        steps._train_step(batch)
    with Counting() as counting:
        steps._train_step(batch)
    return counting


def skip_passes(stage: TrainingStage, classes: int) -> None:
    """Let every network answer with one operation; its modules and weights stay as they are."""
    for net in stage.networks.values():
        weight = next(net.parameters())
        net.forward = partial(one_operation, weight=weight, classes=classes)


def one_operation(x: Tensor, weight: Tensor, classes: int) -> Tensor:
    """Return scores (N, classes, ...) that depend on the image x (N, C, ...) and on a weight."""
    scores = weight.flatten()[0] * x[:, :1]
    return scores.expand(-1, classes, *x.shape[2:])


def host_ms(dataset: DatasetSpec, steps: int, method: str) -> float:
    """Return the milliseconds of a step outside the networks' passes: median of `steps`."""
    size = (16,) * dataset.info.dims
    loop, batch = runner(dataset, torch.device("cpu"), method=method, patch_size=size)
    skip_passes(loop.stage, dataset.info.classes)
    seconds: list[float] = []
    for _ in range(steps + 5):
        start = time.thread_time()  # of this thread only: another process may interrupt it
        loop._train_step(batch)
        seconds.append(time.thread_time() - start)
    return 1000 * statistics.median(seconds[5:])


@dataclass(frozen=True)
class Flags:
    """Flags of counts.py."""

    dataset: Literal["all", "ACDC", "LA", "Pancreas"] = "all"
    """Data set, for the published numbers of a step."""
    method: str = "edge_guided"
    """Method; a step of its last stage is counted."""
    steps: int = 50
    """Steps for the median of the host's time."""
    top: int = 0
    """Also print this many of the most frequent operations."""


def table_line(cells: Sequence[object]) -> str:
    """Return a line of the table with cells as wide as its columns."""
    pairs = zip(cells, COLUMNS, strict=True)
    return "".join(f"{cell:>{max(len(column) + 2, 10)}}" for cell, column in pairs)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line of counts for each data set."""
    flags = parse(Flags, argv, description=__doc__)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, --method {flags.method}, last stage, published sizes")
    print(table_line(COLUMNS))
    names = [flags.dataset]
    if flags.dataset == "all":
        names = ["ACDC", "LA", "Pancreas"]
    for name in names:
        dataset = all_datasets()[name]
        counting = counted(dataset, method=flags.method)
        cells = (
            name,
            counting.launches.total(),
            f"{counting.bytes / 1e9:.1f}",
            counting.count(TO_DEVICE),
            counting.count(TO_HOST),
            counting.count(WAIT),
            f"{host_ms(dataset, flags.steps, method=flags.method):.1f}",
        )
        print(table_line(cells))
        for operation, number in counting.launches.most_common(flags.top):
            print(f"{number:>8} {operation}")


if __name__ == "__main__":
    run(main)
