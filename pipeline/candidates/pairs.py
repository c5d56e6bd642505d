"""Pairs as they were read, and how they are ranked within their query.

In: batches of `RAW`, in file order, without bounds. Out: batches of `CANDIDATES`. Refused with ManifestError: a pair
listed twice, a query with two lists, no pair at all. Neither side is held in memory: DuckDB sorts on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.errors import ManifestError
from pipeline.manifest.naming import SHOWN, shown
from pipeline.spill import fill_table, spilling_database

__all__ = ["CANDIDATES", "RAW", "RawPair", "batched", "ranked", "raw_batch"]

RAW = pa.schema(
    [
        pa.field("query_id", pa.string()),
        pa.field("doc_id", pa.string()),
        pa.field("rank", pa.int64()),
        pa.field("score", pa.float64()),
    ]
)
"""A pair as its file has it; `rank` and `score` are null where the file has none."""

RawPair = tuple[str, str, int | None, float | None]
"""A row of `RAW`."""

CANDIDATES = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("score", pa.float64()),
    ]
)
"""A pair with its first-stage rank, from 1 and unique within the query, and its first-stage score or null."""

_SEEN = RAW.append(pa.field("seq", pa.int64()))

_BATCH_ROWS = 1 << 16
"""Rows of a batch: some megabytes of ids."""

# Ranks of files may start anywhere and repeat: only their order counts. NaN is no score.
_RANKED = """
CREATE TABLE ranked AS
SELECT query_id, doc_id, score, first,
       row_number() OVER (
           PARTITION BY query_id
           ORDER BY rank NULLS LAST, score DESC NULLS LAST, CASE WHEN score IS NOT NULL THEN doc_id END, seq
       ) AS place
FROM (
    SELECT query_id, doc_id, rank, CASE WHEN isnan(score) THEN NULL ELSE score END AS score, seq,
           min(seq) OVER (PARTITION BY query_id) AS first
    FROM pairs
)
QUALIFY place <= ?
"""
_ALL = 2**31 - 1
"""The highest rank of an int32: no list is longer."""


def raw_batch(
    query_ids: pa.Array, doc_ids: pa.Array, ranks: pa.Array | None = None, scores: pa.Array | None = None
) -> pa.RecordBatch:
    """A batch of `RAW` of as many pairs as `query_ids` has."""
    n = len(query_ids)
    return pa.RecordBatch.from_arrays(
        [
            query_ids.cast(pa.string()),
            doc_ids.cast(pa.string()),
            pa.nulls(n, pa.int64()) if ranks is None else ranks,
            pa.nulls(n, pa.float64()) if scores is None else scores,
        ],
        schema=RAW,
    )


def batched(pairs: Iterable[RawPair]) -> Iterator[pa.RecordBatch]:
    """`pairs` in batches of `RAW`."""
    rows = iter(pairs)
    while held := list(islice(rows, _BATCH_ROWS)):
        columns = zip(*held, strict=True)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, RAW, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=RAW)


def ranked(raw: Iterator[pa.RecordBatch], *, top_k: int | None, one_list_each: bool, source: str) -> Iterator[pa.Table]:
    """`raw` as batches of `CANDIDATES`, query by query in order of first appearance, each by rank, `top_k` of each.

    Ranked by the file's rank; ties, and files without ranks, by score from high to low, then by `doc_id`; without
    scores by their order in the file. `one_list_each` says that ranks are positions in a list, of which a query has
    one. Raises ManifestError, calling the files `source`.
    """
    with spilling_database() as db:
        fill_table(db, "pairs", _SEEN, _numbered(raw))
        _refuse_repeats(db, one_list_each, source)
        db.execute(_RANKED, [top_k or _ALL])
        query = "SELECT query_id, doc_id, CAST(place AS INTEGER) AS rank, score FROM ranked ORDER BY first, place"
        empty = True
        for batch in db.sql(query).to_arrow_reader(_BATCH_ROWS):
            if batch.num_rows:
                empty = False
                yield pa.Table.from_batches([batch]).cast(CANDIDATES)
        if empty:
            raise ManifestError(f"the candidates {source} hold no pair of a query and a document")


def _numbered(raw: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in raw:
        seq = pa.array(np.arange(start, start + batch.num_rows))
        start += batch.num_rows
        yield pa.RecordBatch.from_arrays([*batch.columns, seq], schema=_SEEN)


def _refuse_repeats(db: duckdb.DuckDBPyConnection, one_list_each: bool, source: str) -> None:
    # A list's first place tells it from any other list of the query.
    if one_list_each:
        _refuse(
            db.execute(
                "SELECT query_id, count(*) AS n, count(*) OVER () FROM pairs WHERE rank = 1 "
                "GROUP BY query_id HAVING n > 1 ORDER BY query_id LIMIT ?",
                [SHOWN],
            ).fetchall(),
            f"the candidates {source} have {{}} queries with more than one list; expected one list a query; found",
            "lists",
        )
    _refuse(
        db.execute(
            "SELECT query_id, doc_id, count(*) AS n, count(*) OVER () FROM pairs "
            "GROUP BY query_id, doc_id HAVING n > 1 ORDER BY query_id, doc_id LIMIT ?",
            [SHOWN],
        ).fetchall(),
        f"the candidates {source} list {{}} pairs more than once; expected each pair once; found",
        "times",
    )


def _refuse(found: list[tuple[str | int, ...]], message: str, unit: str) -> None:
    if found:
        named = [f"{', '.join(shown(one) for one in ids)} ({n} {unit})" for *ids, n, _ in found]
        raise ManifestError(f"{message.format(found[0][-1])} {'; '.join(named)}")
