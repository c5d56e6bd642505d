from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import IndexCorruptError
from pipeline.index.commits import Commit, CommitKind, FileEntry, Table, dump_commit, load_commit
from pipeline.index.log import Log, LostRaceError, commit_path, missing_numbers
from pipeline.index.state import fold
from pipeline.storage import Store, open_store


def _entry(name: str, table: Table = Table.VECTORS) -> FileEntry:
    return FileEntry(table, f"{table}/run=r/{name}.parquet", 1, 2, "a" * 64)


def _commit(seq: int, kind: str = "progress", run_id: str = "r", **more: Any) -> Commit:
    return Commit(seq, run_id, CommitKind(kind), "f", "2026-01-01T00:00:00+00:00", **more)


def test_a_commit_survives_its_json() -> None:
    commit = _commit(
        3, "snapshot", added=(_entry("a"),), removed=(_entry("b").path,),
        live=(_entry("a"), _entry("c", Table.REJECTS)), info={"items": 2, "specs": [{"name": "v", "dim": 4}]},
    )  # fmt: skip
    assert load_commit(dump_commit(commit), "x") == commit
    assert dump_commit(commit) == dump_commit(load_commit(dump_commit(commit), "x"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seq": 0}, "seq"),
        ({"seq": "1"}, "seq"),
        ({"kind": "party"}, "kind"),
        ({"format": 2}, "format"),
        ({"extra": 1}, "extra"),
        ({"run_id": "../x"}, "run_id"),
        ({"removed": ["vectors/run=r/../../x.parquet"]}, "removed"),
        ({"removed": ["/etc/passwd"]}, "removed"),
        ({"added": [{"table": "vectors"}]}, "added"),
    ],
)
def test_anything_else_is_no_commit(change: dict[str, Any], says: str) -> None:
    document = json.loads(dump_commit(_commit(1))) | change
    with pytest.raises(IndexCorruptError, match=f"where.*{says}"):
        load_commit(json.dumps(document).encode(), "where")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
def test_bytes_that_are_no_json_are_no_commit(data: bytes) -> None:
    with pytest.raises(IndexCorruptError, match="where"):
        load_commit(data, "where")


def test_an_empty_log(store: Store) -> None:
    log = Log(store)
    state = log.state()
    assert (log.read(), log.head(), state.head_seq, state.claim, state.snapshot) == ([], 0, 0, None, None)
    assert (state.live, state.parts, state.fingerprint) == ((), (), None)


def test_appended_commits_are_read_in_order(store: Store) -> None:
    log = Log(store)
    for seq in range(1, 4):
        log.append(_commit(seq))
    assert [file.path for file in store.list()] == ["_log/00000001.json", "_log/00000002.json", "_log/00000003.json"]
    assert [commit.seq for commit in log.read()] == [1, 2, 3]
    assert log.head() == 3
    assert [commit.seq for commit in log.since(1)] == [2, 3]


def test_a_number_is_taken_once(store: Store) -> None:
    log = Log(store)
    start = threading.Barrier(16)

    def race(n: int) -> bool:
        start.wait()
        try:
            log.append(_commit(1, run_id=f"r{n}"))
        except LostRaceError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(race, range(16)))
    assert sum(won) == 1
    assert log.load(1).run_id == f"r{won.index(True)}"


def test_only_the_newest_snapshot_and_what_follows_is_read(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    log = Log(store)
    for seq in range(1, 61):
        log.append(_commit(seq, "snapshot" if seq in (10, 20) else "progress"))
    assert [commit.seq for commit in log.read()] == list(range(20, 61))
    for seq in (1, 2, 15, 19):
        store.delete(commit_path(seq))
    store.put(commit_path(10), b"damaged, but superseded")
    assert [commit.seq for commit in log.read()] == list(range(20, 61))
    assert log.head() == 60


def test_other_files_of_the_folder_are_no_commits(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for name in ("heartbeat-r.json", "123.json", "00000001.json.bak", "x/00000007.json"):
        store.put(f"_log/{name}", b"?")
    assert Log(store).read() == []


def test_damage_is_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    log = Log(store)
    for seq in (1, 2, 3):
        log.append(_commit(seq))
    store.delete(commit_path(2))
    with pytest.raises(IndexCorruptError, match="commit 2 is missing"):
        log.read()
    store.put(commit_path(2), dump_commit(_commit(7)))
    with pytest.raises(IndexCorruptError, match="holds commit 7"):
        log.read()


def test_state_of_a_history() -> None:
    parts = [_entry(name) for name in "abc"]
    first = [_commit(1, "claim", "r1"), _commit(2, "progress", "r1", added=(parts[0],), info={"specs": [1]})]
    state = fold(first)
    assert (state.claim, state.parts, state.live, state.fingerprint) == (first[0], (parts[0],), (), "f")
    done = [*first, _commit(3, "snapshot", "r1", live=(parts[1],))]
    state = fold(done)
    assert (state.claim, state.parts, state.live, state.head_seq) == (None, (), (parts[1],), 3)
    again = [*done, _commit(4, "claim", "r2"), _commit(5, "progress", "r2", added=(parts[2],), info={"specs": [2]})]
    state = fold(again)
    assert (state.claim, state.parts, state.live) == (again[3], (parts[2],), (parts[1],))
    assert state.parts_where(specs=[2]) == (parts[2],)
    assert state.parts_where(specs=[1]) == ()
    assert fold([*again, _commit(6, "release", "r2")]).claim is None
    assert fold([*again, _commit(6, "release", "r2")]).parts == (parts[2],)


def test_an_older_run_does_not_end_a_newer_claim() -> None:
    taken = [_commit(1, "claim", "r1"), _commit(2, "claim", "r2"), _commit(3, "release", "r1")]
    assert fold(taken).claim == taken[1]


@given(st.lists(st.tuples(st.sampled_from(list(CommitKind)), st.sampled_from(["r1", "r2"])), max_size=12))
def test_folding_needs_only_what_follows_the_snapshot(history: list[tuple[CommitKind, str]]) -> None:
    commits = [_commit(seq, kind.value, run, added=(_entry(f"p{seq}"),)) for seq, (kind, run) in enumerate(history, 1)]
    newest = max((c.seq for c in commits if c.kind is CommitKind.SNAPSHOT), default=1)
    whole, short = fold(commits), fold(commits[newest - 1 :])
    assert (whole.snapshot, whole.progress, whole.head_seq) == (short.snapshot, short.progress, short.head_seq)
    assert all(commit.seq > newest for commit in whole.progress) or whole.snapshot is None


@given(st.sets(st.integers(1, 40)))
def test_missing_numbers_are_the_holes(numbers: set[int]) -> None:
    missing = missing_numbers(sorted(numbers))
    assert set(missing).isdisjoint(numbers)
    if numbers:
        assert set(missing) | numbers == set(range(min(numbers), max(numbers) + 1))
