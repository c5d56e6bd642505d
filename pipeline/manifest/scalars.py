"""The ids and the numbers of a manifest's rows.

In: columns of one file's rows. Out: ids as strings, `fps` and `max_frames` as Python numbers. Refused with
ManifestError, naming file, column (as the file has it), rows and values: ids that are null or beyond int64, what is no
number, and numbers that no video can be sampled with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pipeline.errors import ManifestError
from pipeline.manifest.naming import SHOWN, column_name, shown

__all__ = ["Place", "fps_of", "id_strings", "max_frames_of"]

_ID_MAX = 2**63 - 1
"""Ids are int64 in the output: SQL engines and data frames have no wider integer in common."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows stand: their file, the number of each in it (from 0), and each role's column there."""

    file: str
    rows: Sequence[int]
    names: Mapping[str, str]

    def column(self, role: str) -> str:
        """The column of `role` as messages call it."""
        return f"{column_name(role, self.names[role])} of {self.file}"

    def refuse(
        self, role: str, expected: str, rows: Iterable[int], values: pa.ChunkedArray, ids: Sequence[str] | None = None
    ) -> None:
        """Raise ManifestError that names the first of `rows` (from 0 in `values`) if there is any."""
        named = [
            f"{shown(values[i].as_py())} ({f'id {shown(ids[i])}, ' if ids else ''}row {self.rows[i]})"
            for i in islice(rows, SHOWN)
        ]
        if named:
            raise ManifestError(f"{self.column(role)}: expected {expected}; found {', '.join(named)}, rows from 0")


def id_strings(column: pa.ChunkedArray, place: Place) -> pa.ChunkedArray:
    """The ids as strings. Raises ManifestError for null, and for integers above 2^63 - 1."""
    if column.null_count:
        rows = [str(place.rows[i]) for i in _true(column.is_null())[:SHOWN]]
        raise ManifestError(
            f"{place.column('id')} is null in {column.null_count} rows near row {rows[0]} "
            f"(rows {', '.join(rows)}, from 0); every item needs an id"
        )
    if pt.is_uint64(column.type):
        beyond = _true(pc.greater(column, pa.scalar(_ID_MAX, pa.uint64())))
        place.refuse("id", "integers up to 2^63 - 1 (int64), or strings", beyond, column)
    return column.cast(pa.string())


def fps_of(column: pa.ChunkedArray, ids: Sequence[str], place: Place) -> list[float | None]:
    """Frames per second, above 0. Raises ManifestError."""
    numbers = _numbers("fps", column, ids, place)
    good = pc.and_(pc.greater(numbers, 0), pc.is_finite(numbers))
    place.refuse("fps", "frames per second, above 0", _not(good), numbers, ids)
    return list(numbers.to_pylist())


def max_frames_of(column: pa.ChunkedArray, ids: Sequence[str], place: Place) -> list[int | None]:
    """Whole numbers of frames, 2 or more. Raises ManifestError."""
    numbers = _numbers("max_frames", column, ids, place)
    whole = pc.equal(pc.floor(numbers), numbers)
    # Two frames make a temporal patch; the upper end is that of the work list's int32.
    good = pc.and_(whole, pc.and_(pc.greater_equal(numbers, 2), pc.less(numbers, 2**31)))
    place.refuse("max_frames", "a whole number of frames, 2 or more", _not(good), numbers, ids)
    return [None if value is None else int(value) for value in numbers.to_pylist()]


def _numbers(role: str, column: pa.ChunkedArray, ids: Sequence[str], place: Place) -> pa.ChunkedArray:
    try:
        return column.cast(pa.float64(), safe=False)
    except pa.ArrowInvalid:
        bad = (i for i, value in enumerate(column) if not _is_number(value))
        place.refuse(role, "a number", bad, column, ids)
        raise


def _is_number(value: pa.Scalar) -> bool:
    try:
        value.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _true(mask: pa.ChunkedArray) -> list[int]:
    return list(pc.indices_nonzero(mask).to_pylist())


def _not(good: pa.ChunkedArray) -> list[int]:
    return _true(pc.invert(pc.fill_null(good, True)))
