"""A scratch DuckDB database over the ids of an index: what a plan or a check asks, without holding it in memory.

In: the manifest's items and the index's files, as Parquet in the store. Out: the tables
`items(id, fingerprint, shared)`, `carried(id, place)` and `outcomes`, one row each row of each file, with ids as
strings. Refused: files of another kind of index, if schemas are given (OwnershipError).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.errors import PLACE_CODES
from pipeline.index.carried import CarriedDigests, carried_fields
from pipeline.index.columns import check_columns
from pipeline.index.commits import FileEntry, Table
from pipeline.index.derive import Derivation
from pipeline.index.parquet import open_parquet
from pipeline.schema import ITEM_KEYS, ITEMS
from pipeline.spill import fill_table, spilling_database
from pipeline.storage import Store

__all__ = ["Scratch", "scratch", "tells_of_place"]

_FILES_AT_ONCE = 8
"""Opening a part is a few round trips to the store; the id columns of one file are about 20 MB."""

_OUTCOMES = pa.schema(
    [
        pa.field("file", pa.int32()),
        pa.field("row", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("fingerprint", pa.string()),
        pa.field("is_part", pa.bool_()),
        pa.field("is_vector", pa.bool_()),
        pa.field("retryable", pa.bool_()),
        pa.field("kept_previous", pa.bool_()),
        pa.field("of_place", pa.bool_()),
        pa.field("carried", pa.uint64()),
    ]
)
_FLAGS = ("retryable", "kept_previous", "of_place")
_PLACE_CODES = pa.array(sorted(PLACE_CODES), pa.string())
_ITEMS = pa.schema([ITEMS.field(name) for name in (*ITEM_KEYS, "shared")])
_CARRIED = pa.schema([pa.field("id", pa.string()), pa.field("place", pa.int64())])


class Scratch:
    """The database. `files` are numbered by their place: live files first, then parts in commit order.

    `reshaped` are the numbers of vectors files whose columns are not those of the given schemas.
    """

    def __init__(self, store: Store, db: duckdb.DuckDBPyConnection) -> None:
        self.store = store
        self.db = db
        self.files: tuple[FileEntry, ...] = ()
        self.n_live = 0
        self.reshaped: set[int] = set()
        self.derivation: Derivation | None = None

    def load_items(self, items_path: str) -> None:
        """Fill `items` from `items_path`, a Parquet file or folder relative to the store.

        Where that does not say which fingerprints are shared (a work list), none is.
        """
        dataset = ds.dataset(self.store.full(items_path), filesystem=self.store.fs, format="parquet")
        names = [name for name in _ITEMS.names if name in dataset.schema.names]
        batches = (_item_batch(batch) for batch in dataset.scanner(columns=names).to_batches())
        fill_table(self.db, "items", _ITEMS, batches)

    def load_carried(self, path: str | None) -> None:
        """Fill `carried` with the ids of `path` (`schema.carried_schema`) and their row numbers; nothing for None."""
        fill_table(self.db, "carried", _CARRIED, iter(()) if path is None else self._places(path))

    def _places(self, path: str) -> Iterator[pa.RecordBatch]:
        start = 0
        with open_parquet(self.store, path) as parquet:
            for batch in parquet.iter_batches(columns=["id"]):
                places = pa.array(np.arange(start, start + batch.num_rows))
                start += batch.num_rows
                yield pa.RecordBatch.from_arrays([batch["id"], places], schema=_CARRIED)

    def load_outcomes(
        self,
        live: Sequence[FileEntry],
        parts: Sequence[FileEntry],
        schemas: Mapping[Table, pa.Schema] | None = None,
        digests: CarriedDigests | None = None,
        derivation: Derivation | None = None,
    ) -> None:
        """Fill `outcomes` from the files, checking each against `schemas` and digesting carried columns if given.

        Files that `derivation` makes fit pass the check too.
        """
        self.derivation = derivation
        self.files = (*live, *parts)
        self.n_live = len(live)
        self.reshaped = set()
        fill_table(self.db, "outcomes", _OUTCOMES, self._outcomes(schemas or {}, digests))

    def _outcomes(self, schemas: Mapping[Table, pa.Schema], digests: CarriedDigests | None) -> Iterator[pa.RecordBatch]:
        waiting = iter(enumerate(self.files))
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            running = [pool.submit(self._rows, *each, schemas, digests) for each in islice(waiting, _FILES_AT_ONCE)]
            while running:
                yield from running.pop(0).result().to_batches()
                running += [pool.submit(self._rows, *each, schemas, digests) for each in islice(waiting, 1)]

    def _rows(
        self, number: int, entry: FileEntry, schemas: Mapping[Table, pa.Schema], digests: CarriedDigests | None
    ) -> pa.Table:
        of_rejects = ["retryable", "kept_previous", "code"] if entry.table == Table.REJECTS else []
        with open_parquet(self.store, entry.path) as parquet:
            if entry.table in schemas:
                self._check(number, parquet.schema_arrow, schemas[entry.table])
            found = parquet.read(columns=["id", "fingerprint", *of_rejects])
            carried = pa.nulls(found.num_rows, pa.uint64())
            if digests is not None and entry.table == Table.VECTORS:
                carried = _digests(parquet, digests)
        n = found.num_rows
        columns = {
            "file": pa.repeat(pa.scalar(number, pa.int32()), n),
            "row": pa.array(np.arange(n, dtype=np.int64)),
            "id": found["id"].cast(pa.string()),
            "fingerprint": found["fingerprint"],
            "is_part": pa.repeat(number >= self.n_live, n),
            "is_vector": pa.repeat(entry.table == Table.VECTORS, n),
            **(_flags(found) if of_rejects else dict.fromkeys(_FLAGS, pa.repeat(False, n))),
            "carried": carried,
        }
        return pa.table(columns, schema=_OUTCOMES)

    def _check(self, number: int, found: pa.Schema, wanted: pa.Schema) -> None:
        will_be = self.derivation.schema_of(found) if self.derivation else found
        check_columns(will_be, wanted, self.store.uri(self.files[number].path))
        if will_be is not found or carried_fields(found) != carried_fields(wanted):
            self.reshaped.add(number)


def tells_of_place(codes: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """For each of the reject codes whether it is one of `PLACE_CODES`."""
    return pc.is_in(codes, value_set=_PLACE_CODES)


def _item_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    shared = batch["shared"] if "shared" in batch.schema.names else pa.repeat(False, batch.num_rows)
    return pa.RecordBatch.from_arrays([batch["id"].cast(pa.string()), batch["fingerprint"], shared], schema=_ITEMS)


def _flags(rejects: pa.Table) -> dict[str, pa.ChunkedArray]:
    noted = {name: pc.fill_null(rejects[name], False) for name in ("retryable", "kept_previous")}
    return noted | {"of_place": tells_of_place(rejects["code"])}


def _digests(parquet: pq.ParquetFile, digests: CarriedDigests) -> pa.ChunkedArray:
    there = [name for name in digests.names if name in parquet.schema_arrow.names]
    # With the id, since a read of no columns has no rows either.
    groups = (parquet.read_row_group(group, columns=["id", *there]) for group in range(parquet.num_row_groups))
    return pa.chunked_array([chunk for group in groups for chunk in digests.of_table(group).chunks], pa.uint64())


@contextmanager
def scratch(store: Store) -> Iterator[Scratch]:
    """An empty database in a temporary folder, gone with the block."""
    with spilling_database() as db:
        yield Scratch(store, db)
