"""Writing and opening the index's Parquet files.

In: Arrow tables or batches of one schema. Out: an immutable file in the store and its `FileEntry`. Refused:
nothing of its own; errors of the store pass through.
"""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.index.commits import FileEntry, Table
from pipeline.storage import Store

__all__ = ["new_path", "open_parquet", "sha256_of", "write_file"]

_ROW_GROUP_BYTES = 32 << 20
"""Of decoded columns: what a reader or a merge holds of one file, whatever the width of a row."""

_CHUNK_BYTES = 1 << 20
_PIECE_ROWS = 1024
"""Step at which a row group's bytes are counted: at most 32 MiB too much at 8192 float32 values a row."""


def new_path(table: Table, run_id: str) -> str:
    """A name nobody has used; no item id is ever part of one."""
    return f"{table}/run={run_id}/part-{uuid.uuid4().hex}.parquet"


def write_file(
    store: Store, table: Table, run_id: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> FileEntry:
    """Write `batches`, all of `schema`, to one new zstd Parquet file and upload it. One row group in memory."""
    path = new_path(table, run_id)
    # A local file first: an upload that fails can be sent again, a stream half way cannot.
    with tempfile.TemporaryDirectory(prefix="lakevec-") as folder:
        local = Path(folder) / "part.parquet"
        rows = _write_local(local, schema, batches)
        with local.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        store.upload(str(local), path)
        return FileEntry(Table(table), path, rows, local.stat().st_size, sha256)


def _write_local(local: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    rows = 0
    # Parquet itself has no FixedSizeList: the stored Arrow schema is what gives the vectors their width back.
    with pq.ParquetWriter(local, schema, compression="zstd", store_schema=True) as writer:
        for group in _row_groups(batches, schema):
            writer.write_table(group, row_group_size=max(1, group.num_rows))
            rows += group.num_rows
    return rows


def _row_groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    held_bytes = 0
    for batch in batches:
        for piece in _pieces(batch):
            held.append(piece)
            held_bytes += piece.nbytes
            if held_bytes >= _ROW_GROUP_BYTES:
                yield pa.Table.from_batches(held, schema)
                held, held_bytes = [], 0
    if held:
        yield pa.Table.from_batches(held, schema)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, _PIECE_ROWS):
        yield batch.slice(start, _PIECE_ROWS)


@contextmanager
def open_parquet(store: Store, path: str) -> Iterator[pq.ParquetFile]:
    """The Parquet file `path` of the store. Raises FileNotFoundError, pa.ArrowInvalid."""
    with store.open_input(path) as file, pq.ParquetFile(file, pre_buffer=True) as parquet:
        yield parquet


def sha256_of(store: Store, path: str) -> str:
    """SHA-256 (hex) of a file's bytes as they are in the store now."""
    digest = hashlib.sha256()
    with store.open_input(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
