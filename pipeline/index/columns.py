"""Which files belong to one table: the columns they must share, and how the others are brought together.

In: the schema or rows of a file and the schema of the table now. Out: the rows with the table's columns.
Refused: another id type or other vector columns (OwnershipError: another kind of index), and a carried column
whose values do not fit its new type (ManifestError).
"""

from __future__ import annotations

import pyarrow as pa

from pipeline.errors import ManifestError, OwnershipError

__all__ = ["check_columns", "unify"]

_LAST_OWN = "content_hash"
"""The carried columns of the vectors table stand behind this one."""


def check_columns(found: pa.Schema, wanted: pa.Schema, where: str) -> None:
    """Raise OwnershipError unless `found` has just the own columns of `wanted`, each of the same type."""
    there = {field.name: field.type for field in _own(found)}
    here = {field.name: field.type for field in _own(wanted)}
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise OwnershipError(
                f"{where} belongs to another kind of index: column {name} is {there.get(name, 'not there')},"
                f" with this job it is {here.get(name, 'not there')}; choose another output.path"
            )


def unify(rows: pa.RecordBatch, wanted: pa.Schema) -> pa.RecordBatch:
    """`rows` with exactly the columns of `wanted`: a carried column they lack is null, others are dropped."""
    columns = [_column(rows, field) for field in wanted]
    return pa.RecordBatch.from_arrays(columns, schema=wanted)


def _column(rows: pa.RecordBatch, field: pa.Field) -> pa.Array:
    if field.name not in rows.schema.names:
        return pa.nulls(rows.num_rows, field.type)
    column = rows.column(field.name)
    try:
        return column if column.type == field.type else column.cast(field.type)
    except pa.ArrowInvalid as error:
        raise ManifestError(
            f"carried column {field.name} was {column.type} in earlier runs and is {field.type} now: {error};"
            " give it its old type, or carry it under another name"
        ) from None


def _own(schema: pa.Schema) -> list[pa.Field]:
    last = schema.get_field_index(_LAST_OWN)
    return list(schema) if last < 0 else list(schema)[: last + 1]
