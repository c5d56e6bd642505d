"""The log: commits in sequence under `_log/`, appended by put-if-absent, so that one writer wins each number.

In: a store, commits. Out: commits, the folded state. Refused: a number that is taken (LostRaceError), a hole
after the newest snapshot or a document that is no commit (IndexCorruptError).

The next number follows the greatest there is. Collecting garbage removes snapshots that are kept no longer, and
progress commits older than the newest snapshot; the newest commit and every claim stay. The number that a stale owner
tries next is the claim that displaced it, so its put must fail. A run that read the head before and is late with its
claim may find a removed number free; it sees the greater ones as soon as it has put it, and has claimed nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import IndexCorruptError
from pipeline.index.commits import Commit, CommitKind, dump_commit, load_commit
from pipeline.index.state import IndexState, fold
from pipeline.storage import Store

__all__ = ["LOG_FOLDER", "Log", "LostRaceError", "commit_path", "missing_numbers"]

LOG_FOLDER = "_log"

_NAME = re.compile(r"_log/(\d{8})\.json")
_READERS = 16
"""Commits read at once: a night of 30 s commits is about a thousand small objects, each one round trip."""


class LostRaceError(Exception):
    """Another writer took the sequence number first; the log must be read again."""


def commit_path(seq: int) -> str:
    """The name of commit `seq`, relative to the output."""
    return f"{LOG_FOLDER}/{seq:08d}.json"


@dataclass(frozen=True, slots=True)
class Log:
    """The commits of the index in `store`."""

    store: Store

    def numbers(self) -> list[int]:
        """The sequence numbers there are, ascending."""
        names = (_NAME.fullmatch(file.path) for file in self.store.list(LOG_FOLDER))
        return sorted(int(name.group(1)) for name in names if name)

    def head(self) -> int:
        """The greatest sequence number, 0 for an empty log."""
        numbers = self.numbers()
        return numbers[-1] if numbers else 0

    def load(self, seq: int) -> Commit:
        """Commit `seq`. Raises FileNotFoundError; IndexCorruptError if it is damaged or misnamed."""
        where = commit_path(seq)
        commit = load_commit(self.store.read(where), f"{self.store.root}/{where}")
        if commit.seq != seq:
            raise IndexCorruptError(f"{self.store.root}/{where} holds commit {commit.seq}")
        return commit

    def read(self) -> list[Commit]:
        """The newest snapshot and every commit after it, ascending; all commits if there is no snapshot.

        Raises IndexCorruptError where a number is missing between them.
        """
        while True:
            numbers = self.numbers()
            newest, vanished = self._newest(numbers)
            # The newest snapshot of that listing may be collected before it is read, but only after a newer one came.
            if not vanished or self.head() == numbers[-1]:
                break
        self._check_gapless(newest)
        return newest

    def read_all(self) -> list[Commit]:
        """Every commit there is, ascending: those older than the newest snapshot too, as far as they are kept."""
        with ThreadPoolExecutor(_READERS) as pool:
            return [commit for commit in pool.map(self._load_if_there, self.numbers()) if commit]

    def state(self) -> IndexState:
        """What the index is now."""
        return fold(self.read())

    def since(self, seq: int) -> list[Commit]:
        """The commits after `seq` up to the first number that is not there, ascending.

        Asks for the next number instead of listing: an owner looks every few seconds, at a log of years.
        """
        found: list[Commit] = []
        while True:
            try:
                found.append(self.load(seq + len(found) + 1))
            except FileNotFoundError:
                return found

    def append(self, commit: Commit) -> Commit:
        """Store `commit` under its number. Raises LostRaceError if another commit has it."""
        if not self.store.put_if_absent(commit_path(commit.seq), dump_commit(commit)):
            raise LostRaceError(f"commit {commit.seq} exists")
        return commit

    def _newest(self, numbers: list[int]) -> tuple[list[Commit], bool]:
        """The newest snapshot among `numbers` and what follows it, and whether some of that was gone."""
        newest: list[Commit] = []
        vanished = False
        with ThreadPoolExecutor(_READERS) as pool:
            for stop in range(len(numbers), 0, -_READERS):
                asked = numbers[max(0, stop - _READERS) : stop]
                there = _from_snapshot([commit for commit in pool.map(self._load_if_there, asked) if commit])
                newest = there + newest
                ends = bool(newest) and newest[0].kind is CommitKind.SNAPSHOT
                vanished |= len(there) < sum(not ends or seq >= newest[0].seq for seq in asked)
                if ends:
                    break
        return newest, vanished

    def _load_if_there(self, seq: int) -> Commit | None:
        # Garbage may be collected under us, older than the newest snapshot; a hole after it is found later.
        try:
            return self.load(seq)
        except FileNotFoundError:
            return None

    def _check_gapless(self, commits: list[Commit]) -> None:
        missing = missing_numbers(commit.seq for commit in commits)
        if missing:
            raise IndexCorruptError(f"{self.store.root}: commit {missing[0]} is missing from {LOG_FOLDER}")


def missing_numbers(numbers: Iterable[int]) -> list[int]:
    """The holes in an ascending run of numbers."""
    there = list(numbers)
    return sorted(set(range(there[0], there[-1])) - set(there)) if there else []


def _from_snapshot(commits: list[Commit]) -> list[Commit]:
    for place in range(len(commits) - 1, -1, -1):
        if commits[place].kind is CommitKind.SNAPSHOT:
            return commits[place:]
    return commits
