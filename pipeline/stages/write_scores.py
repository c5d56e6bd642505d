"""WritePart, of a rerank run: outcome rows in, one immutable part of the score table and a receipt out."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pyarrow as pa

from pipeline.index.commits import Table
from pipeline.index.digest import ids_digest
from pipeline.index.parquet import write_file
from pipeline.redaction import redacted_errors
from pipeline.rerank.schema import SCORES
from pipeline.stages.write import RECEIPT, receipt_facts
from pipeline.storage import Store

__all__ = ["WriteScoresSettings", "write_scores"]


@dataclass(frozen=True, slots=True)
class WriteScoresSettings:
    """Everything a write task needs. `metadata`: Parquet key-value metadata of the table."""

    store: Store
    run_id: str
    metadata: dict[str, str]


@redacted_errors
def write_scores(outcomes: pa.Table, settings: WriteScoresSettings) -> pa.Table:
    """Write `outcomes` (`SCORES` and cost fields) as a part; returns one row of `RECEIPT`, none for no outcomes."""
    if outcomes.num_rows == 0:
        return RECEIPT.empty_table()
    started = time.monotonic()
    rows = outcomes.select(SCORES.names).cast(SCORES.with_metadata(settings.metadata))
    entry = write_file(settings.store, Table.SCORES, settings.run_id, rows.schema, rows.to_batches())
    keys = zip(rows["query_id"].to_pylist(), rows["doc_id"].to_pylist(), strict=True)
    part = {
        "table": entry.table.value,
        "path": entry.path,
        "rows": entry.rows,
        "bytes": entry.bytes,
        "sha256": entry.sha256,
        "ids_digest": ids_digest(f"{query_id}\n{doc_id}" for query_id, doc_id in keys),
    }
    row = {"parts": [part], **receipt_facts(outcomes), "write_s": time.monotonic() - started}
    return pa.Table.from_pylist([row], RECEIPT)
