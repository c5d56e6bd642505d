"""Spark's `binaryFile`: a row a file, with its path, time, length and perhaps content.

In: column names, tables. Out: `uri` (the path, with Hadoop's `s3a://` as `s3://`) as id, the content or else that URI
as the medium, whose bytes say what it is. Left out: other files (`not_media`), and rows without content where a file
of the table has that column (`no_content`).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.manifest.layouts.media_names import not_media
from pipeline.manifest.source import Converted, RowLayout

__all__ = ["layout", "missing"]

_COLUMNS = ("path", "modificationTime", "length")


def missing(names: Collection[str]) -> tuple[str, ...]:
    """The columns of a `binaryFile` table that are not among `names`."""
    return tuple(name for name in _COLUMNS if name not in names)


def layout(names: Collection[str]) -> RowLayout:
    """The layout of files that have columns of these names."""
    inline = "content" in names
    roles = {"id": "uri", "file": "content" if inline else "uri", "size": "length", "last_modified": "modificationTime"}
    needs = ("path", "content") if inline else ("path",)
    return RowLayout(roles, (pa.field("uri", pa.string()),), needs, lambda: partial(_with_uri, inline))


def _with_uri(inline: bool, file: str, first_row: int, table: pa.Table) -> Converted:
    del file, first_row
    paths = table.column("path").cast(pa.string())
    none = pa.scalar(None, pa.string())
    reasons = pc.if_else(pc.fill_null(not_media(paths), False), "not_media", none)
    if inline:
        # A file without the column has rows without content: none of them is an item with nothing in it.
        lacks = table.column("content").is_null() if "content" in table.column_names else paths.is_valid()
        reasons = pc.coalesce(reasons, pc.if_else(lacks, "no_content", none))
    uris = pc.replace_substring_regex(paths, "^s3[an]://", "s3://")
    return Converted(table.append_column("uri", uris), reasons)
