"""From pieces of a manifest, as they were read, to batches of rows.

In: a `Piece`. Out: a `ManifestBatch`. Refused with ManifestError: what `rows` refuses, and carried values that do not
go into their column's type. A `Batcher` is small and travels to other processes; a `Manifest` may hold open sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from pipeline.manifest.arrow_types import plain_array, plain_type
from pipeline.manifest.location import locate
from pipeline.manifest.readers import reading
from pipeline.manifest.rows import ManifestRow, manifest_rows
from pipeline.manifest.source import Piece

__all__ = ["Batcher", "ManifestBatch", "plain_column"]


@dataclass(frozen=True, slots=True)
class ManifestBatch:
    """Some rows of one file, in order, and their carried columns (own names, types of `Manifest.carry`)."""

    file: str
    rows: list[ManifestRow]
    carry: pa.Table


@dataclass(frozen=True, slots=True)
class Batcher:
    """Makes batches. `folder` is what relative URIs are relative to; `names`: the column of each role."""

    folder: str
    names: Mapping[str, str]
    carry: tuple[pa.Field, ...]

    def batch(self, piece: Piece) -> ManifestBatch:
        """The rows of `piece`. Raises ManifestError at the first bad one."""
        table = piece.table
        roles = {role: name for role, name in self.names.items() if name in table.column_names}
        with reading(piece.file):
            by_role = pa.table({role: plain_column(table.column(name)) for role, name in roles.items()})
            rows = manifest_rows(
                by_role, roles, file=piece.file, numbers=piece.rows, locate=partial(locate, self.folder)
            )
            return ManifestBatch(piece.file, rows, self._carried(table))

    def _carried(self, table: pa.Table) -> pa.Table:
        arrays = [
            plain_array(table.column(field.name), field.type)
            if field.name in table.column_names
            else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
            for field in self.carry
        ]
        return pa.table(arrays, schema=pa.schema(self.carry))


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """`column` in a type without dictionaries, views and the like."""
    return plain_array(column, plain_type(column.type))
