"""Strings that are no UTF-8, as writers that do not check leave them in Parquet and Arrow files.

In: a table as a reader gives it. Out: the same, what is no UTF-8 in its strings replaced by U+FFFD. Nothing is refused:
one such value would else end the run, in whatever first looks at it.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

__all__ = ["well_formed"]


def well_formed(table: pa.Table) -> pa.Table:
    """`table`, its strings valid at any depth of lists and structs; columns that are valid already are not copied."""
    for place, field in enumerate(table.schema):
        if _holds_text(field.type) and not _is_valid(table.column(place)):
            table = table.set_column(
                place, field, pa.chunked_array(map(_mended, table.column(place).chunks), field.type)
            )
    return table


def _holds_text(kind: pa.DataType) -> bool:
    if pt.is_dictionary(kind):
        return _holds_text(kind.value_type)
    if _is_text(kind):
        return True
    return any(_holds_text(kind.field(i).type) for i in range(kind.num_fields))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_valid(column: pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _mended(values: pa.Array) -> pa.Array:
    kind = values.type
    if _is_text(kind):
        raw = values.cast(pa.large_binary()).to_pylist()
        return pa.array([None if one is None else one.decode("utf-8", "replace") for one in raw], kind)
    if pt.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(values.indices, _mended(values.dictionary), ordered=kind.ordered)
    if pt.is_list(kind) or pt.is_large_list(kind):
        # from_arrays keeps neither the slice nor what null cells cover, so the lengths are taken anew.
        lists = type(values)
        offsets = pa.array(_offsets(values), pa.int64() if pt.is_large_list(kind) else pa.int32())
        return lists.from_arrays(offsets, _mended(values.flatten()), type=kind, mask=values.is_null())
    if pt.is_struct(kind):
        members = [_mended(member) for member in values.flatten()]
        return pa.StructArray.from_arrays(members, fields=list(kind), mask=values.is_null())
    return values


def _offsets(values: pa.Array) -> list[int]:
    offsets = [0]
    for length in pc.list_value_length(values).to_pylist():
        offsets.append(offsets[-1] + (length or 0))
    return offsets
