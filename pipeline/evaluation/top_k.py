"""The best k documents of each query, exactly, among vectors as they are stored.

In: stored query vectors, batches of stored document vectors, k. Out: the k best of each query by score; equal scores
by key, the greatest first, so that the answer does not depend on how documents are split into batches. Nothing is
refused; fewer than k documents give as many as there are.

Scores: float32 and float16, the inner product; int8, the integer dot product times the document's scale; binary, the
Hamming distance, negated. Equal vectors have equal scores: integers are summed exactly, floats in float64 and rounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.stored import StoredVectors

__all__ = ["TopK", "scores", "top_k"]

_EXACT_DIMS = 1024
"""Products of int8 codes that float32 sums exactly: 1024 · 127² is below 2^24."""

_MANY = 4
"""Candidates a place from which a partition is cheaper than sorting them all."""

_TIE_DECIMALS = 9
"""Float64 sums of one vector in two places of a matrix differ in their last bits; float32 vectors say nothing there."""


@dataclass(frozen=True, slots=True)
class TopK:
    """Of each query the best documents, the best first: scores float64[n, ≤ k] and keys uint64[n, ≤ k]."""

    scores: NDArray[np.float64]
    keys: NDArray[np.uint64]

    def without(self, keys: NDArray[np.uint64], k: int) -> TopK:
        """The best k of each query other than its own key in uint64[n]. `self` must hold k + 1 where there are any."""
        other = self.keys != keys[:, None]
        order = np.argsort(~other, axis=1, kind="stable")[:, : max(0, min(k, self.keys.shape[1] - 1))]
        return TopK(np.take_along_axis(self.scores, order, 1), np.take_along_axis(self.keys, order, 1))


def top_k(queries: StoredVectors, batches: Iterable[StoredVectors], k: int, best: TopK | None = None) -> TopK:
    """The best k documents of `batches` for each query, and of those that `best` has from other batches.

    All vectors are of one dtype and dim. Holds one batch at a time.
    """
    n = len(queries.keys)
    best = best or TopK(np.empty((n, 0)), np.empty((n, 0), np.uint64))
    for batch in batches:
        found = _candidates(scores(queries, batch), batch.keys, k, best)
        best = _sorted(np.hstack([best.scores, found.scores]), np.hstack([best.keys, found.keys]), k)
    return best


def scores(queries: StoredVectors, documents: StoredVectors) -> NDArray[np.float64]:
    """float64[queries, documents], the greater the nearer."""
    if queries.dtype == "binary":
        dims = 8 * int(queries.codes.shape[1])
        return (_dot(_signs(queries.codes), _signs(documents.codes)) - dims) / 2
    if queries.dtype == "int8":
        assert documents.scales is not None
        scaled: NDArray[np.float64] = _dot(queries.codes, documents.codes) * documents.scales.astype(np.float64)
        return scaled
    found: NDArray[np.float64] = queries.codes.astype(np.float64) @ documents.codes.astype(np.float64).T
    np.round(found, _TIE_DECIMALS, out=found)
    return found


def _dot(queries: NDArray[np.int8], documents: NDArray[np.int8]) -> NDArray[np.float64]:
    # As floats, since only these have a fast matrix product in NumPy.
    total = np.zeros((len(queries), len(documents)))
    for start in range(0, queries.shape[1], _EXACT_DIMS):
        piece = slice(start, start + _EXACT_DIMS)
        total += queries[:, piece].astype(np.float32) @ documents[:, piece].astype(np.float32).T
    return total


def _signs(bits: NDArray[np.uint8]) -> NDArray[np.int8]:
    # The dot product of signs is dims − 2 · distance.
    return (np.unpackbits(bits, axis=1).astype(np.int8) * 2) - np.int8(1)


def _candidates(found: NDArray[np.float64], keys: NDArray[np.uint64], k: int, best: TopK) -> TopK:
    """What may be among the best k, each query's in columns that −inf fills up to the longest."""
    full = best.scores.shape[1] >= k
    near = found >= best.scores[:, k - 1 : k] if full else np.ones(found.shape, bool)
    if int(near.sum(axis=1).max(initial=0)) > _MANY * k:
        # All that tie with the k-th best stay: the keys decide between them, not how a partition leaves them.
        near &= found >= np.partition(found, len(keys) - k, axis=1)[:, len(keys) - k, None]
    counts = near.sum(axis=1)
    rows, columns = np.nonzero(near)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(found), int(counts.max(initial=0)))
    picked = TopK(np.full(shape, -np.inf), np.zeros(shape, np.uint64))
    picked.scores[rows, places] = found[rows, columns]
    picked.keys[rows, places] = keys[columns]
    return picked


def _sorted(found: NDArray[np.float64], keys: NDArray[np.uint64], k: int) -> TopK:
    order = np.lexsort((~keys, -found), axis=1)[:, :k]
    return TopK(np.take_along_axis(found, order, 1), np.take_along_axis(keys, order, 1))
