"""The objects below a prefix or in a folder, listed page by page: a lake of any size is never held.

In: a filesystem and a folder in it. Out: batches of `OBJECTS`. Local folders whose names start with `_` or `.` are not
looked into. Nothing is refused, but what a store says passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from pipeline.manifest.search import local_files

__all__ = ["OBJECTS", "object_pages"]

OBJECTS = pa.schema(
    [
        ("uri", pa.string()), ("key", pa.string()), ("size", pa.int64()), ("e_tag", pa.string()),
        ("last_modified_date", pa.timestamp("us")), ("storage_class", pa.string()),
    ]
)  # fmt: skip
"""`key` is the path below the folder, times are UTC without a zone."""

_PAGE_ROWS = 8192
_ETAGS = ("ETag", "etag", "md5Hash", "generation")
_TIMES = ("LastModified", "last_modified", "updated", "mtime")

_Row = tuple[str, str, int | None, str | None, datetime | None, str | None]


def object_pages(fs: fsspec.AbstractFileSystem, folder: str) -> Iterator[pa.RecordBatch]:
    """Every object below `folder`, as batches of `OBJECTS` in the order of the listing."""
    rows = _rows(fs, folder.rstrip("/"))
    while page := list(islice(rows, _PAGE_ROWS)):
        columns = [pa.array(values, one.type) for values, one in zip(zip(*page, strict=True), OBJECTS, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, schema=OBJECTS)


def _rows(fs: fsspec.AbstractFileSystem, folder: str) -> Iterator[_Row]:
    if isinstance(fs, LocalFileSystem):
        yield from _local_rows(folder)
    elif hasattr(fs, "call_s3"):
        yield from _s3_rows(fs, folder)
    else:
        start = len(folder) + 1
        for _, _, found in fs.walk(folder, detail=True):
            for info in found.values():
                path = str(info["name"])
                yield (str(fs.unstrip_protocol(path)), path[start:], info.get("size"), *_marks(info))


def _local_rows(folder: str) -> Iterator[_Row]:
    for path in local_files(folder):
        try:
            found = Path(path).stat()
        except FileNotFoundError:  # a link to nowhere, or gone since it was listed
            continue
        changed = datetime.fromtimestamp(found.st_mtime, UTC).replace(tzinfo=None)
        yield path, path[len(folder) + 1 :], found.st_size, None, changed, None


def _s3_rows(fs: fsspec.AbstractFileSystem, folder: str) -> Iterator[_Row]:
    # fsspec would gather the whole listing in dictionaries before it gave the first object.
    bucket, _, prefix = folder.partition("/")
    prefix = f"{prefix}/" if prefix else ""
    more: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        for info in page.get("Contents", ()):
            key = str(info["Key"])
            yield (f"s3://{bucket}/{key}", key[len(prefix) :], info.get("Size"), *_marks(info))
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _marks(info: Mapping[str, Any]) -> tuple[str | None, datetime | None, str | None]:
    etag = next((str(info[name]).strip('"') for name in _ETAGS if info.get(name)), None)
    changed = next((info[name] for name in _TIMES if isinstance(info.get(name), datetime)), None)
    return etag, changed and changed.astimezone(UTC).replace(tzinfo=None), info.get("StorageClass")
