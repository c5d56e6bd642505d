"""Checking the score table of a rerank output: each file by itself, then all of them together.

In: the live Parquet files and the snapshot that names them. Out: the violations. Nothing is refused: what is wrong is
reported, not raised.
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import RejectCode
from pipeline.index.commits import Commit, FileEntry
from pipeline.index.log import LOG_FOLDER
from pipeline.index.parquet import open_parquet
from pipeline.index.violation import Violation
from pipeline.rerank.schema import SCORES
from pipeline.spill import BATCH_ROWS, fill_table, spilling_database
from pipeline.storage import Store

__all__ = ["check_pairs", "check_score_file"]

_SIGMOID_ERROR = 1e-12
"""Two libraries' exponentials differ by a few of float64's last bits, 1e-16 each."""

_PLACES = pa.schema(
    [SCORES.field(name) for name in ("query_id", "doc_id", "rank", "logit", "first_stage_rank", "code")]
)

_TWICE = "SELECT query_id || ' × ' || doc_id FROM places GROUP BY query_id, doc_id HAVING count(*) > 1"
_MISPLACED = """
SELECT DISTINCT query_id FROM (
    SELECT query_id, rank, row_number() OVER (
        PARTITION BY query_id ORDER BY logit DESC NULLS LAST, first_stage_rank
    ) AS place FROM places
) WHERE rank IS DISTINCT FROM place
"""
_CODES = "SELECT code, count(*) FROM places WHERE code IS NOT NULL GROUP BY code ORDER BY code"


def check_score_file(parquet: pq.ParquetFile, entry: FileEntry) -> Iterator[Violation]:
    """What is wrong with one file of the score table: its schema, or rows that contradict themselves."""
    if not parquet.schema_arrow.equals(SCORES):
        found = ", ".join(f"{field.name} {field.type}" for field in parquet.schema_arrow)
        yield Violation("schema", entry.path, f"its columns are not those of the score table: {found}")
        return
    bad = sum(_contradictions(batch) for batch in parquet.iter_batches(BATCH_ROWS))
    if bad:
        yield Violation(
            "values",
            entry.path,
            f"{bad} rows are neither scored (a finite logit, its sigmoid, no code) nor rejected (a code, no score)",
        )


def check_pairs(store: Store, snapshot: Commit) -> list[Violation]:
    """What is wrong with the live files together: pairs that are there twice, ranks, and counts."""
    with spilling_database() as db:
        fill_table(db, "places", _PLACES, _places(store, snapshot))
        violations = [
            *_named(db, "duplicate", _TWICE, "pairs have two rows"),
            *_named(db, "rank", _MISPLACED, "queries have ranks that are not 1, 2, 3 … by logit and first-stage rank"),
        ]
        found = {
            "pairs": db.execute("SELECT count(*) FROM places").fetchall()[0][0],
            "rejects": dict(db.execute(_CODES).fetchall()),
        }
    committed = {key: snapshot.info.get(key) for key in found}
    if found != committed:
        violations.append(
            Violation("outcome", LOG_FOLDER, f"the live files tell of {found}, committed were {committed}")
        )
    return violations


def _contradictions(batch: pa.RecordBatch) -> int:
    """How many rows of `batch` are neither scored nor rejected as they should be."""
    columns = {name: batch.column(name) for name in ("status", "code", "logit", "score")}
    null = {name: column.is_null().to_numpy(zero_copy_only=False) for name, column in columns.items()}
    logit, score = (pc.fill_null(columns[name], np.nan).to_numpy() for name in ("logit", "score"))
    # A null is NaN here, and NaN is near nothing.
    with np.errstate(over="ignore"):
        near = np.abs(score - 1 / (1 + np.exp(-logit.astype(np.float64)))) <= _SIGMOID_ERROR
    scored = np.isfinite(logit) & near & null["code"] & _is(columns["status"], "scored")
    known = _is(columns["code"], *map(str, RejectCode))
    rejected = null["logit"] & null["score"] & known & _is(columns["status"], "rejected")
    return int((~(scored | rejected)).sum())


def _is(column: pa.Array, *values: str) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.is_in(column, value_set=pa.array(values, pa.string())).to_numpy(zero_copy_only=False)
    return found


def _places(store: Store, snapshot: Commit) -> Iterator[pa.RecordBatch]:
    for entry in snapshot.live:
        with open_parquet(store, entry.path) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=_PLACES.names):
                yield batch.select(_PLACES.names).cast(_PLACES)


def _named(db: duckdb.DuckDBPyConnection, rule: str, query: str, what: str) -> list[Violation]:
    names = sorted(name for (name,) in db.execute(query).fetchall())
    return [Violation(rule, "pairs", f"{len(names)} {what}, among them {', '.join(names[:5])}")] if names else []
