from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, IncompleteError, IndexCorruptError, OwnershipError
from pipeline.index.claim import Claim
from pipeline.index.commits import CommitKind, Table
from pipeline.index.files import invisible_files, live_files
from pipeline.index.log import Log
from pipeline.index.merge import run_merge
from pipeline.index.snapshot import commit_snapshot, spec_info
from pipeline.index.verify import verify
from pipeline.storage import Store, open_store
from tests.fixtures.faulty_store import Crash, Moment, crashing
from tests.fixtures.index_cases import (
    CARRY,
    FINGERPRINT,
    HIDDEN_DIM,
    SPECS,
    Row,
    as_rows,
    changes_of,
    finish_run,
    part,
    plan,
)

TABLE: dict[str, Any] = {"specs": SPECS, "hidden_dim": HIDDEN_DIM, "id_type": pa.string(), "carry": CARRY}
NIGHT1 = {"a": "f1", "b": "f1", "c": "f1"}
ROWS1 = [[Row("a", mark=1), Row("b", mark=1)], [Row("c", what="retry", mark=1)]]
CHANGES1 = {"a": "insert", "b": "insert"}
NIGHT2 = {"a": "f2", "b": "f1", "d": "f1"}
ROWS2 = [[Row("a", "f2", "retry", 2)], [Row("d", mark=2)]]
SAID1 = {("a", "vectors"): ("f1", 1, False), ("b", "vectors"): ("f1", 1, False), ("c", "rejects"): ("f1", 1, False)}
SAID2 = {
    ("a", "vectors"): ("f1", 1, False),
    ("a", "rejects"): ("f2", 2, True),
    ("b", "vectors"): ("f1", 1, False),
    ("d", "vectors"): ("f1", 2, False),
}
CHANGES2 = {"d": "insert"}
"""a kept its vector beside the reject, and c never had one."""


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def test_two_nights(store: Store) -> None:
    first = finish_run(store, "night1", NIGHT1, ROWS1)
    assert as_rows(store, first.live) == SAID1
    assert first.info == {
        "items": 3, "ids_digest": first.info["ids_digest"], "vectors": 2, "rejects": 1, "kept_previous": 0,
        "specs": [{"name": "vector", "dim": 4, "dtype": "int8"}, {"name": "half", "dim": 8, "dtype": "float16"}],
        "id_type": "string",
        "carry": [["label", "string"]],
        "changes": {"path": "changes/run=night1.parquet", "insert": 2, "update": 0, "delete": 0},
    }  # fmt: skip
    assert changes_of(store, "night1") == CHANGES1
    assert verify(store) == []
    second = finish_run(store, "night2", NIGHT2, ROWS2)
    assert as_rows(store, second.live) == SAID2
    assert changes_of(store, "night2") == CHANGES2
    assert set(second.removed) == {entry.path for entry in first.live}
    assert second.added == second.live
    assert verify(store) == []
    assert live_files(store) == [entry for entry in second.live if entry.table == Table.VECTORS]
    assert live_files(store, "rejects") == [entry for entry in second.live if entry.table == Table.REJECTS]
    assert {file.path for file in invisible_files(store)}.isdisjoint(entry.path for entry in second.live)
    state = Log(store).state()
    assert (state.claim, state.parts, state.fingerprint) == (None, (), FINGERPRINT)


def test_specs_are_recorded_with_the_models_own_dim() -> None:
    assert spec_info(SPECS, 16)[1] == {"name": "half", "dim": 16, "dtype": "float16"}


def test_an_index_without_a_snapshot_has_no_files(local: Store) -> None:
    with pytest.raises(ConfigError, match="no lakevec output"):
        live_files(local)
    with Claim.acquire(local, "r", fingerprint="f") as claim:
        claim.commit(CommitKind.PROGRESS, added=part(local, [Row("a")]))
    with pytest.raises(ConfigError, match="no finished run"):
        live_files(local)


