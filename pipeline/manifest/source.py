"""Where a manifest's rows come from, whatever its layout.

In: column names. Out: pieces: some rows of one file, and where in it they stand. Rows that a layout leaves out are
counted by reason. Refused with ManifestError: files that cannot be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.manifest.arrow_types import MediaForm, media_type, plain_type
from pipeline.manifest.listing import Format, ManifestFile
from pipeline.manifest.readers import Options, read_batches, reading

__all__ = ["Converted", "FileSource", "Piece", "RowLayout", "Source"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of `file`, in order; `rows[i]` is where row i of `table` stands in it, from 0."""

    file: str
    rows: Sequence[int]
    table: pa.Table


class Source(Protocol):
    """The rows of a manifest as its layout gives them.

    `schemas`: the columns to choose from, by file. `roles`: the column of each role that is not called like it. `csv`:
    every column is a string, and numbers are parsed later.
    `skipped`: rows left out by the latest `pieces`, as far as it was read, by reason.
    """

    files: tuple[ManifestFile, ...]
    schemas: Mapping[str, pa.Schema]
    roles: Mapping[str, str]
    csv: bool
    skipped: Counter[str]

    def pieces(self, names: Sequence[str]) -> Iterator[Piece]:
        """Every row, with those columns of `names` that its file has. Always in the same order."""
        ...


@dataclass(frozen=True, slots=True)
class Converted:
    """Rows with the columns that a layout adds; `reasons` (string, null: kept) says which are left out, if any."""

    table: pa.Table
    reasons: pa.ChunkedArray | None = None


Convert = Callable[[str, int, pa.Table], Converted]
"""Of a file's name, the number of a table's first row in it, and the table."""


def _as_it_is(file: str, first_row: int, table: pa.Table) -> Converted:
    del file, first_row
    return Converted(table)


@dataclass(frozen=True, slots=True)
class RowLayout:
    """A layout that turns rows into items one by one; the default is a plain manifest.

    `added`: columns that rows get beside their own, in every file; `needs`: columns of the file that it looks at for
    that. `start` begins a reading of all files in order.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    added: tuple[pa.Field, ...] = ()
    needs: tuple[str, ...] = ()
    start: Callable[[], Convert] = lambda: _as_it_is


class FileSource:
    """The rows of files, in the order of the files and of their rows."""

    def __init__(
        self, files: Sequence[ManifestFile], found: Mapping[str, pa.Schema], layout: RowLayout, options: Options
    ) -> None:
        self.files = tuple(files)
        self.schemas: Mapping[str, pa.Schema] = {uri: _with(schema, layout.added) for uri, schema in found.items()}
        self.roles = layout.roles
        self.csv = self.files[0].format is Format.CSV
        self.skipped: Counter[str] = Counter()
        self._found = found
        self._layout = layout
        self._options = options

    def pieces(self, names: Sequence[str]) -> Iterator[Piece]:
        """As `Source.pieces`. Raises ManifestError."""
        self.skipped = Counter()
        convert = self._layout.start()
        for file in self.files:
            schema, first_row = self._found[file.uri], 0
            for table in read_batches(file, schema, self._read(schema, names), self._options):
                with reading(file.uri):
                    yield self._piece(file.uri, first_row, convert(file.uri, first_row, table))
                first_row += table.num_rows

    def _piece(self, file: str, first_row: int, converted: Converted) -> Piece:
        table, reasons = converted.table, converted.reasons
        if reasons is None or reasons.null_count == len(reasons):
            return Piece(file, range(first_row, first_row + table.num_rows), table)
        for found in pc.value_counts(reasons.drop_null()).to_pylist():
            self.skipped[found["values"]] += found["counts"]
        kept = reasons.is_null()
        rows = [first_row + i for i in pc.indices_nonzero(kept).to_pylist()]
        return Piece(file, rows, table.filter(kept))

    def _read(self, schema: pa.Schema, names: Sequence[str]) -> list[str]:
        wanted = [name for name in dict.fromkeys([*names, *self._layout.needs]) if name in schema.names]
        # Rows are counted by the values of some column.
        return wanted or [_thinnest(schema)]


def _with(schema: pa.Schema, added: Sequence[pa.Field]) -> pa.Schema:
    for one in added:
        schema = schema.append(one)
    return schema


def _thinnest(schema: pa.Schema) -> str:
    forms = {one.name: media_type(plain_type(one.type)) for one in schema}
    thin = (name for name, found in forms.items() if found is None or found.form is MediaForm.URI)
    return str(next(thin, schema.names[0]))
