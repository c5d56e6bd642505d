from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from pipeline.errors import ConfigError, IndexCorruptError, OwnershipError
from pipeline.index import collect
from pipeline.index.claim import Claim
from pipeline.index.collect import collect_garbage, sweep_work
from pipeline.index.commits import Commit, CommitKind, dump_commit
from pipeline.index.files import invisible_files, live_files, snapshots
from pipeline.index.garbage import LITTER_S
from pipeline.index.log import Log, commit_path
from pipeline.index.restore import restore
from pipeline.index.verify import verify
from pipeline.storage import Store, open_store
from tests.fixtures.faulty_store import pausing
from tests.fixtures.histories import said, score_night, vector_night, vector_nights
from tests.fixtures.index_cases import FINGERPRINT, Row, part

AT_ONCE_S = 0.001
"""How long a silent owner is watched: here nobody beats who does not say so."""


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _paths(store: Store, prefix: str = "") -> set[str]:
    return {file.path for file in store.list(prefix)}


def test_retained_snapshots_stay_and_the_others_go(store: Store) -> None:
    nights = vector_nights(store, 4)
    before = [said(store, night) for night in nights]
    garbage = collect_garbage(store, "gc", keep=2)
    assert garbage.kept == (nights[2].seq, nights[3].seq)
    assert garbage.dropped == (nights[0].seq, nights[1].seq)
    assert snapshots(store) == [nights[3], nights[2]]
    assert [said(store, night) for night in nights[2:]] == before[2:]
    named = {entry.path for night in nights[2:] for entry in night.live}
    assert _paths(store, "vectors") | _paths(store, "rejects") == named
    assert _paths(store, "_work") == set()
    assert verify(store) == []
    kinds = {commit.kind for commit in Log(store).read_all() if commit.seq < nights[2].seq}
    assert kinds == {CommitKind.CLAIM}
    assert Log(store).state().claim is None
    again = collect_garbage(store, "gc-again", keep=2)
    assert (again.dropped, again.commits, again.files) == ((), (), ())


def test_after_keeping_one_a_glob_is_the_table(local: Store) -> None:
    nights = vector_nights(local, 3)
    collect_garbage(local, "gc", keep=1)
    folder = Path(local.full("vectors"))
    assert {str(path) for path in folder.rglob("*.parquet")} == {local.full(e.path) for e in live_files(local)}
    rows = ds.dataset(folder, format="parquet").to_table(columns=["id", "fingerprint"]).to_pylist()
    assert sorted((row["id"], row["fingerprint"]) for row in rows) == [("a", "f3"), ("b", "f1")]
    assert {path.name for path in folder.iterdir()} == {e.path.split("/")[1] for e in live_files(local)}
    assert invisible_files(local) == []
    assert said(local, nights[2])[("a", "vectors")] == ("f3", 3, False)


def test_what_a_resumed_run_need_not_do_again_stays(local: Store) -> None:
    vector_nights(local, 2)
    with Claim.acquire(local, "stopped", fingerprint=FINGERPRINT) as claim:
        parts = part(local, [Row("a", "f3", mark=3)], "stopped")
        claim.commit(CommitKind.PROGRESS, added=parts)
        nameless = part(local, [Row("d")], "stopped")[0].path
    collect_garbage(local, "gc", keep=1)
    assert Log(local).state().parts == tuple(parts)
    assert parts[0].path in _paths(local)
    assert nameless not in _paths(local)


def test_an_output_that_no_run_has_finished_keeps_its_parts(local: Store) -> None:
    with Claim.acquire(local, "stopped", fingerprint=FINGERPRINT) as claim:
        parts = part(local, [Row("a")], "stopped")
        claim.commit(CommitKind.PROGRESS, added=parts)
    part(local, [Row("b")], "stopped")
    garbage = collect_garbage(local, "gc", keep=1)
    assert garbage.kept == ()
    assert _paths(local, "vectors") == {parts[0].path}


