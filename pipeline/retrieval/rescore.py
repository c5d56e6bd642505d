"""Second scores: the float query against more than the scan has seen of the documents it found.

In: a `Found` table, the queries as float32, the column to rank by. Out: the same pairs with scores by that column.
Refused: nothing of its own. Only rows that were found are kept of a row group that is read.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.index.parquet import open_parquet
from pipeline.retrieval.codes import Codes, column_names, floats, stored
from pipeline.storage import Store

__all__ = ["rescored"]

PAIRS_AT_ONCE = 8192
"""Two float64 copies of so many vectors of 1024 values are 128 MiB."""


def rescored(store: Store, path: str, found: pa.Table, queries: NDArray[np.float32], spec: VectorSpec) -> pa.Table:
    """`found`, all of the file `path`, with scores that are inner products of `queries` and the vectors of `spec`.

    `queries`: float32[n, dim of `spec`], unit vectors by number. Floats are what codes stand for (`codes.floats`).
    """
    wanted, place = np.unique(found.column("row").to_numpy(), return_inverse=True)
    documents = _rows(store, path, wanted, spec)
    numbers = found.column("query").to_numpy()
    scores = np.empty(found.num_rows, np.float32)
    for start in range(0, found.num_rows, PAIRS_AT_ONCE):
        pairs = slice(start, start + PAIRS_AT_ONCE)
        left, right = queries[numbers[pairs]], floats(documents.rows(place[pairs]), spec)
        scores[pairs] = np.einsum("ij,ij->i", left.astype(np.float64), right.astype(np.float64))
    return found.set_column(found.schema.get_field_index("score"), found.schema.field("score"), pa.array(scores))


def _rows(store: Store, path: str, rows: NDArray[np.int64], spec: VectorSpec) -> Codes:
    """The vectors of `rows` (ascending) of the file."""
    pieces: list[pa.Table] = []
    with open_parquet(store, path) as parquet:
        start = 0
        for group in range(parquet.num_row_groups):
            end = start + parquet.metadata.row_group(group).num_rows
            here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)]
            if len(here):
                table = parquet.read_row_group(group, columns=column_names(spec))
                pieces.append(table.take(pa.array(here - start)))
            start = end
    return stored(pa.concat_tables(pieces), spec)
