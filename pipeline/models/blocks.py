"""Blocks: what the vision tower looks at in one go. Equal pixels get one key, so that they are computed once.

In: prepared items. Out: each item's blocks in prompt order. A block is a temporal patch: an image, or two frames of a
video. Vision attention never crosses it and its positions do not depend on its neighbours, so a static stretch of
video repeats its blocks as a lake repeats its images.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.types import Prepared

__all__ = ["Block", "blocks_of"]

SAMPLED_BYTES = 64
"""Bytes of a block that must agree before the whole is hashed: distinct pictures are told apart for nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """`frames` uint8[1 or 2, height_px, width_px, 3] of a grid of `rows` × `columns` patches; blocks of one call with
    equal `key` have equal pixels."""

    key: int
    frames: NDArray[np.uint8]
    rows: int
    columns: int

    @property
    def n_patches(self) -> int:
        """Vision patches of the block."""
        return self.rows * self.columns


def blocks_of(items: Sequence[Prepared], *, share: bool = True) -> list[tuple[Block, ...]]:
    """The blocks of each of `items`; without `share` every block has a key of its own."""
    found = [(index, *block) for index, item in enumerate(items) for block in _frames(item)]
    names = [_sample(frames) if share else number for number, (_, frames, _, _) in enumerate(found)]
    times = Counter(names)
    keys: dict[object, int] = {}
    blocks: list[list[Block]] = [[] for _ in items]
    for (index, frames, rows, columns), name in zip(found, names, strict=True):
        exact = (name, hashlib.blake2b(np.ascontiguousarray(frames).data).digest()) if times[name] > 1 else name
        blocks[index].append(Block(keys.setdefault(exact, len(keys)), frames, rows, columns))
    return [tuple(each) for each in blocks]


def _frames(item: Prepared) -> list[tuple[NDArray[np.uint8], int, int]]:
    return [
        (visual.frames[start : start + 2], visual.grid_thw[1], visual.grid_thw[2])
        for visual in item.visuals
        for start in range(0, len(visual.frames), 2)
    ]


def _sample(frames: NDArray[np.uint8]) -> object:
    flat = frames.reshape(-1)
    return frames.shape, flat[:: max(1, flat.size // SAMPLED_BYTES)].tobytes()
