"""Sources of objects: a prefix that is listed, or tables that list one.

In: the config and what was found there. Out: a `FoldedSource`. What lakevec wrote to `output.path` is left out of a
listing. Refused with ManifestError: a prefix that is no folder, or one of the output's own, and tables whose columns
contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ManifestConfig
from pipeline.errors import ManifestError
from pipeline.manifest.layouts.folding import LISTING, Fold, FoldedSource
from pipeline.manifest.layouts.media_names import KNOWN
from pipeline.manifest.layouts.objects import OBJECTS, object_pages
from pipeline.manifest.layouts.s3_tables import canonical_name, canonical_schema, canonical_table, columns_to_read
from pipeline.manifest.listing import ManifestFile, asking, file_uri, refuse_own
from pipeline.manifest.output_folder import OutputFolder
from pipeline.manifest.readers import Options, read_batches, reading
from pipeline.storage import resolve

__all__ = ["holds_media", "prefix_source", "table_source"]

Schemas = Mapping[str, pa.Schema]


def prefix_source(config: ManifestConfig, options: Options, output: str | None) -> tuple[str, FoldedSource]:
    """The folder that `manifest.path` is, and its objects, listed when they are read. Raises ManifestError."""
    fs, path = resolve(config.path, options)
    own = _own(output, options)
    with asking(config):
        if not fs.isdir(path):
            raise ManifestError(f"manifest.layout prefix needs a folder or a bucket prefix; {config.path} is none")
        refuse_own(config, fs, path, own)
    columns = [name for name in OBJECTS.names if name != "uri"]
    return file_uri(fs, path), FoldedSource(config.path, (), OBJECTS, columns, LISTING, partial(_pages, fs, path, own))


def holds_media(config: ManifestConfig, options: Options, output: str | None) -> bool:
    """Whether some object below the folder `manifest.path` is called like a picture or a video."""
    fs, path = resolve(config.path, options)
    with asking(config):
        pages = _pages(fs, path, _own(output, options))
        return any(pc.any(pc.match_substring_regex(page.column("key"), KNOWN)).as_py() for page in pages)


def table_source(
    config: ManifestConfig, options: Options, files: Sequence[ManifestFile], schemas: Schemas, fold: Fold
) -> FoldedSource:
    """The objects that `files`, of these schemas (by URI), list. Raises ManifestError."""
    with reading(config.path):
        schema = canonical_schema(schemas.values(), {*config.carry, *config.columns.values()})
    there = {canonical_name(name) for one in schemas.values() for name in one.names}
    columns = [name for name in schema.names if name in there]
    records = partial(_records, files, schemas, schema, options)
    return FoldedSource(config.path, files, schema, columns, fold, records)


def _own(output: str | None, options: Options) -> OutputFolder | None:
    return None if output is None else OutputFolder.of(output, options)


def _pages(fs: fsspec.AbstractFileSystem, path: str, output: OutputFolder | None) -> Iterator[pa.RecordBatch]:
    for page in object_pages(fs, path):
        if output is None or not output.is_within(fs, path):
            yield page
            continue
        keys = page.column("key").to_pylist()
        yield page.filter(pa.array([not output.holds(fs, f"{path.rstrip('/')}/{key}") for key in keys]))


def _records(
    files: Sequence[ManifestFile], schemas: Schemas, schema: pa.Schema, options: Options
) -> Iterator[pa.RecordBatch]:
    for file in files:
        found = schemas[file.uri]
        for table in read_batches(file, found, columns_to_read(found, schema), options):
            with reading(file.uri):
                batches = canonical_table(table, schema).to_batches()
            yield from batches
