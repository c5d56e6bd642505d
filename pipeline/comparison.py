"""What of a manifest is new, changed, unchanged, deleted, worth another try, a duplicate, or only carries other values.

In: the manifest's items (a local Parquet file of `schema.ITEMS`, one row an item) and the index's files. Out: the
counts and the rows to do. Neither side is held in memory: DuckDB joins on disk. Refused with ManifestError:
duplicate ids, an empty manifest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import DuplicateIdsError
from pipeline.index.carried import CarriedDigests
from pipeline.index.commits import FileEntry, Table
from pipeline.index.parquet import open_parquet
from pipeline.index.scratch import Scratch, scratch
from pipeline.spill import fill_table
from pipeline.storage import Store

__all__ = ["Comparison", "PlanCounts", "check_ids", "compare"]

_SHOWN = 5

PLACES_TRIED = 16
"""Items of one content that a run tries at their own places, once one of their places has failed."""

_TRIED = pa.schema([("id", pa.string()), ("attempts", pa.int32()), ("forced", pa.bool_())])

_LIVE = """
CREATE TABLE live AS
SELECT id,
       max(fingerprint) FILTER (is_vector) AS vector,
       max(fingerprint) FILTER (NOT is_vector) AS reject,
       coalesce(bool_or(retryable) FILTER (NOT is_vector), false) AS retryable,
       coalesce(bool_or(of_place), false) AS of_place
FROM outcomes WHERE NOT is_part GROUP BY id
"""

_STALE = """
CREATE TABLE stale AS
SELECT DISTINCT items.n AS n FROM items JOIN outcomes ON items.id = outcomes.id
WHERE is_vector AND outcomes.carried IS DISTINCT FROM items.carried
"""

_REJECTED = """
CREATE TABLE rejected AS
SELECT live.id AS id, live.reject AS fingerprint, live.of_place AS of_place, coalesce(tried.attempts, 0) AS attempts,
       coalesce(tried.forced, false) OR (live.retryable AND coalesce(tried.attempts, 0) < ?) AS again
FROM live LEFT JOIN tried ON live.id = tried.id
WHERE live.reject IS NOT NULL
"""

# A reject is the later outcome: where a vector lies beside it, that one is from an older state (`kept_previous`). One
# that a killed run has tried again, forced to, is told from one that stays, so that its new outcome is published.
_CLASSES = """
CREATE TABLE classes AS
SELECT items.n AS n, items.fingerprint AS fingerprint, items.shared AS shared,
       CASE WHEN live.id IS NULL THEN 'new'
            WHEN ? THEN 'recomputed'
            WHEN coalesce(live.reject, live.vector) <> items.fingerprint THEN 'changed'
            WHEN rejected.again OR (done.id IS NOT NULL AND live.reject IS NOT NULL) THEN 'retryable'
            WHEN stale.n IS NOT NULL THEN 'carried'
            ELSE 'unchanged' END AS class,
       done.id IS NOT NULL AS done,
       live.reject IS NOT DISTINCT FROM items.fingerprint AS is_rejected,
       CASE WHEN live.reject = items.fingerprint THEN rejected.attempts ELSE 0 END AS attempts
FROM items
LEFT JOIN live ON items.id = live.id
LEFT JOIN rejected ON items.id = rejected.id
LEFT JOIN stale ON items.n = stale.n
LEFT JOIN (SELECT DISTINCT id, fingerprint FROM outcomes WHERE is_part) AS done
       ON items.id = done.id AND items.fingerprint = done.fingerprint
"""

# An item that is rejected for good counts too where its content has a vector by now: its row follows that one.
_WANTING = """
CREATE TABLE wanting AS
SELECT n, fingerprint, shared, attempts, class NOT IN ('unchanged', 'carried') AS to_do
FROM classes
WHERE NOT done AND (class NOT IN ('unchanged', 'carried') OR (shared AND is_rejected))
"""

# What kept one item's place from being read (`elsewhere`) says nothing of the content: others are tried at their own.
_KNOWN = """
CREATE TABLE known AS
WITH contents AS (SELECT DISTINCT fingerprint FROM wanting WHERE shared)
SELECT contents.fingerprint AS fingerprint,
       coalesce(bool_or(outcomes.is_vector), false) AS has_vector,
       coalesce(bool_or(outcomes.is_part AND NOT outcomes.of_place), false) AS has_part,
       coalesce(bool_or(NOT rejected.of_place), false) AS has_reject,
       coalesce(bool_or(outcomes.of_place), false) AS elsewhere,
       coalesce(bool_or(rejected.again AND NOT rejected.of_place), false) AS again,
       coalesce(max(rejected.attempts) FILTER (NOT rejected.of_place), 0) AS attempts
