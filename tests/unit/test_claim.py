from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError, OwnershipError
from pipeline.index import process
from pipeline.index.claim import Claim
from pipeline.index.commits import Commit, CommitKind, FileEntry, Table
from pipeline.index.heartbeat import Beat, Watch, heartbeat_path, read_heartbeat
from pipeline.index.log import Log
from pipeline.index.process import certainly_gone, identity
from pipeline.storage import Store, open_store
from tests.fixtures.faulty_store import FaultyFilesystem

ENTRY = FileEntry(Table.VECTORS, "vectors/run=r1/part-1.parquet", 1, 2, "a" * 64)


class FakeTime:
    """A clock that moves only while somebody sleeps; `during` runs after each sleep, with the time."""

    def __init__(self, during: Callable[[float], None] = lambda now: None) -> None:
        self.now = 1000.0
        self.during = during

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.during(self.now)

    @property
    def waited_s(self) -> float:
        return self.now - 1000.0


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _acquire(store: Store, run_id: str, fake: FakeTime | None = None, **more: Any) -> Claim:
    times: dict[str, Any] = {"clock": fake.clock, "sleep": fake.sleep} if fake else {}
    return Claim.acquire(store, run_id, fingerprint="f", **times, **more)


def _foreign(store: Store, process: dict[str, Any], run_id: str = "r0") -> None:
    """A claim that some other process has made."""
    log = Log(store)
    log.append(Commit(log.head() + 1, run_id, CommitKind.CLAIM, "f", "2026-01-01", info={"process": process}))


def _elsewhere() -> dict[str, Any]:
    return identity() | {"host": "another-host"}


def _dead_process() -> dict[str, Any]:
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True, text=True
    )
    return identity() | {"pid": int(child.stdout), "started_ticks": 1}


def test_a_free_index_is_claimed_and_released(store: Store) -> None:
    with _acquire(store, "r1") as claim:
        state = Log(store).state()
        assert state.claim is not None
        assert (state.claim.run_id, state.claim.fingerprint) == ("r1", "f")
        assert state.claim.info["process"]["pid"] == os.getpid()
        assert read_heartbeat(store, "r1")
        commit = claim.commit(CommitKind.PROGRESS, added=[ENTRY], info={"specs": []})
        assert commit.seq == 2
        assert not claim.lost.is_set()
    assert claim.ended
    assert [commit.kind.value for commit in Log(store).read()] == ["claim", "progress", "release"]
    assert Log(store).state().claim is None
    assert Log(store).state().parts == (ENTRY,)
    assert [file.path for file in store.list()] == [f"_log/0000000{n}.json" for n in (1, 2, 3)]


def test_a_snapshot_ends_the_claim(local: Store) -> None:
    with _acquire(local, "r1") as claim:
        claim.commit(CommitKind.SNAPSHOT, live=[ENTRY])
        assert claim.ended
        with pytest.raises(OwnershipError, match="ended its claim"):
            claim.commit(CommitKind.PROGRESS)
    assert [commit.kind.value for commit in Log(local).read()] == ["snapshot"]
    assert read_heartbeat(local, "r1") == b""
    with _acquire(local, "r2") as second:
        assert second.state.live == (ENTRY,)


def test_an_error_in_the_block_releases_and_passes(local: Store) -> None:
    with pytest.raises(ZeroDivisionError), _acquire(local, "r1"):
        _ = 1 // 0
    assert Log(local).state().claim is None


def test_a_renewed_claim_is_respected(store: Store) -> None:
    _foreign(store, _elsewhere())
    store.put(heartbeat_path("r0"), b"beat 1")

    def renew(now: float) -> None:
        if now >= 1010.0:
            store.put(heartbeat_path("r0"), b"beat 2")

    fake = FakeTime(renew)
    with pytest.raises(OwnershipError, match=r"run r0 on host another-host \(pid \d+\) since 2026-01-01"):
        _acquire(store, "r1", fake)
    assert fake.waited_s <= 20.0
    assert Log(store).head() == 1


def test_a_commit_is_a_sign_of_life_too(local: Store) -> None:
    _foreign(local, _elsewhere())

    def work(now: float) -> None:
        log = Log(local)
        log.append(Commit(log.head() + 1, "r0", CommitKind.PROGRESS, "f", "now"))

    with pytest.raises(OwnershipError):
        _acquire(local, "r1", FakeTime(work))


