"""What of a manifest is new, changed, unchanged, deleted, worth another try or only carries other values.

In: the manifest's items (a local Parquet file of `schema.ITEMS`, one row an item) and the index's files. Out: the
counts and the rows to do. Neither side is held in memory: DuckDB joins on disk. Refused with ManifestError:
duplicate ids, an empty manifest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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
from pipeline.storage import Store

__all__ = ["Comparison", "PlanCounts", "check_ids", "compare"]

_SHOWN = 5

_LIVE = """
CREATE TABLE live AS
SELECT id,
       max(fingerprint) FILTER (is_vector) AS vector,
       max(fingerprint) FILTER (NOT is_vector) AS reject,
       coalesce(bool_or(retryable) FILTER (NOT is_vector), false) AS retryable
FROM outcomes WHERE NOT is_part GROUP BY id
"""

_STALE = """
CREATE TABLE stale AS
SELECT DISTINCT items.n AS n FROM items JOIN outcomes ON items.id = outcomes.id
WHERE is_vector AND outcomes.carried IS DISTINCT FROM items.carried
"""

# A reject is the later outcome: where a vector lies beside it, that one is from an older state (`kept_previous`).
_CLASSES = """
CREATE TABLE classes AS
SELECT items.n AS n,
       CASE WHEN live.id IS NULL THEN 'new'
            WHEN $recompute THEN 'recomputed'
            WHEN coalesce(live.reject, live.vector) <> items.fingerprint THEN 'changed'
            WHEN tried.forced OR live.retryable AND coalesce(tried.attempts, 0) < $max_attempts THEN 'retryable'
            WHEN stale.n IS NOT NULL THEN 'carried'
            ELSE 'unchanged' END AS class,
       done.id IS NOT NULL AS done,
       CASE WHEN live.reject = items.fingerprint THEN coalesce(tried.attempts, 0) ELSE 0 END AS attempts
FROM items
LEFT JOIN live ON items.id = live.id
LEFT JOIN tried ON items.id = tried.id
LEFT JOIN stale ON items.n = stale.n
LEFT JOIN (SELECT DISTINCT id, fingerprint FROM outcomes WHERE is_part) AS done
       ON items.id = done.id AND items.fingerprint = done.fingerprint
"""


@dataclass(frozen=True, slots=True)
class PlanCounts:
    """How many items are of which class, and what that comes to.

    items = new + changed + carried + unchanged + retryable + recomputed;
    to_do = new + changed + retryable + recomputed - resumed.

    `carried` items have other values in carried columns and nothing else: their rows are rewritten without the model.
    `deleted` are live ids that left the manifest; `resumed` items were done by a run that did not get to its
    snapshot; `live` counts the ids of the live index. `recomputed` are in the index and embedded again for what the
    job asks of every item; whether they changed too is not looked at.
    """

    items: int
    new: int
    changed: int
    carried: int
    unchanged: int
    deleted: int
    retryable: int
    resumed: int
    to_do: int
    live: int
    recomputed: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """`to_do`: uint16[items], 0 for an item with nothing to do, else 1 + its earlier attempts.

    `stale`: bool[items], true where some stored vector of the item has other carried values than the manifest.
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
        found.db.execute(_CLASSES, {"max_attempts": max_attempts, "recompute": recompute})
        counts = _counts(found)
        to_do = np.zeros(counts.items, np.uint16)
        query = "SELECT n, attempts FROM classes WHERE class NOT IN ('unchanged', 'carried') AND NOT done"
        for batch in found.db.sql(query).to_arrow_reader(1 << 20):
            to_do[batch.column("n").to_numpy()] = 1 + batch.column("attempts").to_numpy()
        stale = np.zeros(counts.items, np.bool_)
        for batch in found.db.sql("SELECT n FROM stale").to_arrow_reader(1 << 20):
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
        "CREATE TABLE items AS SELECT id, fingerprint, carried, file_row_number AS n "
        "FROM read_parquet(?, file_row_number = true)",
        [str(items_file)],
    )
    _refuse_duplicates(found, "items")
    found.load_outcomes(live, parts, digests=digests)
    with _registered(found, "incoming_tried", _tried(found.store, live, retry)):
        # max(): one reject an id is an invariant of the index; a broken index must not multiply rows here.
        found.db.execute(
            "CREATE TABLE tried AS SELECT id, max(attempts) AS attempts, bool_or(forced) AS forced "
            "FROM incoming_tried GROUP BY id"
        )


def _refuse_duplicates(found: Scratch, table: str) -> None:
    duplicates = found.db.execute(
        f"SELECT id, count(*) AS rows, count(*) OVER () FROM {table} "  # noqa: S608 - two names of ours
        "GROUP BY id HAVING count(*) > 1 ORDER BY rows DESC, id LIMIT ?",
        [_SHOWN],
    ).fetchall()
    if duplicates:
        raise DuplicateIdsError(duplicates[0][2], {each: rows for each, rows, _ in duplicates})


def _tried(store: Store, live: Sequence[FileEntry], retry: Sequence[str]) -> pa.Table:
    """Rejects that may be tried again; `forced` ones, of the codes `retry`, however often they were."""
    schema = pa.schema([("id", pa.string()), ("attempts", pa.int32()), ("forced", pa.bool_())])
    codes = pa.array(retry, pa.string())
    tables = [schema.empty_table()]
    for entry in live:
        if entry.table == Table.REJECTS:
            with open_parquet(store, entry.path) as parquet:
                rows = parquet.read(columns=["id", "code", "attempts", "retryable"])
            forced = pc.is_in(rows["code"], value_set=codes)
            columns = [rows["id"].cast(pa.string()), rows["attempts"], forced]
            again = pc.or_(forced, pc.fill_null(rows["retryable"], False))
            tables.append(pa.table(columns, schema=schema).filter(again))
    return pa.concat_tables(tables)


@contextmanager
def _registered(found: Scratch, name: str, table: pa.Table) -> Iterator[None]:
    found.db.register(name, table)
    try:
        yield
    finally:
        found.db.unregister(name)


def _counts(found: Scratch) -> PlanCounts:
    rows = found.db.execute("SELECT class, done, count(*) FROM classes GROUP BY class, done").fetchall()
    by_class = {name: sum(n for found_class, _, n in rows if found_class == name) for name in _NAMES}
    resumed = sum(n for found_class, done, n in rows if done and found_class not in ("unchanged", "carried"))
    # fetchall, not fetchone: DuckDB allows no other query before a result has been fetched to its end.
    [(items, live, deleted)] = found.db.execute(
        "SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM live), "
        "(SELECT count(*) FROM live ANTI JOIN items USING (id))"
    ).fetchall()
    to_do = sum(by_class[name] for name in _ASK_THE_MODEL) - resumed
    return PlanCounts(items=items, deleted=deleted, resumed=resumed, to_do=to_do, live=live, **by_class)


_ASK_THE_MODEL = ("new", "changed", "retryable", "recomputed")
_NAMES = (*_ASK_THE_MODEL, "carried", "unchanged")
