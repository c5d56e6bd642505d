"""A DuckDB database on local disk for what must be sorted or joined and may not fit into memory.

In: Arrow batches. Out: tables, gone with the block that opened the database. Refused: nothing; what a stream of batches
raises comes out as it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

__all__ = ["BATCH_ROWS", "batches_of", "fill_table", "rows_of", "spilling_database"]

_MEMORY_LIMIT = "2GB"
"""Beyond this DuckDB spills to disk: the driver may share a small head node with Ray's own services."""

BATCH_ROWS = 1 << 16
"""Rows of a batch: some megabytes of ids."""


@contextmanager
def spilling_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database in a temporary folder. Rows have no order but what a query asks for."""
    with tempfile.TemporaryDirectory(prefix="lakevec-scratch-") as folder:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": _MEMORY_LIMIT,
            "temp_directory": str(Path(folder) / "spill"),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
        }
        with duckdb.connect(Path(folder) / "scratch.duckdb", config=config) as db:
            yield db


def fill_table(db: duckdb.DuckDBPyConnection, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    """Make `table` (a name of ours) of `batches`, in place of any of that name."""
    failures: list[BaseException] = []
    db.register("incoming", pa.RecordBatchReader.from_batches(schema, _noting(failures, batches)))
    try:
        db.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM incoming")  # noqa: S608 - two names of ours
    except duckdb.Error:
        # DuckDB makes an error of its own of whatever the stream raised; the caller needs the first one.
        if failures:
            raise failures[0] from None
        raise
    finally:
        db.unregister("incoming")


def rows_of(db: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, object] | None = None) -> pa.Table:
    """What `query` finds, as one Arrow table."""
    found: Any = db.sql(query, params=parameters).to_arrow_table()
    return found


def batches_of(db: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """What `query` finds, in batches; nothing else may be asked of `db` meanwhile."""
    found: Any = db.sql(query).to_arrow_reader(BATCH_ROWS)
    yield from found


def _noting(failures: list[BaseException], batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except BaseException as error:
        failures.append(error)  # an interruption too: DuckDB would make an error of it
        raise
