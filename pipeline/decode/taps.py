"""Antialiased bicubic the way torch's float32 CPU operator rounds it: weights of an axis, and exact values.

In: sizes of an axis; a uint8 frame. Out: weights, and resized values equal to torch's to the bit (its AVX2 and AVX-512
builds; others round otherwise in the last place). Refused: nothing; sizes are the caller's.

torch resizes along the width, then along the height, and adds up the taps of a value in order, as its compiler laid
the loop out: after the first tap whole groups of `GROUP_TAPS` are multiplied and then added, the rest fused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["CACHED_AXES", "GROUP_TAPS", "AxisTaps", "Float32", "axis_taps", "exact_frame", "exact_values"]

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Pixels = NDArray[np.uint8] | NDArray[np.float32]

CUBIC_A = np.float32(-0.5)  # Keys' cubic; Pillow and antialiased torch use it, plain torch -0.75
CUBIC_SUPPORT = np.float32(2)

GROUP_TAPS = 4
"""Lanes of the multiply in torch's compiled loop, seen in its results: no other width reproduces them."""

CHUNK_VALUES = 1 << 17
"""Values recomputed at once: their float64 products, 1 MB an array, stay in a core's cache."""

CACHED_AXES = 64
"""A lake has few distinct frame sizes, and one axis holds under 1 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class AxisTaps:
    """What each of `out` output pixels of an axis of `in_px` pixels reads.

    `first`: int64[out], where it starts. `weights`: float32[out, taps], adding up to 1 and ending in zeros where fewer
    taps are used. `fused`: bool[out, taps], the taps that are added without rounding their product.
    """

    in_px: int
    first: Int64
    weights: Float32
    fused: NDArray[np.bool_]

    @property
    def gain(self) -> float:
        """The most that a pixel's weights add up to without their signs: how an error in the input may grow."""
        return float(np.abs(self.weights).sum(axis=1).max())

    def places(self, tap: int) -> Int64:
        """int64[out]: the input pixel under `tap`; one past the picture, which weighs nothing, is its last pixel."""
        return np.minimum(self.first + tap, self.in_px - 1)


@lru_cache(maxsize=CACHED_AXES)
def axis_taps(in_px: int, out_px: int) -> AxisTaps:
    """The taps of an axis of `in_px` pixels resized to `out_px`; an axis that keeps its size has one tap of 1.

    Kernel: Keys 1981 with a = -0.5, stretched by the scale when shrinking. Every step rounds as torch's does, since
    its rounding decides which way a tie falls.
    """
    if in_px == out_px:
        one = np.ones((out_px, 1), np.float32)
        return AxisTaps(in_px, np.arange(out_px), one, one > 0)
    scale = np.float32(in_px) / np.float32(out_px)
    stretch = max(scale, np.float32(1))
    support = CUBIC_SUPPORT * stretch
    centre = (np.float64(scale) * (np.arange(out_px) + 0.5)).astype(np.float32)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    counts = np.minimum((centre + support + 0.5).astype(np.int64), in_px) - first
    places = np.arange(counts.max())
    offset = (places + first[:, None]).astype(np.float32) - centre[:, None]
    # In C, 0.5 is a double and so is what it is added to; the filter takes a float again.
    apart = ((offset + np.float64(0.5)) * np.float64(1 / stretch)).astype(np.float32)
    weights = np.where(places < counts[:, None], _cubic(apart), np.float32(0))
    # cumsum adds in order; sum adds in pairs.
    weights /= np.cumsum(weights, axis=1, dtype=np.float32)[:, -1:]
    grouped = 1 + (counts - 1) // GROUP_TAPS * GROUP_TAPS
    return AxisTaps(in_px, first, weights, places >= grouped[:, None])