FROM contents JOIN outcomes ON contents.fingerprint = outcomes.fingerprint AND (outcomes.is_part OR NOT ?)
LEFT JOIN rejected ON outcomes.id = rejected.id AND NOT outcomes.is_part AND NOT outcomes.is_vector
GROUP BY contents.fingerprint
"""

# Of equal contents the one that was tried least leads, and of those the first in the manifest; none is needed where an
# outcome of the content stands already. Where a place failed, several lead: a content that is dead in many places is
# found out in a few nights, and one that lives in all of them is encoded a few times. An item that is rejected for good
# follows a leader too: its attempts may have been counted apart from the others'.
_SETTLED = """
CREATE TABLE settled AS
WITH leaders AS (
    SELECT fingerprint, arg_min(n, (attempts::BIGINT << 40) + n) AS n
    FROM wanting WHERE shared AND to_do GROUP BY fingerprint
),
in_turn AS (
    SELECT n, row_number() OVER (PARTITION BY fingerprint ORDER BY attempts, n) AS turn
    FROM wanting SEMI JOIN (SELECT fingerprint FROM known WHERE elsewhere) USING (fingerprint) WHERE shared AND to_do
)
SELECT wanting.n AS n,
       to_do AND (NOT shared OR ((leaders.n = wanting.n OR coalesce(turn <= ?, false))
                                 AND NOT coalesce(stands, false))) AS leads,
       turn IS NOT NULL AS beside_others,
       greatest(wanting.attempts, CASE WHEN shared AND again THEN known.attempts ELSE 0 END) AS attempts
FROM wanting
LEFT JOIN (SELECT *, has_vector OR has_part OR (has_reject AND NOT again) AS stands FROM known) AS known
       ON shared AND wanting.fingerprint = known.fingerprint
