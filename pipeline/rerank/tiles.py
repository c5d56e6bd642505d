"""Tiles: pairs whose queries and documents are prepared together, and cut smaller when they were lost.

In: rows of `rerank.schema.TILES` as Python values. Out: the same. Nothing is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

__all__ = ["Tile", "pairs_in", "split_tile"]

Tile = dict[str, list[dict[str, Any]]]
"""A row of `rerank.schema.TILES`."""


def pairs_in(tile: Tile) -> list[tuple[str, str]]:
    """Query and document ids of the tile's pairs."""
    return [(pair["query_id"], pair["doc_id"]) for pair in tile["pairs"]]


def split_tile(tile: Tile, wanted: Collection[tuple[str, str]], max_pairs: int) -> Iterator[Tile]:
    """The pairs of `tile` that are `wanted`, in tiles of at most `max_pairs`, each with only what its pairs need."""
    pairs = [pair for pair in tile["pairs"] if (pair["query_id"], pair["doc_id"]) in wanted]
    for start in range(0, len(pairs), max_pairs):
        yield _with(tile, pairs[start : start + max_pairs])


def _with(tile: Tile, pairs: list[dict[str, Any]]) -> Tile:
    queries, documents = (sorted({pair[side] for pair in pairs}) for side in ("query", "document"))
    return {
        "queries": [tile["queries"][place] for place in queries],
        "documents": [tile["documents"][place] for place in documents],
        "pairs": [
            pair | {"query": queries.index(pair["query"]), "document": documents.index(pair["document"])}
            for pair in pairs
        ],
    }
