"""Merging before a snapshot: which files are rewritten together, and the rewriting of one of them.

In: the live files, the parts since, the manifest's items. Out: a `MergePlan` whose tasks, run anywhere, give
the next live set. Refused: files of another kind of index (OwnershipError), files that do not hold what the log
says (IndexCorruptError).

A file that loses no row, keeps its carried values and is at least half the target size stays as it is; the others are
filled together, in order, up to the target, and with them the copies that other ids get of rows of any file. Vectors
are cheap to copy: a task streams one row group at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import IndexCorruptError
from pipeline.index.carried_values import GROUP_ROWS, CarriedValues
from pipeline.index.changes import Changes, write_changes
from pipeline.index.columns import check_columns, unify, with_column
from pipeline.index.commits import FileEntry, Table
from pipeline.index.copies import CopyRange, as_told_of_another, copied_rows, list_copies, read_copies
from pipeline.index.derive import Derivation
from pipeline.index.parquet import open_parquet, write_file
from pipeline.index.scratch import Scratch, scratch
from pipeline.index.winners import Census, choose_winners
from pipeline.storage import Store

__all__ = ["MergeInput", "MergePlan", "MergeTask", "outstanding", "plan_merge", "run_merge"]

_FLAG = "kept_previous"
_OUTSTANDING = "SELECT id, fingerprint FROM items ANTI JOIN outcomes USING (id, fingerprint) ORDER BY id"
_KEPT_ROWS = "SELECT file, row FROM kept WHERE list_contains($files, file)"
_FLAGGED_ROWS = "SELECT file, row FROM kept WHERE flag AND list_contains($files, file)"
_PLACES = "SELECT file, list(DISTINCT place // ?) FROM kept WHERE place IS NOT NULL GROUP BY file"


@dataclass(frozen=True, slots=True)
class MergeInput:
    """One file of a task: `keep` is a bit a row (most significant first), None for all of them.

    `flagged` are the rows of a rejects file whose `kept_previous` is true from now on; all others' is false.
    `carried` are the row groups of the task's carried values that hold some for rows of this file. With `copies` it is
    not the file's rows that are kept, but those copies of them.
    """

    entry: FileEntry
    kept_rows: int
    keep: bytes | None
    flagged: tuple[int, ...]
    carried: tuple[int, ...]
    copies: CopyRange | None = None


@dataclass(frozen=True, slots=True)
class MergeTask:
    """The rows of several files that become one new file of `run_id`, with the columns of `schema`.

    `carried_path`: a file of `schema.carried_schema`, whose values replace those of the rows with its ids.
    `derivation`: how vector columns of other specs become those of `schema`.
    """

    table: Table
    run_id: str
    schema: pa.Schema
    inputs: tuple[MergeInput, ...]
    carried_path: str | None
    derivation: Derivation | None = None


@dataclass(frozen=True, slots=True)
class MergePlan:
    """How the live set becomes the next one. `untouched` stay or become live as they are."""

    tasks: tuple[MergeTask, ...]
    untouched: tuple[FileEntry, ...]
    before: tuple[FileEntry, ...]
    census: Census
    changes: Changes

    def live_with(self, merged: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
        """The complete next live set, `merged` being what the tasks returned."""
        return (*self.untouched, *merged)

    def added(self, merged: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
        """The files of the next live set that are not live now."""
        now = {entry.path for entry in self.before}
        return tuple(entry for entry in self.live_with(merged) if entry.path not in now)

    @property
    def removed(self) -> tuple[str, ...]:
        """Paths of the files that are live now and will not be."""
        stay = {entry.path for entry in self.untouched}
        return tuple(entry.path for entry in self.before if entry.path not in stay)

    @property
    def changes_nothing(self) -> bool:
        """Whether the live set is already what it should be, so that no snapshot is needed for it."""
        return not self.tasks and not self.removed and not self.added(())


@dataclass(frozen=True, slots=True)
class _Share:
    """A file, how many of its rows are kept, and whether a kept row (or every one, by its columns) changes.

    With `copies`, of the file's rows those copies and nothing else.
    """

    number: int
    entry: FileEntry
    is_part: bool
    kept_rows: int
    changes: bool
    copies: CopyRange | None = None

    @property
    def intact(self) -> bool:
        return self.kept_rows == self.entry.rows and not self.changes

    @property
    def kept_bytes(self) -> float:
        return self.entry.bytes * self.kept_rows / max(1, self.entry.rows)


def plan_merge(
    store: Store,
    items_path: str,
    live: Sequence[FileEntry],
    parts: Sequence[FileEntry],
    *,
    schemas: Mapping[Table, pa.Schema],
    run_id: str,
    target_bytes: int,
    carried_path: str | None = None,
    replaced: Sequence[FileEntry] = (),
    derivation: Derivation | None = None,
) -> MergePlan:
    """Decide the next live set from the present one, the parts since, and the items at `items_path`.

    `schemas` are the tables' present ones (`schema.vectors_schema`, `schema.rejects_schema`). `carried_path` has the
    carried values that stored rows lack (as `carried_values` writes them). `replaced` are live files that go with all
    their rows, whatever these say; `derivation` is how live vectors get the columns of `schemas`. Memory is
    bounded by DuckDB's limit and a byte a row of the files that lose some. Missing items are left in the census.
    """
    with scratch(store) as found:
        found.load_items(items_path)
        found.load_carried(carried_path)
        found.load_outcomes(live, parts, schemas, derivation=derivation)
        census = choose_winners(found)
        changes = write_changes(found, run_id, schemas[Table.VECTORS].field("id").type, replaced)
        copies = list_copies(found, f"_work/{run_id}/copies.parquet", target_bytes)
        shares = [share for share in _shares(found, copies) if share.kept_rows]
        untouched, groups = [], []
        for table in Table:
            stay, together = _group([share for share in shares if share.entry.table == table], target_bytes)
            untouched += stay
            groups += together
        inputs = _inputs(found, [share for group in groups for share in group if not share.copies])
    tasks = [
        MergeTask(
            table=group[0].entry.table,
            run_id=run_id,
            schema=schemas[group[0].entry.table],
            inputs=tuple(_copy_input(share) if share.copies else inputs[share.number] for share in group),
            carried_path=carried_path,
            derivation=derivation,
        )
        for group in groups
    ]
    return MergePlan(tuple(tasks), tuple(share.entry for share in untouched), (*live, *replaced), census, changes)


def run_merge(store: Store, task: MergeTask) -> FileEntry:
    """Write the file of `task`. Raises IndexCorruptError if an input is not as the log says."""
    batches = (batch for each in task.inputs for batch in _kept_batches(store, task, each))
    entry = write_file(store, task.table, task.run_id, task.schema, batches)
    assert entry.rows == sum(each.kept_rows for each in task.inputs), "a merge keeps what its plan counted"
    return entry


def outstanding(store: Store, items_path: str, live: Sequence[FileEntry], parts: Sequence[FileEntry]) -> pa.Table:
    """The items at `items_path` (any Parquet with `id` and `fingerprint`, the work list too) without an outcome.

    Columns `id` and `fingerprint`, as strings. An outcome with another fingerprint does not count.
    """
    with scratch(store) as found:
        found.load_items(items_path)
        found.load_outcomes(live, parts)
        return pa.table(found.db.sql(_OUTSTANDING))


def _shares(found: Scratch, copies: Mapping[int, Sequence[CopyRange]]) -> list[_Share]:
    counted = found.db.execute("SELECT file, count(*), bool_or(changed) FROM kept GROUP BY file").fetchall()
    kept = {file: (rows, changed) for file, rows, changed in counted}
    whole = [
        _Share(n, entry, n >= found.n_live, rows, changed or n in found.reshaped)
        for n, entry in enumerate(found.files)
        for rows, changed in [kept.get(n, (0, False))]
    ]
    return whole + [
        _Share(n, found.files[n], n >= found.n_live, each.rows, True, each) for n in copies for each in copies[n]
    ]


def _group(shares: Iterable[_Share], target_bytes: int) -> tuple[list[_Share], list[list[_Share]]]:
    """Files that stay, and groups of files to be merged up to `target_bytes` each."""
    candidates = list(shares)
    if all(share.intact and not share.is_part for share in candidates):
        return candidates, []  # nothing happened to this table: small files alone are no reason to write
    stay: list[_Share] = []
    groups: list[list[_Share]] = []
    room = 0.0
    for share in candidates:
        if share.intact and share.entry.bytes >= target_bytes / 2:
            stay.append(share)
        elif groups and share.kept_bytes <= room:
            groups[-1].append(share)
            room -= share.kept_bytes
        else:
            groups.append([share])
            room = target_bytes - share.kept_bytes
    alone = [group[0] for group in groups if len(group) == 1 and group[0].intact]
    return stay + alone, [group for group in groups if len(group) > 1 or not group[0].intact]


def _inputs(found: Scratch, shares: Sequence[_Share]) -> dict[int, MergeInput]:
    masks: dict[int, NDArray[np.bool_]] = {
        share.number: np.zeros(share.entry.rows, dtype=np.bool_)
        for share in shares
        if share.kept_rows < share.entry.rows
    }
    flagged: dict[int, list[int]] = {share.number: [] for share in shares}
    for file, rows in _rows_by_file(found, _KEPT_ROWS, list(masks)):
        masks[file][rows] = True
    for file, rows in _rows_by_file(found, _FLAGGED_ROWS, list(flagged)):
        flagged[file] += rows.tolist()
    places = dict(found.db.execute(_PLACES, [GROUP_ROWS]).fetchall())
    return {
        share.number: MergeInput(
            entry=share.entry,
            kept_rows=share.kept_rows,
            keep=np.packbits(masks[share.number]).tobytes() if share.number in masks else None,
            flagged=tuple(sorted(flagged[share.number])),
            carried=tuple(sorted(places.get(share.number, ()))),
        )
        for share in shares
    }


def _copy_input(share: _Share) -> MergeInput:
    assert share.copies is not None, "asked of copies only"
    return MergeInput(share.entry, share.kept_rows, None, (), share.copies.carried, share.copies)


def _rows_by_file(found: Scratch, query: str, files: list[int]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    if not files:
        return
    for batch in pa.RecordBatchReader.from_stream(found.db.sql(query, params={"files": files})):
        number, row = batch["file"].to_numpy(), batch["row"].to_numpy()
        order = np.argsort(number, kind="stable")
        names, starts = np.unique(number[order], return_index=True)
        for name, rows in zip(names, np.split(row[order], starts[1:]), strict=True):
            yield int(name), rows


def _kept_batches(store: Store, task: MergeTask, each: MergeInput) -> Iterator[pa.RecordBatch]:
    where = store.uri(each.entry.path)
    with open_parquet(store, each.entry.path) as parquet:
        if parquet.metadata.num_rows != each.entry.rows:
            raise IndexCorruptError(f"{where} holds {parquet.metadata.num_rows} rows, the log says {each.entry.rows}")
        found = parquet.schema_arrow
        check_columns(task.derivation.schema_of(found) if task.derivation else found, task.schema, where)
        if each.copies:
            yield from _copies(store, task, each, parquet)
            return
        carried = _values_for(store, task, each, parquet) if each.carried else None
        start = 0
        for group in range(parquet.num_row_groups):
            for batch in parquet.read_row_group(group).to_batches():
                rows = _fitted(_select(batch, start, each), task)
                yield rows if carried is None else carried.laid_over(rows)
                start += batch.num_rows


def _copies(store: Store, task: MergeTask, each: MergeInput, parquet: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    assert each.copies is not None, "asked of copies only"
    listed = read_copies(store, each.copies)
    carried = _values(store, task, each, listed["id"].combine_chunks()) if each.carried else None
    for rows, asked in copied_rows(parquet, listed):
        batch = with_column(as_told_of_another(rows), "id", asked["id"].cast(rows.schema.field("id").type))
        if _FLAG in batch.schema.names:
            batch = with_column(batch, _FLAG, asked["flag"])
        batch = _fitted(batch, task)
        yield batch if carried is None else carried.laid_over(batch)


def _fitted(rows: pa.RecordBatch, task: MergeTask) -> pa.RecordBatch:
    return unify(task.derivation.rows_of(rows) if task.derivation else rows, task.schema)


def _values_for(store: Store, task: MergeTask, each: MergeInput, parquet: pq.ParquetFile) -> CarriedValues:
    ids = parquet.read(columns=["id"]).column("id").cast(pa.string()).combine_chunks()
    return _values(store, task, each, ids)


def _values(store: Store, task: MergeTask, each: MergeInput, ids: pa.StringArray) -> CarriedValues:
    assert task.carried_path is not None, "row groups are of a file"
    return CarriedValues.read(store, task.carried_path, each.carried, ids)


def _select(batch: pa.RecordBatch, start: int, each: MergeInput) -> pa.RecordBatch:
    """The kept rows of `batch`, whose first row is row `start` of the file, with their flags set."""
    stop = start + batch.num_rows
    if _FLAG in batch.schema.names:
        batch = with_column(batch, _FLAG, pa.array(np.isin(np.arange(start, stop), each.flagged)))
    if each.keep is None:
        return batch
    keep = np.unpackbits(np.frombuffer(each.keep, np.uint8), count=each.entry.rows)[start:stop]
    return batch.filter(pa.array(keep.astype(np.bool_)))
