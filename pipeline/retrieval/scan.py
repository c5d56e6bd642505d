"""The scan: the k nearest documents in one piece of an index, for a block of queries.

In: a store, a `Piece` (a live file, or some of its row groups), the queries' codes. Out: a `Found` table
(`top_k.found_schema`). Refused: nothing of its own; a file that cannot be read raises what Arrow or the store raises.

In memory: one row group (about 32 MiB as our writer makes them), one tile of scores, and n_queries · k rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.index.commits import FileEntry
from pipeline.index.parquet import open_parquet
from pipeline.retrieval.codes import Codes, column_names, stored
from pipeline.retrieval.kernels import Queries, pack, scores
from pipeline.retrieval.row_filter import RowFilter
from pipeline.retrieval.top_k import Best
from pipeline.storage import Store

__all__ = ["Piece", "Scan", "cut_pieces", "scan_piece"]

TILE_ROWS = 4096
TILE_QUERIES = 512
"""A tile of scores is 8 MiB of float32: it stays in a core's share of the last cache while it is sifted."""

PIECE_BYTES = 32 << 20
"""A row group or so: less is scanned before another process for it has started."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Part `part` of `parts` (by row groups) of live file number `file`."""

    file: int
    path: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Scan:
    """What is looked for: the `k` nearest in column `spec` among the rows that `row_filter` lets pass."""

    spec: VectorSpec
    k: int
    id_type: pa.DataType
    row_filter: RowFilter | None = None


def cut_pieces(files: Sequence[FileEntry], wanted: int, least_bytes: int = PIECE_BYTES) -> list[Piece]:
    """One piece a file, or where there are fewer files than `wanted`, several, each of `least_bytes` or more.

    Pieces share a file's row groups; one that gets none finds nothing.
    """
    most = math.ceil(wanted / max(1, len(files)))
    pieces = [max(1, min(most, entry.bytes // least_bytes)) for entry in files]
    return [
        Piece(number, entry.path, part, parts)
        for number, (entry, parts) in enumerate(zip(files, pieces, strict=True))
        for part in range(parts)
    ]


def scan_piece(store: Store, piece: Piece, queries: Codes, scan: Scan) -> pa.Table:
    """The nearest documents of `piece` for each of `queries` (codes of `scan.spec`)."""
    best = Best(len(queries), scan.k, scan.id_type)
    starts = range(0, len(queries), TILE_QUERIES)
    packed = [pack(queries.rows(slice(start, start + TILE_QUERIES)), scan.spec) for start in starts]
    with open_parquet(store, piece.path) as parquet:
        for table, rows in _batches(parquet, piece, scan):
            _offer(table, rows, piece.file, packed, scan, best)
    return best.table()


def _offer(
    table: pa.Table, rows: NDArray[np.int64], file: int, packed: Sequence[Queries], scan: Scan, best: Best
) -> None:
    documents = stored(table, scan.spec)
    ids = pa.concat_arrays(table.column("id").chunks)
    for start in range(0, len(documents), TILE_ROWS):
        tile = slice(start, start + TILE_ROWS)
        for number, queries in enumerate(packed):
            found = scores(documents.rows(tile), queries)
            best.offer(found, number * TILE_QUERIES, ids[tile], file, rows[tile])


def _batches(parquet: pq.ParquetFile, piece: Piece, scan: Scan) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
    """The rows that pass, a row group at a time, each with its row number in the file; never an empty table."""
    groups = parquet.num_row_groups
    sizes = [parquet.metadata.row_group(group).num_rows for group in range(groups)]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    for group in range(piece.part * groups // piece.parts, (piece.part + 1) * groups // piece.parts):
        rows = np.arange(sizes[group], dtype=np.int64)
        if scan.row_filter:
            # Vectors are most of a file: a row group without a row that passes costs no more than its other columns.
            rows = scan.row_filter.rows(_read(parquet, group, scan.row_filter.columns, sizes[group]))
        if len(rows):
            table = parquet.read_row_group(group, columns=["id", *column_names(scan.spec)])
            yield (table if len(rows) == table.num_rows else table.take(pa.array(rows))), rows + starts[group]


def _read(parquet: pq.ParquetFile, group: int, columns: Sequence[str], n_rows: int) -> pa.Table:
    if columns:
        return parquet.read_row_group(group, columns=list(columns))
    # A condition without columns still holds for each row or for none.
    return pa.table({"": pa.nulls(n_rows)}).select([])