def _commit_first_night(store: Store, items: dict[str, str], losing: int = 0) -> None:
    """Finish the first night, but without the last `losing` of the merged files."""
    with Claim.acquire(store, "r", fingerprint="f") as claim:
        parts = [entry for row in "abc" for entry in part(store, [Row(row, mark=1)])]
        planned = plan(store, items, [], parts)
        merged = [run_merge(store, task) for task in planned.tasks]
        kept = merged[: len(merged) - losing]
        commit_snapshot(claim, planned, kept, **TABLE)


def test_a_snapshot_needs_every_outcome(local: Store) -> None:
    with pytest.raises(IncompleteError, match="2 of 5 items have no outcome yet, among them x, y; run again"):
        _commit_first_night(local, NIGHT1 | {"x": "f1", "y": "f1"})
    assert [commit.kind.value for commit in Log(local).read()] == ["claim", "release"]


def test_a_snapshot_needs_every_row(local: Store) -> None:
    with pytest.raises(IndexCorruptError, match="vectors files hold 0 rows, the items call for 3"):
        _commit_first_night(local, NIGHT1, losing=1)
    assert Log(local).state().snapshot is None


def test_a_stale_owner_cannot_publish(local: Store) -> None:
    finish_run(local, "night1", NIGHT1, ROWS1)
    stale = Claim.acquire(local, "stale", fingerprint=FINGERPRINT, renew_s=1000.0)
    parts = [entry for rows in ROWS2 for entry in part(local, rows, "stale")]
    planned = plan(local, NIGHT2, stale.state.live, parts, run_id="stale")
    merged = [run_merge(local, task) for task in planned.tasks]
    with Claim.acquire(local, "other", fingerprint=FINGERPRINT, quiet_s=0.01):
        with pytest.raises(OwnershipError):
            commit_snapshot(
                stale, planned, merged, specs=SPECS, hidden_dim=HIDDEN_DIM, id_type=pa.string(), carry=CARRY
            )
        assert as_rows(local, Log(local).state().live) == SAID1
    stale.__exit__(None, None, None)


def _crash_second_night(folder: Path, at: int, moment: Moment) -> tuple[Store, bool]:
    """A finished first night, and a second one that dies at write `at`. Says whether it died."""
    store = open_store(str(folder))
    finish_run(store, "night1", NIGHT1, ROWS1)
    try:
        finish_run(crashing(store, at, moment), "night2", NIGHT2, ROWS2)
    except Crash:
        return store, True
    return store, False


@pytest.mark.parametrize("moment", [Moment.AFTER, Moment.TORN])  # before a write is after the one before it
def test_a_crash_at_any_write_leaves_a_sound_index(tmp_path: Path, moment: Moment) -> None:
    published: list[bool] = []
    for at in range(100):
        store, died = _crash_second_night(tmp_path / str(at), at, moment)
        if not died:
            break
        seen = as_rows(store, Log(store).state().live)
        assert seen in (SAID1, SAID2)
        assert verify(store) == []
        published.append(seen == SAID2)
        _resume(store)
        assert as_rows(store, Log(store).state().live) == SAID2
        assert verify(store) == []
    assert len(published) > 10
    assert published == sorted(published)
    assert not published[0]


def _resume(store: Store) -> None:
    """What a new run does: take over, do what no committed part or live row covers, publish."""
    with Claim.acquire(store, "night3", fingerprint=FINGERPRINT, quiet_s=0.001) as claim:
        state = claim.state
        parts = list(state.parts)
        done = {each for each, _ in as_rows(store, parts)}
        fresh = [row for rows in ROWS2 for row in rows if row.id not in done]
        if fresh and as_rows(store, state.live) != SAID2:
            added = part(store, fresh, "night3")
            claim.commit(CommitKind.PROGRESS, added=added)
            parts += added
        planned = plan(store, NIGHT2, state.live, parts, run_id="night3")
        if not planned.changes_nothing:
            merged = [run_merge(store, task) for task in planned.tasks]
            commit_snapshot(
                claim, planned, merged, specs=SPECS, hidden_dim=HIDDEN_DIM, id_type=pa.string(), carry=CARRY
            )
