"""How large a medium becomes and what that costs: pure arithmetic on sizes, held equal to qwen-vl-utils 0.0.14.

In: pixel sizes, frame counts, budgets. Out: sizes and token counts. Refused: shapes that no size fits
(`ASPECT_RATIO`), and videos that no allowed size or frame count brings under the token budget (`OVER_LENGTH`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.errors import RejectCode, RejectError

__all__ = [
    "FACTOR_PX",
    "FRAME_LIST_FACTOR_PX",
    "FRAME_MAX_PIXELS",
    "FRAME_MIN_PIXELS",
    "MAX_RATIO",
    "MERGE",
    "PATCH_PX",
    "TEMPORAL_PATCH",
    "fit_frames",
    "frame_list_first_size",
    "frame_second_size",
    "grid_of",
    "grid_tokens",
    "smart_resize",
    "timestamp_tokens",
    "video_file_size",
    "visual_tokens",
]

PATCH_PX = 16
"""Side of one vision patch."""

MERGE = 2
"""Patches a side that the merger joins into one visual token."""

TEMPORAL_PATCH = 2
"""Frames of one temporal patch."""

FACTOR_PX = PATCH_PX * MERGE
"""Side of one visual token; every final size is a multiple of it."""

FRAME_LIST_FACTOR_PX = FACTOR_PX * MERGE
"""A frame list's first resize rounds to this: the reference passes the token side where the patch side is meant."""

MAX_RATIO = 200
"""Longer side over shorter side that is still accepted."""

WRAPPER_TOKENS = 2
"""`<|vision_start|>` and `<|vision_end|>` around an image or one temporal patch of a video."""

FRAME_MIN_PIXELS = 128 * FACTOR_PX**2
FRAME_MAX_PIXELS = 768 * FACTOR_PX**2
"""A video frame gets 128 to 768 tokens' worth of pixels."""

_LIST_MIN_PIXELS = 4 * FRAME_LIST_FACTOR_PX**2
_LIST_MAX_PIXELS = 16_384 * FRAME_LIST_FACTOR_PX**2
"""qwen-vl-utils' defaults for a still image, in units of its (here doubled) factor."""

_FILE_TOTAL_PIXELS = 128_000 * FACTOR_PX**2 * 0.9
"""qwen-vl-utils' default for a whole video: nine tenths of its assumed sequence length. It binds from 302 frames on."""


def smart_resize(
    height_px: int, width_px: int, *, factor: int, min_pixels: float, max_pixels: float
) -> tuple[int, int]:
    """The size (height_px, width_px), both multiples of `factor`, nearest to the given one within the pixel limits.

    As qwen-vl-utils' function of this name: banker's rounding, and no lower bound of one `factor` when shrinking, so
    a thin picture can shrink to nothing; that, and a side ratio above `MAX_RATIO`, is `ASPECT_RATIO` here.
    """
    if min(height_px, width_px) < 1:
        raise RejectError(RejectCode.ASPECT_RATIO, f"the picture is {width_px}x{height_px} pixels")
    if max(height_px, width_px) / min(height_px, width_px) > MAX_RATIO:
        raise RejectError(
            RejectCode.ASPECT_RATIO,
            f"{width_px}x{height_px} is more than {MAX_RATIO} times as long as it is wide",
        )
    height, width = (max(factor, round(side / factor) * factor) for side in (height_px, width_px))
    if height * width > max_pixels:
        shrink = math.sqrt((height_px * width_px) / max_pixels)
        height, width = (math.floor(side / shrink / factor) * factor for side in (height_px, width_px))
    elif height * width < min_pixels:
        grow = math.sqrt(min_pixels / (height_px * width_px))
        height, width = (math.ceil(side * grow / factor) * factor for side in (height_px, width_px))
    if not height or not width:
        raise RejectError(
            RejectCode.ASPECT_RATIO,
            f"{width_px}x{height_px} is so thin that it shrinks to {width}x{height} under {int(max_pixels)} pixels",
        )
    return height, width


def frame_list_first_size(height_px: int, width_px: int) -> tuple[int, int]:
    """Size after the first of a listed frame's two resizes (PIL bicubic), as qwen-vl-utils loads it."""
    return smart_resize(
        height_px,
        width_px,
        factor=FRAME_LIST_FACTOR_PX,
        min_pixels=_LIST_MIN_PIXELS,
        max_pixels=_LIST_MAX_PIXELS,
    )


def frame_second_size(height_px: int, width_px: int, n_frames: int, total_pixels: float) -> tuple[int, int]:
    """Size of each of `n_frames` frames of a video under `total_pixels`, counted a temporal patch as two frames.

    A frame always keeps about 128 tokens (times 1.05), whatever `total_pixels` says.
    """
    per_frame = min(FRAME_MAX_PIXELS, total_pixels / n_frames * TEMPORAL_PATCH)
    return smart_resize(
        height_px,
        width_px,
        factor=FACTOR_PX,
        min_pixels=FRAME_MIN_PIXELS,
        max_pixels=max(per_frame, int(FRAME_MIN_PIXELS * 1.05)),
    )


def video_file_size(height_px: int, width_px: int, n_frames: int) -> tuple[int, int]:
    """Size of each frame of a video file in the reference, which passes no total of its own: 128 to 768 tokens."""
    return frame_second_size(height_px, width_px, n_frames, _FILE_TOTAL_PIXELS)


def grid_of(n_frames: int, height_px: int, width_px: int) -> tuple[int, int, int]:
    """grid_thw of `n_frames` frames (1 for an image) of a size already fitted: temporal patches, rows, columns."""
    return math.ceil(n_frames / TEMPORAL_PATCH), height_px // PATCH_PX, width_px // PATCH_PX


def grid_tokens(grid_thw: tuple[int, int, int]) -> int:
    """Visual tokens (pads) of a grid."""
    rows, columns = grid_thw[1] // MERGE, grid_thw[2] // MERGE
    return grid_thw[0] * rows * columns


def timestamp_tokens(time_s: float) -> int:
    """Tokens of `<{time_s:.1f} seconds>`: each character of the number is one; `<`, ` seconds` and `>` are three."""
    return len(f"{time_s:.1f}") + 3


def visual_tokens(grid_thw: tuple[int, int, int], patch_times_s: Sequence[float] | None = None) -> int:
    """Prompt tokens of an image, or of a video with `patch_times_s`: pads, wrappers and timestamps."""
    if patch_times_s is None:
        return grid_tokens(grid_thw) + WRAPPER_TOKENS
    stamps = sum(timestamp_tokens(time_s) for time_s in patch_times_s)
    return grid_tokens(grid_thw) + len(patch_times_s) * WRAPPER_TOKENS + stamps


def fit_frames(patch_tokens: int, last_time_s: float, n_frames: int, room_tokens: int) -> int:
    """The largest even frame count ≤ `n_frames` whose patches fit into `room_tokens`.

    `patch_tokens` are the pads of one temporal patch; every timestamp is counted as wide as that of
    `last_time_s`, so that the count holds wherever the frames are then taken from. Raises `OVER_LENGTH` when not
    even one patch fits.
    """
    cost = patch_tokens + WRAPPER_TOKENS + timestamp_tokens(last_time_s)
    patches = min(n_frames // TEMPORAL_PATCH, room_tokens // cost)
    if patches < 1:
        raise RejectError(
            RejectCode.OVER_LENGTH, f"two video frames need {cost} tokens, and {max(room_tokens, 0)} are left"
        )
    return patches * TEMPORAL_PATCH
