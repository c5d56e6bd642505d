"""Parquet manifests.

In: an open Parquet file. Out: its schema, and its rows in batches bounded in bytes. Refused: extension types of
Ray and of Python, before anything could unpickle them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ManifestError
from pipeline.manifest.arrow_types import MediaForm, media_type, plain_type

__all__ = ["open_parquet", "parquet_batches", "refuse_extension_types", "refuse_unsafe_extensions", "rows_per_batch"]

BATCH_BYTES = 32 << 20
"""Uncompressed bytes of one batch: several images, far below a worker's memory."""

BATCH_ROWS = 8192
"""Rows of one batch of thin rows: enough to make the cost of a call vanish."""

_INLINE_ROWS = 64
"""Rows of one batch with inline media: a dictionary-encoded picture is stored once and read as often as it is used."""

_BUFFER_BYTES = 1 << 20
"""Pages are read as they are needed: a column chunk of inline media can be gigabytes."""

_UNSAFE_EXTENSIONS = re.compile(rb"ray\.(?:data|air)\.\w+|arrow\.py_extension_type")

_BASE64 = re.compile(rb"[A-Za-z0-9+/]{32,}")
"""A schema of one unnamed field already takes more than a hundred."""


def open_parquet(file: BinaryIO, name: str) -> pq.ParquetFile:
    """`file` as Parquet. Raises ManifestError for extension types whose reading runs foreign code."""
    refuse_extension_types(file, name)
    return pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def refuse_extension_types(file: BinaryIO, name: str) -> None:
    """Raise ManifestError if the footer declares an extension type that Ray or Python would deserialise.

    Looks at the raw footer: opening the file with pyarrow would already hand the type's metadata to whatever
    library registered it.
    """
    for declared in _arrow_schemas(_footer(file)):
        refuse_unsafe_extensions(declared, name)


def refuse_unsafe_extensions(declared: bytes, name: str) -> None:
    """Raise ManifestError if the serialised Arrow schema `declared` of file `name` holds such a type."""
    found = _UNSAFE_EXTENSIONS.search(declared)
    if found and b"ARROW:extension:name" in declared:
        raise ManifestError(
            f"{name} holds a column of extension type {found[0].decode()}; expected plain Arrow types; "
            "write tensors as lists and images as bytes"
        )


def _footer(file: BinaryIO) -> bytes:
    # Parquet ends with: footer, its length (4 bytes, little endian), "PAR1".
    end = file.seek(0, 2)
    if end < 12:
        return b""
    file.seek(end - 8)
    length = int.from_bytes(file.read(4), "little")
    if length > end - 8:
        return b""
    file.seek(end - 8 - length)
    return file.read(length)


def _arrow_schemas(footer: bytes) -> Iterator[bytes]:
    """Whatever in `footer` could be the Arrow schema that pyarrow takes from it.

    It is the base64 value of a Thrift pair, and Thrift has more than one way to write a pair. So this looks at every
    run of base64, from each of four starts, for the byte before it may be of the alphabet too.
    """
    if b"ARROW:schema" not in footer:
        return
    for run in _BASE64.finditer(footer):
        for start in range(4):
            whole = run[0][start:]
            yield base64.b64decode(whole[: len(whole) // 4 * 4])


def rows_per_batch(parquet: pq.ParquetFile, columns: Sequence[str]) -> int:
    """Rows of a batch of `columns` (top-level names) that stays near `BATCH_BYTES`, judged by the footer's sizes."""
    wanted = set(columns)
    largest = 1.0
    for group in range(parquet.num_row_groups):
        meta = parquet.metadata.row_group(group)
        chunks = [meta.column(i) for i in range(meta.num_columns)]
        size = sum(chunk.total_uncompressed_size for chunk in chunks if _top(chunk.path_in_schema, wanted))
        largest = max(largest, size / max(meta.num_rows, 1))
    inline = any(_holds_bytes(parquet.schema_arrow.field(name).type) for name in wanted)
    return max(1, min(_INLINE_ROWS if inline else BATCH_ROWS, int(BATCH_BYTES / largest)))


def _holds_bytes(kind: pa.DataType) -> bool:
    form = media_type(plain_type(kind))
    return form is not None and form.form is not MediaForm.URI


def _top(path: str, wanted: set[str]) -> bool:
    return path in wanted or any(path.startswith(f"{name}.") for name in wanted)


def parquet_batches(parquet: pq.ParquetFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of `columns` in order, in batches of about `BATCH_BYTES` at most."""
    yield from parquet.iter_batches(rows_per_batch(parquet, columns), columns=list(columns), use_threads=False)
