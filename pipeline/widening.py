"""The one type that holds what two nights have in a carried column.

In: two Arrow types without extensions. Out: the type whose values both of them become without loss, or None. Integers
and decimals beside fractions are the exception: a float that is near enough holds them. Nothing is raised.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as pt

__all__ = ["common_type"]


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """`one` and `other` widened to a type that every value of both has a place in; None if there is no such type."""
    schemas = [pa.schema([pa.field("c", kind)]) for kind in (one, other)]
    try:
        both = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
    return both if all(_casts(kind, both) and not _loses(kind, both) for kind in (one, other)) else None


def _casts(kind: pa.DataType, wanted: pa.DataType) -> bool:
    try:
        # A decimal too short for some integers shows with a row only, be it null.
        pa.nulls(1, kind).cast(wanted)
    except pa.ArrowException:
        return False
    return True


def _loses(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether Arrow unifies `kind` into `wanted` though some values have no place there, or become another thing."""
    if pt.is_null(kind):
        return False
    if pt.is_struct(wanted):
        return any(_loses(field.type, wanted.field(field.name).type) for field in kind)
    if pt.is_map(wanted):
        return _loses(kind.key_type, wanted.key_type) or _loses(kind.item_type, wanted.item_type)
    if pt.is_nested(wanted):
        return _loses(kind.value_type, wanted.value_type)
    if pt.is_timestamp(wanted) or pt.is_duration(wanted):
        # Nanoseconds end in the year 2262; "9999-12-31" is a common way to say never.
        return bool(wanted.unit == "ns" and kind != wanted)
    if pt.is_uint64(kind):
        return bool(pt.is_signed_integer(wanted))
    # Text would come back as bytes.
    return bool(
        (pt.is_string(kind) or pt.is_large_string(kind)) and not pt.is_string(wanted) and not pt.is_large_string(wanted)
    )
