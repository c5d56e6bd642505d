"""The plan of a run: the items of the manifest, and which of them need work.

In: the manifest and the index's files. Out: under `<output>/_work/<run_id>/` the items (`schema.ITEMS`), the work list
(`schema.work_schema`), the carried values that stored rows lack, and a `Plan` that names them. Refused with
ManifestError, before anything is written: what `manifest` and `comparison` refuse, and a manifest that lost
suspiciously many items. Also before that, IncompleteError: a store that fails or refuses too many questions about
objects.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.comparison import PlanCounts, check_ids, compare
from pipeline.config import Config
from pipeline.conversion import Recipe
from pipeline.conversion_pool import ConversionPool
from pipeline.errors import ManifestError
from pipeline.fetch import Fetcher
from pipeline.identity import Identifier
from pipeline.index.carried import CarriedDigests
from pipeline.index.carried_values import write_values
from pipeline.index.commits import FileEntry
from pipeline.manifest.columns import MEDIA_ROLES
from pipeline.manifest.duplicates import naming_duplicates
from pipeline.manifest.listing import Format
from pipeline.manifest.manifest import Manifest
from pipeline.policy import FetchPolicy
from pipeline.schema import ITEM_KEYS, ITEMS, work_schema
from pipeline.storage import Store

__all__ = ["Plan", "PlanCounts", "make_plan", "work_folder"]

_WORK_FILES = 32
"""Files that a large work list is cut into: reads of many tasks at once, and few enough to list at a glance."""

_FILE_ROWS_MAX = 65_536
"""Rows of one file at most: one task that lost its node repeats seconds of reading, not minutes."""

_ITEMS_GROUP_ROWS = 1 << 17


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do. Paths are relative to the store that the plan was written to.

    `work_paths` are in manifest order and empty if there is nothing to do; row groups hold `run.block_items` rows.
    `carried_path` (`index.carried_values`) is None if every stored row has the manifest's carried values.
    """

    run_id: str
    items_path: str
    work_paths: tuple[str, ...]
    carried_path: str | None
    id_type: pa.DataType
    carry: tuple[pa.Field, ...]
    counts: PlanCounts


def work_folder(run_id: str) -> str:
    """Where the work list of a run lies, relative to the store."""
    return f"_work/{run_id}/work"


def make_plan(
    config: Config,
    manifest: Manifest,
    store: Store,
    *,
    run_id: str,
    compute_fingerprint: str,
    live: Sequence[FileEntry] = (),
    parts: Sequence[FileEntry] = (),
    recompute: bool = False,
    work_store: Store | None = None,
) -> Plan:
    """Compare the manifest with the index in `store` and write the work list to `work_store` (default: `store`).

    `live` are the newest snapshot's files, `parts` those of progress commits since that hold the same kind of
    vectors. With `recompute` every item is to do that `parts` do not have. With `run.max_items` only the manifest's
    first rows are considered, as if it ended there. Raises ManifestError, or IncompleteError where a store fails too
    many questions about objects.
    """
    target = work_store or store
    if _checks_ids_first(config, manifest):
        with naming_duplicates(manifest, config.run.max_items):
            check_ids(manifest.ids(config.run.max_items), store)
    with (
        naming_duplicates(manifest, config.run.max_items),
        tempfile.TemporaryDirectory(prefix="lakevec-plan-") as name,
    ):
        folder = Path(name)
        digests = CarriedDigests(manifest.carry)
        _write_candidates(folder, config, manifest, compute_fingerprint)
        found = compare(
            folder / "items.parquet",
            store,
            live=live,
            parts=parts,
            max_attempts=config.run.max_attempts,
            digests=digests,
            retry=config.run.retry,
            recompute=recompute,
        )
        _guard_deletions(config, found.counts)
        base = f"_work/{run_id}"
        target.upload(str(folder / "items.parquet"), f"{base}/items.parquet")
        carried_path = f"{base}/carried.parquet" if manifest.carry and found.stale.any() else None
        if carried_path:
            stale = _picked(folder / "candidates.parquet", found.stale)
            write_values(folder / "carried.parquet", manifest.carry, (table for table, _ in stale))
            target.upload(str(folder / "carried.parquet"), carried_path)
        work_paths = _write_work(folder, config, manifest, found.to_do, target, work_folder(run_id))
    return Plan(
        run_id, f"{base}/items.parquet", work_paths, carried_path, manifest.id_type, manifest.carry, found.counts
    )


