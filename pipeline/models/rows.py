"""Wide layers a slab of rows at a time, so that what lies between their products stays small."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["by_rows"]

CPU_SLAB_ROWS = 640
"""A product of 320 rows or more runs at nearly a CPU's full rate (measured: 156 GFLOP/s at 256 rows, 173 at 512 and
above), and the 8B model's 640 × 12,288 float32 values stay below the 32 MiB from where the C library maps fresh pages
for every tensor: `silu(gate) * up` of 2,048 × 6,144 took 117 ms so, and 6 in place."""


def by_rows(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`layer(x)` for a `layer` of rows [n, width] to rows of that width; on a CPU slab by slab, written over `x`."""
    slabs = -(-len(x) // CPU_SLAB_ROWS)
    if x.device.type != "cpu" or slabs <= 1:
        return layer(x)
    # Even slabs: a few rows left over would cost a product as much as hundreds.
    for slab in torch.tensor_split(x, slabs):
        slab.copy_(layer(slab))
    return x
