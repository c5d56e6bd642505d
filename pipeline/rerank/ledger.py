"""The ledger of a rerank run: the pairs that are wanted beside the outcomes that are there, in DuckDB on disk.

In: the pairs (`PAIRS`) and the files of the score table. Out: what is still to do, counts, and the ranked table.
Refused: a table with pairs that have no outcome (IncompleteError).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import duckdb
import pyarrow as pa

from pipeline.errors import IncompleteError, RejectCode
from pipeline.index.commits import FileEntry
from pipeline.index.parquet import open_parquet
from pipeline.rerank.schema import PAIR_FIELDS, SCORES
from pipeline.spill import BATCH_ROWS, batches_of, fill_table, spilling_database
from pipeline.storage import Store

__all__ = ["PAIRS", "Ledger", "PairCounts", "open_ledger"]

PAIRS = pa.schema([field for field in PAIR_FIELDS if field.name != "attempts"] + [pa.field("detail", pa.string())])
"""The wanted pairs; `detail` says which side is unknown where `fingerprint` is null."""

_KEYS = pa.schema([field for field in PAIRS if field.name in ("query_id", "doc_id", "fingerprint")])

_OUTCOMES = pa.schema([*SCORES, pa.field("file", pa.int32()), pa.field("is_part", pa.bool_())])

# What was written last counts, but a score, once there, is one.
_LATEST = """
CREATE OR REPLACE TABLE latest AS SELECT * FROM outcomes WHERE fingerprint IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY query_id, doc_id, fingerprint ORDER BY logit IS NULL, file DESC) = 1
"""
_TO_DO = """
CREATE OR REPLACE TABLE to_do AS
SELECT p.query_id, p.doc_id, p.first_stage_rank, p.first_stage_score, p.fingerprint,
       coalesce(o.attempts, 0)::INTEGER AS attempts, o.fingerprint IS NOT NULL AS again
FROM pairs p LEFT JOIN latest o USING (query_id, doc_id, fingerprint)
WHERE p.fingerprint IS NOT NULL
  AND (o.fingerprint IS NULL OR (o.logit IS NULL AND NOT o.is_part
       AND (o.retryable AND o.attempts < $max_attempts OR list_contains($retry, o.code))))
"""
_COUNTS = """
WITH live AS (SELECT DISTINCT query_id, doc_id FROM outcomes WHERE NOT is_part)
SELECT (SELECT count(*) FROM pairs),
       (SELECT count(*) FROM to_do t ANTI JOIN live USING (query_id, doc_id)),
       (SELECT count(*) FROM to_do t SEMI JOIN live USING (query_id, doc_id) WHERE NOT again),
       (SELECT count(*) FROM to_do WHERE again),
       (SELECT count(*) FROM live ANTI JOIN pairs USING (query_id, doc_id)),
       (SELECT count(*) FROM pairs SEMI JOIN (SELECT * FROM latest WHERE is_part)
        USING (query_id, doc_id, fingerprint)),
       (SELECT count(*) FROM pairs WHERE fingerprint IS NULL),
       (SELECT count(DISTINCT query_id) FROM pairs),
       (SELECT count(DISTINCT doc_id) FROM pairs)
"""
_RANKED = f"""
CREATE OR REPLACE TABLE ranked AS
SELECT p.query_id, p.doc_id,
       row_number() OVER (
           PARTITION BY p.query_id ORDER BY o.logit DESC NULLS LAST, p.first_stage_rank
       )::INTEGER AS rank,
       o.score, o.logit, p.first_stage_rank, p.first_stage_score,
       CASE WHEN o.logit IS NULL THEN 'rejected' ELSE 'scored' END AS status,
       CASE WHEN p.fingerprint IS NULL THEN '{RejectCode.UNKNOWN_ID}' ELSE o.code END AS code,
       CASE WHEN p.fingerprint IS NULL THEN p.detail ELSE o.detail END AS detail,
       CASE WHEN p.fingerprint IS NULL THEN false ELSE o.retryable END AS retryable,
       o.truncated, o.n_tokens, o.n_visual_tokens, coalesce(o.attempts, 0)::INTEGER AS attempts, p.fingerprint
FROM pairs p LEFT JOIN latest o USING (query_id, doc_id, fingerprint)
"""  # noqa: S608 - a name of ours
_MISSING = """
SELECT query_id, doc_id FROM pairs ANTI JOIN latest USING (query_id, doc_id, fingerprint) WHERE fingerprint IS NOT NULL
"""
_SAME_COLUMNS = (
    "query_id, doc_id, rank, logit, first_stage_rank, first_stage_score, code, detail, attempts, fingerprint"
)


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Pairs of the lists, by what the output has of them; and the queries and documents that they name.

    `new`, `changed` and `retryable` are to do; `unchanged` and `resumed` (parts of a run that did not end) are done;
    `unknown` ones have a side in no manifest; `deleted` ones are in the output and in no list any more.
    """

    items: int
    new: int
    changed: int
    retryable: int
    deleted: int
    resumed: int
    unknown: int
    queries: int
    documents: int

    @property
    def to_do(self) -> int:
        """Pairs that the run must score."""
        return self.new + self.changed + self.retryable

    @property
    def unchanged(self) -> int:
        """Pairs whose outcome stands."""
        return self.items - self.to_do - self.resumed - self.unknown

    def as_dict(self) -> dict[str, int]:
        """As `summary.json` has them."""
        return asdict(self) | {"unchanged": self.unchanged}


