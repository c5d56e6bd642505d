"""M-RoPE positions of a prompt: pure index arithmetic.

In: token ids and the grids of the visuals in prompt order. Out: int32[3, n] (temporal, height, width).
Refused: nothing of a user's; pads that do not match the grids are a bug and raise ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.budget import MERGE
from pipeline.template import IMAGE_PAD_ID, VIDEO_PAD_ID

__all__ = ["mrope_positions"]


def mrope_positions(input_ids: NDArray[np.int32], grids: Sequence[tuple[int, int, int]]) -> NDArray[np.int32]:
    """Position ids int32[3, n] of `input_ids` int32[n], whose pads belong to `grids` (t, h, w in patches), in order.

    Text moves all three axes by one a token. An image, and each temporal patch of a video, is a block: its temporal
    position stands still, rows and columns count from the current position, and what follows continues after the
    block's longer side. This is `get_rope_index` of Qwen3-VL, where a video is `t` separate blocks of one.
    """
    n_tokens = len(input_ids)
    pads = np.flatnonzero((input_ids == IMAGE_PAD_ID) | (input_ids == VIDEO_PAD_ID))
    blocks = [(h // MERGE, w // MERGE) for t, h, w in grids for _ in range(t)]
    if len(pads) != sum(h * w for h, w in blocks):
        raise ValueError(f"{len(pads)} pad tokens do not match the grids {list(grids)}")
    positions = np.empty((3, n_tokens), np.int32)
    done = used = now = 0
    for height, width in blocks:
        start, end = int(pads[used]), int(pads[used]) + height * width
        positions[:, done:start] = np.arange(now, now + start - done)
        now += start - done
        positions[:, start:end] = now + _block(height, width)
        now += max(height, width)
        done, used = end, used + height * width
    positions[:, done:] = np.arange(now, now + n_tokens - done)
    return positions


def _block(height: int, width: int) -> NDArray[np.int64]:
    rows, columns = np.divmod(np.arange(height * width), width)
    return np.stack([np.zeros_like(rows), rows, columns])