def _checks_ids_first(config: Config, manifest: Manifest) -> bool:
    # One Parquet column is cheap to read; other formats are parsed whole, which pays only where it spares questions.
    asks = config.inputs.identity != "trust" and any(role in manifest.columns.names for role in MEDIA_ROLES)
    return asks or all(file.format is Format.PARQUET for file in manifest.files)


def _write_candidates(folder: Path, config: Config, manifest: Manifest, compute: str) -> None:
    policy = FetchPolicy.of(config.fetch, manifest.folder)
    schema = work_schema(manifest.carry)
    with (
        Fetcher(policy) as fetcher,
        Identifier(fetcher, config.inputs.identity) as identifier,
        ConversionPool(Recipe(manifest.batcher, policy, config.inputs, compute), identifier) as pool,
        pq.ParquetWriter(folder / "items.parquet", ITEMS, compression="zstd") as items,
        # Read once and thrown away: speed matters, not size.
        pq.ParquetWriter(folder / "candidates.parquet", schema, compression="lz4", use_dictionary=False) as candidates,
    ):
        for made in pool.convert(manifest.pieces(config.run.max_items)):
            candidates.write_table(made.table)
            keys = [made.table.column(name) for name in ITEM_KEYS]
            rows = pa.table([*keys, made.carried, made.shared], schema=ITEMS)
            items.write_table(rows, row_group_size=_ITEMS_GROUP_ROWS)
        identifier.check()


def _guard_deletions(config: Config, counts: PlanCounts) -> None:
    # Looking at the first items only is a trial; nobody means it to delete the rest.
    allowed = 0.0 if config.run.max_items else config.run.max_delete_fraction
    if counts.deleted <= allowed * counts.live:
        return
    lacks = f"lacks {counts.deleted} of the index's {counts.live} ids, and their vectors would be deleted"
    if config.run.max_items:
        raise ManifestError(
            f"run.max_items looks at the first {config.run.max_items} rows of {config.manifest.path} only, and that "
            f"{lacks}; "
            "leave run.max_items out, or give the trial an output of its own"
        )
    raise ManifestError(
        f"the manifest {config.manifest.path} {lacks}; run.max_delete_fraction allows {allowed:g} of them; if they "
        "are really gone, run with --set run.max_delete_fraction=1"
    )


def _write_work(
    folder: Path, config: Config, manifest: Manifest, to_do: NDArray[np.uint16], store: Store, base: str
) -> tuple[str, ...]:
    group_rows = config.run.block_items
    rows_left = int(np.count_nonzero(to_do))
    # Whole row groups a file, so that a file's last block is not a sliver.
    file_rows = min(max(math.ceil(rows_left / _WORK_FILES), 1), _FILE_ROWS_MAX)
    file_rows = math.ceil(file_rows / group_rows) * group_rows
    paths: list[str] = []
    for table in _regrouped(_selected(folder / "candidates.parquet", to_do), file_rows, work_schema(manifest.carry)):
        local = folder / "work.parquet"
        pq.write_table(table, local, row_group_size=group_rows, compression="zstd")
        paths.append(f"{base}/{len(paths):05d}.parquet")
        store.upload(str(local), paths[-1])
    return tuple(paths)


def _selected(candidates: Path, to_do: NDArray[np.uint16]) -> Iterator[pa.Table]:
    for table, marks in _picked(candidates, to_do):
        at = table.schema.get_field_index("attempts")
        yield table.set_column(at, table.schema.field(at), pa.array((marks - 1).astype(np.int32)))


def _picked(candidates: Path, marks: NDArray[Any]) -> Iterator[tuple[pa.Table, NDArray[Any]]]:
    """The candidates whose mark is not 0, and their marks."""
    start = 0
    for batch in pq.ParquetFile(candidates).iter_batches():
        here = marks[start : start + batch.num_rows]
        start += batch.num_rows
        if here.any():
            yield pa.Table.from_batches([batch]).filter(pa.array(here > 0)), here[here > 0]


def _regrouped(tables: Iterator[pa.Table], rows: int, schema: pa.Schema) -> Iterator[pa.Table]:
    held = schema.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table.cast(schema)])
        while held.num_rows >= rows:
            yield held.slice(0, rows)
            held = held.slice(rows)
    if held.num_rows:
        yield held