class Ledger:
    """See the module. Load pairs and outcomes first."""

    def __init__(self, store: Store, db: duckdb.DuckDBPyConnection) -> None:
        self.store = store
        self.db = db

    def load_pairs(self, path: str) -> None:
        """Fill `pairs` from the file `path` of the store (`PAIRS`)."""
        fill_table(self.db, "pairs", PAIRS, self._batches(path))

    def load_tiles(self, paths: Sequence[str]) -> None:
        """Fill `pairs` with no more than what tells those of the work lists `paths` apart (`rerank.schema.TILES`)."""
        fill_table(self.db, "pairs", _KEYS, self._keys(paths))

    def load_outcomes(self, live: Sequence[FileEntry], parts: Sequence[FileEntry]) -> None:
        """Fill `outcomes` from files of the score table, and `latest` with the one that counts of each pair."""
        fill_table(self.db, "outcomes", _OUTCOMES, self._outcomes(live, parts))
        self.db.execute(_LATEST)

    def count(self, max_attempts: int, retry: Sequence[str] = ()) -> PairCounts:
        """Settle `to_do`, and count. Rejects of the codes `retry` are tried again whatever their attempts."""
        self.db.execute(_TO_DO, {"max_attempts": max_attempts, "retry": list(retry)})
        row = self.db.execute(_COUNTS).fetchone()
        assert row is not None
        return PairCounts(*row)

    def missing(self) -> set[tuple[str, str]]:
        """Pairs that have no outcome, in this process's memory: for what was lost, which is little."""
        return {(query_id, doc_id) for query_id, doc_id in self.db.execute(_MISSING).fetchall()}

    def rank(self) -> None:
        """Fill `ranked`, the next score table. Raises IncompleteError if a pair has no outcome yet."""
        missing = f"SELECT *, count(*) OVER () FROM ({_MISSING}) ORDER BY query_id, doc_id LIMIT 5"  # noqa: S608
        found = self.db.execute(missing).fetchall()
        if found:
            named = ", ".join(f"{query_id} × {doc_id}" for query_id, doc_id, _ in found)
            raise IncompleteError(f"{found[0][2]} pairs have no outcome yet, among them {named}; run again to continue")
        self.db.execute(_RANKED)

    def is_live(self) -> bool:
        """Whether `ranked` says what the live files say already."""
        live = f"SELECT {_SAME_COLUMNS} FROM outcomes WHERE NOT is_part"  # noqa: S608 - names of ours
        ranked = f"SELECT {_SAME_COLUMNS} FROM ranked"  # noqa: S608
        differ = f"(({live}) EXCEPT ALL ({ranked})) UNION ALL (({ranked}) EXCEPT ALL ({live}))"
        return self.db.execute(f"SELECT count(*) FROM ({differ})").fetchall()[0][0] == 0  # type: ignore[no-any-return]  # noqa: S608

    def rejects_by_code(self) -> dict[str, int]:
        """Pairs of `ranked` without a score, by code."""
        query = "SELECT code, count(*) FROM ranked WHERE logit IS NULL GROUP BY code ORDER BY code"
        return dict(self.db.execute(query).fetchall())

    def ranked_batches(self) -> Iterator[pa.RecordBatch]:
        """`ranked` as rows of `SCORES`, query by query, by rank."""
        names = ", ".join(SCORES.names)
        for batch in batches_of(self.db, f"SELECT {names} FROM ranked ORDER BY query_id, rank"):  # noqa: S608
            yield from pa.Table.from_batches([batch]).cast(SCORES).to_batches()

    def _batches(self, path: str) -> Iterator[pa.RecordBatch]:
        with open_parquet(self.store, path) as parquet:
            yield from parquet.iter_batches(BATCH_ROWS)

    def _keys(self, paths: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for path in paths:
            with open_parquet(self.store, path) as parquet:
                for batch in parquet.iter_batches(batch_size=1, columns=["pairs"]):
                    pairs = pa.RecordBatch.from_struct_array(batch.column("pairs").flatten())
                    yield pairs.select(_KEYS.names).cast(_KEYS)

    def _outcomes(self, live: Sequence[FileEntry], parts: Sequence[FileEntry]) -> Iterator[pa.RecordBatch]:
        for number, entry in enumerate([*live, *parts]):
            for batch in self._batches(entry.path):
                n = batch.num_rows
                marks = [pa.repeat(pa.scalar(number, pa.int32()), n), pa.repeat(number >= len(live), n)]
                yield pa.RecordBatch.from_arrays([*batch.select(SCORES.names).columns, *marks], schema=_OUTCOMES)


@contextmanager
def open_ledger(store: Store) -> Iterator[Ledger]:
    """A ledger in a database that vanishes with the block."""
    with spilling_database() as db:
        yield Ledger(store, db)
