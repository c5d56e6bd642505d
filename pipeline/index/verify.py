"""Checking an index against its invariants, from the bytes in the store alone.

In: a store. Out: the violations, none for a sound index. Refused: a place without a finished index
(ConfigError); everything else that is wrong is reported, not raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import IndexCorruptError
from pipeline.index.carried import carried_fields
from pipeline.index.commits import Commit, FileEntry, Table
from pipeline.index.digest import digest_columns, format_digest
from pipeline.index.files import holds_scores, newest_snapshot, table_files
from pipeline.index.log import LOG_FOLDER
from pipeline.index.parquet import open_parquet, sha256_of
from pipeline.index.scratch import Scratch, scratch
from pipeline.index.snapshot import carry_info
from pipeline.index.verify_scores import check_pairs, check_score_file
from pipeline.index.violation import Violation
from pipeline.storage import Store

__all__ = ["Violation", "verify"]

_FILES_AT_ONCE = 4
"""Each reads one file, a row group at a time: bounded by the store's speed before the memory."""

_VALUE_TYPES = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "binary": pa.uint8()}
_BITS = 8

_TWICE = """
SELECT id FROM outcomes GROUP BY id
HAVING count(*) FILTER (is_vector) > 1 OR count(*) FILTER (NOT is_vector) > 1
"""
_UNEXPLAINED = """
SELECT id FROM outcomes GROUP BY id HAVING bool_or(is_vector) AND bool_or(NOT is_vector AND NOT kept_previous)
"""
_PROMISED = "SELECT id FROM outcomes GROUP BY id HAVING bool_or(kept_previous) AND NOT bool_or(is_vector)"
_ITEMS = f"SELECT count(*), {digest_columns('id')} FROM (SELECT DISTINCT id FROM outcomes)"  # noqa: S608


def verify(store: Store) -> list[Violation]:
    """Every violation of the newest snapshot's invariants; reads each live file twice."""
    try:
        snapshot = newest_snapshot(store)
    except IndexCorruptError as error:
        return [Violation("log", LOG_FOLDER, str(error))]
    sizes = {file.path: file.bytes for file in table_files(store)}
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        checked = list(pool.map(lambda entry: _check_file(store, snapshot, entry, sizes), snapshot.live))
    violations = [each for found in checked for each in found]
    readable = [entry for entry, found in zip(snapshot.live, checked, strict=True) if not found]
    if len(readable) == len(snapshot.live):
        violations += check_pairs(store, snapshot) if holds_scores(snapshot) else _check_ids(store, snapshot)
    return violations


def _check_file(store: Store, snapshot: Commit, entry: FileEntry, sizes: dict[str, int]) -> list[Violation]:
    if entry.path not in sizes:
        return [Violation("file", entry.path, "is live but does not exist")]
    if sizes[entry.path] != entry.bytes:
        return [Violation("size", entry.path, f"is {sizes[entry.path]} bytes, committed as {entry.bytes}")]
    try:
        if sha256_of(store, entry.path) != entry.sha256:
            return [Violation("checksum", entry.path, "its bytes are not those that were committed")]
        with open_parquet(store, entry.path) as parquet:
            return list(_check_table(parquet, snapshot, entry))
    except (OSError, pa.ArrowException) as error:
        return [Violation("file", entry.path, f"cannot be read: {error}")]


def _check_table(parquet: pq.ParquetFile, snapshot: Commit, entry: FileEntry) -> Iterator[Violation]:
    rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
    if rows != entry.rows:
        yield Violation("rows", entry.path, f"has {rows} rows, committed as {entry.rows}")
    if holds_scores(snapshot):
        yield from check_score_file(parquet, entry)
        return
    faults = list(_check_types(schema, snapshot.info, entry.table))
    yield from (Violation("schema", entry.path, fault) for fault in faults)
    if faults or entry.table != Table.VECTORS:
        return
    names = [name for spec in snapshot.info["specs"] for name in _number_columns(spec)]
    broken: set[str] = set()
    for group in range(parquet.num_row_groups if names else 0):
        found = parquet.read_row_group(group, columns=names)
        broken |= {name for name in names if not _all_finite(found[name])}
    for name in sorted(broken):
        yield Violation("values", entry.path, f"column {name} holds a null, NaN, infinity or a scale of zero")