@pytest.mark.parametrize("heartbeat", [b"", b"beat 1"])
def test_a_silent_claim_falls_after_quiet_s(local: Store, heartbeat: bytes) -> None:
    _foreign(local, _elsewhere())
    if heartbeat:
        local.put(heartbeat_path("r0"), heartbeat)
    fake = FakeTime()
    with _acquire(local, "r1", fake) as claim:
        assert 60.0 <= fake.waited_s <= 65.0
        state = Log(local).state()
        assert state.claim is not None
        assert state.claim.run_id == "r1"
        assert read_heartbeat(local, "r0") == b""
        claim.commit(CommitKind.PROGRESS)


def test_a_dead_process_of_this_machine_loses_at_once(local: Store) -> None:
    _foreign(local, _dead_process())
    fake = FakeTime()
    with _acquire(local, "r1", fake):
        assert fake.waited_s == 0.0


def test_a_process_that_dies_while_it_is_watched_loses_at_once(local: Store) -> None:
    with subprocess.Popen(["sort"], stdin=subprocess.PIPE) as owner:
        _foreign(local, identity() | {"pid": owner.pid, "started_ticks": int(_stat(owner.pid)[19])})

        def die(now: float) -> None:
            owner.kill()
            owner.wait()

        fake = FakeTime(die)
        with _acquire(local, "r1", fake):
            assert 0.0 < fake.waited_s < 60.0


def test_a_release_seen_while_watching_frees_the_index(local: Store) -> None:
    _foreign(local, _elsewhere())

    def leave(now: float) -> None:
        if Log(local).head() == 1:
            Log(local).append(Commit(2, "r0", CommitKind.RELEASE, "f", "now"))

    fake = FakeTime(leave)
    with _acquire(local, "r1", fake) as claim:
        assert fake.waited_s < 60.0
        assert claim.state.head_seq == 2


def test_another_run_that_takes_over_first_is_watched_in_turn(local: Store) -> None:
    _foreign(local, _elsewhere())

    def rival(now: float) -> None:
        if Log(local).head() == 1:
            _foreign(local, _elsewhere(), "rival")
        local.put(heartbeat_path("rival"), b"beat at %f" % now)

    with pytest.raises(OwnershipError, match="run rival"):
        _acquire(local, "r1", FakeTime(rival))


def test_a_stale_owner_cannot_commit(store: Store) -> None:
    stale = _acquire(store, "r1", renew_s=1000.0)
    with _acquire(store, "r2", FakeTime()) as owner:
        for attempt in (stale.recheck, lambda: stale.commit(CommitKind.PROGRESS, added=[ENTRY])):
            with pytest.raises(OwnershipError, match="run r2 has taken over"):
                attempt()
        assert stale.lost.is_set()
        owner.commit(CommitKind.SNAPSHOT, live=[ENTRY])
    with pytest.raises(OwnershipError):
        stale.commit(CommitKind.SNAPSHOT)
    stale.__exit__(None, None, None)
    assert Log(store).state().live == (ENTRY,)
    assert Log(store).head() == 3


def test_a_stale_owner_is_kept_out_even_after_garbage_was_collected(local: Store) -> None:
    stale = _acquire(local, "r1", renew_s=1000.0)
    with _acquire(local, "r2", FakeTime()) as owner:
        owner.commit(CommitKind.PROGRESS)
        owner.commit(CommitKind.SNAPSHOT)
    local.delete("_log/00000003.json")
    with pytest.raises(OwnershipError):
        stale.commit(CommitKind.SNAPSHOT, live=[ENTRY])
    assert Log(local).state().live == ()
    stale.__exit__(None, None, None)


def test_the_heartbeat_notices_a_takeover(local: Store) -> None:
    stale = _acquire(local, "r1", renew_s=0.05)
    _foreign(local, _elsewhere(), "r2")
    assert stale.lost.wait(60)
    with pytest.raises(OwnershipError, match="run r2 has taken over"):
        stale.recheck()
    stale.__exit__(None, None, None)


