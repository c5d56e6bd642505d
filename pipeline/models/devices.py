"""What torch sees of this machine: which device to use, how much memory it has left."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from pipeline.errors import ConfigError

__all__ = ["Gpu", "free_bytes", "gpus", "has_room", "pick_device", "torch_build"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as torch sees it; memory in bytes."""

    name: str
    total_bytes: int
    free_bytes: int
    bfloat16: bool


def pick_device(device: str) -> torch.device:
    """The torch device for `device`: `auto` (first GPU, else CPU), `cpu`, `cuda` (the first), `cuda:N`.

    A GPU becomes the calling thread's current one: what names no device (pinned memory) would otherwise take memory
    on the first GPU too. Raises ConfigError if there is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device {device!r} is none: give auto, cpu, cuda or cuda:N") from None
    if target.type != "cuda":
        return target
    target = torch.device("cuda", target.index or 0)
    if target.index >= torch.cuda.device_count():
        raise ConfigError(f"device {device!r} is not there: torch sees {torch.cuda.device_count()} GPUs")
    torch.cuda.set_device(target)
    return target


def free_bytes(device: torch.device) -> int:
    """Memory of `device` that is free, the allocator's own cache included; 0 for a CPU (nothing is planned by it)."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + cached)


def has_room(device: torch.device, n_bytes: int) -> bool:
    """Whether `n_bytes` are free on `device`. Of a CPU the pages that nothing uses count, its file cache does not."""
    if device.type == "cuda":
        return free_bytes(device) >= n_bytes
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >= n_bytes


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
