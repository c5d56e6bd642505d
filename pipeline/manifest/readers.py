"""The one way to open a manifest file, whatever its format and store.

In: a `ManifestFile`. Out: its schema, or its rows as tables in file order. Refused with ManifestError, naming the
file: what cannot be opened or parsed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pipeline.errors import ManifestError, scrub
from pipeline.manifest.arrow_files import ArrowStream
from pipeline.manifest.csv_files import csv_batches, csv_names
from pipeline.manifest.json_lines import json_batches, json_schema
from pipeline.manifest.listing import Format, ManifestFile
from pipeline.manifest.orc_files import orc_batches, orc_schema
from pipeline.manifest.parquet_files import open_parquet, parquet_batches
from pipeline.manifest.well_formed import well_formed
from pipeline.storage import resolve
from pipeline.storage_errors import is_transient

__all__ = ["Options", "opened", "read_batches", "read_schema", "reading"]

Options = Mapping[str, Mapping[str, Any]]
"""fsspec options by scheme, as `fetch.storage_options`."""

_IN_PIECES = {Format.PARQUET: "Parquet", Format.ORC: "ORC", Format.ARROW: "an Arrow stream"}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


def read_schema(file: ManifestFile, options: Options) -> pa.Schema:
    """The columns of `file`; those of a CSV are all strings. Raises ManifestError."""
    with reading(file.uri), opened(file, options) as handle:
        if file.format in _IN_PIECES and not handle.seekable():
            kind = _IN_PIECES[file.format]
            raise ManifestError(f"{file.uri} is compressed as a whole, and {kind} is read in pieces; unpack it")
        if file.format is Format.PARQUET:
            return open_parquet(handle, file.uri).schema_arrow
        if file.format is Format.ORC:
            return orc_schema(handle)
        if file.format is Format.ARROW:
            return ArrowStream(handle, file.uri).schema
        if file.format is Format.CSV:
            return pa.schema([(name, pa.string()) for name in file.names or csv_names(handle)])
        return json_schema(handle)


def read_batches(file: ManifestFile, schema: pa.Schema, columns: Sequence[str], options: Options) -> Iterator[pa.Table]:
    """The rows of `columns` (distinct names of `schema`, which `read_schema` gave). Raises ManifestError."""
    with reading(file.uri), opened(file, options) as handle:
        if file.format is Format.JSONL:
            yield from json_batches(handle, pa.schema([schema.field(name) for name in columns]))
            return
        if file.format is Format.PARQUET:
            batches = parquet_batches(open_parquet(handle, file.uri), columns)
        elif file.format is Format.ORC:
            batches = orc_batches(handle, columns)
        elif file.format is Format.ARROW:
            batches = ArrowStream(handle, file.uri).thin_batches(columns)
        else:
            batches = csv_batches(handle, columns, file.names)
        for batch in batches:
            yield well_formed(pa.Table.from_batches([batch]))


@contextmanager
def opened(file: ManifestFile, options: Options) -> Iterator[BinaryIO]:
    """`file` for reading, uncompressed on the way if its name says `.gz`, `.zst` or `.bz2`."""
    fs, path = resolve(file.uri, options)
    compression = _COMPRESSIONS.get(PurePosixPath(path.lower()).suffix)
    with fs.open(path, "rb") as raw:
        if compression is None:
            yield raw
        else:
            with pa.CompressedInputStream(raw, compression) as plain:
                yield cast(BinaryIO, plain)


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turn what readers raise on a bad or unreachable file into a ManifestError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise ManifestError(f"the manifest file {uri} is gone; was it replaced while being read?") from None
    except PermissionError:
        raise ManifestError(f"the manifest file {uri} may not be read; check its permissions") from None
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise ManifestError(f"cannot read the manifest file {uri}: {scrub(str(error))}") from None
    except Exception as error:
        # A store that breaks off raises its driver's own errors, which are no OSError.
        if not is_transient(error):
            raise
        raise ManifestError(
            f"the store failed while the manifest file {uri} was read: {scrub(f'{type(error).__name__}: {error}')}; "
            "run again"
        ) from None
