"""Which frames of a video are shown to the model, and when each was: pure arithmetic on presentation times.

In: presentation times of a file's frames, or the length of a frame list. Out: indices and timestamps.
Refused: fewer than two frames (`TOO_FEW_FRAMES`), times that say nothing (`VIDEO_UNREADABLE`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.budget import TEMPORAL_PATCH
from pipeline.errors import RejectCode, RejectError

__all__ = [
    "LIST_FPS",
    "MIN_FRAMES",
    "FrameSample",
    "frame_count",
    "list_sample",
    "patch_times",
    "sample_video",
]

MIN_FRAMES = 4
"""A file gets at least so many frames if it has them, however short it is."""

LIST_FPS = 2.0
"""The rate that the reference ascribes to every frame list, whatever the true one was."""


@dataclass(frozen=True, slots=True)
class FrameSample:
    """The frames to show: `indices` int64[k] into presentation order, never falling; `timestamps_s` float64[k]."""

    indices: NDArray[np.int64]
    timestamps_s: NDArray[np.float64]


def frame_count(n_total: int, video_fps: float, fps: float, max_frames: int) -> int:
    """How many of a file's `n_total` frames to take at `fps` a second: even, ≥ 4 where possible.

    qwen-vl-utils' `smart_nframes`. Raises `TOO_FEW_FRAMES` when that is fewer than two.
    """
    if math.isnan(fps):
        raise RejectError(RejectCode.TOO_FEW_FRAMES, "fps is not a number")
    ceiling = max_frames // TEMPORAL_PATCH * TEMPORAL_PATCH
    wanted = min(min(max(n_total / video_fps * fps, MIN_FRAMES), ceiling), n_total)
    count = math.floor(wanted / TEMPORAL_PATCH) * TEMPORAL_PATCH
    if count < TEMPORAL_PATCH:
        raise RejectError(
            RejectCode.TOO_FEW_FRAMES,
            f"the video has {n_total} frame(s), max_frames is {max_frames}; two are needed",
        )
    return count


def sample_video(times_s: NDArray[np.float64], avg_fps: float, fps: float, max_frames: int) -> FrameSample:
    """Choose frames of a file whose frames are shown at `times_s` (float64[n], seconds from the first).

    A clip is constant-rate if every frame lies within half a frame of its place on the grid of `avg_fps`: then
    indices and timestamps are the reference's. Any other clip, one whose declared rate is wrong included, is
    sampled in time: evenly spaced targets from first to last frame, each the frame nearest to it, with its
    real time as the timestamp. Times that do not rise fall back to the grid of `avg_fps`.
    """
    n_total = len(times_s)
    if n_total < TEMPORAL_PATCH:
        raise RejectError(RejectCode.TOO_FEW_FRAMES, f"the video has {n_total} frame(s); two are needed")
    declared = math.isfinite(avg_fps) and avg_fps > 0
    rising = bool(np.isfinite(times_s).all() and (np.diff(times_s) >= 0).all() and times_s[-1] > times_s[0])
    if not declared and not rising:
        raise RejectError(RejectCode.VIDEO_UNREADABLE, "the video has neither frame times nor a frame rate")
    if declared and (not rising or _is_constant_rate(times_s, avg_fps)):
        indices = _even_indices(n_total, frame_count(n_total, avg_fps, fps, max_frames))
        return FrameSample(indices, indices / avg_fps)
    real_fps = (n_total - 1) / float(times_s[-1] - times_s[0])
    targets_s = np.linspace(times_s[0], times_s[-1], frame_count(n_total, real_fps, fps, max_frames))
    indices = _nearest(times_s, targets_s)
    return FrameSample(indices, times_s[indices] - times_s[0])


def _is_constant_rate(times_s: NDArray[np.float64], fps: float) -> bool:
    # Half a frame: containers round times (Matroska to 1 ms), and within half a frame each frame still is the
    # nearest to its own place, so both ways of sampling mean the same picture.
    places_s = np.arange(len(times_s)) / fps
    return bool((np.abs(times_s - times_s[0] - places_s) <= 0.5 / fps).all())


def _even_indices(n_total: int, count: int) -> NDArray[np.int64]:
    """`torch.linspace(0, n_total - 1, count).round()`, bit for bit: float32, from both ends, fused multiply-add.

    The float64 product of a float32 and a small integer is exact, so one rounding to float32 is the fused result.
    """
    last = np.float32(n_total - 1)
    step = np.float32(last / np.float32(count - 1))
    order = np.arange(count)
    rising = float(step) * order
    falling = float(last) - float(step) * (count - 1 - order)
    places = np.where(order < count // 2, rising, falling).astype(np.float32)
    return np.rint(places).astype(np.int64)


def _nearest(times_s: NDArray[np.float64], targets_s: NDArray[np.float64]) -> NDArray[np.int64]:
    after = np.clip(np.searchsorted(times_s, targets_s), 1, len(times_s) - 1)
    earlier = targets_s - times_s[after - 1] <= times_s[after] - targets_s
    return np.where(earlier, after - 1, after).astype(np.int64)


def list_sample(n_frames: int, max_frames: int) -> FrameSample:
    """Choose frames of a list: at most `max_frames`, spread evenly; an odd count repeats its last frame."""
    if n_frames < 1:
        raise RejectError(RejectCode.TOO_FEW_FRAMES, "the frame list is empty")
    kept = min(n_frames, max_frames)
    indices = np.linspace(0, n_frames - 1, kept, dtype=np.int64) if n_frames > max_frames else np.arange(n_frames)
    if kept % TEMPORAL_PATCH:
        indices = np.append(indices, indices[-1])
    return FrameSample(indices.astype(np.int64), np.arange(len(indices)) / LIST_FPS)


def patch_times(timestamps_s: NDArray[np.float64]) -> tuple[float, ...]:
    """The time of each temporal patch: the mean of its first and last frame's; `timestamps_s` is of even length."""
    pairs = timestamps_s.reshape(-1, TEMPORAL_PATCH)
    return tuple((float(first) + float(last)) / 2 for first, last in pairs[:, [0, -1]])