LEFT JOIN leaders ON wanting.fingerprint = leaders.fingerprint
LEFT JOIN in_turn ON wanting.n = in_turn.n
WHERE to_do OR has_vector OR (leaders.n IS NOT NULL AND NOT coalesce(stands, false))
"""

# Whose row may be another item's in the end: one too whose place failed in a killed run, and others are tried now.
_TAKING = """
SELECT n FROM stale UNION ALL SELECT n FROM settled WHERE NOT leads OR beside_others UNION ALL
SELECT items.n FROM items JOIN outcomes ON items.id = outcomes.id AND items.fingerprint = outcomes.fingerprint
WHERE shared AND is_part AND of_place
"""


@dataclass(frozen=True, slots=True)
class PlanCounts:
    """How many items are of which class, and what that comes to.

    items = new + changed + carried + unchanged + retryable + recomputed;
    to_do = new + changed + retryable + recomputed, but for those that are resumed or duplicates.

    `carried` items have other values in carried columns and nothing else: their rows are rewritten without the model.
    `deleted` are live ids that left the manifest; `resumed` items were done by a run that did not get to its
    snapshot; `duplicates` get the row of an item of equal content, embedded in this run or before; `live` counts the
    ids of the live index. `recomputed` are in the index and embedded again for what the job asks of every item;
    whether they changed too is not looked at.
    """

    items: int
    new: int
    changed: int
    carried: int
    unchanged: int
    deleted: int
    retryable: int
    resumed: int
    duplicates: int
    to_do: int
    live: int
    recomputed: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """`to_do`: uint16[items], 0 for an item with nothing to do, else 1 + its earlier attempts.

    `stale`: bool[items], true where a row that the item has or gets may have other carried values than the manifest.
    """

    counts: PlanCounts
    to_do: NDArray[np.uint16]
    stale: NDArray[np.bool_]


def compare(
    items_file: Path,
    store: Store,
    *,
    live: Sequence[FileEntry],
    parts: Sequence[FileEntry],
    max_attempts: int,
    digests: CarriedDigests | None = None,
    retry: Sequence[str] = (),
    recompute: bool = False,
) -> Comparison:
    """Compare the items of the local `items_file` with the index in `store`. Raises ManifestError.

    `parts` are those whose vectors would be the same: they count as done where the fingerprint is the item's.
    `digests` made the items' `carried`; without it carried columns are not compared. Rejects of the codes `retry` are
    tried again whatever they are. With `recompute` no live row counts as done, its id does as there.
    """
    with scratch(store) as found:
        _load(found, items_file, live, parts, digests, retry)
        found.db.execute(_LIVE)
        found.db.execute(_STALE)
        found.db.execute(_REJECTED, [max_attempts])
        found.db.execute(_CLASSES, [recompute])
        found.db.execute(_WANTING)
        found.db.execute(_KNOWN, [recompute])
        found.db.execute(_SETTLED, [PLACES_TRIED])
        counts = _counts(found)
        to_do = np.zeros(counts.items, np.uint16)
        for batch in found.db.sql("SELECT n, attempts FROM settled WHERE leads").to_arrow_reader(1 << 20):
            to_do[batch.column("n").to_numpy()] = 1 + batch.column("attempts").to_numpy()
        stale = np.zeros(counts.items, np.bool_)
        for batch in found.db.sql(_TAKING).to_arrow_reader(1 << 20):
            stale[batch.column("n").to_numpy()] = True
    return Comparison(counts, to_do, stale)


def check_ids(ids: Iterable[pa.Array], store: Store) -> None:
    """Raise ManifestError if an id is there twice. `ids` are strings, in any number of arrays."""
    with tempfile.TemporaryDirectory(prefix="lakevec-ids-") as folder, scratch(store) as found:
        path = Path(folder) / "ids.parquet"
        schema = pa.schema([pa.field("id", pa.string())])
        # By way of a file, not a stream: an error of the manifest stays itself, and nothing is held in memory.
        with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as writer:
            for array in ids:
                writer.write_batch(pa.record_batch([array], schema=schema))
        found.db.execute("CREATE TABLE ids AS SELECT id FROM read_parquet(?)", [str(path)])
        _refuse_duplicates(found, "ids")


def _load(
    found: Scratch,
    items_file: Path,
    live: Sequence[FileEntry],
    parts: Sequence[FileEntry],
    digests: CarriedDigests | None,
    retry: Sequence[str],
) -> None:
    found.db.execute(
        "CREATE TABLE items AS SELECT id, fingerprint, carried, shared, file_row_number AS n "
        "FROM read_parquet(?, file_row_number = true)",
        [str(items_file)],
    )
    _refuse_duplicates(found, "items")
    found.load_outcomes(live, parts, digests=digests)
    fill_table(found.db, "retried", _TRIED, _tried(found.store, live, retry))
    # max(): one reject an id is an invariant of the index; a broken index must not multiply rows here.
    found.db.execute(
        "CREATE TABLE tried AS SELECT id, max(attempts) AS attempts, bool_or(forced) AS forced FROM retried GROUP BY id"
    )


def _refuse_duplicates(found: Scratch, table: str) -> None:
    duplicates = found.db.execute(
        f"SELECT id, count(*) AS rows, count(*) OVER () FROM {table} "  # noqa: S608 - two names of ours
        "GROUP BY id HAVING count(*) > 1 ORDER BY rows DESC, id LIMIT ?",
        [_SHOWN],
    ).fetchall()
    if duplicates:
        raise DuplicateIdsError(duplicates[0][2], {each: rows for each, rows, _ in duplicates})


def _tried(store: Store, live: Sequence[FileEntry], retry: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rejects that may be tried again; `forced` ones, of the codes `retry`, however often they were."""
    codes = pa.array(retry, pa.string())
    for entry in live:
        if entry.table == Table.REJECTS:
            with open_parquet(store, entry.path) as parquet:
                rows = parquet.read(columns=["id", "code", "attempts", "retryable"])
            forced = pc.is_in(rows["code"], value_set=codes)
            columns = [rows["id"].cast(pa.string()), rows["attempts"], forced]
            again = pc.or_(forced, pc.fill_null(rows["retryable"], False))
            yield from pa.table(columns, schema=_TRIED).filter(again).to_batches()


def _counts(found: Scratch) -> PlanCounts:
    rows = found.db.execute(
        "SELECT CASE WHEN settled.n IS NOT NULL AND class IN ('unchanged', 'carried') THEN 'retryable' ELSE class END, "
        "done, count(*) FROM classes LEFT JOIN settled USING (n) GROUP BY ALL"
    ).fetchall()
    by_class = {name: sum(n for found_class, _, n in rows if found_class == name) for name in _NAMES}
    resumed = sum(n for found_class, done, n in rows if done and found_class not in ("unchanged", "carried"))
    # fetchall, not fetchone: DuckDB allows no other query before a result has been fetched to its end.
    [(items, live, deleted, to_do, duplicates)] = found.db.execute(
        "SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM live), "
        "(SELECT count(*) FROM live ANTI JOIN items USING (id)), "
        "(SELECT count(*) FROM settled WHERE leads), (SELECT count(*) FROM settled WHERE NOT leads)"
    ).fetchall()
    return PlanCounts(
        items=items, deleted=deleted, resumed=resumed, duplicates=duplicates, to_do=to_do, live=live, **by_class
    )


_NAMES = ("new", "changed", "carried", "unchanged", "retryable", "recomputed")
