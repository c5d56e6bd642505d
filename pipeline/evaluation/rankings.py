"""Runs: which documents a system returned for each query, in which order.

In: a TREC run, Parquet pairs (`query_id, doc_id` with `rank`, `logit` or `score`), or the output of a job that ranks.
Out: a `Ranking`. Refused with ManifestError: a pair that is there twice, a score that is null or NaN.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ManifestError
from pipeline.evaluation.pairs import checked, read_pairs
from pipeline.evaluation.sources import Options, Source, find_source, is_parquet, lines_of, naming_files
from pipeline.trec import RankedPair, read_run

__all__ = ["TABLES", "Ranking", "read_ranking"]

TABLES = ("scores", "candidates")
"""The tables of jobs that rank, the later stage first."""

_ORDERS = ("rank", "logit", "score")
"""Columns that order a query's documents, the surest first: a sigmoid score is 1.0 for every high logit."""

_SCHEMA = pa.schema([("query_id", pa.large_string()), ("doc_id", pa.large_string()), ("value", pa.float64())])
_LINES = 1 << 16
"""Lines that become one chunk of the table: their cost as Python objects stays below some 20 MiB."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """A run, its queries in order of their ids; documents `starts[i]` to `starts[i + 1]` are those of query i.

    `starts`: int64[n + 1]. The documents of a query are in rank order, the best first.
    """

    queries: tuple[str, ...]
    starts: NDArray[np.int64]
    doc_ids: pa.ChunkedArray

    def documents(self, place: int) -> list[str]:
        """The documents of query `place`, the best first."""
        start, end = int(self.starts[place]), int(self.starts[place + 1])
        return list(self.doc_ids.slice(start, end - start).to_pylist())

    @property
    def pairs(self) -> int:
        """Documents over all queries."""
        return len(self.doc_ids)


def read_ranking(path: str, options: Options, *, key: str) -> Ranking:
    """The run at `path`, named in the config under `key`. Raises ConfigError and ManifestError.

    Order: by `rank` where a Parquet file has one, else by `logit`, else by `score`. Scores are compared as float32 and
    equal ones by document id, the greatest first, both as trec_eval does.
    """
    source = find_source(path, options, key=key, tables=TABLES)
    pieces = itertools.chain.from_iterable(_pieces(source, each) for each in source.paths)
    table = checked(pa.Table.from_batches([b for piece in pieces for b in piece.to_batches()], _SCHEMA), key)
    return _ranked(table)


def _ranked(table: pa.Table) -> Ranking:
    order = [("query_id", "ascending"), ("value", "descending"), ("doc_id", "descending")]
    table = table.sort_by(order)
    counts = pc.run_end_encode(table["query_id"].combine_chunks()) if table.num_rows else None
    ends = counts.run_ends.to_numpy() if counts is not None else np.empty(0, np.int64)
    queries = tuple(counts.values.to_pylist()) if counts is not None else ()
    starts = np.concatenate([[0], ends]).astype(np.int64)
    return Ranking(queries, starts, table["doc_id"])


def _pieces(source: Source, path: str) -> Iterator[pa.Table]:
    if is_parquet(path):
        for table, column in read_pairs(source, path, _ORDERS):
            yield table.set_column(2, _SCHEMA.field("value"), _order_of(table["value"], column, source, path))
        return
    with naming_files(source, path) as name:
        for pairs in _chunks(read_run(lines_of(source, path), name)):
            columns = [[pair.query_id for pair in pairs], [pair.doc_id for pair in pairs]]
            scores = np.array([pair.score for pair in pairs]).astype(np.float32).astype(np.float64)
            yield pa.table([*columns, pa.array(scores)], schema=_SCHEMA)


def _order_of(values: pa.ChunkedArray, column: str, source: Source, path: str) -> pa.ChunkedArray:
    numbers = values.cast(pa.float64())
    if numbers.null_count or pc.any(pc.is_nan(numbers)).as_py():
        raise ManifestError(f"{source.key}: {path}: column {column} has nulls or NaN; expected a number in every row")
    if column == "rank":
        return pc.negate(numbers)
    return numbers.cast(pa.float32(), safe=False).cast(pa.float64())


def _chunks(pairs: Iterable[RankedPair]) -> Iterator[list[RankedPair]]:
    remaining = iter(pairs)
    while chunk := list(itertools.islice(remaining, _LINES)):
        yield chunk
