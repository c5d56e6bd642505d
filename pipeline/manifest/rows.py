"""The rows of a manifest as values.

In: a table of one file's rows, columns under their role names. Out: `ManifestRow`s: texts, references to media
(inline bytes are hashed here and left behind), settings, identity. Refused with ManifestError: what `scalars` refuses.
A list of media keeps the places of null members, whose item becomes a reject: one bad row must not end the run, and
no medium may vanish unseen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pipeline.manifest.arrow_types import MediaForm, is_list, media_type, plain_array, plain_type
from pipeline.manifest.columns import IDENTITY_ROLES, MEDIA_ROLES
from pipeline.manifest.scalars import Place, fps_of, id_strings, max_frames_of
from pipeline.types import Media, MediaKind, MediaRef

__all__ = ["ManifestRow", "manifest_rows", "new_digest"]

_DIGEST_BYTES = 16
"""128 bits: no two of a lake's files meet by accident, nor by anyone's effort short of 2^64 hashes."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One row. `digests` has, for each ref of `media` in order, the hash of inline bytes, else None.

    `identity`: the values of the identity columns that are not null, as (role, text); `row` counts from 0 in the
    row's file.
    """

    id: str
    texts: tuple[str, ...]
    media: tuple[Media, ...]
    digests: tuple[str | None, ...]
    instruction: str | None
    fps: float | None
    max_frames: int | None
    identity: tuple[tuple[str, str], ...]
    row: int


_Cell = list[tuple[MediaRef, str | None]]


def manifest_rows(
    table: pa.Table, names: Mapping[str, str], *, file: str, numbers: Sequence[int], locate: Callable[[str], str]
) -> list[ManifestRow]:
    """The rows of `table` (columns by role; `names` gives each role's name in the file).

    `numbers`: where each row stands in the file, from 0. `locate` makes a URI of a media column absolute. Raises
    ManifestError.
    """
    n = table.num_rows
    place = Place(file, numbers, names)
    ids: list[str] = id_strings(table.column("id"), place).to_pylist()
    texts = _texts(table, n)
    cells = [
        (role, _media_cells(table.column(role), names[role], locate))
        for role in MEDIA_ROLES
        if role in table.column_names
    ]
    instructions = table.column("instruction").to_pylist() if "instruction" in table.column_names else [None] * n
    fps = fps_of(table.column("fps"), ids, place) if "fps" in table.column_names else [None] * n
    max_frames = (
        max_frames_of(table.column("max_frames"), ids, place) if "max_frames" in table.column_names else [None] * n
    )
    identities = _identities(table, n)
    rows: list[ManifestRow] = []
    for i in range(n):
        media, digests = _media(cells, i) if cells else ((), ())
        rows.append(
            ManifestRow(
                ids[i], texts[i], media, digests, instructions[i], fps[i], max_frames[i], identities[i], numbers[i]
            )
        )
    return rows


def _texts(table: pa.Table, n: int) -> list[tuple[str, ...]]:
    if "text" not in table.column_names:
        return [()] * n
    column = table.column("text")
    if is_list(column.type):
        return [tuple(part for part in parts or () if part is not None) for parts in column.to_pylist()]
    return [() if text is None else (text,) for text in column.to_pylist()]


def _media(cells: Sequence[tuple[str, list[_Cell]]], i: int) -> tuple[tuple[Media, ...], tuple[str | None, ...]]:
    media: list[Media] = []
    digests: list[str | None] = []
    for role, column in cells:
        cell = column[i]
        if not cell:
            continue
        if role == MediaKind.FRAMES:
            media.append(Media(MediaKind.FRAMES, tuple(ref for ref, _ in cell)))
        else:
            media.extend(Media(MediaKind(role), (ref,)) for ref, _ in cell)
        digests.extend(digest for _, digest in cell)
    return tuple(media), tuple(digests)


def _media_cells(column: pa.ChunkedArray, name: str, locate: Callable[[str], str]) -> list[_Cell]:
    column = plain_array(column, plain_type(column.type))
    kind = media_type(column.type)
    assert kind is not None
    cells: list[_Cell] = []
    for chunk in column.chunks:
        if not kind.listed:
            cells.extend([one] if one else [] for one in _refs(chunk, kind.form, name, locate, [0] * len(chunk)))
            continue
        lengths = pc.fill_null(pc.list_value_length(chunk), 0).to_pylist()
        places = [i for n in lengths for i in range(n)]
        # flatten() leaves out what null cells cover, so that the lengths always add up.
        found = _refs(chunk.flatten(), kind.form, name, locate, places)
        # An empty URI stands for a member that is null.
        whole = (one or (MediaRef("", name, i), None) for one, i in zip(found, places, strict=True))
        cells.extend(list(islice(whole, length)) for length in lengths)
    return cells


def _refs(
    values: pa.Array, form: MediaForm, name: str, locate: Callable[[str], str], index: Sequence[int]
) -> list[tuple[MediaRef, str | None] | None]:
    none = pa.nulls(len(values))
    uris = inline = none
    if form is MediaForm.URI:
        uris = values
    elif form is MediaForm.BYTES:
        inline = values
    else:
        fields = {field.name: i for i, field in enumerate(values.type)}
        # flatten() pushes the nulls of the struct itself down to its members.
        members = values.flatten()
        uris = members[fields["path"]] if "path" in fields else none
        inline = members[fields["bytes"]] if "bytes" in fields else none
    refs: list[tuple[MediaRef, str | None] | None] = []
    for i, (uri, held) in enumerate(zip(uris.to_pylist(), inline.is_valid().to_pylist(), strict=True)):
        if held:
            refs.append((MediaRef(None, name, index[i]), _digest(inline[i])))
        elif uri is not None:
            refs.append((MediaRef(locate(uri), name, index[i]), None))
        else:
            refs.append(None)
    return refs


def new_digest() -> hashlib.blake2b:
    """A hash that takes the bytes of a file, wherever they lie: equal bytes have equal hex digits."""
    return hashlib.blake2b(digest_size=_DIGEST_BYTES)


def _digest(scalar: pa.Scalar) -> str:
    digest = new_digest()
    digest.update(scalar.as_buffer())
    return digest.hexdigest()


def _identities(table: pa.Table, n: int) -> list[tuple[tuple[str, str], ...]]:
    roles = [role for role in IDENTITY_ROLES if role in table.column_names]
    if not roles:
        return [()] * n
    # Every value with its role, then row by row: no pair is made twice.
    columns = [[None if value is None else (role, value) for value in _as_text(table.column(role))] for role in roles]
    if not any(table.column(role).null_count for role in roles):
        return list(zip(*columns, strict=True))
    return [tuple(pair for pair in pairs if pair is not None) for pairs in zip(*columns, strict=True)]


def _as_text(column: pa.ChunkedArray) -> list[str | None]:
    kind = column.type
    if pt.is_timestamp(kind):
        # One unit for all: a writer that changes from ms to µs has not touched the files.
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    try:
        return list(column.cast(pa.string()).to_pylist()) if not pt.is_binary(kind) else _texts_of(column)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return _texts_of(column)


def _texts_of(column: pa.ChunkedArray) -> list[str | None]:
    values: list[Any] = column.to_pylist()
    return [None if value is None else repr(value) for value in values]
