"""The columns of S3's own tables of objects, brought to one name and type each.

In: tables of an inventory (Parquet, ORC, CSV with every cell a string) or of a metadata journal. Out: the same rows
under the names of the Parquet inventory. Times are UTC without a zone, ETags without quotes, so that another format
of the same inventory changes nobody's identity. Refused (as pyarrow errors): values that are none of the type.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pipeline.manifest.arrow_types import plain_array, plain_type

__all__ = [
    "canonical_name",
    "canonical_schema",
    "canonical_table",
    "columns_to_read",
    "inventory_missing",
    "journal_missing",
    "roles_of",
]

_TIME = pa.timestamp("us")
_TYPES: Mapping[str, pa.DataType] = {
    "bucket": pa.string(), "key": pa.string(), "version_id": pa.string(), "is_latest": pa.bool_(),
    "is_delete_marker": pa.bool_(), "size": pa.int64(), "last_modified_date": _TIME, "e_tag": pa.string(),
    "storage_class": pa.string(), "intelligent_tiering_access_tier": pa.string(), "record_type": pa.string(),
    "sequence_number": pa.string(),
}  # fmt: skip
"""What folding looks at; a table may lack any but bucket and key, and then all its rows have null."""

_ALIASES = {"etag": "e_tag", "last_modified": "last_modified_date"}
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<!^)(?=[A-Z][a-z])")
_MARKS = ("version_id", "is_latest", "is_delete_marker", "size", "last_modified_date", "e_tag", "storage_class")
_JOURNAL = ("bucket", "key", "record_type", "sequence_number")


def canonical_name(name: str) -> str:
    """`name` as the Parquet inventory has it: `ETag` and `etag` are `e_tag`."""
    snake = _WORDS.sub("_", name.strip()).lower()
    return _ALIASES.get(snake, snake)


def inventory_missing(names: Collection[str]) -> tuple[str, ...]:
    """The columns of an inventory that are not among `names`."""
    found = {canonical_name(name) for name in names}
    lacking = tuple(name for name in ("bucket", "key") if name not in found)
    return lacking if found.intersection(_MARKS) else (*lacking, f"any of {', '.join(_MARKS)}")


def journal_missing(names: Collection[str]) -> tuple[str, ...]:
    """The columns of a metadata journal that are not among `names`."""
    found = {canonical_name(name) for name in names}
    return tuple(name for name in _JOURNAL if name not in found)


def canonical_schema(schemas: Iterable[pa.Schema], others: Collection[str]) -> pa.Schema:
    """What folding reads of files with these schemas: the columns of `_TYPES`, and those of `others` that a file has.

    Raises pa.ArrowException where files have `others` of types that contradict each other.
    """
    fields = [pa.field(name, kind) for name, kind in _TYPES.items()]
    found = [
        pa.schema([(canonical_name(one.name), plain_type(one.type)) for one in schema if _is_other(one.name, others)])
        for schema in schemas
    ]
    return pa.schema([*fields, *pa.unify_schemas(found, promote_options="permissive")])


def canonical_table(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table`, a file's, as `schema` has it; columns that it lacks are null."""
    columns = {canonical_name(name): table.column(name) for name in table.column_names}
    return pa.table(
        [
            _cast(one.name, columns[one.name], one.type)
            if one.name in columns
            else pa.chunked_array([pa.nulls(table.num_rows, one.type)])
            for one in schema
        ],
        schema=schema,
    )


def roles_of(names: Collection[str]) -> dict[str, str]:
    """The roles of an object table that has the columns `names`, beside the `uri` and `changed_at` that folding adds.

    An ETag is opaque: with the size it tells two states apart, and only without it the time has to.
    """
    roles = {"id": "uri", "file": "uri", "etag": "e_tag", "last_modified": "changed_at"}
    # A size by itself tells too little: with no role left for it the store is asked.
    return roles | ({} if {"e_tag", "last_modified_date"}.intersection(names) else {"size": ""})


def _is_other(name: str, others: Collection[str]) -> bool:
    return canonical_name(name) in others and canonical_name(name) not in _TYPES


def _cast(name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    plain = plain_array(column, plain_type(column.type))
    if name == "e_tag":
        return pc.utf8_trim(plain.cast(kind), '"')
    if kind == _TIME and name in _TYPES:
        return _times(plain)
    return plain.cast(kind)


def _times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pt.is_integer(column.type):
        return column.cast(pa.int64()).cast(pa.timestamp("ms")).cast(_TIME)
    if pt.is_string(column.type) or pt.is_large_string(column.type):
        column = column.cast(pa.timestamp("us", "UTC"))
    return column.cast(_TIME, safe=False)


def columns_to_read(schema: pa.Schema, wanted: pa.Schema) -> Sequence[str]:
    """The names, as a file of `schema` has them, of the columns that `wanted` has."""
    return [name for name in schema.names if canonical_name(name) in wanted.names]