def _cubic(x: Float32) -> Float32:
    x, a = np.abs(x), CUBIC_A
    near = _fma(_fma(a + 2, x, -(a + 3)) * x, x, np.float32(1))
    far = _fma(_fma(_fma(a, x, -5 * a), x, 8 * a), x, -4 * a)
    return np.where(x < 1, near, np.where(x < 2, far, np.float32(0)))


def _fma(a: Float32 | np.float32, b: Float32, c: Float32 | np.float32) -> Float32:
    # A product of two float32 is exact in float64, so this rounds twice only where the sum needs over 53 bits: the
    # result is the fused one but for one case in 2^29 of those.
    return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)


def exact_values(frame: NDArray[np.uint8], tall: AxisTaps, wide: AxisTaps, at: tuple[Int64, Int64, Int64]) -> Float32:
    """float32[k]: the values of the resized frame (uint8[h, w, c]) at `at`: int64[k] rows, columns and channels.

    Costs k · taps of `tall` · taps of `wide`; see `exact_frame` where that is too many.
    """
    values = np.empty(len(at[0]), np.float32)
    step = max(1, CHUNK_VALUES // tall.weights.shape[1])
    for start in range(0, len(values), step):
        chunk = slice(start, start + step)
        values[chunk] = _values(frame, tall, wide, at[0][chunk], at[1][chunk], at[2][chunk])
    return values


def _values(
    frame: NDArray[np.uint8], tall: AxisTaps, wide: AxisTaps, rows: Int64, columns: Int64, channels: Int64
) -> Float32:
    _, width, depth = frame.shape
    flat = frame.reshape(-1)
    lines = np.minimum(tall.first[rows][:, None] + np.arange(tall.weights.shape[1]), tall.in_px - 1)
    left, start = wide.first[columns], lines * (width * depth) + channels[:, None]

    def across(tap: int) -> NDArray[np.uint8]:
        read: NDArray[np.uint8] = flat[start + (np.minimum(left + tap, width - 1) * depth)[:, None]]
        return read

    middle = _in_order(across, wide.weights[columns][:, None], wide.fused[columns][:, None])
    return _in_order(lambda tap: middle[:, tap], tall.weights[rows], tall.fused[rows])


def exact_frame(frame: NDArray[np.uint8], tall: AxisTaps, wide: AxisTaps) -> Float32:
    """float32[out of tall, out of wide, c]: the whole resized frame (uint8[h, w, c]), not yet rounded nor clamped."""
    height, width, depth = frame.shape
    turned = np.ascontiguousarray(frame.swapaxes(0, 1)).reshape(width, height * depth)
    narrow = _along_rows(turned, wide).reshape(-1, height, depth)
    upright = np.ascontiguousarray(narrow.swapaxes(0, 1)).reshape(height, -1)
    return _along_rows(upright, tall).reshape(-1, len(wide.first), depth)


def _along_rows(matrix: Pixels, axis: AxisTaps) -> Float32:
    result = np.empty((len(axis.first), matrix.shape[1]), np.float32)
    step = max(1, CHUNK_VALUES // len(axis.first))
    for start in range(0, matrix.shape[1], step):
        part = slice(start, start + step)
        result[:, part] = _part_along_rows(matrix[:, part], axis)
    return result


def _part_along_rows(part: Pixels, axis: AxisTaps) -> Float32:
    def lines(tap: int) -> Pixels:
        read: Pixels = part[axis.places(tap)]
        return read

    return _in_order(lines, axis.weights[:, None], axis.fused[:, None])


def _in_order(values: Callable[[int], Pixels], weights: Float32, fused: NDArray[np.bool_]) -> Float32:
    """Sum over taps of `values(tap)` · `weights[..., tap]`, rounded to float32 as often and where torch rounds."""
    total = (values(0) * weights[..., 0]).astype(np.float32)
    for tap in range(1, weights.shape[-1]):
        product = np.multiply(values(tap), weights[..., tap], dtype=np.float64)
        np.copyto(product, product.astype(np.float32), where=~fused[..., tap])
        total = (product + total).astype(np.float32)
    return total
