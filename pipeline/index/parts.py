"""Parts: the immutable files a run writes as it goes, and the small row about each.

In: a table of outcomes (`schema.outcomes_schema`). Out: at most one vectors and one rejects file, and a
`schema.PART_ROW` row each. Refused: an id that does not fit the manifest's own type (ValueError: a bug).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import VectorSpec
from pipeline.index.commits import FileEntry, Table
from pipeline.index.digest import ids_digest
from pipeline.index.parquet import write_file
from pipeline.schema import CARRY_PREFIX, rejects_schema, vectors_schema
from pipeline.storage import Store

__all__ = ["entry_of", "write_parts"]


def write_parts(
    store: Store,
    run_id: str,
    outcomes: pa.Table,
    *,
    id_type: pa.DataType,
    carry: Sequence[pa.Field],
    specs: Sequence[VectorSpec],
    hidden_dim: int,
    metadata: dict[str, str],
) -> list[dict[str, Any]]:
    """Write the rows of `outcomes` to new files and return one `PART_ROW` row a file, vectors first.

    A row with `code` is a reject, every other a vector. `carry` bears the manifest's own names and types. A
    file that would have no rows is not written.
    """
    rejected = pc.is_valid(outcomes["code"])
    carried = [field.name for field in carry]
    tables = {
        Table.VECTORS: (
            outcomes.filter(pc.invert(rejected)),
            vectors_schema(specs, hidden_dim, carry, id_type, metadata),
        ),
        Table.REJECTS: (outcomes.filter(rejected), rejects_schema(id_type, metadata)),
    }
    return [
        _write(store, run_id, table, _shape(rows, schema, carried if table is Table.VECTORS else ()))
        for table, (rows, schema) in tables.items()
        if rows.num_rows
    ]


def entry_of(row: Mapping[str, Any]) -> FileEntry:
    """The log's entry for a `PART_ROW` row."""
    return FileEntry(Table(row["table"]), str(row["path"]), int(row["rows"]), int(row["bytes"]), str(row["sha256"]))


def _write(store: Store, run_id: str, table: Table, rows: pa.Table) -> dict[str, Any]:
    entry = write_file(store, table, run_id, rows.schema, rows.to_batches())
    return {
        "table": entry.table.value,
        "path": entry.path,
        "rows": entry.rows,
        "bytes": entry.bytes,
        "sha256": entry.sha256,
        "ids_digest": ids_digest(rows["id"].cast(pa.string()).to_pylist()),
    }


def _shape(rows: pa.Table, schema: pa.Schema, carried: Sequence[str]) -> pa.Table:
    """`rows` with the columns, order and types of `schema`; the columns named in `carried` lose their prefix."""
    columns = [
        rows[CARRY_PREFIX + field.name if field.name in carried else field.name].cast(field.type) for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
