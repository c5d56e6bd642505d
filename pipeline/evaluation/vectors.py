"""The float vectors of an index, or of any Parquet files, in batches.

In: a path and a column. Out: `FloatVectors`. Refused: a column that is not there or no float vector (ConfigError,
naming those that are), null ids or vectors, vectors of several lengths (ManifestError).

An item is known by a key, a 64-bit hash of its id: of a billion items two share one with a chance of 3 in 100, which
would move a recall by less than its last digit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError, ManifestError
from pipeline.evaluation.sources import Options, Source, find_source, is_parquet, naming_files
from pipeline.evaluation.stored import FloatVectors
from pipeline.manifest.parquet_files import open_parquet

__all__ = ["VectorSource", "batches", "keys_of", "open_vectors", "sample"]

BATCH_BYTES = 16 << 20
"""Float32 values of one batch; a float64 copy, a quantised one and their scores are held beside it."""

_KEY_BYTES = 8


@dataclass(frozen=True, slots=True)
class VectorSource:
    """Files with ids and a float vector column of `dim` values."""

    source: Source
    column: str
    dim: int


def open_vectors(path: str, column: str, options: Options, *, key: str) -> VectorSource:
    """The vectors of the index or the Parquet files at `path`, named in the config under `key`."""
    source = find_source(path, options, key=key, tables=("vectors",))
    files = tuple(each for each in source.paths if is_parquet(each))
    if not files:
        raise ConfigError(f"{key}: {path} has no Parquet files; give an index, or Parquet with id and {column}")
    return VectorSource(Source(key, source.store, files), column, _dim(source, files[0], column))


def batches(vectors: VectorSource, rows: int | None = None) -> Iterator[FloatVectors]:
    """All items, at most `rows` and some `BATCH_BYTES` at a time."""
    rows = min(rows or BATCH_BYTES, max(1, BATCH_BYTES // (4 * vectors.dim)))
    for path in vectors.source.paths:
        with naming_files(vectors.source, path) as name, vectors.source.store.open_input(path) as file:
            parquet = open_parquet(file, name)
            _check_column(parquet.schema_arrow, vectors.column, name)
            for batch in parquet.iter_batches(rows, columns=["id", vectors.column], use_threads=False):
                keys = keys_of(batch.column("id"), name)
                yield FloatVectors(keys, _values(batch.column(vectors.column), vectors, name))


def sample(all_batches: Iterable[FloatVectors], n: int) -> FloatVectors:
    """At most `n` items, those of the least keys: the same ones whatever the order of items and files."""
    kept: FloatVectors | None = None
    for batch in all_batches:
        keys, values = batch.keys, batch.values
        if kept is not None:
            keys, values = np.concatenate([kept.keys, keys]), np.concatenate([kept.values, values])
        order = np.argsort(keys, kind="stable")[:n]
        kept = FloatVectors(keys[order], values[order])
    return kept if kept is not None else FloatVectors(np.empty(0, np.uint64), np.empty((0, 1), np.float32))


def keys_of(ids: pa.Array, name: str) -> NDArray[np.uint64]:
    """uint64[n] of string or integer ids; an integer has the key of its decimal digits."""
    if ids.null_count:
        raise ManifestError(f"{name}: {ids.null_count} ids are null")
    hashes = b"".join(hashlib.blake2b(str(each).encode(), digest_size=_KEY_BYTES).digest() for each in ids.to_pylist())
    return np.frombuffer(hashes, np.uint64)


def _dim(source: Source, path: str, column: str) -> int:
    with naming_files(source, path) as name, source.store.open_input(path) as file:
        parquet = open_parquet(file, name)
        _check_column(parquet.schema_arrow, column, name)
        for batch in parquet.iter_batches(1, columns=[column], use_threads=False):
            if batch.num_rows and batch.column(0)[0].is_valid:
                return len(batch.column(0)[0])
        raise ManifestError(f"{name} begins with no vector in column {column}")


def _check_column(schema: pa.Schema, column: str, name: str) -> None:
    floats = [field.name for field in schema if _is_vector(field.type)]
    if "id" not in schema.names or column not in floats:
        found = f"column {column} is {schema.field(column).type}" if column in schema.names else f"no column {column}"
        raise ConfigError(
            f"{name}: {found}; expected `id` and a list of floats; columns that are one: {', '.join(floats) or 'none'}"
        )


def _is_vector(kind: pa.DataType) -> bool:
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(is_list and pa.types.is_floating(kind.value_type))


def _values(column: pa.Array, vectors: VectorSource, name: str) -> NDArray[np.float32]:
    flat = column.flatten()
    lengths = pc.list_value_length(column)
    if column.null_count or flat.null_count or not pc.all(pc.equal(lengths, vectors.dim)).as_py():
        raise ManifestError(
            f"{name}: column {vectors.column} has nulls, or vectors of other than {vectors.dim} values; "
            "expected one length in every row"
        )
    return np.asarray(flat.to_numpy(zero_copy_only=False), np.float32).reshape(-1, vectors.dim)
