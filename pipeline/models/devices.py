"""What torch sees of this machine: which device to use, how much memory it has left."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

import torch

from pipeline.errors import ConfigError

__all__ = ["Gpu", "free_bytes", "gpus", "keep_freed_memory", "pick_device", "torch_build"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's malloc.h."""

KEPT_BYTES = 256 << 20
"""More than the tensors of one layer over a forward of the CPU's budget take together."""

LARGEST_HEAP_BYTES = 32 << 20
"""The largest allocation that glibc can be told to serve from its heap."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as torch sees it; memory in bytes."""

    name: str
    total_bytes: int
    free_bytes: int
    bfloat16: bool


def pick_device(device: str) -> torch.device:
    """The torch device for `device`: `auto` (first GPU, else CPU), `cpu`, `cuda`, `cuda:N`. Raises ConfigError."""
    if device == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device {device!r} is none: give auto, cpu, cuda or cuda:N") from None
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {device!r} is not there: torch sees {torch.cuda.device_count()} GPUs")
    return target


def free_bytes(device: torch.device) -> int:
    """Memory of `device` that is free, the allocator's own cache included; 0 for a CPU (nothing is planned by it)."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + cached)


def keep_freed_memory() -> None:
    """Make the C library keep up to 256 MiB that this process frees, instead of handing every tensor's pages back.

    A forward on a CPU frees and takes the same few sizes over and over, and each page that comes back is a fault.
    Where the C library is not glibc, nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, LARGEST_HEAP_BYTES)


def gpus() -> list[Gpu]:
    """Every GPU that torch can use."""
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        bfloat16 = torch.cuda.get_device_capability(index) >= (8, 0)
        found.append(Gpu(torch.cuda.get_device_name(index), int(total), int(free), bfloat16))
    return found


def torch_build() -> str:
    """The CUDA version that torch was built for, or `CPU build`."""
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
