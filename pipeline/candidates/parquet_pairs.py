"""Candidates in Parquet: a pair a row, or a query's list a row.

In: files, and the roles' own column names. Out: batches of `pairs.RAW`. Refused with ManifestError, naming file and
column: missing and mistyped columns, null ids, lists of ids and scores that differ in length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from pipeline.candidates.pairs import raw_batch
from pipeline.errors import ManifestError
from pipeline.manifest.arrow_types import is_list, is_number, is_text, plain_array, plain_type
from pipeline.manifest.listing import ManifestFile
from pipeline.manifest.naming import column_name
from pipeline.manifest.readers import Options, read_batches, read_schema, reading
from pipeline.manifest.scalars import Place, id_strings

__all__ = ["read_lists", "read_pairs"]

_PAIRS = {"query_id": True, "doc_id": True, "rank": False, "score": False}
_LISTS = {"query_id": True, "doc_ids": True, "scores": False}
"""The columns of either shape, and whether a file must have them."""


def read_pairs(files: Sequence[ManifestFile], columns: Mapping[str, str], options: Options) -> Iterator[pa.RecordBatch]:
    """The rows of `files` in order. Raises ManifestError."""
    for file, first_row, names, table in _tables(files, _PAIRS, columns, options):
        with reading(file.uri):
            batch = raw_batch(
                _ids(file, "query_id", names, table, first_row),
                _ids(file, "doc_id", names, table, first_row),
                _plain(table, names["rank"]).cast(pa.int64()) if "rank" in names else None,
                _plain(table, names["score"]).cast(pa.float64()) if "score" in names else None,
            )
        yield batch


def read_lists(files: Sequence[ManifestFile], columns: Mapping[str, str], options: Options) -> Iterator[pa.RecordBatch]:
    """A pair for each document of each row's list, its place there (from 1) as its rank. Raises ManifestError."""
    for file, first_row, names, table in _tables(files, _LISTS, columns, options):
        with reading(file.uri):
            query_ids = _ids(file, "query_id", names, table, first_row)
            listed = _lists(table, names["doc_ids"])
            parents = pa.array(np.repeat(np.arange(len(listed)), _lengths(listed)))
            doc_ids = listed.flatten()
            _refuse_null(file, first_row, names["doc_ids"], doc_ids, parents)
            scores = None
            if "scores" in names:
                scores = _listed_scores(file, first_row, names, listed, _lists(table, names["scores"]))
            batch = raw_batch(query_ids.take(parents), doc_ids, _places(listed), scores)
        yield batch


def _tables(
    files: Sequence[ManifestFile], roles: Mapping[str, bool], columns: Mapping[str, str], options: Options
) -> Iterator[tuple[ManifestFile, int, dict[str, str], pa.Table]]:
    for file in files:
        schema = read_schema(file, options)
        names = _names(file, schema, roles, columns)
        first_row = 0
        for table in read_batches(file, schema, list(names.values()), options):
            yield file, first_row, names, table
            first_row += table.num_rows


def _names(
    file: ManifestFile, schema: pa.Schema, roles: Mapping[str, bool], columns: Mapping[str, str]
) -> dict[str, str]:
    names = {role: columns.get(role, role) for role in roles}
    found = ", ".join(f"{field.name} ({field.type})" for field in schema) or "no columns"
    for role, name in names.items():
        times = schema.names.count(name)
        if times > 1 or (not times and (roles[role] or role in columns)):
            raise ManifestError(
                f"{file.uri} has {times or 'no'} {column_name(role, name)}; expected {', '.join(roles)} "
                f"({' and '.join(role for role, needed in roles.items() if needed)} at least); found {found}; "
                "set candidates.columns"
            )
        if times and not _fits(role, plain_type(schema.field(name).type)):
            raise ManifestError(
                f"{column_name(role, name)} of {file.uri}: expected {_EXPECTED[role]}; found {schema.field(name).type}"
            )
    return {role: name for role, name in names.items() if name in schema.names}


_EXPECTED = {
    "query_id": "a string or an integer",
    "doc_id": "a string or an integer",
    "rank": "a whole number",
    "score": "a number",
    "doc_ids": "a list of strings or integers",
    "scores": "a list of numbers",
}


def _fits(role: str, kind: pa.DataType) -> bool:
    if role in ("doc_ids", "scores"):
        return is_list(kind) and _fits("doc_id" if role == "doc_ids" else "score", kind.value_type)
    if role in ("rank", "score"):
        return is_number(kind)  # pandas makes floats of integers beside nulls
    return bool(pt.is_integer(kind)) or is_text(kind)


def _ids(file: ManifestFile, role: str, names: Mapping[str, str], table: pa.Table, first_row: int) -> pa.Array:
    column = pa.chunked_array([_plain(table, names[role])])
    return id_strings(
        column, Place(file.uri, range(first_row, first_row + table.num_rows), {"id": names[role]})
    ).combine_chunks()


def _plain(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return plain_array(column, plain_type(column.type)).combine_chunks()


def _lists(table: pa.Table, name: str) -> pa.Array:
    plain = _plain(table, name)
    return plain.cast(pa.list_(plain.type.value_type))  # of any length each


def _lengths(listed: pa.Array) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(pc.list_value_length(listed), 0), np.int64)


def _places(listed: pa.Array) -> pa.Array:
    """int64: the place of each element in its list, from 1."""
    lengths = _lengths(listed)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return pa.array(np.arange(1, len(starts) + 1) - starts)


def _refuse_null(file: ManifestFile, first_row: int, name: str, doc_ids: pa.Array, parents: pa.Array) -> None:
    if doc_ids.null_count:
        row = parents[pc.indices_nonzero(doc_ids.is_null())[0].as_py()].as_py()
        raise ManifestError(f"{name!r} of {file.uri} holds null in row {first_row + row} (from 0); expected ids")


def _listed_scores(
    file: ManifestFile, first_row: int, names: Mapping[str, str], listed: pa.Array, scores: pa.Array
) -> pa.Array:
    wanted, found = _lengths(listed), _lengths(scores)
    differ = np.flatnonzero(wanted != found)
    if len(differ):
        row = int(differ[0])
        raise ManifestError(
            f"row {first_row + row} of {file.uri} (from 0) has {wanted[row]} {names['doc_ids']} and {found[row]} "
            f"{names['scores']}; expected as many"
        )
    return scores.flatten().cast(pa.float64())
