"""Inline media: bytes that lie in the manifest itself.

In: a manifest file, a row, a column, an index in the cell. Out: the bytes. Refused with RejectError: a row or cell
that no longer holds bytes (SOURCE_CHANGED: the next run plans anew), and a file that cannot be read (FETCH_FAILED).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from tenacity import retry, stop_after_attempt, wait_random_exponential

from pipeline.errors import RejectCode, RejectError
from pipeline.manifest.arrow_files import ArrowStream, is_arrow_stream
from pipeline.manifest.arrow_types import plain_type
from pipeline.manifest.parquet_files import open_parquet, rows_per_batch
from pipeline.storage import resolve

__all__ = ["InlineReader"]

CACHE_BYTES = 96 << 20
"""Three batches of `parquet_files.BATCH_BYTES`: the work list runs through a file in order."""

_CURSORS = 4
"""Row groups read at the same time: a block of work spans two at most, and two columns may alternate."""


_ATTEMPTS = 4
"""Reads of one cell: enough for a reset or a throttled moment; each opens the file anew."""


@dataclass(slots=True)
class _Cursor:
    """One column of one row group, read from its start up to `end` (rows)."""

    batches: Iterator[pa.RecordBatch]
    end: int


class _Groups(Protocol):
    """A file that is read group by group: row groups of Parquet, record batches of an Arrow stream."""

    def rows(self) -> list[int]: ...

    def batches(self, group: int, column: str) -> Iterator[pa.RecordBatch]: ...


@dataclass(frozen=True, slots=True)
class _ParquetGroups:
    file: pq.ParquetFile

    def rows(self) -> list[int]:
        return [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]

    def batches(self, group: int, column: str) -> Iterator[pa.RecordBatch]:
        size = rows_per_batch(self.file, [column])
        yield from self.file.iter_batches(size, row_groups=[group], columns=[column], use_threads=False)


@dataclass(frozen=True, slots=True)
class _ArrowGroups:
    stream: ArrowStream

    def rows(self) -> list[int]:
        return self.stream.rows()

    def batches(self, group: int, column: str) -> Iterator[pa.RecordBatch]:
        yield self.stream.batch(group).select([column])


@dataclass(frozen=True, slots=True)
class _Opened:
    file: _Groups
    ends: tuple[int, ...]  # rows up to and including each group


_Key = tuple[str, str, int]  # file, column, group
_Piece = tuple[int, pa.Array]  # first row in the group, values


class InlineReader:
    """Reads cells of Parquet files and Arrow streams, keeping about `cache_bytes` of what came along. Thread-safe."""

    def __init__(self, options: Mapping[str, Mapping[str, Any]], cache_bytes: int = CACHE_BYTES) -> None:
        self._options = options
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._files: dict[str, _Opened] = {}
        self._cursors: OrderedDict[_Key, _Cursor] = OrderedDict()
        self._pieces: OrderedDict[tuple[_Key, int], pa.Array] = OrderedDict()

    def read(self, file: str, row: int, column: str, index: int) -> bytes:
        """The bytes of cell (`row`, `column`) of `file`, element `index` if the cell is a list."""
        try:
            cell = self._patiently(file, row, column)
        except IndexError as error:
            raise RejectError(RejectCode.SOURCE_CHANGED, f"the manifest changed after planning: {error}") from None
        except Exception as error:  # noqa: BLE001 - every file system raises its own; the item is what cannot be read
            detail = f"cannot read the manifest again: {type(error).__name__}: {error}"
            raise RejectError(RejectCode.FETCH_FAILED, detail) from None
        data = _bytes_of(cell, index)
        if data is None:
            raise RejectError(RejectCode.SOURCE_CHANGED, "the manifest changed after planning: the cell has no bytes")
        return data

    @retry(stop=stop_after_attempt(_ATTEMPTS), wait=wait_random_exponential(0.2, 5), reraise=True)
    def _patiently(self, file: str, row: int, column: str) -> pa.Scalar:
        with self._lock:
            try:
                return self._cell(file, row, column)
            except Exception:
                # A generator that raised is exhausted: kept, it would answer every later row with "not there".
                self._forget(file)
                raise

    def _forget(self, file: str) -> None:
        self._files.pop(file, None)
        for key in [key for key in self._cursors if key[0] == file]:
            del self._cursors[key]

    def _cell(self, file: str, row: int, column: str) -> pa.Scalar:
        opened = self._open(file)
        group = next(i for i, end in enumerate((*opened.ends, row + 1)) if row < end)
        if group == len(opened.ends):
            raise IndexError(f"row {row} is not there")
        local = row - (opened.ends[group - 1] if group else 0)
        key = (file, column, group)
        for (held, first), values in reversed(self._pieces.items()):
            if held == key and first <= local < first + len(values):
                self._pieces.move_to_end((held, first))
                return values[local - first]
        first, values = self._read_to(key, local, opened.file)
        return values[local - first]

    def _read_to(self, key: _Key, row: int, file: _Groups) -> _Piece:
        cursor = self._cursors.pop(key, None)
        if cursor is None or cursor.end > row:
            _, column, group = key
            cursor = _Cursor(file.batches(group, column), 0)
        self._cursors[key] = cursor
        while len(self._cursors) > _CURSORS:
            self._cursors.popitem(last=False)
        while True:
            batch = next(cursor.batches, None)
            if batch is None:
                raise IndexError(f"row {row} is not there")
            first, cursor.end = cursor.end, cursor.end + batch.num_rows
            if row < cursor.end:
                values = _plain(batch.column(key[1]))
                self._keep(key, first, values)
                return first, values

    def _keep(self, key: _Key, first: int, values: pa.Array) -> None:
        self._pieces[(key, first)] = values
        while len(self._pieces) > 1 and sum(piece.nbytes for piece in self._pieces.values()) > self._cache_bytes:
            self._pieces.popitem(last=False)

    def _open(self, file: str) -> _Opened:
        if file not in self._files:
            # One file at a time is enough for work in manifest order; cursors keep what they need open.
            while len(self._files) >= _CURSORS:
                self._files.pop(next(iter(self._files)))
            fs, path = resolve(file, self._options)
            handle = fs.open(path, "rb")
            groups: _Groups = (
                _ArrowGroups(ArrowStream(handle, file))
                if is_arrow_stream(handle)
                else _ParquetGroups(open_parquet(handle, file))
            )
            self._files[file] = _Opened(groups, tuple(accumulate(groups.rows())))
        return self._files[file]


def _plain(values: pa.Array) -> pa.Array:
    plain = plain_type(values.type)
    return values if plain == values.type else values.cast(plain)


def _bytes_of(cell: pa.Scalar, index: int) -> bytes | None:
    if isinstance(cell, pa.ListScalar):  # the base of every list scalar
        cell = cell.values[index] if cell.is_valid and index < len(cell.values) else None
    if isinstance(cell, pa.StructScalar):
        cell = cell["bytes"] if cell.is_valid and "bytes" in cell else None
    value = None if cell is None else cell.as_py()
    return value if isinstance(value, bytes) else None
