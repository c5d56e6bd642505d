"""Collate: the items of a micro-batch become one packed sequence of host arrays. Nothing is padded.

In: items, their blocks, and which blocks' features an earlier forward keeps. Out: a `HostBatch`: everything the device
is going to need, lengths as host numbers, so that the forward asks the device nothing. Pads that do not match the
pictures are a bug and raise ValueError. No torch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from pipeline.models.blocks import Block
from pipeline.models.grids import grid_facts
from pipeline.packing import PATCHES_PER_TOKEN
from pipeline.prefixes import WHOLE
from pipeline.types import Prepared

__all__ = ["HostBatch", "HostPictures", "HostPrefixes", "VisionShape", "collate"]


@dataclass(frozen=True, slots=True)
class VisionShape:
    """What collating must know of a model: the ids that stand for visual tokens, the side of its position table."""

    pad_ids: tuple[int, ...]
    side: int


@dataclass(frozen=True, slots=True)
class HostPictures:
    """Blocks packed for the vision tower, one segment each, n patches in all.

    `pixels`: uint8, every block's frames one after the other; `stacks`: runs of one shape as (blocks, frames,
    height_px, width_px); `lengths`: patches of each block; `places` int32[n, 2], `entries` int32[n, 4] and
    `weights` float32[n, 4] as in `GridFacts`; `keys` of the blocks.
    """

    pixels: NDArray[np.uint8]
    stacks: tuple[tuple[int, int, int, int], ...]
    lengths: tuple[int, ...]
    places: NDArray[np.int32]
    entries: NDArray[np.int32]
    weights: NDArray[np.float32]
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HostPrefixes:
    """Prefixes that the first items of a batch continue, those of one prefix next to each other.

    `keys` of the prefixes and their `lengths` in tokens; `tokens` and `items` that continue each.
    """

    keys: tuple[int, ...]
    lengths: tuple[int, ...]
    tokens: tuple[int, ...]
    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HostBatch:
    """Items packed into one sequence of T tokens, V of them visual.

    `ids` int32[T]; `positions` int64[3, T]; `lengths`: tokens of each item; `last` int64[items]: the row of each item's
    last token; `shown` int64[V]: the rows of visual tokens; `sources` int64[V]: which feature each shows, counted over
    the features of `pictures` and then of the blocks `borrowed` (keys) from earlier forwards. `prefixes`: None where no
    item continues one.
    """

    ids: NDArray[np.int32]
    positions: NDArray[np.int64]
    lengths: tuple[int, ...]
    last: NDArray[np.int64]
    shown: NDArray[np.int64]
    sources: NDArray[np.int64]
    pictures: HostPictures | None
    borrowed: tuple[int, ...]
    prefixes: HostPrefixes | None = None


def collate(
    items: Sequence[Prepared],
    blocks: Sequence[tuple[Block, ...]],
    kept: Collection[int],
    shape: VisionShape,
    prefixes: Sequence[tuple[int, int]] = (),
) -> HostBatch:
    """Pack `items` (at least one), whose blocks are `blocks`; features of the keys `kept` need no computing.

    `prefixes`: of each item the key and the length of the prefix that it continues, if any does; those of one prefix
    stand together, and items that are whole (`WHOLE`, 0) last.
    """
    ids = np.concatenate([item.input_ids for item in items]).astype(np.int32, copy=False)
    lengths = tuple(item.n_tokens for item in items)
    shown = np.flatnonzero(np.isin(ids, shape.pad_ids))
    distinct = {block.key: block for each in blocks for block in each}
    # Blocks of one shape stand together: one patchify and one attention call for all of them.
    own = sorted((block for key, block in distinct.items() if key not in kept), key=lambda block: block.frames.shape)
    borrowed = [block for key, block in distinct.items() if key in kept]
    return HostBatch(
        ids=ids,
        positions=np.concatenate([item.position_ids for item in items], 1).astype(np.int64),
        lengths=lengths,
        last=np.cumsum(lengths) - 1,
        shown=shown,
        sources=_sources(blocks, [*own, *borrowed], len(shown)),
        pictures=_pictures(own, shape.side) if own else None,
        borrowed=tuple(block.key for block in borrowed),
        prefixes=_prefixes(prefixes, lengths),
    )


def _prefixes(prefixes: Sequence[tuple[int, int]], lengths: Sequence[int]) -> HostPrefixes | None:
    runs = [
        (key, length, [tokens for _, tokens in run])
        for (key, length), run in groupby(zip(prefixes, lengths, strict=False), key=lambda pair: pair[0])
    ]
    continued = [run for run in runs if run[0] != WHOLE]
    if not continued:
        return None
    keys, of_prefixes, tokens = zip(*continued, strict=True)
    if len(set(keys)) < len(keys) or continued != runs[: len(continued)]:
        raise ValueError("items of one prefix must stand together, and whole ones last")
    return HostPrefixes(keys, of_prefixes, tuple(map(sum, tokens)), tuple(map(len, tokens)))


def _sources(blocks: Sequence[tuple[Block, ...]], computed: Sequence[Block], n_shown: int) -> NDArray[np.int64]:
    sizes = [block.n_patches // PATCHES_PER_TOKEN for block in computed]
    starts = dict(zip((block.key for block in computed), np.cumsum([0, *sizes[:-1]]), strict=True)) if computed else {}
    rows = [starts[block.key] + np.arange(block.n_patches // PATCHES_PER_TOKEN) for each in blocks for block in each]
    sources = np.concatenate(rows) if rows else np.empty(0, np.int64)
    if len(sources) != n_shown:
        raise ValueError(f"{n_shown} pad tokens stand for {len(sources)} visual tokens")
    return sources


def _pictures(blocks: Sequence[Block], side: int) -> HostPictures:
    facts = [grid_facts(block.rows, block.columns, side) for block in blocks]
    stacks = [(shape, len(list(run))) for shape, run in groupby(block.frames.shape for block in blocks)]
    return HostPictures(
        pixels=np.concatenate([block.frames.reshape(-1) for block in blocks]),
        stacks=tuple((count, t, height_px, width_px) for (t, height_px, width_px, _), count in stacks),
        lengths=tuple(block.n_patches for block in blocks),
        places=np.concatenate([each.places for each in facts]),
        entries=np.concatenate([each.entries for each in facts]),
        weights=np.concatenate([each.weights for each in facts]),
        keys=tuple(block.key for block in blocks),
    )
