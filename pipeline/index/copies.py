"""Copies: rows that the next snapshot has once more for other ids, since those items have the same content.

In: a `Scratch` whose `copies` are chosen. Out: one Parquet file that lists them by file and row, and a `CopyRange` for
each piece of it that one merge input writes; then the copied rows themselves, in batches. Nothing is refused.

A vector of which a lake has a million duplicates is copied a million times: the list is cut into ranges, so that no
file passes the target size, and rows are taken some thousands at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import scrub
from pipeline.index.carried_values import GROUP_ROWS
from pipeline.index.columns import with_column
from pipeline.index.parquet import open_parquet
from pipeline.index.scratch import Scratch, tells_of_place
from pipeline.spill import batches_of, fill_table
from pipeline.storage import Store

__all__ = ["CopyRange", "as_told_of_another", "copied_rows", "list_copies", "read_copies"]

COPIES = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("flag", pa.bool_(), nullable=False),
    ]
)
"""A row of the source file, the id that gets it, and whether it says `kept_previous`."""

_LIST_GROUP_ROWS = 8_192
"""Rows of a row group of the list: a range of a few rows costs about a quarter of a megabyte to read."""

_TAKEN_ROWS = 4_096
"""Rows of a batch of copies: 17 MB of float32 vectors at 1,024 dims."""

_ORDERED = """
CREATE OR REPLACE TABLE ordered AS
SELECT copies.file AS file, row, id, flag, place,
       (row_number() OVER (PARTITION BY copies.file ORDER BY row, id) - 1) // limits.n AS piece
FROM copies JOIN limits ON copies.file = limits.file
"""
_RANGES = f"""
SELECT file, count(*), list(DISTINCT place // {GROUP_ROWS}) FILTER (place IS NOT NULL)
FROM ordered GROUP BY file, piece ORDER BY file, piece
"""  # noqa: S608 - a constant
_LISTED = "SELECT row, id, flag FROM ordered ORDER BY file, piece, row, id"


@dataclass(frozen=True, slots=True)
class CopyRange:
    """Rows `start` to `stop` of the list at `path`, all copies of rows of one file.

    `carried` are the row groups of the run's carried values that hold some for their ids.
    """

    path: str
    start: int
    stop: int
    carried: tuple[int, ...]

    @property
    def rows(self) -> int:
        """How many rows are written."""
        return self.stop - self.start


def list_copies(found: Scratch, path: str, target_bytes: int) -> Mapping[int, list[CopyRange]]:
    """Write the list of `found`'s copies to `path` of its store; returns the ranges by file number.

    A range holds copies of about `target_bytes` at most. Without copies nothing is written.
    """
    numbers = [n for (n,) in found.db.execute("SELECT DISTINCT file FROM copies ORDER BY file").fetchall()]
    if not numbers:
        return {}
    limits = [_rows_at_most(found.files[n].bytes, found.files[n].rows, target_bytes) for n in numbers]
    table = pa.table({"file": pa.array(numbers, pa.int32()), "n": pa.array(limits, pa.int64())})
    fill_table(found.db, "limits", table.schema, iter(table.to_batches()))
    found.db.execute(_ORDERED)
    ranges: dict[int, list[CopyRange]] = {}
    start = 0
    for file, rows, carried in found.db.execute(_RANGES).fetchall():
        ranges.setdefault(file, []).append(CopyRange(path, start, start + rows, tuple(sorted(carried or ()))))
        start += rows
    with found.store.open_output(path) as sink, pq.ParquetWriter(sink, COPIES, compression="zstd") as writer:
        for batch in batches_of(found.db, _LISTED):
            writer.write_table(pa.Table.from_batches([batch]).cast(COPIES), row_group_size=_LIST_GROUP_ROWS)
    return ranges


def read_copies(store: Store, copies: CopyRange) -> pa.Table:
    """The listed rows (`COPIES`) of one range, by source row."""
    with open_parquet(store, copies.path) as parquet:
        first, pieces = 0, []
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            start, stop = max(copies.start - first, 0), min(copies.stop - first, rows)
            if start < stop:
                pieces.append(parquet.read_row_group(group).slice(start, stop - start))
            first += rows
    return pa.concat_tables(pieces).cast(COPIES)


def copied_rows(parquet: pq.ParquetFile, listed: pa.Table) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """The rows of `parquet` that `listed` (by source row) asks for, each with the list's row for it."""
    first = 0
    for group in range(parquet.num_row_groups):
        stop = first + parquet.metadata.row_group(group).num_rows
        here = listed.filter(pc.and_(pc.greater_equal(listed["row"], first), pc.less(listed["row"], stop)))
        if here.num_rows:
            source = parquet.read_row_group(group)
            for asked in here.combine_chunks().to_batches(max_chunksize=_TAKEN_ROWS):
                taken = source.take(pc.subtract(asked["row"], first)).combine_chunks()
                yield taken.to_batches()[0], asked
        first = stop


def as_told_of_another(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rejects of a leader as they are of a follower: what tells of the leader's place says so.

    The follower's own place has not been tried yet, so such a reject is worth a try that counts as the first. Rows of
    other tables stay as they are.
    """
    if "code" not in rows.schema.names:
        return rows
    of_place = tells_of_place(rows["code"])
    # What has no attempts is itself told of another.
    first_hand = pc.and_(of_place, pc.greater(rows["attempts"], 0))
    leaders = rows.filter(first_hand)
    told = [
        scrub(f"item {id_!r} of equal content: {detail}")
        for id_, detail in zip(leaders["id"].to_pylist(), leaders["detail"].to_pylist(), strict=True)
    ]
    rows = with_column(rows, "detail", pc.replace_with_mask(rows["detail"], first_hand, pa.array(told, pa.string())))
    rows = with_column(rows, "retryable", pc.or_(rows["retryable"], of_place))
    return with_column(rows, "attempts", pc.if_else(of_place, pa.scalar(0, pa.int32()), rows["attempts"]))


def _rows_at_most(file_bytes: int, file_rows: int, target_bytes: int) -> int:
    row_bytes = max(1.0, file_bytes / max(1, file_rows))
    return max(1, int(target_bytes / row_bytes))
