"""Strings that are no UTF-8, as writers that do not check leave them in Parquet and Arrow files.

In: a table as a reader gives it. Out: the same, what is no UTF-8 in its strings replaced by U+FFFD. Nothing is refused:
one such value would else end the run, in whatever first looks at it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

__all__ = ["well_formed"]


def well_formed(table: pa.Table) -> pa.Table:
    """`table`, its strings valid at any depth; columns that are valid already are not copied."""
    for place, field in enumerate(table.schema):
        if _holds_text(field.type) and not _is_valid(table.column(place)):
            table = table.set_column(
                place, field, pa.chunked_array(map(_mended, table.column(place).chunks), field.type)
            )
    return table


def _holds_text(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _holds_text(kind.storage_type)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
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
    if not _holds_text(kind) or pt.is_union(kind):  # no column that is read may be a union
        return values
    if isinstance(kind, pa.BaseExtensionType):
        return kind.wrap_array(_mended(values.storage))
    if pt.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(values.indices, _mended(values.dictionary), ordered=kind.ordered)
    if pt.is_run_end_encoded(kind):
        return pc.run_end_encode(_mended(pc.run_end_decode(values)), run_end_type=kind.run_end_type)
    if pt.is_struct(kind):
        members = [_mended(member) for member in values.flatten()]
        return pa.StructArray.from_arrays(members, fields=list(kind), mask=values.is_null())
    return _mended_lists(values)


def _mended_lists(values: pa.Array) -> pa.Array:
    kind, is_null = values.type, values.is_null()
    if pt.is_map(kind):
        lists = _mended(values.cast(pa.list_(pa.struct([kind.key_field, kind.item_field]))))
        return pa.MapArray.from_arrays(lists.offsets, *lists.values.flatten(), type=kind, mask=is_null)
    if pt.is_fixed_size_list(kind):
        members = values.values.slice(values.offset * kind.list_size, len(values) * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(_mended(members), type=kind, mask=is_null)
    # from_arrays keeps neither the slice nor what null cells cover, and views may overlap, so all is laid out anew.
    lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    members = _mended(values.flatten())
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    size = pa.int64() if pt.is_large_list(kind) or pt.is_large_list_view(kind) else pa.int32()
    places = pa.array(offsets, size)
    if pt.is_list_view(kind) or pt.is_large_list_view(kind):
        return type(values).from_arrays(places[:-1], pa.array(lengths, size), members, type=kind, mask=is_null)
    return type(values).from_arrays(places, members, type=kind, mask=is_null)
