from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import VectorSpec
from pipeline.errors import ConfigError
from pipeline.index.commits import Commit, CommitKind, FileEntry, Table, dump_commit
from pipeline.index.files import invisible_files
from pipeline.index.log import Log, commit_path
from pipeline.index.parquet import open_parquet, sha256_of
from pipeline.index.verify import Violation, verify
from pipeline.storage import Store, open_store
from tests.fixtures.index_cases import Kind, Row, finish_run, part

ITEMS = {f"i{n}": "f1" for n in range(6)}
ROWS = [Row(f"i{n}", mark=n, what="retry" if n == 5 else "vector") for n in range(6)]


@pytest.fixture
def local(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "out"))
    finish_run(store, "r1", ITEMS, [ROWS])
    return store


def _rules(store: Store) -> set[str]:
    return {violation.rule for violation in verify(store)}


def _snapshot(store: Store) -> Commit:
    snapshot = Log(store).state().snapshot
    assert snapshot is not None
    return snapshot


def _recommit(store: Store, **change: Any) -> None:
    """Publish the newest snapshot again, with something changed."""
    snapshot = _snapshot(store)
    store.put(commit_path(snapshot.seq), dump_commit(replace(snapshot, **change)))


def _rewrite(store: Store, change: Callable[[pa.Table], pa.Table], table: Table = Table.VECTORS) -> None:
    """Replace the live file of `table` by a changed one, and commit it with its right size and checksum."""
    live = list(_snapshot(store).live)
    place = next(n for n, entry in enumerate(live) if entry.table == table)
    with open_parquet(store, live[place].path) as parquet:
        changed = change(parquet.read())
    sink = pa.BufferOutputStream()
    pq.write_table(changed, sink)
    data = sink.getvalue().to_pybytes()
    store.put(live[place].path, data)
    live[place] = replace(
        live[place], rows=changed.num_rows, bytes=len(data), sha256=sha256_of(store, live[place].path)
    )
    _recommit(store, live=tuple(live))


def _vectors(store: Store) -> FileEntry:
    return next(entry for entry in _snapshot(store).live if entry.table == Table.VECTORS)


