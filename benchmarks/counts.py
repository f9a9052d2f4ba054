"""Count what a training step asks of a device, without one.

    python benchmarks/counts.py
    python benchmarks/counts.py --dataset LA --method edge_guided --top 20

The loop's own step runs on torch's `meta` device, which computes nothing, while every operation is looked at. Counted are: launches
(operations that compute or copy on the device; batched `_foreach` operations count once, so the true number is a little higher, and
a convolution may be more than one kernel), bytes that they read and write (each tensor once, as if no cache held it), copies from
the host to the device and back, and scalars that the host waits for. `host ms` is measured: seeds, losses, optimiser and EMA of a
step on the CPU with every network's pass replaced by one operation, all at 16 pixels a side, so that what remains is Python's and
torch's overhead.
"""

import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from commands.training_run import TrainingRun
from datasets.registry import all_datasets
from datasets.resolve import resolve
from methods.base import TrainingStage
from methods.registry import METHODS
from training.device import autocast_type
from training.loop import Run, StageSetup, _StageRunner
from utils.cli import parse, run

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
    """Notes tensors that are made on the `meta` device of Python's numbers: a blocking copy each, and no operation that is dispatched."""

    def __init__(self, events: list[str]):
        super().__init__()
        self.events = events

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = getattr(function, "__name__", "") in (
            "new_tensor",
            "tensor",
            "as_tensor",
        ) and not isinstance(args[-1], Tensor)
        if made and result.is_meta:
            self.events.append("to device")
        return result


class Counting(TorchDispatchMode):
    """Counts what is asked of the `meta` device within its context; a copy to the host gives zeros, a scalar read by the host is 1."""

    def __init__(self):
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.bytes = 0
        self.events: list[
            str
        ] = []  # "to device", "to host", "wait", and "convolution", in their order
        self._constants = _Constants(self.events)

    def __enter__(self) -> "Counting":
        self._constants.__enter__()
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._constants.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name in ("_local_scalar_dense", "item") and inputs[0].is_meta:
            self.events.append("wait")
            return 1.0 if inputs[0].is_floating_point() else 1
        if (
            name == "_to_copy"
            and inputs[0].is_meta
            and torch.device(kwargs.get("device") or "meta").type == "cpu"
        ):
            self.events.append("to host")
            return torch.zeros(inputs[0].shape, dtype=kwargs.get("dtype") or inputs[0].dtype)
        result = function(*args, **kwargs)
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if not any(x.is_meta for x in (*inputs, *outputs)):
            return result
        if name in ("_to_copy", "copy_") and not inputs[-1].is_meta:
            self.events.append("to device")
        if "convolution" in name:
            self.events.append("convolution")
        if name not in NO_KERNEL and not function.is_view:
            self.launches[name] += 1
            self.bytes += sum(
                x.nbytes for x in {id(x): x for x in (*inputs, *outputs)}.values() if x.is_meta
            )
        return result

    def count(self, event: str) -> int:
        return self.events.count(event)


class BareRun(TrainingRun):
    """A run without data, for networks on any device."""

    def __init__(self, dataset, device: torch.device, **numbers):
        self.dataset, self.device = dataset, device
        self.config = resolve(dataset, method=numbers.get("method"), explicit=numbers)
        self.amp = autocast_type(self.config.runtime.amp, device)
        self.data = SimpleNamespace(
            labelled=max(self.config.experiment.labelnum, self.config.data.labeled_bs),
            unlabelled=60,
        )


def runner(
    dataset, device: torch.device, stage: int = -1, **numbers
) -> tuple[_StageRunner, dict[str, Tensor]]:
    """A stage of a method on a data set, the last one by default, ready for a step, and a batch for it on the host."""
    frame = BareRun(dataset, device, **numbers)
    experiment, data = frame.config.experiment, frame.config.data
    options = frame.config.optimization
    spec = METHODS[experiment.method].stages[stage]
    method_stage = spec.stage(frame.context(spec))
    made = StageSetup(
        stage=method_stage,
        optimizers=frame.optimizers(
            method_stage, options.pre_weight_decay if spec.pretraining else options.weight_decay
        ),
        steps=1000,
        val_every=1000,
        batches=lambda steps: (),
        validate=lambda net, stopped: None,
        learning_rate=lambda step: options.base_lr,
        seed=(0,),
    )
    for optimizer in made.optimizers.values():
        for group in optimizer.param_groups:
            group["foreach"] = device.type == "meta"  # as torch chooses on CUDA
    run = Run(
        Path(),
        best_name=lambda stage: "best.pth",
        about={"settings": {}},
        device=device,
        dims=dataset.info.dims,
        amp=frame.amp,
        log=None,
    )
    count = data.batch_size if spec.uses_unlabelled else data.labeled_bs
    batch = {
        "image": torch.rand(count, dataset.info.channels, *data.patch_size),
        "label": torch.zeros(data.labeled_bs, *data.patch_size, dtype=torch.uint8),
    }
    return _StageRunner(run, made), batch


def counted(dataset, **numbers) -> Counting:
    """One step on the meta device, after another that has made what is made once (the optimiser's moments)."""
    steps, batch = runner(dataset, torch.device("meta"), **numbers)
    with Counting():
        steps._train_step(batch)
    with Counting() as counting:
        steps._train_step(batch)
    return counting


def without_passes(stage: TrainingStage, classes: int) -> None:
    """Every network answers with one operation, its modules and weights staying as they are."""
    for net in stage.networks.values():
        weight = next(net.parameters())
        net.forward = lambda x, weight=weight: (weight.flatten()[0] * x[:, :1]).expand(
            -1, classes, *x.shape[2:]
        )


def host_ms(dataset, steps: int, **numbers) -> float:
    """Milliseconds of a step beside the networks' passes: median of `steps`."""
    small = {"patch_size": (16,) * dataset.info.dims}
    loop, batch = runner(dataset, torch.device("cpu"), **{**numbers, **small})
    without_passes(loop.stage, dataset.info.classes)
    seconds = []
    for _ in range(steps + 5):
        began = time.thread_time()  # of this processor alone: another process may be in between
        loop._train_step(batch)
        seconds.append(time.thread_time() - began)
    return 1000 * statistics.median(seconds[5:])


@dataclass(frozen=True)
class Flags:
    dataset: Literal["all", "ACDC", "LA", "Pancreas"] = "all"
    """Data set whose published numbers a step has."""
    method: str = "edge_guided"
    """Method, its last stage."""
    steps: int = 50
    """Steps of which the host's time is the median."""
    top: int = 0
    """Print so many of the most frequent operations too."""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv, description=__doc__)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, --method {flags.method}, last stage, published sizes")
    columns = (
        "",
        "launches",
        "GB moved",
        "host to device",
        "device to host",
        "scalars waited for",
        "host ms",
    )
    print("".join(f"{column:>{max(len(column) + 2, 10)}}" for column in columns))
    for name in ("ACDC", "LA", "Pancreas") if flags.dataset == "all" else (flags.dataset,):
        dataset = all_datasets()[name]
        counting = counted(dataset, method=flags.method)
        row = (
            name,
            sum(counting.launches.values()),
            f"{counting.bytes / 1e9:.1f}",
            counting.count("to device"),
            counting.count("to host"),
            counting.count("wait"),
            f"{host_ms(dataset, flags.steps, method=flags.method):.1f}",
        )
        print(
            "".join(
                f"{value:>{max(len(column) + 2, 10)}}"
                for value, column in zip(row, columns, strict=True)
            )
        )
        for operation, number in counting.launches.most_common(flags.top):
            print(f"{number:>8} {operation}")


if __name__ == "__main__":
    run(main)
