"""A manifest that was found to be one.

In: the config. Out: a `Manifest`: its files, id type and carried columns, and a stream of its rows. Refused with
ManifestError: what `layouts`, `listing`, `readers`, `columns` and `rows` refuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ManifestConfig, VectorSpec
from pipeline.errors import ManifestError
from pipeline.manifest.arrow_types import is_uri
from pipeline.manifest.batches import Batcher, ManifestBatch, plain_column
from pipeline.manifest.columns import MEDIA_ROLES, Columns, match_columns
from pipeline.manifest.layouts.recognition import find_source
from pipeline.manifest.listing import Format, ManifestFile
from pipeline.manifest.naming import column_name
from pipeline.manifest.readers import Options, reading
from pipeline.manifest.scalars import Place, id_strings
from pipeline.manifest.source import Piece, Source

__all__ = ["Manifest", "open_manifest"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest: where it is, what its columns mean, and its rows."""

    path: str
    folder: str
    columns: Columns
    source: Source

    @property
    def files(self) -> tuple[ManifestFile, ...]:
        """The files that list the items; none where the lake itself is listed."""
        return self.source.files

    @property
    def skipped(self) -> dict[str, int]:
        """Rows that the latest reading left out because of the manifest's layout, by reason."""
        return dict(sorted(self.source.skipped.items()))

    @property
    def left_out(self) -> str:
        """`skipped` in words."""
        return ", ".join(f"{n} {reason}" for reason, n in self.skipped.items())

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
        for piece in self._pieces(names, limit):
            yield piece
            empty = False
        if empty:
            raise ManifestError(f"the manifest {self.path} has no {self._nothing()}")

    def ids(self, limit: int | None = None) -> Iterator[pa.Array]:
        """The ids in order as strings, of the first `limit` rows if given, reading no other column.

        Raises ManifestError at the first bad id, as `batches` does; nothing if there is no row.
        """
        for _, strings in self._ids(limit):
            yield from strings.chunks

    def find(self, ids: Sequence[str], limit: int | None = None) -> Iterator[tuple[str, str, int]]:
        """Each row, of the first `limit` ones if given, whose id is one of `ids`: id, file, and row in it (from 0)."""
        wanted = pa.array(ids, pa.string())
        for piece, strings in self._ids(limit):
            for i in pc.indices_nonzero(pc.is_in(strings, wanted)).to_pylist():
                yield strings[i].as_py(), piece.file, piece.rows[i]

    def _ids(self, limit: int | None) -> Iterator[tuple[Piece, pa.ChunkedArray]]:
        name = self.columns.names["id"]
        for piece in self._pieces([name], limit):
            with reading(piece.file):
                place = Place(piece.file, piece.rows, self.columns.names)
                strings = id_strings(plain_column(piece.table.column(name)), place)
            yield piece, strings

    def _pieces(self, names: Sequence[str], limit: int | None) -> Iterator[Piece]:
        left = limit
        for piece in self.source.pieces(names):
            taken = piece.table if left is None else piece.table.slice(0, left)
            if taken.num_rows:
                yield Piece(piece.file, piece.rows, taken)
            left = None if left is None else left - taken.num_rows
            if left == 0:
                return

    def _nothing(self) -> str:
        left_out = f" that are items (left out: {self.left_out})" if self.skipped else ""
        return f"rows in its {len(self.files)} file(s){left_out}" if self.files else f"objects{left_out}"


def open_manifest(
    config: ManifestConfig, options: Options, *, vectors: Sequence[VectorSpec] = (), output: str | None = None
) -> Manifest:
    """Find the manifest's files and judge their columns, without reading rows (JSON Lines excepted).

    `vectors` are the output's, whose names carried columns may not take; `output` is its path, whose files are not the
    manifest's. Raises ManifestError.
    """
    found = find_source(config, options, output)
    source = found.source
    columns = match_columns(config, source.schemas, csv=source.csv, vectors=vectors, roles=source.roles)
    _refuse_inline_orc(columns, source)
    return Manifest(config.path, found.folder, columns, source)


def _refuse_inline_orc(columns: Columns, source: Source) -> None:
    for file in source.files:
        for role in MEDIA_ROLES if file.format is Format.ORC and file.uri in source.schemas else ():
            name = columns.names.get(role, "")
            if name in source.schemas[file.uri].names and not is_uri(source.schemas[file.uri].field(name).type):
                raise ManifestError(f"{column_name(role, name)} of {file.uri} holds bytes; expected URIs in ORC files")
