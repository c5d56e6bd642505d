"""Collecting and restoring, dying before, after and within every one of their storage operations."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.index.claim import Claim
from pipeline.index.collect import collect_garbage
from pipeline.index.commits import Commit, CommitKind
from pipeline.index.files import snapshots
from pipeline.index.log import LOG_FOLDER, Log
from pipeline.index.restore import restore
from pipeline.index.verify import verify
from pipeline.storage import Store, Stored, open_store
from tests.fixtures.faulty_store import Act, crash_points, dies, fault_seed
from tests.fixtures.histories import said, vector_nights
from tests.fixtures.index_cases import FINGERPRINT, Row, part

KEEP = 2
AT_ONCE_S = 0.001

Check = Callable[[Store], None]

_EVERY = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
"""In the short suite a read that follows a read is no point of its own: dying there leaves the same."""


def _past(folder: Path) -> list[Commit]:
    """Three nights, a run that died after its first commit, and what such runs leave; the snapshots."""
    store = open_store(str(folder))
    nights = vector_nights(store, 3)
    with Claim.acquire(store, "stopped", fingerprint=FINGERPRINT) as claim:
        claim.commit(CommitKind.PROGRESS, added=part(store, [Row("a", "f5", mark=5)], "stopped"))
        part(store, [Row("d")], "stopped")
    for path in ("_work/stopped/work/0.parquet", "_log/heartbeat-stopped.json", "changes/run=night1.parquet"):
        store.put(path, b"x")
    return nights


def _crash_everywhere(folder: Path, past: Path, act: Act, check: Check, every: bool) -> int:
    """Let `act` die at every point of it, each time on a copy of `past`, and `check` what is left. How many crashes.

    Dying while it reads leaves what dying after the last write does: each state is checked once.
    """
    seed, died = fault_seed(), 0
    checked: set[frozenset[tuple[str, int]]] = set()

    def fresh(name: str) -> Store:
        shutil.copytree(past, folder / name)
        return open_store(str(folder / name))

    points = crash_points(act, fresh("whole"), seed, every=every)
    for number, point in enumerate(points):
        store = fresh(str(number))
        died += dies(act, store, point)
        left = frozenset((file.path, file.bytes) for file in (*_lasting(store), *store.temporaries()))
        try:
            if left not in checked:
                check(store)
        except Exception as error:
            raise AssertionError(f"after a crash at {point}") from error
        checked.add(left)
        shutil.rmtree(folder / str(number))
    assert died >= len(points) - 2, "threads may end in another order, but few points are out of reach"
    print(f"{died} crashes at {len(points)} points left {len(checked)} states")
    return died


def _lasting(store: Store) -> list[Stored]:
    """The files but for probes, whose random names say nothing."""
    return [file for file in store.list() if not file.path.startswith(f"{LOG_FOLDER}/probe-")]


def _remains(store: Store) -> set[str]:
    """Every file and commit but those of claims, of which a second attempt makes another."""
    of_claims = (CommitKind.CLAIM, CommitKind.RELEASE)
    commits = {f"{commit.seq} {commit.kind}" for commit in Log(store).read_all() if commit.kind not in of_claims}
    return commits | {file.path for file in store.list() if not file.path.startswith(f"{LOG_FOLDER}/")}


def _collect(store: Store) -> None:
    collect_garbage(store, "gc", keep=KEEP, quiet_s=AT_ONCE_S)


@_EVERY
def test_a_collection_that_dies_anywhere_is_finished_by_the_next(tmp_path: Path, every: bool) -> None:
    nights = _past(tmp_path / "past")
    told = [said(open_store(str(tmp_path / "past")), night) for night in nights[-KEEP:]]
    parts = Log(open_store(str(tmp_path / "past"))).state().parts
    shutil.copytree(tmp_path / "past", tmp_path / "once")
    wanted = open_store(str(tmp_path / "once"))
    _collect(wanted)

    def check(store: Store) -> None:
        assert verify(store) == []
        there = snapshots(store)
        assert there[:KEEP] == nights[:-KEEP-1:-1]  # fmt: skip
        for snapshot, rows in zip(there, reversed(told), strict=False):
            assert said(store, snapshot) == rows
        for snapshot in there[KEEP:]:
            said(store, snapshot)  # a dropped one is there with all its files, or is not there
        assert Log(store).state().parts == parts
        collect_garbage(store, "again", keep=KEEP, quiet_s=AT_ONCE_S)
        assert _remains(store) == _remains(wanted)
        assert Log(store).state().claim is None

    assert _crash_everywhere(tmp_path, tmp_path / "past", _collect, check, every) > 50


@_EVERY
def test_a_restoration_that_dies_anywhere_has_happened_or_not(tmp_path: Path, every: bool) -> None:
    nights = _past(tmp_path / "past")
    old, new = (said(open_store(str(tmp_path / "past")), night) for night in (nights[0], nights[-1]))
    seen: list[bool] = []

    def back(store: Store) -> None:
        restore(store, nights[0].seq, "back", quiet_s=AT_ONCE_S)

    def check(store: Store) -> None:
        assert verify(store) == []
        rows = said(store, snapshots(store)[0])
        assert rows in (old, new)
        seen.append(rows == old)
        again = restore(store, nights[0].seq, "again", quiet_s=AT_ONCE_S)
        assert said(store, again) == old
        assert snapshots(store)[0] == again
        assert verify(store) == []

    assert _crash_everywhere(tmp_path, tmp_path / "past", back, check, every) > 20
    assert seen == sorted(seen)
    assert not seen[0]
    assert seen[-1]
