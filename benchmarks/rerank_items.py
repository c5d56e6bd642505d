"""Queries with their candidates, prepared: what a reranking job's windows hold, made up, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.encode_items import behind_words
from benchmarks.encode_shapes import Shape, text_flops, vision_flops
from pipeline.rerank.pair import PreparedPair
from pipeline.types import MediaKind, Prepared, Visual
from tests.fixtures.prepared import item_of, visual

__all__ = ["DOCUMENT_PROMPT_TOKENS", "QUERY_PROMPT_TOKENS", "Costs", "cells", "costs_of"]

QUERY_PROMPT_TOKENS, DOCUMENT_PROMPT_TOKENS = 60, 6
"""The prompt's own words in front of the seam (system turn, default instruction) and behind it; a test counts them."""

MADE_TOKENS = 4
"""What `item_of` gives even an item without words."""

QUERY_TEXT_TOKENS, QUERY_PX = 40, (992, 1024)
"""A query of text, and a picture of 992 tokens."""

TEXT_TOKENS, SIDES_PX = (60, 101), (480, 512, 544)
"""Documents: texts of 60 to 100 tokens, pictures of 225 to 289."""


def cells(n_documents: int, *, tiny: bool = False) -> dict[str, list[PreparedPair]]:
    """The cells, each one query's pairs with `n_documents` different documents. `tiny`: pictures of a few tokens."""
    sides, query_px = ((64, 96), (96, 128)) if tiny else (SIDES_PX, QUERY_PX)
    rng = np.random.default_rng(5)
    sizes = rng.choice(sides, (n_documents, 2)).tolist()
    queries = {
        "text query": _side([], QUERY_TEXT_TOKENS, QUERY_PROMPT_TOKENS, seed=1),
        "image query": _side([_picture(query_px, seed=2)], 0, QUERY_PROMPT_TOKENS, seed=2),
    }
    documents = {
        "texts": [
            _side([], words, DOCUMENT_PROMPT_TOKENS, seed=number)
            for number, words in enumerate(rng.integers(*TEXT_TOKENS, n_documents).tolist(), 10)
        ],
        "images": [
            _side([_picture(px, seed=number)], 0, DOCUMENT_PROMPT_TOKENS, seed=number)
            for number, px in enumerate(sizes, 10)
        ],
    }
    return {
        f"{query}, {kind}": [PreparedPair(prefix, suffix, shared=True) for suffix in those]
        for query, prefix in queries.items()
        for kind, those in documents.items()
    }


@dataclass(frozen=True, slots=True)
class Costs:
    """What one query's pairs cost: tokens that the language model reads, and floating point operations in all."""

    tokens: int
    flops: float


def costs_of(pairs: Sequence[PreparedPair], shape: Shape) -> dict[str, Costs]:
    """By the work's form: `shared` (the query once), `whole` (every pair whole, each picture once), `one by one`."""
    query, documents = pairs[0].prefix, [pair.suffix for pair in pairs]
    n_query = query.n_tokens
    shared = text_flops(n_query, shape) + sum(text_flops(one.n_tokens, shape, before=n_query) for one in documents)
    whole = sum(text_flops(pair.n_tokens, shape) for pair in pairs)
    shown, of_query = sum(_vision(one, shape) for one in documents), _vision(query, shape)
    n_whole = sum(pair.n_tokens for pair in pairs)
    return {
        "shared": Costs(n_query + sum(one.n_tokens for one in documents), shared + shown + of_query),
        "whole": Costs(n_whole, whole + shown + of_query),
        "one by one": Costs(n_whole, whole + shown + of_query * len(pairs)),
    }


def _vision(side: Prepared, shape: Shape) -> float:
    return sum(vision_flops(one, shape) for one in side.visuals)


def _picture(size_px: Sequence[int], seed: int) -> Visual:
    return visual(MediaKind.IMAGE, 1, size_px[0], size_px[1], seed=seed)


def _side(visuals: Sequence[Visual], words: int, prompt_tokens: int, seed: int) -> Prepared:
    made = item_of(visuals, max(0, words - MADE_TOKENS), seed)
    return behind_words(made, prompt_tokens if words else prompt_tokens - MADE_TOKENS)
