"""Texts that come with candidate lists, as plain manifests that `manifest.open_manifest` reads.

In: ids and texts, an id as often as it is listed. Out: a Parquet file with the columns `id` and `text`, each id once,
in order of first appearance. Refused with ManifestError: one id with different texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ManifestError
from pipeline.manifest.naming import SHOWN, shown
from pipeline.spill import fill_table, spilling_database

__all__ = ["write_texts"]

_TEXTS = pa.schema([pa.field("id", pa.string()), pa.field("text", pa.string())])
_SEEN = _TEXTS.append(pa.field("seq", pa.int64()))

_BATCH_ROWS = 1 << 13
"""Passages of a few kilobytes each: some tens of megabytes."""

_GROUP_ROWS = 1 << 16

# Texts are compared by their hashes: aggregating the texts themselves would hold a corpus in memory.
_ONCE = """
CREATE TABLE once AS
SELECT id, min(seq) AS seq, min(hash(text)) <> max(hash(text)) AS differ FROM listed GROUP BY id
"""


def write_texts(texts: Iterable[tuple[str, str]], path: Path, what: str) -> str:
    """Write `texts` to `path` and return it. Raises ManifestError, calling an id one of a `what`."""
    with spilling_database() as db:
        fill_table(db, "listed", _SEEN, _numbered(texts))
        db.execute(_ONCE)
        several = db.execute("SELECT id FROM once WHERE differ ORDER BY seq LIMIT ?", [SHOWN]).fetchall()
        if several:
            named = ", ".join(shown(one) for (one,) in several)
            raise ManifestError(f"the candidate lists give a {what} different texts; expected one an id; found {named}")
        with pq.ParquetWriter(path, _TEXTS, compression="zstd") as writer:
            query = "SELECT listed.id, listed.text FROM listed JOIN once USING (seq) ORDER BY seq"
            for batch in db.sql(query).to_arrow_reader(_BATCH_ROWS):
                writer.write_table(pa.Table.from_batches([batch]).cast(_TEXTS), row_group_size=_GROUP_ROWS)
    return str(path)


def _numbered(texts: Iterable[tuple[str, str]]) -> Iterator[pa.RecordBatch]:
    rows = ((one, text, seq) for seq, (one, text) in enumerate(texts))
    while held := list(islice(rows, _BATCH_ROWS)):
        arrays = [pa.array(values, field.type) for values, field in zip(zip(*held, strict=True), _SEEN, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=_SEEN)
