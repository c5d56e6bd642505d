"""What the vision tower must know of a picture's grid: where each patch stands. Pure NumPy, cached by grid.

In: rows and columns of 16-px patches, and the side of the model's table of learned positions. Out: the patches' rows
and columns, and which table entries make up each patch's position, with which weights. All in the order of the patches:
the 2×2 patches of one visual token lie together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.budget import MERGE

__all__ = ["GridFacts", "grid_facts"]

CACHED_GRIDS = 128
"""Of at most 288 kB each (7,200 patches of 40 bytes): 37 MB. A lake has few sizes, and a new one costs 1 ms."""


@dataclass(frozen=True, slots=True)
class GridFacts:
    """Of one frame's patches: `places` int32[n, 2] (row, column), and its position as `weights` float32[n, 4] of the
    table entries `entries` int32[n, 4] (bilinear, corners aligned)."""

    places: NDArray[np.int32]
    entries: NDArray[np.int32]
    weights: NDArray[np.float32]


@lru_cache(maxsize=CACHED_GRIDS)
def grid_facts(rows: int, columns: int, side: int) -> GridFacts:
    """The facts of a grid of `rows` × `columns` patches (both even) against a table of `side` × `side` positions."""
    place = np.arange(rows * columns).reshape(rows // MERGE, columns // MERGE, MERGE, MERGE)
    block_row, block_column, row, column = (axis.reshape(-1) for axis in np.indices(place.shape))
    row, column = block_row * MERGE + row, block_column * MERGE + column
    low_row, high_row, row_weight = _taps(row, rows, side)
    low_column, high_column, column_weight = _taps(column, columns, side)
    pairs = [(low_row, low_column), (low_row, high_column), (high_row, low_column), (high_row, high_column)]
    one = np.float32(1)
    weights = [
        (one - row_weight) * (one - column_weight),
        (one - row_weight) * column_weight,
        row_weight * (one - column_weight),
        row_weight * column_weight,
    ]
    return GridFacts(
        places=np.stack([row, column], 1).astype(np.int32),
        entries=np.stack([across * side + along for across, along in pairs], 1).astype(np.int32),
        weights=np.stack(weights, 1).astype(np.float32),
    )


def _taps(
    index: NDArray[np.int64], size: int, side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    source = index.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
    low = np.floor(source)
    high = np.minimum(low + 1, side - 1)
    return low.astype(np.int64), high.astype(np.int64), (source - low).astype(np.float32)
