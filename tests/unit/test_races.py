"""Racing publishers: several runs that each hold the claim to be theirs publish at once, round after round."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import OwnershipError
from pipeline.index.claim import Claim
from pipeline.index.commits import Commit, CommitKind, FileEntry, Table
from pipeline.index.files import invisible_files
from pipeline.index.log import Log, LostRaceError
from pipeline.storage import Store

RACERS = 4

_STUCK_S = 120.0
"""Rounds take a fraction of a second; a racer that does not come ends the test instead of hanging it."""


def _race(store: Store, number: int) -> str:
    """One round: all claim the index at once, taking over from each other; then all who have a claim publish at once.

    Every number from the head on is put by several of them. Returns the winner.
    """
    start = threading.Barrier(RACERS, timeout=_STUCK_S)

    def publish(racer: int) -> str | None:
        run_id = f"round{number}-racer{racer}"
        mine = _write(store, run_id)
        start.wait()
        claim = _claim(store, run_id)
        start.wait()
        if claim is None:
            return None
        with claim:
            try:
                claim.commit(CommitKind.SNAPSHOT, live=[mine])
            except OwnershipError:
                assert claim.lost.is_set()
                return None
        return run_id

    with ThreadPoolExecutor(RACERS) as pool:
        winners = [winner for winner in pool.map(publish, range(RACERS)) if winner]
    assert len(winners) == 1
    return winners[0]


def _claim(store: Store, run_id: str) -> Claim | None:
    # Nobody waits for anybody to fall silent: a claim is good until the next one. None: refused, for one that moved.
    try:
        return Claim.acquire(store, run_id, fingerprint="f", quiet_s=0.0, renew_s=1000.0, sleep=_at_once)
    except OwnershipError:
        return None


def _at_once(seconds: float) -> None:
    return


def _write(store: Store, run_id: str) -> FileEntry:
    path = f"vectors/run={run_id}/part-1.parquet"
    store.put(path, b"rows")
    return FileEntry(Table.VECTORS, path, 1, 4, "a" * 64)


def _put_race(store: Store, number: int, head: int) -> str:
    """One round of bare puts: every racer has read the head and puts its snapshot under the next number."""
    start = threading.Barrier(RACERS, timeout=_STUCK_S)

    def publish(racer: int) -> str | None:
        run_id = f"round{number}-racer{racer}"
        snapshot = Commit(head + 1, run_id, CommitKind.SNAPSHOT, "f", "now", live=(_write(store, run_id),))
        start.wait()
        try:
            Log(store).append(snapshot)
        except LostRaceError:
            return None
        return run_id

    with ThreadPoolExecutor(RACERS) as pool:
        winners = [winner for winner in pool.map(publish, range(RACERS)) if winner]
    assert len(winners) == 1
    return winners[0]


def _check_round(store: Store, winner: str, before: int) -> int:
    """Check what readers see after a round; returns the head."""
    commits = Log(store).read()
    assert [(commit.run_id, commit.kind) for commit in commits] == [(winner, CommitKind.SNAPSHOT)]
    assert [entry.path for entry in commits[0].live] == [f"vectors/run={winner}/part-1.parquet"]
    assert commits[0].seq > before
    return commits[0].seq


def _check_past(store: Store, won: list[str]) -> None:
    """Check the whole log: gapless, and every round's winner but no loser has published."""
    numbers = Log(store).numbers()
    assert numbers == list(range(1, len(numbers) + 1))
    assert [commit.run_id for commit in Log(store).read_all() if commit.kind is CommitKind.SNAPSHOT] == won
    hidden = {file.path for file in invisible_files(store)}
    assert len(hidden) == len(won) * RACERS - 1, "all but the newest winner's file: those of every loser too"


@pytest.mark.parametrize("rounds", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_of_racing_puts_of_a_number_one_wins_each_round(store: Store, rounds: int) -> None:
    won: list[str] = []
    for number in range(rounds):
        won.append(_put_race(store, number, head=number))
        assert _check_round(store, won[-1], before=number) == number + 1
    _check_past(store, won)
    print(f"{len(won)} of {rounds} rounds of {RACERS} puts had one winner each, on {store.root}")


@pytest.mark.parametrize("rounds", [5, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_of_racing_runs_one_publishes_each_round(store: Store, rounds: int) -> None:
    won: list[str] = []
    head = 0
    for number in range(rounds):
        won.append(_race(store, number))
        head = _check_round(store, won[-1], before=head)
    _check_past(store, won)
    print(f"{len(won)} of {rounds} rounds of {RACERS} runs had one winner each, on {store.root}")
