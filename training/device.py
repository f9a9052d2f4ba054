"""Device, precision and determinism of a run."""

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import overload

import torch
from torch import Tensor, nn

from utils.errors import UserError


def choose_device(name: str = "auto", gpu: str | None = None) -> torch.device:
    """`auto`: CUDA, then MPS, then CPU; `gpu` a CUDA number, ignored where `name` is cpu or mps. Raises UserError where the device is not
    there."""
    if gpu is not None and name in ("auto", "cuda"):
        if name == "auto" and not torch.cuda.is_available():
            raise UserError(
                f"--gpu {gpu}: there is no CUDA device here; use --device cpu, or omit --gpu"
            )
        name = f"cuda:{gpu}"
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    if name.split(":")[0] in ("cpu", "cuda", "mps"):
        with suppress(RuntimeError, AssertionError):
            device = torch.device(name)
            torch.empty(1, device=device)
            return device
    raise UserError(f"--device {name}: not available here; use --device cpu or auto")


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware itself computes in bfloat16; elsewhere it is emulated and up to 100 times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu" and platform.system() == "Linux":
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def has_fp16(device: torch.device) -> bool:
    """Whether a GPU has units for products in float16 (from Volta on: an RTX 2080 has them, and no bfloat16)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)


def autocast_type(amp: str, device: torch.device) -> torch.dtype | None:
    """What to autocast to, None: nothing. `auto`: bfloat16, else float16, else nothing, as the hardware has it. Raises UserError for one
    that it lacks."""
    there = {"bf16": has_bf16(device), "fp16": has_fp16(device)}
    if not there.get(amp, True):
        raise UserError(
            f"--amp {amp}: this {device.type} does not compute in it (it would be far slower); use --amp auto or off"
        )
    wanted = {"off": (), "auto": ("bf16", "fp16")}.get(amp, (amp,))
    return next(
        ({"bf16": torch.bfloat16, "fp16": torch.float16}[name] for name in wanted if there[name]),
        None,
    )


def in_words(device: torch.device, amp: torch.dtype | None) -> str:
    """What a run computes in."""
    if amp is not None:
        return (
            "bfloat16 autocast" if amp == torch.bfloat16 else "float16 autocast, gradients scaled"
        )
    return (
        "float32, convolutions in TF32 where the card can"
        if device.type == "cuda" and torch.backends.cudnn.allow_tf32
        else "float32"
    )


def set_deterministic(on: bool, tf32: bool = True) -> None:
    """Deterministic algorithms, with a warning where an operation has none; with CUDA, whether convolutions may be in TF32.

    Matrix products never are: the few there are here are resizes and folded weights, which rounding would shift. Said by
    `set_deterministic_debug_mode`, since `use_deterministic_algorithms` imports torch's compiler, 1.6 s of every start.
    """
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_deterministic_debug_mode("warn" if on else "default")
    # a guard against reading uninitialised memory; it fills every new tensor
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]  # torch sets it at run time
    torch.backends.cudnn.benchmark = not on
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def memory_format(
    device: torch.device, dims: int, amp: torch.dtype | None = None
) -> torch.memory_format:
    """Channels last on the CPU (benchmarks/acdc_step.py: 15 % faster; benchmarks/vnet_step.py), and on CUDA under autocast, whose matrix
    units want it so (NVIDIA's guide; never measured)."""
    if device.type != "cpu" and (device.type != "cuda" or amp is None):
        return torch.contiguous_format
    return torch.channels_last if dims == 2 else torch.channels_last_3d


@overload
def place(
    item: Tensor, device: torch.device, dims: int, amp: torch.dtype | None = None
) -> Tensor: ...


@overload
def place(
    item: nn.Module, device: torch.device, dims: int, amp: torch.dtype | None = None
) -> nn.Module: ...


def place(
    item: nn.Module | Tensor, device: torch.device, dims: int, amp: torch.dtype | None = None
) -> nn.Module | Tensor:
    """A network or an image batch on the device, in the memory format that suits it; from pinned memory without waiting for it. What the
    weights' format is, all features get."""
    layout = memory_format(device, dims, amp)
    if isinstance(item, Tensor):
        return item.to(device=device, memory_format=layout, non_blocking=True)
    return item.to(device=device, memory_format=layout, non_blocking=True)  # pyright: ignore[reportCallIssue]  # torch's stub lacks memory_format
