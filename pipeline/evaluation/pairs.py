"""Query–document pairs out of Parquet files whose columns bear any of the usual names.

In: a Parquet file and the names its columns may have. Out: tables of strings and numbers. Refused with ManifestError:
missing columns, ids that are neither strings nor integers, nulls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ManifestError
from pipeline.evaluation.sources import Source, naming_files
from pipeline.manifest.parquet_files import open_parquet, parquet_batches

__all__ = ["DOC_NAMES", "QUERY_NAMES", "checked", "pick", "read_pairs"]

QUERY_NAMES = ("query_id", "query-id", "qid", "q_id")
DOC_NAMES = ("doc_id", "corpus-id", "corpus_id", "docid", "docno")


def pick(schema: pa.Schema, names: Sequence[str], where: str) -> str:
    """The first of `names` that `schema` has; raises ManifestError that lists what is there."""
    for name in names:
        if name in schema.names:
            return name
    raise ManifestError(f"{where}: expected a column {' or '.join(names)}, found {', '.join(schema.names) or 'none'}")


def read_pairs(source: Source, path: str, value_names: Sequence[str]) -> Iterator[tuple[pa.Table, str]]:
    """Tables `query_id, doc_id, value` of one file and the name of the column `value` came from.

    Ids are strings; `value` has the type of the file, nulls included. `value_names`: the best first.
    """
    with naming_files(source, path) as name, source.store.open_input(path) as file:
        parquet = open_parquet(file, name)
        schema = parquet.schema_arrow
        columns = [pick(schema, names, name) for names in (QUERY_NAMES, DOC_NAMES, value_names)]
        for batch in parquet_batches(parquet, columns):
            query, doc, value = (batch.column(column) for column in columns)
            ids = [
                _ids(column, f"{name}, column {label}") for column, label in zip((query, doc), columns, strict=False)
            ]
            yield pa.table([*ids, value], names=["query_id", "doc_id", "value"]), columns[2]


def checked(pairs: pa.Table, key: str) -> pa.Table:
    """`pairs` (query_id, doc_id, …); raises ManifestError, naming one, if a pair is there twice."""
    counted = pairs.group_by(["query_id", "doc_id"]).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted["count_all"], 1))
    if twice.num_rows:
        first = twice.slice(0, 1).to_pylist()[0]
        raise ManifestError(
            f"{key}: {twice.num_rows} pairs are there more than once, among them query {first['query_id']!r} with "
            f"document {first['doc_id']!r} ({first['count_all']} times); expected each pair once"
        )
    return pairs


def _ids(column: pa.Array, where: str) -> pa.Array:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise ManifestError(f"{where}: expected strings or integers, found {column.type}")
    if column.null_count:
        raise ManifestError(f"{where}: {column.null_count} ids are null")
    # large_string: the ids of one run may pass the 2 GiB that a string array can address.
    return column.cast(kind).cast(pa.large_string())
