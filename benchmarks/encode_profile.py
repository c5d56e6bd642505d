"""What a card can do and how busy it was: calibration in the run itself, kernels by the profiler, peak memory."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["busy_of", "calibrate", "gpu_busy", "memory_gib", "varlen_signature"]

PRODUCT_SIDE, COPY_BYTES = 8192, 1 << 30
WARM, TIMED = 5, 20

BUBBLE_US = 50
"""A gap between kernels that is no launch latency any more."""


def calibrate(device: torch.device, *, small: bool) -> dict[str, float]:
    """Operations a second of a bfloat16 product of 8192³ on random values, bytes a second of a copy (both ways)."""
    side, size = (256, 1 << 20) if small else (PRODUCT_SIDE, COPY_BYTES)
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    product_s = _seconds(device, lambda: torch.mm(left, right))
    copy_s = _seconds(device, lambda: target.copy_(source))
    return {"product_flop_s": 2 * side**3 / product_s, "copy_bytes_s": 2 * size / copy_s}


def gpu_busy(device: torch.device, run: Callable[[], object]) -> dict[str, float] | None:
    """Of one profiled run: the share of the call's wall time in which a kernel ran, and its gaps above 50 µs.

    The wall time counts from the call until the device has finished, so that what the host does first is idle time;
    the profiler's own cost is in it. None on a CPU.
    """
    if device.type != "cuda":
        return None
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        started = time.perf_counter()
        run()
        torch.cuda.synchronize(device)
        wall_us = (time.perf_counter() - started) * 1e6
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in found.events()
        if event.device_type == DeviceType.CUDA and not event.name.startswith("Memcpy")
    ]
    return busy_of(spans, wall_us)


def busy_of(spans: list[tuple[float, float]], wall_us: float) -> dict[str, float]:
    """The share of `wall_us` that any of the kernels' `spans` (start, end) covers, and their gaps above 50 µs."""
    busy, gaps = _union(spans)
    bubbles = sum(gap > BUBBLE_US for gap in gaps)
    return {"busy_share": busy / wall_us, "wall_s": wall_us / 1e6, "bubbles": bubbles, "kernels": len(spans)}


def _union(spans: list[tuple[float, float]]) -> tuple[float, list[float]]:
    covered, gaps, reached = 0.0, [], None
    for start, end in sorted(spans):
        if reached is not None and start > reached:
            gaps.append(start - reached)
        covered += max(0.0, end - (start if reached is None else max(start, reached)))
        reached = end if reached is None else max(reached, end)
    return covered, gaps


def memory_gib(device: torch.device, run: Callable[[], object]) -> float | None:
    """The most memory that was allocated during `run`, weights included. None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)


def varlen_signature() -> str | None:
    """The signature of torch's `varlen_attn` as it is here."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return str(inspect.signature(varlen_attn))


def _seconds(device: torch.device, work: Callable[[], Any]) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(WARM):
        work()
    wait()
    started = time.perf_counter()
    for _ in range(TIMED):
        work()
    wait()
    return (time.perf_counter() - started) / TIMED
