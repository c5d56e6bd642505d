"""The plan of a rerank run: which pairs the lists want, and which of them need scoring.

In: candidate lists, the manifests of queries and documents, the files of the score table. Out: under
`<output>/_work/<run_id>/` the pairs (`rerank.ledger.PAIRS`) and the work list (`rerank.schema.TILES`), and a
`RerankPlan` that names them. Refused with ManifestError, before anything is written: what `candidates` and `manifest`
refuse, and ids that a manifest has twice.

Only items that a list names are looked at: of the others not even the store is asked. Lists that share documents come
after one another, so that a tile prepares them once: lists are sorted by the least hash of their documents, which two
lists have in common as often as they overlap (min-wise hashing; Broder 1997).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.candidates.candidates import Candidates
from pipeline.candidates.pairs import CANDIDATES
from pipeline.comparison import check_ids
from pipeline.config import IdentityMode
from pipeline.fetch import Fetcher
from pipeline.fingerprint import item_fingerprint
from pipeline.identity import Identifier
from pipeline.index.commits import FileEntry
from pipeline.manifest.duplicates import naming_duplicates
from pipeline.manifest.manifest import Manifest
from pipeline.manifest.rows import ManifestRow
from pipeline.manifest.work import to_work_table
from pipeline.plan import work_folder
from pipeline.policy import FetchPolicy
from pipeline.rerank.ledger import PAIRS, Ledger, PairCounts, open_ledger
from pipeline.rerank.schema import TILES
from pipeline.schema import work_schema
from pipeline.spill import batches_of, fill_table, rows_of
from pipeline.storage import Store
from pipeline.types import WorkItem

__all__ = ["RerankPlan", "Side", "make_rerank_plan"]

_FILE_TILES = 64
"""Tiles of one file of the work list: some megabytes of ids and texts."""

_ITEM = work_schema(())

_PAIRS = """
CREATE TABLE pairs AS
SELECT c.query_id, c.doc_id, c.rank AS first_stage_rank, c.score AS first_stage_score,
       md5(q.fingerprint || d.fingerprint) AS fingerprint,
       CASE WHEN q.id IS NULL THEN 'the query is in no manifest'
            WHEN d.id IS NULL THEN 'the document is in no manifest' END AS detail
FROM candidates c LEFT JOIN queries q ON q.id = c.query_id LEFT JOIN documents d ON d.id = c.doc_id
"""

# A list stays in one tile unless it is longer than a tile.
_TILED = """
CREATE TABLE tiled AS
WITH lists AS (SELECT query_id, count(*) AS n, min(hash(doc_id)) AS meet FROM to_do GROUP BY query_id),
placed AS (
    SELECT query_id, n, row_number() OVER (ORDER BY meet, query_id) AS place,
           sum(n) OVER (ORDER BY meet, query_id ROWS UNBOUNDED PRECEDING) - n AS start
    FROM lists
),
numbered AS (
    SELECT t.*, n, place, start,
           row_number() OVER (PARTITION BY t.query_id ORDER BY t.first_stage_rank) - 1 AS nth
    FROM to_do t JOIN placed USING (query_id)
)
SELECT * EXCLUDE (n, start, nth, again),
       dense_rank() OVER (
           ORDER BY start // $size,
                    CASE WHEN n > $size THEN place ELSE 0 END,
                    CASE WHEN n > $size THEN nth // $size ELSE 0 END
       ) - 1 AS tile
FROM numbered
"""
_PAIRS_OF = """
SELECT tile,
       dense_rank() OVER (PARTITION BY tile ORDER BY query_id)::INTEGER - 1 AS query,
       dense_rank() OVER (PARTITION BY tile ORDER BY doc_id)::INTEGER - 1 AS document,
       query_id, doc_id, first_stage_rank, first_stage_score, fingerprint, attempts
