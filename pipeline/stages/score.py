"""Score: one window of pairs in, its outcome rows out. Runs in GPU actors (CPU where the cluster has no GPU)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.checkpoint import resolve_same
from pipeline.config import ModelConfig
from pipeline.models.encoder import Encoded
from pipeline.redaction import redacted_errors
from pipeline.rerank.outcomes import pair_outcomes
from pipeline.rerank.pair import PreparedPair
from pipeline.rerank.window import PairWindow, unpack_pairs
from pipeline.stages.encode import BusyClock
from pipeline.stages.worker_log import send_log_to

if TYPE_CHECKING:
    from pipeline.models.reranker import Qwen3VLReranker

__all__ = ["ScoreSettings", "ScoreStage", "score_distinct"]


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """Everything a scoring actor needs; `device` as in `EncodeSettings`."""

    model: ModelConfig
    identity: str
    device: str


class ScoreStage:
    """The callable that Ray Data runs in scoring actors; the model is loaded once an actor."""

    @redacted_errors
    def __init__(self, settings: ScoreSettings, meter: Any) -> None:  # noqa: ANN401 - an actor handle
        # torch must load here and nowhere else: decoding processes never import it.
        from pipeline.models.reranker import load_reranker

        send_log_to(meter)
        self._meter = meter
        self._clock = BusyClock()
        checkpoint = resolve_same(settings.model, settings.identity)
        self._reranker = load_reranker(checkpoint, settings.model, device=settings.device)

    @redacted_errors
    def __call__(self, table: pa.Table) -> pa.Table:
        """Outcome rows (`rerank.schema.SCORES` and `outcomes.COST_FIELDS`) of the window in `table`.

        Two threads may call: while the device computes one window, the other is read, packed and queued behind it.
        """
        self._clock.begin()
        try:
            window = unpack_pairs(table)
            encoded = score_distinct(self._reranker, window)
        finally:
            encode_s = self._clock.end()
        outcomes = pair_outcomes(window, encoded, encode_s=encode_s)
        tokens = sum(count or 0 for count in window.facts.column("n_tokens").to_pylist())
        self._meter.encoded.remote(window.facts.num_rows, tokens)
        return outcomes


def score_distinct(reranker: Qwen3VLReranker, window: PairWindow) -> Encoded:
    """The logits of `window`'s pairs, float32[n, 1]; pairs of the same two halves are scored once."""
    distinct, places = np.unique(window.parts, axis=0, return_inverse=True)
    halves = window.halves
    # The prefix is the query's own or a cut one of its own: pairs that have the same one share it.
    pairs = [PreparedPair(halves[prefix], halves[suffix], shared=True) for prefix, suffix in distinct.tolist()]
    encoded = reranker.score(pairs)
    places = places.reshape(-1)
    problems = dict(encoded.too_large)
    too_large = tuple((index, problems[place]) for index, place in enumerate(places.tolist()) if place in problems)
    return Encoded(
        vectors=encoded.vectors[places],
        padded_tokens=encoded.padded_tokens,
        forwards=encoded.forwards,
        filled=encoded.filled,
        too_large=too_large,
    )
