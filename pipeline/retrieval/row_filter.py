"""A condition on a table's other columns (`lang = 'de' AND year >= 2020`), in DuckDB's SQL, applied to batches.

In: the condition and the vectors table's schema; batches with the columns it names. Out: the rows it holds for.
Refused with ConfigError: what DuckDB cannot parse, columns that are not there, and what is not true or false. A
condition sees nothing but its row: DuckDB may open no files here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import ConfigError

__all__ = ["RowFilter", "settle_filter"]

_ROW = "__row__"


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A condition that was checked, and the columns that it needs."""

    condition: str
    columns: tuple[str, ...]

    def rows(self, table: pa.Table) -> NDArray[np.int64]:
        """The rows of `table` (it has `columns`) that the condition is true for, ascending.

        Raises ConfigError where it cannot be worked out, as with a text that is no number.
        """
        numbered = table.select(self.columns).append_column(_ROW, pa.array(np.arange(table.num_rows)))
        try:
            with _connect() as db:
                found = db.from_arrow(numbered).filter(self.condition).project(_ROW).to_arrow_table()
        except duckdb.Error as error:
            raise _refused(self.condition, error) from None
        return np.sort(found.column(_ROW).to_numpy())


def settle_filter(condition: str, schema: pa.Schema, hidden: Sequence[str]) -> RowFilter:
    """Check `condition` against `schema`, whose columns `hidden` (the vectors) it may not name. Raises ConfigError."""
    fields = [field for field in schema if field.name not in hidden and _fits(field)]
    try:
        kinds = _kinds(condition, fields)
    except duckdb.Error as error:
        raise _refused(condition, error, fields) from None
    if kinds != ["BOOLEAN"]:
        raise ConfigError(f"filter {condition!r} gives {', '.join(kinds)}; give one condition that is true or false")
    needed = [field.name for field in fields if not _binds(condition, [each for each in fields if each is not field])]
    return RowFilter(condition, tuple(needed))


def _kinds(condition: str, fields: Sequence[pa.Field]) -> list[str]:
    with _connect() as db:
        # As a filter too: there DuckDB takes neither aggregates nor several expressions.
        rows = db.from_arrow(_empty(fields)).filter(condition)
        return [str(kind) for kind in rows.project(condition).types]


def _binds(condition: str, fields: Sequence[pa.Field]) -> bool:
    try:
        _kinds(condition, fields)
    except duckdb.Error:
        return False
    return True


def _fits(field: pa.Field) -> bool:
    try:
        with _connect() as db:
            db.from_arrow(_empty([field])).fetchall()
    except (duckdb.Error, NotImplementedError):
        return False  # DuckDB has no such type
    return True


def _empty(fields: Sequence[pa.Field]) -> pa.Table:
    return pa.schema([*fields, pa.field(_ROW, pa.int64())]).empty_table()


def _connect() -> duckdb.DuckDBPyConnection:
    """A connection of its own, for this thread."""
    return _database().cursor()


@cache
def _database() -> duckdb.DuckDBPyConnection:
    # One a process: opening one takes longer than most row groups.
    return duckdb.connect(":memory:", config={"threads": 1, "enable_external_access": False})


def _refused(condition: str, error: Exception, fields: Sequence[pa.Field] = ()) -> ConfigError:
    there = f"; columns there: {', '.join(field.name for field in fields)}" if fields else ""
    return ConfigError(f"filter {condition!r}: {str(error).splitlines()[0]}{there}")
