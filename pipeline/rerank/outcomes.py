"""Outcomes of pairs: rows of the score table, but for the rank, with each pair's share of what its window cost."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import NON_FINITE_SCORE, RejectCode, scrub
from pipeline.models.encoder import Encoded
from pipeline.outcomes import COST_FIELDS
from pipeline.rerank.schema import SCORES
from pipeline.rerank.score import scores_of
from pipeline.rerank.tiles import Tile
from pipeline.rerank.window import PairWindow

__all__ = ["REJECTED", "SCORED", "crashed_pairs", "pair_outcomes"]

SCORED, REJECTED = "scored", "rejected"


def pair_outcomes(window: PairWindow, encoded: Encoded, *, encode_s: float) -> pa.Table:
    """`window`'s pairs with the logits of those that were scored, `encoded` (float32[n, 1]), in `rows`' order.

    A pair that failed alone becomes a reject with its code (`GPU_OOM` if it is too large for the device), a logit of
    NaN or infinity `NON_FINITE`.
    """
    n = window.facts.num_rows
    logits = np.full(n, np.nan, np.float32)
    logits[window.rows] = encoded.vectors[:, 0]
    codes, details = window.facts.column("code").to_pylist(), window.facts.column("detail").to_pylist()
    problems = encoded.problems
    for index in np.flatnonzero(~np.isfinite(logits[window.rows])).tolist():
        row = int(window.rows[index])
        code, detail = problems.get(index, (RejectCode.NON_FINITE, NON_FINITE_SCORE))
        codes[row], details[row] = str(code), scrub(detail)
    table = _outcomes(window.facts, logits, codes, details)
    costs = (window.prepare_s, encode_s, encoded.padded_tokens, encoded.forwards, encoded.filled)
    for field, total in zip(COST_FIELDS, costs, strict=True):
        table = table.append_column(field, pa.array(np.full(n, total / max(1, n)), pa.float64()))
    return table


def crashed_pairs(tiles: list[Tile], detail: str) -> pa.Table:
    """`WORKER_CRASHED` rejects for the pairs of `tiles`, which no worker survived, even alone."""
    pairs = [pair for tile in tiles for pair in tile["pairs"]]
    names = [field.name for field in SCORES if field.name in (pairs[0] if pairs else ())]
    facts = pa.table({name: pa.array([pair[name] for pair in pairs], SCORES.field(name).type) for name in names})
    codes: list[str | None] = [str(RejectCode.WORKER_CRASHED)] * len(pairs)
    return _outcomes(facts, np.full(len(pairs), np.nan, np.float32), codes, [detail] * len(pairs))


def _outcomes(
    facts: pa.Table, logits: NDArray[np.float32], codes: list[str | None], details: list[str | None]
) -> pa.Table:
    rejected = np.array([code is not None for code in codes])
    retryable = [None if code is None else RejectCode(code).meaning.retryable for code in codes]
    attempts = facts.column("attempts").to_numpy() + rejected
    columns = {name: facts.column(name) for name in facts.column_names} | {
        "rank": pa.nulls(len(codes), pa.int32()),
        "score": pa.array(scores_of(logits), pa.float64(), mask=rejected),
        "logit": pa.array(logits, pa.float32(), mask=rejected),
        "status": pa.array([REJECTED if each else SCORED for each in rejected.tolist()], pa.string()),
        "code": pa.array(codes, pa.string()),
        "detail": pa.array(details, pa.string()),
        "retryable": pa.array(retryable, pa.bool_()),
        "attempts": pa.array(attempts.astype(np.int32)),
    }
    missing = {field.name: pa.nulls(len(codes), field.type) for field in SCORES if field.name not in columns}
    return pa.table([(columns | missing)[field.name] for field in SCORES], schema=SCORES)
