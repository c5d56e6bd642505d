"""An index as retrieval sees it: its live files, its vector columns, and the model that made them.

In: a store. Out: a `VectorIndex`, read from the newest snapshot and one file's footer. Refused with ConfigError: a
place without a finished index, and vector columns that it does not have.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipeline.config import VectorSpec
from pipeline.errors import ConfigError
from pipeline.index.commits import FileEntry, Table
from pipeline.index.files import made_by, newest_snapshot
from pipeline.index.parquet import open_parquet
from pipeline.retrieval.codes import column_names
from pipeline.storage import Store

__all__ = ["VectorIndex", "open_index"]


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """`files`: the live vectors files by path. `specs`: its vector columns, each with its dim.

    `schema` is that of the vectors table (without columns where nothing is live), `facts` its `lakevec.…` metadata
    without that prefix. `run_id` is the run that made the snapshot.
    """

    store: Store
    files: tuple[FileEntry, ...]
    specs: tuple[VectorSpec, ...]
    schema: pa.Schema
    facts: dict[str, str]
    run_id: str

    @property
    def n_rows(self) -> int:
        """How many vectors are live."""
        return sum(entry.rows for entry in self.files)

    @property
    def id_type(self) -> pa.DataType:
        """The type of the ids: string or an integer."""
        return self.schema.field("id").type if self.files else pa.string()

    @property
    def vector_columns(self) -> list[str]:
        """Every column that belongs to a vector."""
        return [name for spec in self.specs for name in column_names(spec)]

    def spec(self, name: str) -> VectorSpec:
        """The vector column `name`. Raises ConfigError naming those that are there."""
        for spec in self.specs:
            if spec.name == name:
                return spec
        there = ", ".join(f"{spec.name} ({spec.dtype}, dim {spec.dim})" for spec in self.specs)
        raise ConfigError(f"{self.store.root} has no vector column {name!r}; it has {there}")


def open_index(store: Store) -> VectorIndex:
    """The index in `store`, as its newest snapshot has it."""
    snapshot = newest_snapshot(store)
    files = sorted((entry for entry in snapshot.live if entry.table == Table.VECTORS), key=lambda entry: entry.path)
    specs = tuple(VectorSpec.model_validate(each) for each in snapshot.info["specs"])
    schema = _schema(store, files[0].path) if files else pa.schema([])
    facts = {
        key.decode().removeprefix("lakevec."): value.decode()
        for key, value in (schema.metadata or {}).items()
        if key.startswith(b"lakevec.")
    }
    return VectorIndex(store, tuple(files), specs, schema, facts, made_by(snapshot))


def _schema(store: Store, path: str) -> pa.Schema:
    with open_parquet(store, path) as parquet:
        return parquet.schema_arrow
