"""Which files belong to one table: the columns they must share, and how the others are brought together.

In: the schema or rows of a file and the schema of the table now. Out: the rows with the table's columns.
Refused: another id type or other vector columns (OwnershipError: another kind of index). Carried columns differ from
night to night; what a file cannot give is null here, and `merge` puts the manifest's values in its place.
"""

from __future__ import annotations

import pyarrow as pa

from pipeline.errors import OwnershipError
from pipeline.index.carried import carried_fields, taken_over

__all__ = ["check_columns", "unify", "with_column"]


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
    """`rows` with exactly the columns of `wanted`: a carried column they cannot give is null, others are dropped."""
    return pa.RecordBatch.from_arrays([taken_over(rows, field) for field in wanted], schema=wanted)


def with_column(rows: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    """`rows` with `values`, of the same type, in their column `name`."""
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(place), values)


def _own(schema: pa.Schema) -> list[pa.Field]:
    return list(schema)[: len(schema) - len(carried_fields(schema))]
