"""What an exception out of torch says of the device: that it has no memory left, or that this process has lost it.

In: an exception that a forward raised. Out: its kind. Nothing is refused; what is neither is a defect, and is raised on
by who caught it. torch has classes for a few of these; the libraries below it (cuBLAS, cuDNN, the CPU's allocator) come
as RuntimeErrors that differ by their text alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import DeviceLostError
from pipeline.models.loading import first_line

__all__ = ["lost_device", "memory_problem", "noticing_loss"]

_NO_MEMORY = re.compile(
    r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|can't allocate memory|cannot allocate memory"
    r"|bad_alloc",
    re.I,
)
"""None of these leaves the device unusable: what fits can go on."""

_LOST = re.compile(
    r"device-side assert|illegal memory access|illegal instruction|illegal address|misaligned address"
    r"|invalid program counter|invalid address space|hardware stack error|unspecified launch failure"
    r"|launch timed out|uncorrectable (?:ECC|NVLink)|GPU has fallen off|Xid \d"
    r"|CU(?:BLAS|DNN)_STATUS_(?:EXECUTION_FAILED|MAPPING_ERROR)",
    re.I,
)
"""CUDA errors that stick (its manual: "the process must be terminated and relaunched"), and what cuBLAS and cuDNN say
when they meet one first."""


def memory_problem(error: Exception) -> str:
    """What `error` says of memory that there was not enough of, on the device or the host. Raises any other error."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _NO_MEMORY.search(str(error)):
        return first_line(error) or "out of memory"
    raise error


def lost_device(error: Exception, device: torch.device) -> str | None:
    """Why `device` can do no more for this process, None if it can.

    An error of the device itself that no known text names is settled by asking the device: a lost one answers with
    an error again.
    """
    if isinstance(error, torch.OutOfMemoryError) or not isinstance(error, RuntimeError):
        return None
    if _LOST.search(str(error)):
        return first_line(error)
    return first_line(error) if device.type == "cuda" and _is_dead(device) else None


@contextmanager
def noticing_loss(device: torch.device) -> Iterator[None]:
    """Raise DeviceLostError for an error inside that means `device` is lost, and any other as it is."""
    try:
        yield
    except RuntimeError as error:
        reason = lost_device(error, device)
        if reason is None:
            raise
        raise DeviceLostError(f"{device} is lost to this process: {reason}") from error


def _is_dead(device: torch.device) -> bool:
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False
