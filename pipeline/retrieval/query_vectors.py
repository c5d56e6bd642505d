"""The query vectors: from an index, or from Parquet that anybody wrote.

In: a path. Out: `QueryVectors`, read block by block as float32. Refused: a path that holds neither, columns that are
not there (ConfigError); Parquet with null or repeated ids, null vectors, vectors of several lengths, or of bits that
nothing names as such, files that cannot be read or differ in their columns (ManifestError).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.errors import ConfigError, ManifestError
from pipeline.index.log import LOG_FOLDER
from pipeline.index.parquet import open_parquet
from pipeline.manifest.readers import reading
from pipeline.retrieval.codes import column_names, floats, stored
from pipeline.retrieval.vector_index import open_index
from pipeline.storage import Store, open_store

__all__ = ["QueryVectors", "open_queries"]


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """Where the queries are: Parquet files `paths` of `store`, with ids in column `id` and vectors as `spec` says.

    `facts` is what the index says of its model; nothing for plain Parquet.
    """

    store: Store
    paths: tuple[str, ...]
    id: str
    id_type: pa.DataType
    spec: VectorSpec
    n_rows: int
    facts: Mapping[str, str]
    unique: bool = False
    """Whether somebody else vouches for the ids, as an index does for its own."""

    def blocks(self, n_rows: int) -> Iterator[tuple[pa.Array, NDArray[np.float32]]]:
        """Ids and float32[n, dim] vectors, in the order of the files, `n_rows` at a time; the last may be fewer."""
        held: list[tuple[pa.Array, NDArray[np.float32]]] = []
        missing = n_rows
        seen: set[Any] = set()
        for ids, vectors in self._batches(n_rows):
            if not self.unique:
                _check_new(ids, seen)
            # Small files must not make small blocks: each costs a pass over the corpus.
            while len(ids) >= missing:
                yield _joined([*held, (ids[:missing], vectors[:missing])])
                ids, vectors = ids[missing:], vectors[missing:]
                held, missing = [], n_rows
            held.append((ids, vectors))
            missing -= len(ids)
        if missing < n_rows:
            yield _joined(held)

    def _batches(self, n_rows: int) -> Iterator[tuple[pa.Array, NDArray[np.float32]]]:
        for path in self.paths:
            with _parquet(self.store, path) as parquet:
                self._check_columns(parquet.schema_arrow, path)
                for batch in parquet.iter_batches(n_rows, columns=[self.id, *column_names(self.spec)]):
                    ids = batch.column(self.id)
                    if ids.null_count:
                        raise ManifestError(
                            f"{self.store.uri(path)}: column {self.id!r} holds a null; give every query an id"
                        )
                    yield ids, self._vectors(pa.Table.from_batches([batch]), path)

    def _check_columns(self, schema: pa.Schema, path: str) -> None:
        where = self.store.uri(path)
        for name in (self.id, *column_names(self.spec)):
            if name not in schema.names:
                raise ManifestError(f"{where} has no column {name!r}, as the first file has; it has {schema.names}")
        kind = schema.field(self.id).type
        if kind != self.id_type:
            raise ManifestError(f"{where}: column {self.id!r} is {kind}, that of the first file {self.id_type}")

    def _vectors(self, table: pa.Table, path: str) -> NDArray[np.float32]:
        column = table.column(self.spec.name)
        if column.null_count:
            raise ManifestError(f"{self.store.uri(path)}: column {self.spec.name!r} holds a null; leave such rows out")
        if self.spec.dtype != "binary":
            place = table.schema.get_field_index(self.spec.name)
            table = table.set_column(place, self.spec.name, self._fixed(column, path))
        return floats(stored(table, self.spec), self.spec)

    def _fixed(self, column: pa.ChunkedArray, path: str) -> pa.ChunkedArray:
        try:
            return column.cast(pa.list_(column.type.value_type, self.spec.dim))
        except (pa.ArrowException, TypeError):
            raise ManifestError(
                f"{self.store.uri(path)}: column {self.spec.name!r} holds vectors of several lengths, the first one "
                f"has {self.spec.dim}"
            ) from None


def open_queries(
    path: str, vector: str, id_column: str, storage_options: Mapping[str, Mapping[str, Any]]
) -> QueryVectors:
    """The queries at `path`: an index with the vector column `vector`, else Parquet with it and `id_column`."""
    store = open_store(path, storage_options)
    if store.exists(LOG_FOLDER):
        index = open_index(store)
        paths = tuple(entry.path for entry in index.files)
        return QueryVectors(store, paths, "id", index.id_type, index.spec(vector), index.n_rows, index.facts, True)
    store, paths = _parquet_files(path, store, storage_options)
    with _parquet(store, paths[0]) as parquet:
        schema, first = parquet.schema_arrow, next(parquet.iter_batches(1), None)
    where = store.uri(paths[0])
    for name in (id_column, vector):
        if name not in schema.names:
            raise ConfigError(f"{where} has no column {name!r}; it has {', '.join(schema.names)}")
    spec = _spec(vector, schema, first, where)
    return QueryVectors(store, paths, id_column, schema.field(id_column).type, spec, _count(store, paths), {})


@contextmanager
def _parquet(store: Store, path: str) -> Iterator[pq.ParquetFile]:
    """A file that anybody may have written. Raises ManifestError, naming it, where it cannot be read."""
    with reading(store.uri(path)), open_parquet(store, path) as parquet:
        yield parquet


def _check_new(ids: pa.Array, seen: set[Any]) -> None:
    for each in ids.to_pylist():
        if each in seen:
            raise ManifestError(f"query id {each!r} is there twice; give every query an id of its own")
        seen.add(each)


def _joined(pieces: Sequence[tuple[pa.Array, NDArray[np.float32]]]) -> tuple[pa.Array, NDArray[np.float32]]:
    return pa.concat_arrays([ids for ids, _ in pieces]), np.concatenate([vectors for _, vectors in pieces])


def _parquet_files(
    path: str, store: Store, storage_options: Mapping[str, Mapping[str, Any]]
) -> tuple[Store, tuple[str, ...]]:
    inside = tuple(file.path for file in store.list() if file.path.endswith(".parquet"))
    if inside:
        return store, inside
    folder, _, name = path.rstrip("/").rpartition("/")
    parent = open_store(folder or ("/" if path.startswith("/") else "."), storage_options)
    if not name.endswith(".parquet") or not parent.exists(name):
        raise ConfigError(f"queries.path {path} is neither an index nor a Parquet file or folder of such")
    return parent, (name,)


def _spec(name: str, schema: pa.Schema, first: pa.RecordBatch | None, where: str) -> VectorSpec:
    kind = schema.field(name).type
    value = getattr(kind, "value_type", None)
    dtypes = {pa.float32(): "float32", pa.float64(): "float32", pa.float16(): "float16"}
    if value == pa.int8() and f"{name}_scale" in schema.names:
        dtype = "int8"
    elif value in dtypes:
        dtype = dtypes[value]
    else:
        raise ManifestError(
            f"{where}: column {name!r} is {kind}; expected lists of floats, or of int8 with a column {name}_scale"
        )
    cell = first.column(name)[0] if first is not None and first.num_rows else None
    dim = kind.list_size if pt.is_fixed_size_list(kind) else len(cell or ())
    if not dim:
        raise ManifestError(f"{where}: column {name!r} has no vector in its first row")
    return VectorSpec.model_validate({"name": name, "dim": dim, "dtype": dtype})


def _count(store: Store, paths: Sequence[str]) -> int:
    total = 0
    for path in paths:
        with _parquet(store, path) as parquet:
            total += parquet.metadata.num_rows
    return total
