"""A manifest that was found to be one.

In: the config. Out: a `Manifest`: its files, id type and carried columns, and a stream of its rows. Refused with
ManifestError: what `listing`, `readers`, `columns` and `rows` refuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ManifestConfig, VectorSpec
from pipeline.errors import ManifestError
from pipeline.manifest.batches import Batcher, ManifestBatch, Piece, plain_column
from pipeline.manifest.columns import Columns, match_columns
from pipeline.manifest.listing import Format, ManifestFile, list_manifest
from pipeline.manifest.readers import Options, read_batches, read_schema, reading
from pipeline.manifest.scalars import Place, id_strings

__all__ = ["Manifest", "open_manifest"]

_THREADS = 16
"""Footers are small and far away: opening thousands of files is waiting, not work."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest: where it is, what its columns mean, and its rows."""

    path: str
    folder: str
    files: tuple[ManifestFile, ...]
    schemas: Mapping[str, pa.Schema]
    columns: Columns
    options: Options

    @property
    def id_type(self) -> pa.DataType:
        """The type of ids in the output: string or int64."""
        return self.columns.id_type

    @property
    def carry(self) -> tuple[pa.Field, ...]:
        """The carried columns, under the manifest's own names and plain types."""
        return self.columns.carry

    @property
    def batcher(self) -> Batcher:
        """What makes batches of pieces, here or in another process."""
        return Batcher(self.folder, dict(self.columns.names), self.carry)

    def with_carry(self, carry: Sequence[pa.Field]) -> Manifest:
        """This manifest, its carried columns read as `carry` (the same names, types that hold its own)."""
        return replace(self, columns=replace(self.columns, carry=tuple(carry)))

    def batches(self, limit: int | None = None) -> Iterator[ManifestBatch]:
        """The rows in order, the first `limit` of them if given, in batches bounded in bytes.

        Raises ManifestError at the first bad row, and at the end if there was no row at all.
        """
        batcher = self.batcher
        for piece in self.pieces(limit):
            yield batcher.batch(piece)

    def pieces(self, limit: int | None = None) -> Iterator[Piece]:
        """What `batcher` makes `batches` of. Raises ManifestError if there is no row at all."""
        empty = True
        names = [*self.columns.names.values(), *(field.name for field in self.carry)]
        for file, first_row, table in self._tables(names, limit):
            yield Piece(file.uri, first_row, table)
            empty = False
        if empty:
            raise ManifestError(f"the manifest {self.path} has no rows in its {len(self.files)} file(s)")

    def ids(self, limit: int | None = None) -> Iterator[pa.Array]:
        """The ids in order as strings, of the first `limit` rows if given, reading no other column.

        Raises ManifestError at the first bad id, as `batches` does; nothing if there is no row.
        """
        for _, _, strings in self._ids(limit):
            yield from strings.chunks

    def find(self, ids: Sequence[str], limit: int | None = None) -> Iterator[tuple[str, str, int]]:
        """Each row, of the first `limit` ones if given, whose id is one of `ids`: id, file, and row in it (from 0)."""
        wanted = pa.array(ids, pa.string())
        for file, first_row, strings in self._ids(limit):
            for i in pc.indices_nonzero(pc.is_in(strings, wanted)).to_pylist():
                yield strings[i].as_py(), file, first_row + i

    def _ids(self, limit: int | None) -> Iterator[tuple[str, int, pa.ChunkedArray]]:
        name = self.columns.names["id"]
        for file, first_row, table in self._tables([name], limit):
            with reading(file.uri):
                strings = id_strings(plain_column(table.column(name)), Place(file.uri, first_row, self.columns.names))
            yield file.uri, first_row, strings

    def _tables(self, names: Sequence[str], limit: int | None) -> Iterator[tuple[ManifestFile, int, pa.Table]]:
        left = limit
        for file in self.files:
            first_row = 0
            wanted = [name for name in dict.fromkeys(names) if name in self.schemas[file.uri].names]
            for table in read_batches(file, self.schemas[file.uri], wanted, self.options):
                taken = table if left is None else table.slice(0, left)
                if taken.num_rows:
                    yield file, first_row, taken
                first_row += table.num_rows
                left = None if left is None else left - taken.num_rows
                if left == 0:
                    return


def open_manifest(
    config: ManifestConfig, options: Options, *, vectors: Sequence[VectorSpec] = (), output: str | None = None
) -> Manifest:
    """Find the manifest's files and judge their columns, without reading rows (JSON Lines excepted).

    `vectors` are the output's, whose names carried columns may not take; `output` is its path, whose files are not the
    manifest's. Raises ManifestError.
    """
    listing = list_manifest(config, options, output)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(partial(read_schema, options=options), listing.files)
        schemas = {file.uri: schema for file, schema in zip(listing.files, found, strict=True)}
    csv = listing.files[0].format is Format.CSV
    # A JSON Lines file without a line has no columns, and nothing to say about them.
    judged = {uri: schema for uri, schema in schemas.items() if schema.names} or schemas
    if not any(schema.names for schema in schemas.values()):
        raise ManifestError(f"the manifest {config.path} has no rows in its {len(listing.files)} file(s)")
    files = tuple(file for file in listing.files if file.uri in judged)
    columns = match_columns(config, judged, csv=csv, vectors=vectors)
    return Manifest(config.path, listing.folder, files, judged, columns, options)
