"""Reconciling: items of the work list that no pass brought home run again in small blocks, then singly.

A window can be lost with its worker (a file that kills its decoder, a node out of memory). Ray drops such a block
after its retries; here its neighbours are saved and only the culprit becomes a `WORKER_CRASHED` reject.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.index.commits import FileEntry
from pipeline.index.merge import outstanding
from pipeline.plan import work_folder
from pipeline.storage import Store

__all__ = ["CRASH_DETAIL", "PASS_BLOCKS", "lost_work", "write_work"]

PASS_BLOCKS = (0, 16, 1)
"""Items of one preparation task in each pass; 0 is `run.block_items`."""

CRASH_DETAIL = "it failed each time it was run, at last alone"


def lost_work(store: Store, run_id: str, work_paths: Sequence[str], parts: Sequence[FileEntry]) -> pa.Table | None:
    """The rows of the work list `work_paths` whose items have no outcome in `parts` yet, None if there are none.

    Live files do not count: an item that is tried again has a reject there with the same fingerprint.
    """
    missing = outstanding(store, work_folder(run_id), live=(), parts=parts)
    if missing.num_rows == 0:
        return None
    found = [_rows(store, path, missing.column("id")) for path in work_paths]
    rows = pa.concat_tables(found)
    return rows if rows.num_rows else None


def write_work(store: Store, path: str, rows: pa.Table) -> str:
    """Write `rows` as a work list of their own at `path`; returns `path`."""
    with store.open_output(path) as file:
        pq.write_table(rows, file, row_group_size=1024)
    return path


def _rows(store: Store, path: str, ids: pa.ChunkedArray) -> pa.Table:
    with store.open_input(path) as file:
        parquet = pq.ParquetFile(file)
        wanted = [
            batch.filter(pc.is_in(batch.column("id"), value_set=ids.combine_chunks()))
            for batch in parquet.iter_batches()
        ]
        return pa.Table.from_batches(wanted, parquet.schema_arrow)
