"""The k best documents of every query, kept while batches of scores pass, and merged from several places.

In: scores of batches, or `Found` tables. Out: a `Found` table: at most k rows a query, best first. Refused: nothing.

The order is total: score, then id (integers by value, strings by code point). So the outcome does not depend on how the
documents were split into batches, files or tasks, nor on the order in which these came.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["Best", "best_of", "found_schema", "ranks"]

COMPACT_ROWS = 1 << 14
"""Rows that wait to be merged at least: sorting as many takes a few milliseconds, about as long as a tile's scores."""


def found_schema(id_type: pa.DataType) -> pa.Schema:
    """Query (its number), score, document id, and where the document's row is: file (its number) and row in it."""
    return pa.schema(
        [("query", pa.int32()), ("score", pa.float32()), ("id", id_type), ("file", pa.int32()), ("row", pa.int64())]
    )


def best_of(tables: Sequence[pa.Table], k: int) -> pa.Table:
    """The k best rows of each query over all `tables` (`found_schema`), by query, then best first."""
    found = pa.concat_tables(tables)
    found = found.sort_by([("query", "ascending"), ("score", "descending"), ("id", "ascending")])
    best = ranks(found) <= k
    return found.filter(pa.array(best)).combine_chunks()


def ranks(found: pa.Table) -> NDArray[np.int64]:
    """int64[n]: each row's place within its query, from 1, in a table whose rows of one query lie together."""
    queries = found.column("query").to_numpy()
    rows = np.arange(len(queries))
    starts = np.ones(len(queries), np.bool_)
    starts[1:] = queries[1:] != queries[:-1]
    return rows - np.maximum.accumulate(np.where(starts, rows, 0)) + 1


class Best:
    """Collects the `k` best of `n_queries` queries. Holds O(n_queries · k) rows, however many are offered."""

    def __init__(self, n_queries: int, k: int, id_type: pa.DataType) -> None:
        self._k = k
        self._schema = found_schema(id_type)
        self._held = self._schema.empty_table()
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0
        self._worst = np.full(n_queries, -np.inf, np.float32)
        """Each query's k-th best score so far: a document below it is in no list."""

    def offer(
        self, scores: NDArray[np.float32], first_query: int, ids: pa.Array, file: int, rows: NDArray[np.int64]
    ) -> None:
        """Take what is good enough of float32[n documents, m queries] `scores`.

        The queries are `first_query` and those behind it; `ids` and `rows` of file number `file` are the documents'.
        """
        worst = self._worst[first_query : first_query + scores.shape[1]]
        documents, queries = _selected(scores, worst, self._k, ids)
        if len(documents) == 0:
            return
        columns = [
            pa.array((queries + first_query).astype(np.int32)),
            pa.array(scores[documents, queries]),
            ids.take(pa.array(documents)),
            pa.repeat(pa.scalar(file, pa.int32()), len(documents)),
            pa.array(rows[documents]),
        ]
        self.add(pa.table(columns, schema=self._schema))

    def add(self, found: pa.Table) -> None:
        """Take the rows of a `Found` table."""
        self._waiting.append(found)
        self._n_waiting += found.num_rows
        if self._n_waiting > max(COMPACT_ROWS, self._held.num_rows):
            self._compact()

    def table(self) -> pa.Table:
        """The best so far, as `best_of` gives them."""
        self._compact()
        return self._held

    def _compact(self) -> None:
        if not self._waiting:
            return
        self._held = best_of([self._held, *self._waiting], self._k)
        self._waiting, self._n_waiting = [], 0
        last = ranks(self._held) == self._k
        full = self._held.column("query").to_numpy()[last]
        self._worst[full] = np.maximum(self._worst[full], self._held.column("score").to_numpy()[last])


def _selected(
    scores: NDArray[np.float32], worst: NDArray[np.float32], k: int, ids: pa.Array
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Document and query numbers of the scores that reach `worst` and are among the k best of their query here.

    Raises `worst` to the k-th best score here where that is greater.
    """
    mask = scores >= worst
    documents, queries = _places(mask)
    crowded = np.flatnonzero(np.bincount(queries, minlength=len(worst)) > k)
    if len(crowded) == 0:
        return documents, queries
    for query in crowded.tolist():
        mask[:, query], worst[query] = _k_best(scores[:, query], k, ids)
    return _places(mask)


def _places(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Of few hits among many, `np.nonzero` of two dimensions takes many times as long.
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return rows, columns


def _k_best(column: NDArray[np.float32], k: int, ids: pa.Array) -> tuple[NDArray[np.bool_], np.float32]:
    """bool[n], n > k: the k best of `column`, of equal ones those with the least ids; and the k-th best score."""
    least = np.partition(column, len(column) - k)[len(column) - k]
    chosen: NDArray[np.bool_] = column > least
    tied = np.flatnonzero(column == least)
    room = k - int(np.count_nonzero(chosen))
    if room < len(tied):
        order = pc.array_sort_indices(ids.take(pa.array(tied))).to_numpy()
        tied = tied[order[:room]]
    chosen[tied] = True
    return chosen, np.float32(least)