def test_litter_goes_and_what_is_not_ours_stays(local: Store) -> None:
    vector_nights(local, 2)
    snapshot = snapshots(local)[0]
    stay = [
        "reports/night1/summary.json", "vectors/README.md", "vectors/run=night1/mine.csv", "candidates/run=x/a.parquet",
        "changes/notes.txt", "_log/probe-0123", "mine.parquet", "changes/run=new.parquet",
    ]  # fmt: skip
    go = [
        "changes/run=night1.parquet", "changes/run=never.parquet", "_log/heartbeat-night1.json", "_log/probe-4567",
        "_work/night1/work/00000.parquet", "scores/run=night1/run.trec", "vectors/run=dead/part-1.parquet",
    ]  # fmt: skip
    with Claim.acquire(local, "new", fingerprint=FINGERPRINT) as claim:
        info = snapshot.info | {"changes": {"path": "changes/run=new.parquet", "rows": 1}}
        claim.commit(CommitKind.SNAPSHOT, live=snapshot.live, info=info)
    for path in (*stay, *go):
        local.put(path, b"x")
    temporaries = [Path(local.full(f"{folder}/.tmp-1")) for folder in ("_log", "vectors/run=dead")]
    for path in temporaries:
        path.write_bytes(b"half")
    old = time.time() - LITTER_S - 60
    for path in (Path(local.full("_log/probe-4567")), temporaries[1]):
        os.utime(path, (old, old))
    collect_garbage(local, "gc", keep=1)
    assert _paths(local) >= set(stay)
    assert not _paths(local) & set(go)
    assert [path.exists() for path in temporaries] == [True, False]
    assert not Path(local.full("vectors/run=dead")).exists()
    assert verify(local) == []


def test_a_score_tables_trec_files_go_with_their_snapshots(local: Store) -> None:
    nights = [score_night(local, night) for night in range(1, 4)]
    collect_garbage(local, "gc1", keep=2)
    assert [path for path in _paths(local, "scores") if path.startswith("scores/run=night1/")] == []
    assert _paths(local, "scores") >= {"scores/run=night2/run.trec", "scores/run=night3/run.trec"}
    restore(local, nights[1].seq, "back")
    collect_garbage(local, "gc2", keep=1)
    assert _paths(local, "scores") == {"scores/run=night2/run.trec", nights[1].live[0].path}
    assert verify(local) == []


def test_a_dry_run_finds_the_same_and_deletes_nothing(local: Store) -> None:
    vector_nights(local, 3)
    before = _paths(local)
    found = collect_garbage(local, "dry", keep=1, dry_run=True)
    assert before <= _paths(local)
    assert found == collect_garbage(local, "gc", keep=1)
    assert found.files


def test_a_live_run_is_named_and_left_alone(local: Store) -> None:
    vector_nights(local, 2)
    with Claim.acquire(local, "alive", fingerprint=FINGERPRINT, renew_s=0.02):
        before = _paths(local)
        with pytest.raises(OwnershipError, match="belongs to run alive"):
            collect_garbage(local, "gc", keep=1, quiet_s=2.0)
        assert _paths(local) == before


def test_a_place_without_commits_is_not_touched(local: Store) -> None:
    local.put("vectors/run=x/part-1.parquet", b"somebody's")
    with pytest.raises(ConfigError, match="no lakevec output"):
        collect_garbage(local, "gc", keep=1)
    assert _paths(local) == {"vectors/run=x/part-1.parquet"}


def test_a_commit_that_cannot_be_read_may_name_any_file(local: Store) -> None:
    nights = vector_nights(local, 3)
    local.put(commit_path(nights[0].seq), b"damaged")
    before = _paths(local, "vectors")
    with pytest.raises(IndexCorruptError):
        collect_garbage(local, "gc", keep=1)
    assert _paths(local, "vectors") == before


def test_a_stale_owner_that_wakes_up_after_the_collection_can_do_nothing(local: Store) -> None:
    vector_nights(local, 2)
    stale = Claim.acquire(local, "stale", fingerprint=FINGERPRINT, renew_s=1000.0)
    parts = part(local, [Row("a", "f9")], "stale")
    stale.commit(CommitKind.PROGRESS, added=parts)
    with Claim.acquire(local, "next", fingerprint=FINGERPRINT, quiet_s=AT_ONCE_S) as claim:
        assert claim.state.snapshot is not None
        live = claim.state.live
        claim.commit(CommitKind.PROGRESS)
        claim.commit(CommitKind.SNAPSHOT, live=live, info=claim.state.snapshot.info)
    collect_garbage(local, "gc", keep=1)
    work = "_work/other/work.parquet"
    local.put(work, b"a live run's")
    asks: list[Callable[[], object]] = [
        lambda: stale.commit(CommitKind.SNAPSHOT, live=parts),
        lambda: stale.commit(CommitKind.PROGRESS, added=parts),
        stale.recheck,
        lambda: sweep_work(stale),
    ]
    for ask in asks:
        with pytest.raises(OwnershipError, match="taken over"):
            ask()
    stale.__exit__(None, None, None)
    assert work in _paths(local)
    assert Log(local).state().live == live
    assert verify(local) == []


