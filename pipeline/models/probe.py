"""Items made up on the spot: to see at start-up that a model works, and how much of it fits the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.budget import FACTOR_PX, grid_of, grid_tokens
from pipeline.positions import mrope_positions
from pipeline.types import MediaKind, Modality, Prepared, Visual

__all__ = ["filling_items", "picture_item"]

PROBE_PX = 64
"""Two by two visual tokens: the smallest picture whose rows and columns both matter."""

FILLING_PX = 512
"""A picture of 256 visual tokens: a common size, and small enough to fill any budget evenly."""

OVERHEAD_TOKENS = 3
"""The marks around a picture, and the token that is pooled."""


def picture_item(config: Any, width_px: int = PROBE_PX, height_px: int = PROBE_PX) -> Prepared:  # noqa: ANN401
    """An item of one picture of that size (multiples of 32) for a model of `config`."""
    grid = grid_of(1, height_px, width_px)
    n_visual = grid_tokens(grid)
    pad, end = [config.image_token_id] * n_visual, int(config.text_config.bos_token_id or 0)
    ids = np.array([config.vision_start_token_id, *pad, config.vision_end_token_id, end], np.int32)
    ramp = np.arange(height_px * width_px * 3, dtype=np.uint32).astype(np.uint8).reshape(1, height_px, width_px, 3)
    return Prepared(
        id="probe",
        input_ids=ids,
        position_ids=mrope_positions(ids, [grid]),
        visuals=(Visual(MediaKind.IMAGE, ramp, grid),),
        modality=Modality.IMAGE,
        n_visual_tokens=n_visual,
        n_frames=0,
        truncated=False,
        content_hash="",
    )


def filling_items(config: Any, tokens: int) -> list[Prepared]:  # noqa: ANN401 - a transformers config has no useful type
    """Picture items of `tokens` tokens together, rounded down to whole pictures, one at least."""
    whole = picture_item(config, FILLING_PX, FILLING_PX)
    count = max(1, tokens // whole.n_tokens)
    if tokens >= whole.n_tokens:
        return [whole] * count
    columns = max(1, (tokens - OVERHEAD_TOKENS) // 2)
    return [picture_item(config, columns * FACTOR_PX, 2 * FACTOR_PX)]
