"""Arrow schemas of reranking: tiles of work, and the score table. Plain Arrow types, no extension type."""

from __future__ import annotations

import pyarrow as pa

from pipeline.schema import work_schema

__all__ = ["PAIR_FIELDS", "SCORES", "SCORE_FACTS", "TILES"]

PAIR_FIELDS = [
    pa.field("query_id", pa.string(), nullable=False),
    pa.field("doc_id", pa.string(), nullable=False),
    pa.field("first_stage_rank", pa.int32(), nullable=False),
    pa.field("first_stage_score", pa.float64()),
    pa.field("fingerprint", pa.string()),  # null: the query or the document is in no manifest
    pa.field("attempts", pa.int32(), nullable=False),  # earlier runs that rejected the pair
]
"""A pair, as the plan knows it."""

_ITEM = pa.struct(list(work_schema(())))

TILES = pa.schema(
    [
        pa.field("queries", pa.list_(_ITEM), nullable=False),
        pa.field("documents", pa.list_(_ITEM), nullable=False),
        # `query` and `document`: places in the two lists before.
        pa.field(
            "pairs",
            pa.list_(pa.struct([pa.field("query", pa.int32()), pa.field("document", pa.int32()), *PAIR_FIELDS])),
            nullable=False,
        ),
    ]
)
"""The work list of a rerank run: a row is a tile, pairs whose queries and documents are prepared together."""

SCORE_FACTS = [
    pa.field("code", pa.string()),
    pa.field("detail", pa.string()),
    pa.field("retryable", pa.bool_()),
    pa.field("truncated", pa.bool_()),
    pa.field("n_tokens", pa.int32()),
    pa.field("n_visual_tokens", pa.int32()),
]
"""What becomes of a pair beside its logit; `code` to `retryable` are null of a scored one, the rest of others."""

SCORES = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32()),  # from 1 within the query; null until the run is published
        pa.field("score", pa.float64()),
        pa.field("logit", pa.float32()),
        pa.field("first_stage_rank", pa.int32(), nullable=False),
        pa.field("first_stage_score", pa.float64()),
        pa.field("status", pa.string(), nullable=False),  # scored | rejected
        *SCORE_FACTS,
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("fingerprint", pa.string()),
    ]
)
"""The score table. `score` is the sigmoid of `logit`; both are null of a pair without a score."""
