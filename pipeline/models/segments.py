"""Segments: the bounds of the sequences in a packed one, as host numbers and as the `cu_seqlens` that kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Run", "Segments", "cu_seqlens", "segments_of"]


class Run(NamedTuple):
    """Neighbouring segments of one length: `segments` of `length` tokens each, the first beginning at `start`."""

    start: int
    segments: int
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """`lengths` of the sequences, their longest, and `cu` = int32[n + 1] on the device: where each begins.

    Everything shape-like is a host number, so that no kernel launch waits for the device.
    """

    lengths: tuple[int, ...]
    longest: int
    cu: Tensor
    runs: tuple[Run, ...]


def cu_seqlens(lengths: Sequence[int]) -> NDArray[np.int32]:
    """Cumulative lengths int32[n + 1], beginning with 0."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def segments_of(lengths: Sequence[int], cu: Tensor) -> Segments:
    """The segments of `lengths` (at least one, each ≥ 1) whose cumulative lengths are `cu`, on whatever device."""
    return Segments(tuple(lengths), max(lengths), cu, tuple(_runs(lengths)))


def _runs(lengths: Sequence[int]) -> list[Run]:
    runs: list[Run] = []
    start = 0
    for length in lengths:
        if runs and runs[-1].length == length:
            runs[-1] = runs[-1]._replace(segments=runs[-1].segments + 1)
        else:
            runs.append(Run(start, 1, length))
        start += length
    return runs
