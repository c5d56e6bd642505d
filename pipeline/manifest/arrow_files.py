"""Arrow streams, as Hugging Face's `save_to_disk` writes them.

In: an open, seekable file. Out: its schema, how many rows each record batch has, and any one batch by itself: the
stream's framing is followed over the bodies, so that finding a row reads no picture. Refused with ManifestError: the
file format (`ARROW1`) and streams older than Arrow 0.15, and extension types of Ray and of Python.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa

from pipeline.errors import ManifestError
from pipeline.manifest.parquet_files import BATCH_ROWS, refuse_unsafe_extensions

__all__ = ["ArrowStream", "is_arrow_stream"]

_CONTINUATION = b"\xff\xff\xff\xff"
_END = _CONTINUATION + b"\0\0\0\0"
_DICTIONARY, _BATCH = 2, 3
"""Values of `MessageHeader` in Arrow's Message.fbs; a schema comes first."""

_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3
"""Fields of its `Message` table, by place."""


class ArrowStream:
    """The record batches of one file. Reading one holds it whole: writers choose its rows (Hugging Face: 1,000)."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._head = self._message(0)
        refuse_unsafe_extensions(self._head, name)
        self.schema: pa.Schema = pa.ipc.read_schema(pa.py_buffer(self._head))
        self._batches: list[tuple[int, int]] | None = None
        self._rows: list[int] = []

    def rows(self) -> list[int]:
        """How many rows each batch has; the framing is read once, when first asked for."""
        self._index()
        return self._rows

    def batch(self, i: int) -> pa.RecordBatch:
        """Batch `i`, all of its columns."""
        start, length = self._index()[i]
        whole = b"".join([self._head, self._at(start, length), _END])
        return pa.ipc.open_stream(pa.py_buffer(whole)).read_next_batch()

    def thin_batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of `columns` in order, in batches of at most `BATCH_ROWS`."""
        for i in range(len(self._index())):
            batch = self.batch(i).select(list(columns))
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)

    def _index(self) -> list[tuple[int, int]]:
        if self._batches is None:
            found: list[tuple[int, int]] = []
            self._rows = []
            at, end = len(self._head), self._file.seek(0, 2)
            while at < end and (metadata := self._metadata(at)):
                kind, rows, body_bytes = _facts(metadata)
                length = 8 + len(metadata) + body_bytes
                if kind == _DICTIONARY:
                    raise ManifestError(
                        f"{self._name} holds dictionary-encoded columns; expected plain ones; save it as Parquet"
                    )
                if at + length > end:
                    raise ManifestError(f"{self._name} is cut short: a batch of {length} bytes begins at byte {at}")
                if kind == _BATCH:
                    found.append((at, length))
                    self._rows.append(rows)
                at += length
            self._batches = found
        return self._batches

    def _message(self, at: int) -> bytes:
        metadata = self._metadata(at)
        return _CONTINUATION + struct.pack("<i", len(metadata)) + metadata

    def _metadata(self, at: int) -> bytes:
        frame = self._at(at, 8)
        if len(frame) < 8 or frame[:4] != _CONTINUATION:
            raise ManifestError(f"{self._name} is no Arrow stream (byte {at}); save it as Parquet")
        return self._at(at + 8, struct.unpack("<i", frame[4:])[0])

    def _at(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length)


def is_arrow_stream(file: BinaryIO) -> bool:
    """Whether `file` starts like a stream; it is left at its start."""
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    return head == _CONTINUATION


def _facts(metadata: bytes) -> tuple[int, int, int]:
    """Kind of a message, rows of a record batch (else 0), bytes of its body."""
    message = struct.unpack_from("<I", metadata, 0)[0]
    kind_at = _field(metadata, message, _HEADER_TYPE)
    kind = metadata[kind_at] if kind_at else 0
    body_at = _field(metadata, message, _BODY_LENGTH)
    body_bytes = struct.unpack_from("<q", metadata, body_at)[0] if body_at else 0
    header_at = _field(metadata, message, _HEADER)
    if kind != _BATCH or not header_at:
        return kind, 0, body_bytes
    header = header_at + struct.unpack_from("<I", metadata, header_at)[0]
    rows_at = _field(metadata, header, 0)
    return kind, struct.unpack_from("<q", metadata, rows_at)[0] if rows_at else 0, body_bytes


def _field(data: bytes, table: int, place: int) -> int:
    # Flatbuffers: a table points back to its vtable, which holds the offset of each field, 0 for one left out.
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    at = 4 + 2 * place
    offset = struct.unpack_from("<H", data, vtable + at)[0] if at < size else 0
    return table + offset if offset else 0
