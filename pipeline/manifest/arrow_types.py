"""What the Arrow types of a manifest's columns mean.

In: an Arrow type. Out: the plain type that its values are cast to, or the form in which it holds media.
Nothing is raised; a type with no meaning gives None.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

__all__ = [
    "MediaForm",
    "MediaType",
    "has_empty_struct",
    "is_list",
    "is_number",
    "is_text",
    "is_uri",
    "media_type",
    "plain_array",
    "plain_type",
]


class MediaForm(StrEnum):
    """How a cell gives a medium."""

    URI = "uri"
    BYTES = "bytes"
    STRUCT = "struct"  # Hugging Face: struct<bytes, path>


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media column: the form of one medium, and whether a cell lists several."""

    form: MediaForm
    listed: bool


def plain_type(kind: pa.DataType) -> pa.DataType:
    """`kind` without extensions, dictionaries, run-end encoding, views and large list offsets, at any depth.

    Members may be null: a row of another file, or of another night, may lack them.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pt.is_string_view(kind):
        return pa.string()
    if pt.is_binary_view(kind):
        return pa.large_binary()
    if is_list(kind) and not pt.is_fixed_size_list(kind):
        return pa.list_(_plain_element(kind))
    if pt.is_fixed_size_list(kind):
        return pa.list_(_plain_element(kind), kind.list_size)
    if pt.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if pt.is_struct(kind):
        return pa.struct([pa.field(field.name, plain_type(field.type)) for field in kind])
    return kind


def _plain_element(kind: pa.DataType) -> pa.Field:
    return pa.field("element", plain_type(kind.value_type))  # what Parquet calls it


def plain_array(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """`values` cast to `kind`, a type that holds theirs (an integer may lose its last digits in a float).

    Dictionaries are decoded first, which a cast to another type does not do.
    """
    plain = plain_type(values.type)
    decoded = values if values.type == plain else values.cast(plain)
    return decoded if plain == kind else decoded.cast(options=pc.CastOptions(kind, allow_float_truncate=True))


def is_text(kind: pa.DataType) -> bool:
    """Whether the (plain) type holds strings, or nothing but nulls."""
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_null(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether the (plain) type holds numbers, or nothing but nulls."""
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_null(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether a cell of the type is a list of values."""
    checks = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list, pt.is_list_view, pt.is_large_list_view)
    return any(check(kind) for check in checks)


def has_empty_struct(kind: pa.DataType) -> bool:
    """Whether the type is, or has at any depth, a struct without members, as `{}` in JSON gives it."""
    if pt.is_struct(kind) and kind.num_fields == 0:
        return True
    return any(has_empty_struct(kind.field(i).type) for i in range(kind.num_fields))


def media_type(kind: pa.DataType) -> MediaType | None:
    """How a column of the (plain) type gives media; None if it cannot."""
    listed = is_list(kind)
    form = _media_form(kind.value_type if listed else kind)
    return None if form is None else MediaType(form, listed)


def is_uri(kind: pa.DataType) -> bool:
    """Whether a media column of the type holds nothing but URIs."""
    found = media_type(plain_type(kind))
    return found is not None and found.form is MediaForm.URI


def _media_form(kind: pa.DataType) -> MediaForm | None:
    if is_text(kind):
        return MediaForm.URI
    if _is_bytes(kind):
        return MediaForm.BYTES
    if not pt.is_struct(kind):
        return None
    fields = {field.name: field.type for field in kind}
    good = {"bytes": _is_bytes, "path": is_text}
    present = [name for name in good if name in fields]
    valid = all(good[name](fields[name]) for name in present)
    return MediaForm.STRUCT if present and valid else None


def _is_bytes(kind: pa.DataType) -> bool:
    checks = (pt.is_binary, pt.is_large_binary, pt.is_fixed_size_binary, pt.is_null)
    return any(check(kind) for check in checks)
