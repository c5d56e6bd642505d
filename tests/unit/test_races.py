"""Racing publishers: several runs that each hold the claim to be theirs publish at once, round after round."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from pipeline.errors import OwnershipError
from pipeline.index.claim import Claim
from pipeline.index.commits import CommitKind, FileEntry, Table
from pipeline.index.files import invisible_files
from pipeline.index.log import Log
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


def _check_round(store: Store, winner: str, before: int) -> None:
    commits = Log(store).read()
    assert [(commit.run_id, commit.kind) for commit in commits] == [(winner, CommitKind.SNAPSHOT)]
    assert [entry.path for entry in commits[0].live] == [f"vectors/run={winner}/part-1.parquet"]
    assert commits[0].seq >= before + 2, "a claim and the snapshot at least"
    hidden = {file.path for file in invisible_files(store)}
    mine = {f"vectors/run={winner.rpartition('r')[0]}r{racer}/part-1.parquet" for racer in range(RACERS)}
    assert hidden & mine == mine - {commits[0].live[0].path}


@pytest.mark.parametrize("rounds", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_of_racing_publishers_one_wins_each_round(store: Store, rounds: int) -> None:
    with ExitStack() as report:
        won: list[str] = []
        report.callback(lambda: print(f"{len(won)} of {rounds} rounds with one winner each, on {store.root}"))
        head = 0
        for number in range(rounds):
            winner = _race(store, number)
            _check_round(store, winner, head)
            head = Log(store).head()
            won.append(winner)
    assert Log(store).numbers() == list(range(1, head + 1))
    published = [commit.run_id for commit in Log(store).read_all() if commit.kind is CommitKind.SNAPSHOT]
    assert published == won
