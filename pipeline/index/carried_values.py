"""Carried values on their way from the manifest into rows that exist already.

In: the values of items whose stored ones differ, in one Parquet file (`schema.carried_schema`). Out: rows of the
vectors table with those values in place of theirs. Refused: nothing; ids that are not there keep what they have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.index.parquet import open_parquet
from pipeline.schema import CARRY_PREFIX, carried_schema
from pipeline.storage import Store

__all__ = ["GROUP_ROWS", "CarriedValues", "write_values"]

GROUP_ROWS = 16_384
"""Rows of a row group: who needs some ids reads only the groups that hold them, and manifests keep their order."""


def write_values(path: Path, carry: Sequence[pa.Field], tables: Iterable[pa.Table]) -> None:
    """Write the id and carried columns of `tables` (rows of a work list) to the local `path`."""
    schema = carried_schema(carry)
    held = schema.empty_table()
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            held = pa.concat_tables([held, table.select(schema.names).cast(schema)])
            whole = held.num_rows // GROUP_ROWS * GROUP_ROWS
            if whole:
                writer.write_table(held.slice(0, whole), row_group_size=GROUP_ROWS)
                held = held.slice(whole)
        if held.num_rows:
            writer.write_table(held, row_group_size=GROUP_ROWS)


@dataclass(frozen=True, slots=True)
class CarriedValues:
    """Values by id: `ids` string[n], `columns` by their own names with n rows."""

    ids: pa.StringArray
    columns: pa.Table

    @classmethod
    def read(cls, store: Store, path: str, groups: Sequence[int], ids: pa.StringArray) -> CarriedValues:
        """The values that row groups `groups` of `path` have for `ids`."""
        with open_parquet(store, path) as source:
            found = [_only(source.read_row_group(group), ids) for group in groups]
        table = pa.concat_tables(found)
        names = [name.removeprefix(CARRY_PREFIX) for name in table.column_names]
        table = table.rename_columns(names)
        return cls(table.column("id").combine_chunks(), table.drop_columns(["id"]))

    def laid_over(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """`rows` (of the vectors table, types as here) with these values wherever their id has some."""
        at = pc.index_in(rows.column("id").cast(pa.string()), value_set=self.ids)
        # A row that has no value here is taken from the batch itself; values are counted on behind its rows.
        take = pc.coalesce(pc.add(at.cast(pa.int64()), rows.num_rows), pa.array(np.arange(rows.num_rows)))
        for name in self.columns.column_names:
            place = rows.schema.get_field_index(name)
            both = pa.chunked_array([rows.column(place), *self.columns.column(name).chunks])
            rows = rows.set_column(place, rows.schema.field(place), both.take(take).combine_chunks())
        return rows


def _only(table: pa.Table, ids: pa.StringArray) -> pa.Table:
    return table.filter(pc.is_in(table.column("id"), value_set=ids))
