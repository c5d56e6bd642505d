"""Carried columns: what type they are stored with, and whether a stored row still holds the manifest's values.

In: the carried columns as the manifest has them now and as the index stores them. Out: the types to store, and a
digest a row. Refused: nothing. A row whose values can no longer be had from its file is one whose digest differs, so
it is written anew from the manifest; no vector is computed for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa
import pyarrow.types as pt

from pipeline.index.commits import FileEntry, Table
from pipeline.index.parquet import open_parquet
from pipeline.storage import Store
from pipeline.widening import common_type

__all__ = [
    "CarriedDigests",
    "carried_fields",
    "has_other_columns",
    "settled",
    "stored_carry",
    "taken_over",
    "takes_over",
]

_LAST_OWN = "content_hash"
"""The carried columns of the vectors table stand behind this one."""

_DIGEST_BYTES = 8
"""A digest is only compared with that of the same item's other state: 2^-64 is the chance to miss a change."""


def carried_fields(vectors: pa.Schema) -> tuple[pa.Field, ...]:
    """The carried columns of a vectors file's schema."""
    last = vectors.get_field_index(_LAST_OWN)
    return tuple(pa.field(field.name, field.type) for field in list(vectors)[last + 1 :]) if last >= 0 else ()


def stored_carry(store: Store, live: Sequence[FileEntry]) -> tuple[pa.Field, ...]:
    """The carried columns of a live set, whose vectors files all have the same; none if it has no such file."""
    for entry in live:
        if entry.table == Table.VECTORS:
            with open_parquet(store, entry.path) as parquet:
                return carried_fields(parquet.schema_arrow)
    return ()


def has_other_columns(store: Store, live: Sequence[FileEntry], carry: Sequence[pa.Field]) -> bool:
    """Whether a live set has vectors, and with other carried columns than `carry`, so that every row is rewritten."""
    return any(entry.table == Table.VECTORS for entry in live) and stored_carry(store, live) != tuple(carry)


def settled(found: Sequence[pa.Field], stored: Sequence[pa.Field]) -> tuple[pa.Field, ...]:
    """The types to store: those of `found` (the manifest now, null where it has no value), widened by `stored`.

    JSON and CSV give a column the type of one night's values. So that nights of integers and nights of fractions do
    not rewrite the index in turn, a column keeps its stored type while that holds the new values, or takes one that
    holds both; where there is none (text before, numbers now) the manifest's own. Integers beyond 2^53 lose their last
    digits in a column that has had fractions.
    """
    before = {field.name: field.type for field in stored}
    return tuple(pa.field(field.name, _settled_type(field.type, before.get(field.name))) for field in found)


def _settled_type(found: pa.DataType, stored: pa.DataType | None) -> pa.DataType:
    if stored is None:
        # Nothing is known of it yet. Strings at least have a place in every reader; a null column has none.
        return pa.string() if pt.is_null(found) else found
    return common_type(stored, found) or found


def takes_over(stored: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of type `stored` go into a column of type `wanted`. Judged by the types alone, so that planning
    and merging, which see rows in different batches, always agree."""
    return bool(stored == wanted or common_type(stored, wanted) == wanted)


def taken_over(rows: pa.RecordBatch, field: pa.Field) -> pa.Array:
    """The values of `field` in `rows`, in its type; nulls if `rows` lack it or have it in a type that does not fit."""
    if field.name not in rows.schema.names:
        return pa.nulls(rows.num_rows, field.type)
    column = rows.column(field.name)
    if column.type == field.type:
        return column
    if not takes_over(column.type, field.type):
        return pa.nulls(rows.num_rows, field.type)
    # Not safe: an integer that a float cannot hold exactly is near enough, see `settled`.
    return column.cast(field.type, safe=False)


class CarriedDigests:
    """Digests of rows' carried columns, each taken as `fields` has it. Safe to use from several threads."""

    def __init__(self, fields: Sequence[pa.Field]) -> None:
        self._fields = tuple(fields)
        self._is_plain = not any(_is_strange(field.type) for field in fields)
        # One thread: callers already work on several batches at once.
        self._db = duckdb.connect(":memory:", config={"threads": 1})

    @property
    def names(self) -> list[str]:
        """The columns that a digest is made of."""
        return [field.name for field in self._fields]

    def of(self, rows: pa.RecordBatch) -> pa.Array:
        """uint64, a digest a row of `rows`, which may have other columns too; null if nothing is carried."""
        if not self._fields:
            return pa.nulls(rows.num_rows, pa.uint64())
        columns = {f"c{n}": _untimed(taken_over(rows, field)) for n, field in enumerate(self._fields)}
        if self._is_plain:
            return self._hashed(pa.table(columns))
        return pa.array(_hashed_slowly(list(columns.values())), pa.uint64())

    def of_table(self, rows: pa.Table) -> pa.ChunkedArray:
        """As `of`, for a table."""
        return pa.chunked_array([self.of(batch) for batch in rows.to_batches()], pa.uint64())

    def _hashed(self, table: pa.Table) -> pa.Array:
        with self._db.cursor() as db:
            db.register("rows", table)
            names = ", ".join(table.column_names)
            hashed = db.sql(f"SELECT hash({names}) AS digest FROM rows").to_arrow_table()  # noqa: S608 - our names
        return hashed.column("digest").combine_chunks()


def _untimed(values: pa.Array) -> pa.Array:
    # Times as the integers that they are: neither DuckDB nor Python has all of Arrow's years and nanoseconds.
    kind = _untimed_type(values.type)
    return values if kind == values.type else values.view(kind)


def _untimed_type(kind: pa.DataType) -> pa.DataType:
    if pt.is_temporal(kind):
        return pa.int32() if kind.bit_width == pa.int32().bit_width else pa.int64()
    if pt.is_struct(kind):
        return pa.struct([field.with_type(_untimed_type(field.type)) for field in kind])
    if pt.is_map(kind):
        return pa.map_(_untimed_type(kind.key_type), _untimed_type(kind.item_type))
    if pt.is_fixed_size_list(kind):
        return pa.list_(_untimed_type(kind.value_type), kind.list_size)
    return pa.list_(_untimed_type(kind.value_type)) if pt.is_list(kind) else kind


def _is_strange(kind: pa.DataType) -> bool:
    # DuckDB's hash tells no empty list from a null; half floats and decimals of over 38 digits it does not know.
    return bool(pt.is_nested(kind) or pt.is_float16(kind) or pt.is_decimal256(kind))


def _hashed_slowly(columns: Sequence[pa.Array]) -> Iterator[int]:
    for values in zip(*(column.to_pylist() for column in columns), strict=True):
        digest = hashlib.blake2b(repr(values).encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES)
        yield int.from_bytes(digest.digest(), "little")