def _check_types(schema: pa.Schema, info: dict[str, Any], table: Table) -> Iterator[str]:
    for field in schema:
        extension = (field.metadata or {}).get(b"ARROW:extension:name")
        if extension or isinstance(field.type, pa.BaseExtensionType):
            yield f"column {field.name} is an extension type, not plain Arrow"
    expected = {"id": info["id_type"], "fingerprint": str(pa.string())}
    for name, kind in expected.items():
        if name not in schema.names or str(schema.field(name).type) != kind:
            yield f"column {name} is not {kind}"
    carry = carry_info(carried_fields(schema))
    if table == Table.VECTORS and carry != _recorded_carry(info, carry):
        yield f"carried columns are {carry}, not {info['carry']}"
    for spec in info["specs"] if table == Table.VECTORS else ():
        wanted = _vector_type(spec)
        if spec["name"] not in schema.names or schema.field(spec["name"]).type != wanted:
            yield f"column {spec['name']} is not {wanted}"
        if spec["dtype"] == "int8" and f"{spec['name']}_scale" not in schema.names:
            yield f"column {spec['name']}_scale is missing"


def _recorded_carry(info: dict[str, Any], default: list[list[str]]) -> list[list[str]]:
    # Snapshots of earlier versions say nothing of carried columns, or have Arrow's other name for a list's members.
    return [[name, kind.replace("<item: ", "<element: ")] for name, kind in info.get("carry", default)]


def _vector_type(spec: dict[str, Any]) -> pa.DataType:
    width = spec["dim"] // _BITS if spec["dtype"] == "binary" else spec["dim"]
    return pa.list_(pa.field("element", _VALUE_TYPES[spec["dtype"]]), width)


def _number_columns(spec: dict[str, Any]) -> list[str]:
    """The columns of a vector, none of which may hold a null or anything but finite numbers."""
    return [spec["name"], f"{spec['name']}_scale"] if spec["dtype"] == "int8" else [spec["name"]]


def _all_finite(column: pa.ChunkedArray) -> bool:
    if column.null_count:
        return False
    if not pa.types.is_fixed_size_list(column.type):
        return bool(pc.all(pc.and_(pc.is_finite(column), pc.greater(column, 0)), min_count=0).as_py())
    values = pc.list_flatten(column)
    values = values.cast(pa.float32()) if pa.types.is_float16(values.type) else values
    return values.null_count == 0 and bool(pc.all(pc.is_finite(values), min_count=0).as_py())


def _check_ids(store: Store, snapshot: Commit) -> list[Violation]:
    with scratch(store) as found:
        found.load_outcomes(snapshot.live, ())
        violations = [
            *_named(found, "duplicate", _TWICE, "have two rows in one table"),
            *_named(found, "outcome", _UNEXPLAINED, "have a vector and a reject that does not keep it"),
            *_named(found, "outcome", _PROMISED, "have a reject that keeps a vector which is not there"),
        ]
        count, first, second = found.db.execute(_ITEMS).fetchall()[0]
    digest, info = format_digest(first, second), snapshot.info
    if (count, digest) != (info["items"], info["ids_digest"]):
        detail = f"the live files tell of {count} items ({digest}), committed were {info['items']}"
        violations.append(Violation("outcome", LOG_FOLDER, f"{detail} ({info['ids_digest']})"))
    return violations


def _named(found: Scratch, rule: str, query: str, what: str) -> Sequence[Violation]:
    ids = [each for (each,) in found.db.execute(query).fetchall()]
    if not ids:
        return ()
    return (Violation(rule, "ids", f"{len(ids)} ids {what}, among them {', '.join(sorted(ids)[:5])}"),)
