"""The vectors of a window on their way home: copied while the device goes on, waited for once, put back in order.

They cross in the model's own dtype: two bytes a value in 16 bits, and widened here without loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Results"]


class Results:
    """Room for the vectors of `n_items` items of width `width` that `device` computes in `dtype`."""

    def __init__(self, n_items: int, width: int, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        # Pinning opens a context on the thread's current GPU, which need not be this one.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            self._rows = torch.empty(n_items, width, dtype=dtype, pin_memory=device.type == "cuda")
        self._order: list[int] = []

    def take(self, indices: Sequence[int], pooled: Tensor) -> None:
        """Start copying `pooled` [len(indices), width] of the items `indices`; returns at once."""
        start = len(self._order)
        self._rows[start : start + len(indices)].copy_(pooled, non_blocking=True)
        self._order += indices

    def mark(self) -> torch.cuda.Event | None:
        """The point up to which a window's work is launched."""
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def vectors(self, launched: torch.cuda.Event | None) -> NDArray[np.float32]:
        """float32[n_items, width] in the items' order, once `launched` is done; NaN for items never taken."""
        if launched is not None:
            launched.synchronize()
        ordered = np.full(self._rows.shape, np.nan, np.float32)
        ordered[self._order] = self._rows[: len(self._order)].float().numpy()
        return ordered
