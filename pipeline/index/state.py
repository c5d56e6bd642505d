"""What an index is at one moment: its newest snapshot and what was committed since.

In: the commits of one reading of the log. Out: an `IndexState`. Refused: nothing; the log checks the commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.index.commits import Commit, CommitKind, FileEntry

__all__ = ["IndexState", "fold"]


@dataclass(frozen=True, slots=True)
class IndexState:
    """The log folded up. `snapshot` is the newest one; `progress` the parts committed after it, in order.

    `claim` is the newest claim that its run has not ended by a snapshot or a release. `head_seq` is 0 for an
    index that does not exist yet.
    """

    head_seq: int
    claim: Commit | None
    snapshot: Commit | None
    progress: tuple[Commit, ...]

    @property
    def live(self) -> tuple[FileEntry, ...]:
        """The complete live set: what readers see."""
        return self.snapshot.live if self.snapshot else ()

    @property
    def parts(self) -> tuple[FileEntry, ...]:
        """Every part of the progress commits, in commit order."""
        return tuple(entry for commit in self.progress for entry in commit.added)

    def parts_where(self, **info: object) -> tuple[FileEntry, ...]:
        """The parts of progress commits whose `info` has these values, e.g. the vector specs of this run."""
        return tuple(
            entry
            for commit in self.progress
            if all(commit.info.get(key) == value for key, value in info.items())
            for entry in commit.added
        )

    @property
    def fingerprint(self) -> str | None:
        """Compute fingerprint of the newest snapshot, or before the first one of the newest progress."""
        if self.snapshot:
            return self.snapshot.fingerprint
        return self.progress[-1].fingerprint if self.progress else None


def fold(commits: Sequence[Commit]) -> IndexState:
    """The state after `commits`: the newest snapshot, if there is one, and all that follows, by seq."""
    snapshot = next((commit for commit in reversed(commits) if commit.kind is CommitKind.SNAPSHOT), None)
    since = snapshot.seq if snapshot else 0
    progress = [commit for commit in commits if commit.kind is CommitKind.PROGRESS and commit.seq > since]
    return IndexState(
        head_seq=commits[-1].seq if commits else 0,
        claim=_open_claim(commits),
        snapshot=snapshot,
        progress=tuple(progress),
    )


def _open_claim(commits: Iterable[Commit]) -> Commit | None:
    claim: Commit | None = None
    for commit in commits:
        if commit.kind is CommitKind.CLAIM:
            claim = commit
        elif claim and commit.kind is not CommitKind.PROGRESS and commit.run_id == claim.run_id:
            claim = None
    return claim