FROM tiled WHERE tile BETWEEN $first AND $last ORDER BY tile, place, first_stage_rank
"""
_SIDE_OF = """
SELECT tile, i.* FROM (SELECT DISTINCT tile, {column} AS id FROM tiled WHERE tile BETWEEN $first AND $last)
JOIN {side} i USING (id) ORDER BY tile, id
"""


@dataclass(frozen=True, slots=True)
class Side:
    """Queries or documents: their manifest, and how the instruction of a row counts in its fingerprint."""

    manifest: Manifest
    instruction: Callable[[str | None], str]


@dataclass(frozen=True, slots=True)
class RerankPlan:
    """What a run will do. Paths are relative to the store; `work_paths` is empty if there is nothing to do."""

    run_id: str
    pairs_path: str
    work_paths: tuple[str, ...]
    counts: PairCounts


def make_rerank_plan(
    candidates: Candidates,
    queries: Side,
    documents: Side,
    store: Store,
    *,
    run_id: str,
    compute_fingerprint: str,
    policy: FetchPolicy,
    identity: IdentityMode,
    max_attempts: int,
    retry: Sequence[str] = (),
    tile_pairs: int,
    live: Sequence[FileEntry] = (),
    parts: Sequence[FileEntry] = (),
    work_store: Store | None = None,
) -> RerankPlan:
    """Compare the lists with the score table in `store` and write the work list to `work_store` (default: `store`).

    `tile_pairs`: pairs of one tile; `identity` is `inputs.identity`. Raises ManifestError, or IncompleteError
    where a store fails too many questions about objects.
    """
    target = work_store or store
    with open_ledger(store) as ledger, tempfile.TemporaryDirectory(prefix="lakevec-plan-") as name:
        folder = Path(name)
        listed = (batch for table in candidates.batches() for batch in table.to_batches())
        fill_table(ledger.db, "candidates", CANDIDATES, listed)
        with Fetcher(policy) as fetcher, Identifier(fetcher, identity) as identifier:
            for table, column, side in (("queries", "query_id", queries), ("documents", "doc_id", documents)):
                wanted = _wanted(ledger, side.manifest, column)
                fill_table(ledger.db, table, _ITEM, _items(side, wanted, identifier, compute_fingerprint))
            identifier.check()
        ledger.db.execute(_PAIRS)
        pairs_path = f"_work/{run_id}/pairs.parquet"
        _write_pairs(ledger, folder / "pairs.parquet")
        target.upload(str(folder / "pairs.parquet"), pairs_path)
        ledger.load_outcomes(live, parts)
        counts = ledger.count(max_attempts, retry)
        work_paths = _write_tiles(ledger, folder, target, work_folder(run_id), tile_pairs) if counts.to_do else ()
    return RerankPlan(run_id, pairs_path, work_paths, counts)


def _items(side: Side, wanted: NDArray[np.bool_], identifier: Identifier, compute: str) -> Iterator[pa.RecordBatch]:
    """Rows of the work list (`work_schema`) for the items of `side` that are `wanted`."""
    start = 0
    for batch in side.manifest.batches():
        here = wanted[start : start + len(batch.rows)]
        start += len(batch.rows)
        rows = [row for row, keep in zip(batch.rows, here.tolist(), strict=True) if keep]
        if rows:
            yield from to_work_table(list(_work_items(rows, batch.file, side, identifier, compute))).to_batches()


def _wanted(ledger: Ledger, manifest: Manifest, column: str) -> NDArray[np.bool_]:
    """Of each row of `manifest`, whether a list names its id. Raises ManifestError for ids that are there twice."""
    with naming_duplicates(manifest, None):
        check_ids(manifest.ids(), ledger.store)
    schema = pa.schema([pa.field("id", pa.string()), pa.field("row", pa.int64())])

    def numbered() -> Iterator[pa.RecordBatch]:
        start = 0
        for ids in manifest.ids():
            yield pa.RecordBatch.from_arrays([ids, pa.array(np.arange(start, start + len(ids)))], schema=schema)
            start += len(ids)

    fill_table(ledger.db, "listed", schema, numbered())
    total = ledger.db.execute("SELECT count(*) FROM listed").fetchall()[0][0]
    query = f"SELECT row FROM listed SEMI JOIN (SELECT {column} AS id FROM candidates) USING (id)"  # noqa: S608
    wanted = np.zeros(total, np.bool_)
    wanted[rows_of(ledger.db, query).column("row").to_numpy()] = True
    return wanted


def _work_items(
    rows: Sequence[ManifestRow], file: str, side: Side, identifier: Identifier, compute: str
) -> Iterator[WorkItem]:
    for row, known in zip(rows, identifier.identify(rows), strict=True):
        fingerprint = item_fingerprint(
            compute,
            instruction=side.instruction(row.instruction),
            fps=row.fps,
            max_frames=row.max_frames,
            texts=row.texts,
            media=known.identities,
        )
        yield WorkItem(
            row.id, row.texts, known.media, row.instruction, row.fps, row.max_frames, fingerprint, file, row.row, 0
        )


def _write_pairs(ledger: Ledger, path: Path) -> None:
    names = ", ".join(PAIRS.names)
    with pq.ParquetWriter(path, PAIRS, compression="zstd") as writer:
        for batch in batches_of(ledger.db, f"SELECT {names} FROM pairs"):  # noqa: S608 - names of ours
            writer.write_table(pa.Table.from_batches([batch]).cast(PAIRS))


def _write_tiles(ledger: Ledger, folder: Path, store: Store, base: str, tile_pairs: int) -> tuple[str, ...]:
    ledger.db.execute(_TILED, {"size": tile_pairs})
    n_tiles = ledger.db.execute("SELECT max(tile) + 1 FROM tiled").fetchall()[0][0]
    paths: list[str] = []
    for first in range(0, n_tiles, _FILE_TILES):
        tiles = _tiles(ledger, first, min(first + _FILE_TILES, n_tiles) - 1)
        local = folder / "tiles.parquet"
        # A row group a tile: Ray reads by row groups, and a tile is a task's worth.
        pq.write_table(tiles, local, row_group_size=1, compression="zstd")
        paths.append(f"{base}/{len(paths):05d}.parquet")
        store.upload(str(local), paths[-1])
    return tuple(paths)


def _tiles(ledger: Ledger, first: int, last: int) -> pa.Table:
    bounds: dict[str, object] = {"first": first, "last": last}
    tables = {
        "queries": _SIDE_OF.format(column="query_id", side="queries"),
        "documents": _SIDE_OF.format(column="doc_id", side="documents"),
        "pairs": _PAIRS_OF,
    }
    columns = {}
    for name, query in tables.items():
        rows = rows_of(ledger.db, query, bounds)
        offsets = np.searchsorted(rows.column("tile").to_numpy(), np.arange(first, last + 2)).astype(np.int32)
        field = TILES.field(name).type.value_type
        members = rows.select([each.name for each in field]).cast(pa.schema(list(field))).combine_chunks()
        structs = pa.StructArray.from_arrays(
            [column.combine_chunks() for column in members.columns], fields=list(field)
        )
        columns[name] = pa.ListArray.from_arrays(pa.array(offsets), structs)
    return pa.table([columns[name] for name in TILES.names], schema=TILES)
