"""Sets of prepared items to encode: what lakes look like, made up.

All begin with the same tokens, as the system turn and the instruction make a job's items do; what follows is random, so
that no other work is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.types import MediaKind, Prepared
from tests.fixtures.prepared import item_of, text_item, visual

__all__ = ["behind_words", "images", "mixed", "skewed_texts", "texts", "videos"]

INSTRUCTION_TOKENS = 14
"""Of every prompt, in front of what the item holds: the system turn with the default instruction."""

SIDE_PX = (256, 320, 384, 448, 512, 640)
"""Sides of the small pictures: 64 to 400 tokens."""


def skewed_texts(count: int, median_tokens: int, *, sigma: float = 1.0, longest: int = 2_000) -> list[Prepared]:
    """Texts of log-normal length: most are short, a few long."""
    lengths = np.random.default_rng(1).lognormal(np.log(median_tokens), sigma, count).clip(8, longest).astype(int)
    return texts([int(length) for length in lengths])


def texts(lengths: Sequence[int]) -> list[Prepared]:
    """One text a length (tokens, the instruction included)."""
    return [
        _instructed(text_item(max(0, length - INSTRUCTION_TOKENS - 4), seed=number))
        for number, length in enumerate(lengths)
    ]


def images(count: int, sides_px: Sequence[int] = SIDE_PX) -> list[Prepared]:
    """Pictures with a line of text each."""
    rng = np.random.default_rng(2)
    sizes = rng.choice(sides_px, (count, 2))
    return [
        _instructed(item_of([visual(MediaKind.IMAGE, 1, int(high), int(wide), seed=number)], 20, seed=number))
        for number, (high, wide) in enumerate(sizes)
    ]


def videos(count: int, frames: int, height_px: int, width_px: int) -> list[Prepared]:
    """Clips of `frames` frames."""
    return [
        _instructed(item_of([visual(MediaKind.VIDEO, frames, height_px, width_px, seed=number)], 20, seed=number))
        for number in range(count)
    ]


def mixed(*parts: Sequence[Prepared]) -> list[Prepared]:
    """All of `parts`, shuffled."""
    items = [item for part in parts for item in part]
    return [items[index] for index in np.random.default_rng(3).permutation(len(items))]


def behind_words(item: Prepared, n_tokens: int) -> Prepared:
    """`item` behind the first `n_tokens` of the words that all items have in common."""
    tokens = np.random.default_rng(4).integers(0, 151643, n_tokens).astype(np.int32)
    positions = np.tile(np.arange(n_tokens, dtype=np.int32), (3, 1))
    return replace(
        item,
        input_ids=np.concatenate([tokens, item.input_ids]),
        position_ids=np.concatenate([positions, item.position_ids + n_tokens], 1),
    )


def _instructed(item: Prepared) -> Prepared:
    return behind_words(item, INSTRUCTION_TOKENS)