def _set(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def test_a_sound_index_has_no_violation(store: Store) -> None:
    finish_run(store, "r1", ITEMS, [ROWS[:3], ROWS[3:]])
    assert verify(store) == []
    unfinished = part(store, [Row("i9")], "r2")
    assert verify(store) == []
    assert unfinished[0].path in [file.path for file in invisible_files(store)]


def test_no_index_is_no_violation_but_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        verify(open_store(str(tmp_path)))


def test_integer_ids_and_every_dtype_verify(tmp_path: Path) -> None:
    specs = tuple(VectorSpec(name=dtype, dim=8, dtype=dtype) for dtype in ("float32", "float16", "int8", "binary"))
    store = open_store(str(tmp_path))
    kind = Kind(id_type=pa.int64(), specs=specs)
    finish_run(store, "r", {"1": "f1", "2": "f1"}, [[Row("1", mark=1), Row("2", mark=2)]], kind=kind)
    assert verify(store) == []


def test_a_lost_file_is_seen(local: Store) -> None:
    path = _vectors(local).path
    local.delete(path)
    assert verify(local) == [Violation("file", path, "is live but does not exist")]


def test_a_cut_file_is_seen(local: Store) -> None:
    path = _vectors(local).path
    local.put(path, local.read(path)[:-1])
    assert _rules(local) == {"size"}


def test_every_flipped_byte_is_seen(local: Store) -> None:
    path = _vectors(local).path
    data = local.read(path)
    for place in range(0, len(data), max(1, len(data) // 12)):
        flipped = bytearray(data)
        flipped[place] ^= 1
        local.put(path, bytes(flipped))
        assert _rules(local) == {"checksum"}


def test_a_wrong_row_count_is_seen(local: Store) -> None:
    live = [replace(entry, rows=entry.rows + 1) for entry in _snapshot(local).live]
    _recommit(local, live=tuple(live))
    assert _rules(local) == {"rows"}


def test_a_lost_row_is_seen(local: Store) -> None:
    _rewrite(local, lambda table: table.slice(1))
    assert _rules(local) == {"outcome"}


def test_a_foreign_row_is_seen(local: Store) -> None:
    _rewrite(local, lambda table: _set(table, "id", ["i0", "i1", "i2", "i3", "stranger"]))
    assert _rules(local) == {"outcome"}


def test_a_doubled_row_is_seen(local: Store) -> None:
    _rewrite(local, lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    assert [violation.detail for violation in verify(local)] == ["1 ids have two rows in one table, among them i0"]


def test_a_vector_beside_a_reject_must_be_kept_on_purpose(local: Store) -> None:
    _rewrite(local, lambda table: _set(table, "id", ["i0", "i1", "i2", "i3", "i5"]))
    details = " ".join(violation.detail for violation in verify(local))
    assert "have a vector and a reject that does not keep it, among them i5" in details


def test_a_kept_vector_must_be_there(local: Store) -> None:
    _rewrite(local, lambda table: _set(table, "kept_previous", [True]), Table.REJECTS)
    details = " ".join(violation.detail for violation in verify(local))
    assert "keeps a vector which is not there, among them i5" in details


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0, None])
def test_a_scale_that_restores_nothing_is_seen(local: Store, bad: float | None) -> None:
    _rewrite(local, lambda table: _set(table, "vector_scale", [0.5, 0.5, bad, 0.5, 0.5]))
    assert [violation.rule for violation in verify(local)] == ["values"]


@pytest.mark.parametrize("bad", [[math.nan] * 8, [math.inf] * 8, None])
def test_a_vector_that_is_no_number_is_seen(local: Store, bad: list[float] | None) -> None:
    good = [0.5] * 8
    _rewrite(local, lambda table: _set(table, "half", [good, good, bad, good, good]))
    assert [violation.rule for violation in verify(local)] == ["values"]


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["vector_scale"]),
        lambda table: table.drop_columns(["vector"]),
        lambda table: table.set_column(1, "vector", table["vector"].cast(pa.list_(pa.int8()))),
        lambda table: table.set_column(1, "vector", table["vector"].cast(pa.list_(pa.int16(), 4))),
        lambda table: table.set_column(
            1, pa.field("vector", table["vector"].type, metadata={"ARROW:extension:name": "other.tensor"}),
            table["vector"],
        ),
        lambda table: table.set_column(0, "id", pa.array(range(5), pa.int64())),
        lambda table: table.drop_columns(["label"]),
        lambda table: table.append_column("more", pa.nulls(5, pa.string())),
    ],
)  # fmt: skip
def test_columns_of_another_type_are_seen(local: Store, change: Callable[[pa.Table], pa.Table]) -> None:
    _rewrite(local, change)
    assert "schema" in _rules(local)


def test_a_hole_in_the_log_is_seen(local: Store) -> None:
    head = Log(local).head()
    for seq in (head + 1, head + 3):
        commit = replace(_snapshot(local), seq=seq, live=(), kind=CommitKind.PROGRESS)
        local.put(commit_path(seq), dump_commit(commit))
    (violation,) = verify(local)
    assert violation.rule == "log"
    assert f"commit {head + 2} is missing" in violation.detail


def test_a_damaged_commit_is_seen(local: Store) -> None:
    local.put(commit_path(Log(local).head()), b"{}")
    assert _rules(local) == {"log"}


def test_a_snapshot_of_an_earlier_version_may_call_the_members_of_lists_item(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lists"))
    finish_run(store, "r1", ITEMS, [ROWS], kind=Kind(carry=[pa.field("label", pa.list_(pa.string()))]))
    info = _snapshot(store).info
    assert info["carry"] == [["label", "list<element: string>"]]
    _recommit(store, info=info | {"carry": [["label", "list<item: string>"]]})
    assert verify(store) == []
    _recommit(store, info=info | {"carry": [["label", "list<item: int64>"]]})
    assert _rules(store) == {"schema"}
