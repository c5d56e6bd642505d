"""What a snapshot changes for those who follow the index: ids whose vectors came, are others, or went.

In: a `Scratch` whose winners are chosen, or the files that a restored snapshot brings back and lets go. Out:
`changes/run=<run_id>.parquet` with the columns `id` and `op`, and a `Changes` about it. Nothing is refused. Who loads a
vector store deletes the ids with `delete`, and upserts the others from the live files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.index.commits import FileEntry, Table
from pipeline.index.parquet import open_parquet
from pipeline.index.scratch import Scratch
from pipeline.spill import batches_of, fill_table, spilling_database
from pipeline.storage import Store

__all__ = ["CHANGES_FOLDER", "Changes", "changes_path", "write_changes", "write_restored"]

CHANGES_FOLDER = "changes"

_IDS = pa.schema([pa.field("id", pa.string())])

_GROUP_ROWS = 1 << 17

# A row that merely moves to another file is no change; one that gets other carried values is, and a derived one.
_AFTER = """
CREATE OR REPLACE TABLE after AS
WITH live AS (SELECT id, file, row FROM outcomes WHERE NOT is_part AND is_vector)
SELECT chosen.id AS id, NOT (is_copy OR changed OR ?)
       AND chosen.file IS NOT DISTINCT FROM live.file AND chosen.row IS NOT DISTINCT FROM live.row AS is_same
FROM chosen LEFT JOIN live ON chosen.id = live.id
WHERE chosen.is_vector
"""
_BEFORE = """
CREATE OR REPLACE TABLE before AS
SELECT id FROM outcomes WHERE NOT is_part AND is_vector UNION ALL SELECT id FROM replaced
"""
_CHANGED = """
CREATE OR REPLACE TABLE changes AS
SELECT coalesce(after.id, before.id) AS id,
       CASE WHEN before.id IS NULL THEN 'insert' WHEN after.id IS NULL THEN 'delete' ELSE 'update' END AS op
FROM before FULL JOIN after ON before.id = after.id
WHERE before.id IS NULL OR after.id IS NULL OR NOT after.is_same
"""
_COUNTED = "SELECT op, count(*) FROM changes GROUP BY op"
_LISTED = "SELECT id, op FROM changes ORDER BY id"


@dataclass(frozen=True, slots=True)
class Changes:
    """The file at `path` (relative to the output), and how many rows of each `op` it has."""

    path: str
    insert: int
    update: int
    delete: int

    def info(self) -> dict[str, Any]:
        """As a snapshot records it."""
        return asdict(self)


def changes_path(run_id: str) -> str:
    """Where the changes that run `run_id` publishes lie, relative to the output."""
    return f"{CHANGES_FOLDER}/run={run_id}.parquet"


def write_changes(found: Scratch, run_id: str, id_type: pa.DataType, replaced: Sequence[FileEntry] = ()) -> Changes:
    """Write the changes from the live set to `found`'s chosen rows, ids as `id_type`.

    `replaced` are live files, too, of which no row is kept.
    """
    fill_table(found.db, "replaced", _IDS, _ids(found.store, replaced))
    found.db.execute(_AFTER, [found.derivation is not None])
    found.db.execute(_BEFORE)
    return _write(found.db, found.store, run_id, id_type)


def write_restored(
    store: Store, run_id: str, id_type: pa.DataType, removed: Sequence[FileEntry], added: Sequence[FileEntry]
) -> Changes:
    """Write the changes of a live set in which the files `added` take the place of those `removed`.

    A row that is in both is an update, though it may be the same: nothing tells without its vector.
    """
    with spilling_database() as db:
        fill_table(db, "before", _IDS, _ids(store, removed))
        fill_table(db, "added", _IDS, _ids(store, added))
        db.execute("CREATE TABLE after AS SELECT id, false AS is_same FROM added")
        return _write(db, store, run_id, id_type)


def _write(db: duckdb.DuckDBPyConnection, store: Store, run_id: str, id_type: pa.DataType) -> Changes:
    db.execute(_CHANGED)
    schema = pa.schema([pa.field("id", id_type, nullable=False), pa.field("op", pa.string(), nullable=False)])
    path = changes_path(run_id)
    with store.open_output(path) as sink, pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in batches_of(db, _LISTED):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema), row_group_size=_GROUP_ROWS)
    counts = dict(db.execute(_COUNTED).fetchall())
    return Changes(path, counts.get("insert", 0), counts.get("update", 0), counts.get("delete", 0))


def _ids(store: Store, entries: Sequence[FileEntry]) -> Iterator[pa.RecordBatch]:
    for entry in entries:
        if entry.table == Table.VECTORS:
            with open_parquet(store, entry.path) as parquet:
                for batch in parquet.iter_batches(columns=["id"]):
                    yield pa.RecordBatch.from_arrays([batch["id"].cast(pa.string())], schema=_IDS)
