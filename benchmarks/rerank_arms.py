"""The contestants: ours, the same engine without sharing, and the official loop; same weights, same pairs.

Each takes one query's pairs and returns logits, float32[n], in the order given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.encode_arms import Vectors, made_ahead, pooled, stock_inputs
from pipeline.models.reranker import Qwen3VLReranker
from pipeline.rerank.pair import PreparedPair, join

__all__ = ["OfficialLoop", "Packed"]


class Packed:
    """The packed engine, all pairs in one window; whether it shares the query is the reranker's own."""

    def __init__(self, reranker: Qwen3VLReranker, name: str) -> None:
        self.name = name
        self._reranker = reranker

    def scored(self, n_pairs: int) -> list[int]:
        """Indices of the pairs that a run scores."""
        return list(range(n_pairs))

    def run(self, pairs: Sequence[PreparedPair]) -> Vectors:
        encoded = self._reranker.score(pairs)
        assert not encoded.too_large
        logits: Vectors = encoded.vectors[:, 0]
        return logits


class OfficialLoop:
    """One stock forward a pair, as the official code runs it: with a cache, and the query's media every time.

    What the official code spends on fetching, decoding, resizing and tokenising, again for every pair, is left out:
    preparation is no part of this. `ahead`: float32 patches are made by another thread, during the forward before.
    `at_most`: score so many pairs only, evenly spaced; a loop's time grows with its pairs and nothing else.
    """

    def __init__(self, model: Any, direction: Tensor, *, ahead: bool = False, at_most: int | None = None) -> None:  # noqa: ANN401 - a stock model
        self.name = "official loop, fed ahead" if ahead else "official loop"
        self._model = model
        self._direction = direction
        self._ahead = ahead
        self._at_most = at_most

    def scored(self, n_pairs: int) -> list[int]:
        """Indices of the pairs that a run scores."""
        n = min(n_pairs, self._at_most or n_pairs)
        return [number * n_pairs // n for number in range(n)]

    def run(self, pairs: Sequence[PreparedPair]) -> Vectors:
        return np.array([self._logit(inputs) for inputs in self._inputs(pairs)], np.float32)

    @torch.inference_mode()
    def _logit(self, inputs: dict[str, Tensor]) -> float:
        return float(pooled(self._model, inputs, use_cache=True) @ self._direction)

    def _inputs(self, pairs: Sequence[PreparedPair]) -> Iterator[dict[str, Tensor]]:
        made = (stock_inputs([join(pairs[index])], self._model) for index in self.scored(len(pairs)))
        return made_ahead(made) if self._ahead else made