@pytest.mark.parametrize("kind", [CommitKind.PROGRESS, CommitKind.SNAPSHOT])
def test_a_late_claim_on_a_collected_number_is_none(local: Store, kind: CommitKind) -> None:
    """A run decides to take over, is suspended, and wakes when the number it saw as the next has come and gone."""
    vector_night(local, 1)
    owner = Claim.acquire(local, "owner", fingerprint=FINGERPRINT, renew_s=1000.0)
    live = owner.state.live
    wanted = Log(local).head() + 1

    def meanwhile() -> None:
        commit = owner.commit(kind, live=live if kind is CommitKind.SNAPSHOT else ())
        assert commit.seq == wanted
        if kind is CommitKind.PROGRESS:
            owner.commit(CommitKind.SNAPSHOT, live=live)
        vector_night(local, 2)
        collect_garbage(local, "gc", keep=1)
        assert commit_path(wanted) not in _paths(local)

    store = pausing(local, "put_if_absent", "_log/0", meanwhile)
    with Claim.acquire(store, "late", fingerprint=FINGERPRINT, quiet_s=AT_ONCE_S) as late:
        assert commit_path(wanted) in _paths(local)
        state = Log(local).state()
        assert state.claim is not None
        assert (state.claim.run_id, state.head_seq) == ("late", max(Log(local).numbers()))
        assert late.state.snapshot == state.snapshot
        assert state.snapshot is not None
        assert state.snapshot.run_id == "night2"
        late.recheck()
    assert verify(local) == []


@pytest.mark.parametrize("batch", [1, 256])
def test_a_collector_that_wakes_up_deletes_nothing_that_has_a_name(
    local: Store, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "_BATCH", batch)
    nights = vector_nights(local, 4)

    def meanwhile() -> None:
        # It has just looked at the log, and is suspended before its first file.
        assert restore(local, nights[2].seq, "back", quiet_s=AT_ONCE_S).live == nights[2].live
        vector_night(local, 5)

    suspended = pausing(local, "delete", "vectors/", meanwhile)
    # What it had begun to delete has no name any more; it notices at its next look at the log.
    with pytest.raises(OwnershipError, match="run back has taken over") if batch == 1 else nullcontext():
        collect_garbage(suspended, "gc", keep=2)
    for snapshot in snapshots(local):
        said(local, snapshot)
    assert verify(local) == []


def test_a_collector_displaced_before_it_deletes_leaves_what_it_would_have_dropped(local: Store) -> None:
    nights = vector_nights(local, 4)

    def meanwhile() -> None:
        restore(local, nights[1].seq, "back", quiet_s=AT_ONCE_S)

    before = _paths(local)
    suspended = pausing(local, "list", "vectors", meanwhile)
    with pytest.raises(OwnershipError, match="run back has taken over"):
        collect_garbage(suspended, "gc", keep=1)
    assert before <= _paths(local)
    assert said(local, snapshots(local)[0])[("a", "vectors")] == ("f2", 2, False)
    assert verify(local) == []


def test_a_reader_is_not_disturbed_by_a_collection(local: Store) -> None:
    """Its listing of the log is old when it reads the newest snapshot of it, which is there no longer."""
    vector_night(local, 1)

    def meanwhile() -> None:
        vector_night(local, 2)
        collect_garbage(local, "gc", keep=1)

    found = live_files(pausing(local, "list", "_log", meanwhile))
    assert [entry.path for entry in found] == [entry.path for entry in live_files(local)]


def test_a_dropped_snapshot_that_a_late_retry_puts_again_stays_unseen(local: Store) -> None:
    first = vector_night(local, 1)
    vector_night(local, 2)
    collect_garbage(local, "gc1", keep=1)
    assert local.put_if_absent(commit_path(first.seq), dump_commit(first))
    assert verify(local) == []
    assert said(local, snapshots(local)[0])[("a", "vectors")] == ("f2", 2, False)
    collect_garbage(local, "gc2", keep=1)
    assert first not in snapshots(local)


def test_only_dead_runs_work_is_swept(local: Store) -> None:
    with Claim.acquire(local, "mine", fingerprint=FINGERPRINT) as claim:
        for path in ("_work/dead/work/0.parquet", "_work/old.parquet", "_work/mine/items.parquet"):
            local.put(path, b"x")
        Path(local.full("_work/dead/.tmp-1")).write_bytes(b"half")
        sweep_work(claim)
    assert _paths(local, "_work") == {"_work/mine/items.parquet"}
    assert not Path(local.full("_work/dead")).exists()


def test_commits_of_claims_are_all_kept(local: Store) -> None:
    vector_nights(local, 3)
    claims = [commit for commit in Log(local).read_all() if commit.kind is CommitKind.CLAIM]
    collect_garbage(local, "gc", keep=1)
    kept: list[Commit] = [commit for commit in Log(local).read_all() if commit.kind is CommitKind.CLAIM]
    assert kept[:-1] == claims
