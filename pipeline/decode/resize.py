"""The reference's second resize: antialiased bicubic in float32, back to uint8.

In: uint8 frames. Out: uint8 frames of the wanted size, equal to what torch's `interpolate(mode="bicubic",
antialias=True)` followed by clamp and round gives on a CPU, without torch: a process that decodes must not load it.
Refused: nothing; sizes are the caller's.

A resize is two products with sparse band matrices. They are cut into blocks of output rows, since a dense block
product in BLAS beats the usual loop over taps. BLAS adds in another order than torch, so the few values that lie within
both their errors of half-way between two levels are computed once more in torch's own order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.taps import CACHED_AXES, AxisTaps, Float32, axis_taps, exact_frame, exact_values

__all__ = ["resize_frame", "resize_frames"]

BLOCK_ROWS = 32
"""Output rows of one product: fewer make BLAS calls too small, more make the blocks mostly zeros."""

GATHER_COST = 2  # picking a pixel by its place, measured against walking along rows
UNIT_ROUNDOFF = 2.0**-24  # of float32
MAX_LEVEL = 255


class _Block(NamedTuple):
    """Output rows `out` are `weights` @ input rows `taken`."""

    out: slice
    taken: slice
    weights: Float32


def resize_frames(frames: NDArray[np.uint8], height_px: int, width_px: int) -> NDArray[np.uint8]:
    """uint8[n, h, w, 3] → uint8[n, height_px, width_px, 3]; the same array when the size already fits.

    Works frame by frame, so beyond the result it holds float32 copies of one frame.
    """
    if frames.shape[1:3] == (height_px, width_px):
        return frames
    resized = np.empty((frames.shape[0], height_px, width_px, frames.shape[3]), np.uint8)
    for source, target in zip(frames, resized, strict=True):
        target[...] = resize_frame(source, height_px, width_px)
    return resized


def resize_frame(frame: NDArray[np.uint8], height_px: int, width_px: int) -> NDArray[np.uint8]:
    """uint8[h, w, c] → uint8[height_px, width_px, c], as `resize_frames` does each frame."""
    height, width, _ = frame.shape
    if (height, width) == (height_px, width_px):
        return frame
    frame = np.ascontiguousarray(frame)
    tall, wide = axis_taps(height, height_px), axis_taps(width, width_px)
    turned, near = _rounded(_by_blas(frame, tall, wide), _tolerance(tall, wide))
    # A picture of little but ties, such as one of two neighbouring levels, is cheaper to do over as a whole.
    if np.count_nonzero(near) > _break_even_values(frame, tall, wide):
        return _levels(exact_frame(frame, tall, wide))
    columns, rows, channels = np.unravel_index(np.flatnonzero(near), near.shape)
    turned[columns, rows, channels] = _levels(exact_values(frame, tall, wide, (rows, columns, channels)))
    return np.ascontiguousarray(turned.swapaxes(0, 1))


def _levels(values: Float32) -> NDArray[np.uint8]:
    return np.rint(np.clip(values, 0, MAX_LEVEL)).astype(np.uint8)


def _rounded(values: Float32, tolerance: float) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Levels of `values` (which it overwrites), and which of them an error of `tolerance` could change."""
    # Clamped first: beyond the ends of the scale both neighbours of a tie are the same level.
    np.clip(values, 0, MAX_LEVEL, out=values)
    levels = np.rint(values)
    apart = np.abs(np.subtract(values, levels, out=values), out=values)
    return levels.astype(np.uint8), apart >= 0.5 - tolerance


def _tolerance(tall: AxisTaps, wide: AxisTaps) -> float:
    """The most by which two orders of adding may differ: Higham 2002, §3.1: n · u · Σ|wx| for a sum of n products.

    Twice, as both orders round; one tap more than there are covers the terms of higher order.
    """
    taps: int = tall.weights.shape[1] + wide.weights.shape[1] + 1
    return 2 * taps * UNIT_ROUNDOFF * tall.gain * wide.gain * MAX_LEVEL


def _break_even_values(frame: NDArray[np.uint8], tall: AxisTaps, wide: AxisTaps) -> float:
    """How many values cost as much one by one, each with its own first pass, as the whole frame does."""
    height, _, channels = frame.shape
    tall_taps, wide_taps = tall.weights.shape[1], wide.weights.shape[1]
    whole: int = len(wide.first) * channels * (height * wide_taps + len(tall.first) * tall_taps)
    each: int = GATHER_COST * tall_taps * wide_taps
    return whole / each


def _by_blas(frame: NDArray[np.uint8], tall: AxisTaps, wide: AxisTaps) -> Float32:
    """float32[out of wide, out of tall, c]: the resized frame, turned, since this order moves the fewest bytes."""
    height, width, channels = frame.shape
    height_px, width_px = len(tall.first), len(wide.first)
    short = _along_rows(frame.reshape(height, width * channels), height_px)
    turned = np.ascontiguousarray(short.reshape(height_px, width, channels).swapaxes(0, 1))
    return _along_rows(turned.reshape(width, height_px * channels), width_px).reshape(width_px, height_px, channels)


def _along_rows(matrix: NDArray[np.uint8] | Float32, out_rows: int) -> Float32:
    in_rows = matrix.shape[0]
    if in_rows == out_rows:
        return matrix.astype(np.float32, copy=False)
    result = np.empty((out_rows, matrix.shape[1]), np.float32)
    for block in _blocks(in_rows, out_rows):
        np.matmul(block.weights, matrix[block.taken].astype(np.float32, copy=False), out=result[block.out])
    return result


@lru_cache(maxsize=CACHED_AXES)
def _blocks(in_px: int, out_px: int) -> tuple[_Block, ...]:
    axis = axis_taps(in_px, out_px)
    return tuple(_block(axis, start) for start in range(0, out_px, BLOCK_ROWS))


def _block(axis: AxisTaps, start: int) -> _Block:
    first, taps = axis.first, axis.weights
    rows = slice(start, min(start + BLOCK_ROWS, len(first)))
    low, high = int(first[rows].min()), min(int(first[rows].max()) + taps.shape[1], axis.in_px)
    # One spare tap's width: the last rows' unused taps may point past the picture and weigh nothing.
    dense = np.zeros((rows.stop - rows.start, high - low + taps.shape[1]), np.float32)
    columns = (first[rows] - low)[:, None] + np.arange(taps.shape[1])
    np.put_along_axis(dense, columns, taps[rows], axis=1)
    return _Block(rows, slice(low, high), np.ascontiguousarray(dense[:, : high - low]))