def test_the_heartbeat_goes_on_changing(local: Store) -> None:
    with _acquire(local, "r1", renew_s=0.02):
        first = read_heartbeat(local, "r1")
        deadline = time.monotonic() + 60
        while read_heartbeat(local, "r1") == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_own_commits_do_not_look_foreign_to_the_heartbeat(local: Store) -> None:
    with _acquire(local, "r1", renew_s=0.001) as claim:
        for _ in range(50):
            claim.commit(CommitKind.PROGRESS)
        assert not claim.lost.is_set()
    assert Log(local).head() == 52


def test_of_eight_racers_one_owns(store: Store) -> None:
    start = threading.Barrier(8)

    def race(n: int) -> Claim | None:
        start.wait()
        try:
            return _acquire(store, f"r{n}", quiet_s=30.0, renew_s=0.2)
        except OwnershipError:
            return None

    with ThreadPoolExecutor(8) as pool:
        claims = [claim for claim in pool.map(race, range(8)) if claim]
    assert len(claims) == 1
    claims[0].release()


def _hold_until_killed(root: str) -> None:
    Claim.acquire(open_store(root), "killed", fingerprint="f")
    time.sleep(600)


def test_a_killed_run_is_replaced_at_once(local: Store) -> None:
    owner = multiprocessing.get_context("spawn").Process(target=_hold_until_killed, args=(local.root,))
    owner.start()
    try:
        deadline = time.monotonic() + 60
        while not read_heartbeat(local, "killed"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(OwnershipError, match="run killed"):
            _acquire(local, "r1", FakeTime(lambda now: local.put(heartbeat_path("killed"), b"%f" % now)))
    finally:
        owner.kill()
        owner.join()
    fake = FakeTime()
    with _acquire(local, "r2", fake):
        assert fake.waited_s == 0.0


class _Overwriting(FaultyFilesystem):
    """A store that ignores exclusive creates, as some S3 look-alikes do."""

    def pipe_file(self, path: str, data: bytes, mode: str = "overwrite") -> None:
        self.fs.pipe_file(path, data)


@pytest.mark.s3
def test_a_store_that_overwrites_is_refused(s3_server: Any, s3_bucket: str) -> None:
    honest = open_store(f"{s3_bucket}/overwriting", s3_server.storage_options)
    with pytest.raises(ConfigError, match="If-None-Match"):
        _acquire(replace(honest, fs=_Overwriting(honest.fs, "", [])), "r1")
    assert honest.list() == []


def test_only_a_process_seen_to_be_dead_is_gone() -> None:
    me = identity()
    assert not certainly_gone(me)
    assert certainly_gone(me | {"started_ticks": 1}), "another process has the pid now"
    assert certainly_gone(_dead_process())
    for key in ("host", "boot_id", "pid_namespace"):
        assert not certainly_gone(_dead_process() | {key: "other"})
    assert not certainly_gone({})
    assert not certainly_gone(me | {"pid": None})


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen(["sort"], stdin=subprocess.PIPE)
    try:
        process = identity() | {"pid": child.pid, "started_ticks": int(_stat(child.pid)[19])}
        assert not certainly_gone(process)
        assert child.stdin is not None
        child.stdin.close()  # it ends now, and nobody has asked for its status yet
        deadline = time.monotonic() + 30
        while _stat(child.pid)[0] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert certainly_gone(process)
    finally:
        child.wait()


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), min_size=1, max_size=12))
def test_a_watch_calls_quiet_only_after_real_silence(looks: list[tuple[float, bool]]) -> None:
    watch, now, sign = Watch(0, 100.0, 60.0), 100.0, 0
    for step, renewed in looks:
        now += step
        sign += renewed
        verdict = watch.look(sign, now)
        if sign:
            assert verdict is Beat.RENEWED
        else:
            assert verdict is (Beat.QUIET if now - 100.0 >= 60.0 else Beat.WAITING)


def test_a_process_that_proc_hides_is_never_called_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = process.identity()
    hidden = tmp_path / "proc"  # /proc of a machine that shows this user no process but the machine's own facts
    (hidden / "sys/kernel/random").mkdir(parents=True)
    (hidden / "sys/kernel/random/boot_id").write_text(mine["boot_id"])
    (hidden / "self/ns").mkdir(parents=True)
    (hidden / "self/ns/pid").symlink_to(mine["pid_namespace"])
    monkeypatch.setattr(process, "_PROC", hidden)
    assert not process.certainly_gone(mine)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert process.certainly_gone(mine | {"pid": dead.pid})
