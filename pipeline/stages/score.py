"""Score: one window of pairs in, its outcome rows out. Runs in GPU actors (CPU where the cluster has no GPU)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.checkpoint import resolve_same
from pipeline.config import ModelConfig
from pipeline.models.encoder import Encoded
from pipeline.redaction import redacted_errors
from pipeline.rerank.outcomes import pair_outcomes
from pipeline.rerank.pair import PreparedPair
from pipeline.rerank.window import PairWindow, unpack_pairs
from pipeline.stages.encode import BusyClock
from pipeline.stages.encode_guard import EncodeGuard
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
        self._guard = EncodeGuard(meter)
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
            encoded = score_distinct(self._reranker, window, self._guard)
        finally:
            encode_s = self._clock.end()
        outcomes = pair_outcomes(window, encoded, encode_s=encode_s)
        tokens = sum(count or 0 for count in window.facts.column("n_tokens").to_pylist())
        self._meter.encoded.remote(window.facts.num_rows, tokens)
        return outcomes


def score_distinct(reranker: Qwen3VLReranker, window: PairWindow, guard: EncodeGuard | None = None) -> Encoded:
    """The logits of `window`'s pairs, float32[n, 1]; pairs of the same two halves are scored once. Behind `guard`, if
    there is one."""
    distinct, first, places = np.unique(window.parts, axis=0, return_index=True, return_inverse=True)
    halves = window.halves
    # The prefix is the query's own or a cut one of its own: pairs that have the same one share it.
    pairs = [PreparedPair(halves[prefix], halves[suffix], shared=True) for prefix, suffix in distinct.tolist()]
    if guard is None:
        return reranker.score(pairs).spread(places.reshape(-1).tolist())
    return guard.run(
        _names(window, first),
        lambda: reranker.score(pairs),
        lambda index: reranker.score(pairs[index : index + 1]),
        1,
    ).spread(places.reshape(-1).tolist())


def _names(window: PairWindow, places: NDArray[np.int64]) -> list[str]:
    """What tells the scored pairs at `places` from all others of the run."""
    facts = window.facts.take(pa.array(window.rows[places]))
    ids = [facts.column(name).to_pylist() for name in ("query_id", "doc_id")]
    return [repr(pair) for pair in zip(*ids, strict=True)]
