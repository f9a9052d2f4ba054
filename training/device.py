"""Device, precision and determinism of a run."""

import os
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from utils.errors import UserError


def choose_device(name: str = "auto", gpu: str | None = None) -> torch.device:
    """Return the device of that name; `auto` is CUDA, otherwise MPS, otherwise the CPU.

    `gpu`: the number of a CUDA device; ignored if `name` is cpu or mps. Raises UserError if the
    device is not available.
    """
    if gpu is not None and name in ("auto", "cuda"):
        if name == "auto" and not torch.cuda.is_available():
            raise UserError(
                f"--gpu {gpu}: there is no CUDA device here; use --device cpu, or omit --gpu"
            )
        name = f"cuda:{gpu}"
    if name == "auto":
        name = _best_device_name()
    if name.split(":")[0] in ("cpu", "cuda", "mps"):
        with suppress(RuntimeError, AssertionError):
            device = torch.device(name)
            torch.empty(1, device=device)
            return device
    raise UserError(f"--device {name}: not available here; use --device cpu or auto")


def _best_device_name() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def has_bf16(device: torch.device) -> bool:
    """Return whether the hardware computes in bfloat16.

    Other hardware emulates it, up to 100 times slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu" and platform.system() == "Linux":
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def has_fp16(device: torch.device) -> bool:
    """Return whether a GPU has units for products in float16.

    They exist since Volta; an RTX 2080 has them, but no bfloat16.
    """
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)


def autocast_type(amp: str, device: torch.device) -> torch.dtype | None:
    """Return the type that --amp autocasts to; None for float32 throughout.

    `auto` is bfloat16 if the hardware has it, otherwise float16, otherwise None. Raises UserError
    for a type that the hardware lacks.
    """
    if amp == "off":
        return None
    if amp in ("bf16", "auto") and has_bf16(device):
        return torch.bfloat16
    if amp in ("fp16", "auto") and has_fp16(device):
        return torch.float16
    if amp == "auto":
        return None
    raise UserError(
        f"--amp {amp}: this {device.type} is not known to compute fast in that type; "
        "use --amp auto or off"
    )


def autocast(device: torch.device, amp: torch.dtype | None) -> AbstractContextManager[Any]:
    """Return a context in which operations are autocast to `amp`; None leaves them as they are."""
    if amp is None:
        return nullcontext()
    return torch.autocast(device.type, amp)


def hardware(device: torch.device) -> str:
    """Return the device with the model of a GPU, or the number of threads on a CPU."""
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    if device.type == "cpu":
        return f"{device}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    return str(device)


def in_words(device: torch.device, amp: torch.dtype | None) -> str:
    """Return the precision of a run in words."""
    if amp == torch.bfloat16:
        return "bfloat16 autocast"
    if amp is not None:
        return "float16 autocast"
    if device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        return "float32, convolutions in TF32 if the GPU has it"
    return "float32"


def set_deterministic(on: bool, tf32: bool = True) -> None:
    """Choose deterministic algorithms, with a warning for operations that have none.

    `tf32`: whether convolutions on CUDA may use TF32. Matrix products never do: the few that there
    are resize images and fold weights, which rounding would shift.
    """
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    mode = "default"
    if on:
        mode = "warn"
    # use_deterministic_algorithms would import torch's compiler, 1.6 s of every start
    torch.set_deterministic_debug_mode(mode)
    # a guard against reading uninitialised memory; it fills every new tensor
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = not on
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def memory_format(
    device: torch.device, dims: int, amp: torch.dtype | None = None
) -> torch.memory_format:
    """Return the memory format of networks and images.

    Channels last on the CPU (15 % faster: benchmarks/acdc_step.py, benchmarks/vnet_step.py) and on
    CUDA under autocast (recommended by NVIDIA for its matrix units, not measured here).
    """
    if device.type != "cpu" and (device.type != "cuda" or amp is None):
        return torch.contiguous_format
    if dims == 2:
        return torch.channels_last
    return torch.channels_last_3d


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
    """Move a network or a batch of images to the device, in the memory format that suits it.

    The host does not wait for images in pinned memory. All features have the format of the weights.
    """
    layout = memory_format(device, dims, amp)
    if isinstance(item, Tensor):
        return item.to(device=device, memory_format=layout, non_blocking=True)
    move: Callable[..., nn.Module] = item.to  # torch's annotation lacks memory_format
    return move(device=device, memory_format=layout, non_blocking=True)
