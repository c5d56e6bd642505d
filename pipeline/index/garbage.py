"""What of an output may go: commits that nobody needs any more, and files that no commit names.

In: every commit there is, and a listing of the output made after the owner's own claim. Out: a `Garbage`. Refused:
nothing; a file that lakevec would not have named so is not garbage.

Every claim stays, and so does the newest commit: see `log`. Parts that were committed after the newest snapshot stay
too: they are what a resumed run need not do again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.index.changes import CHANGES_FOLDER
from pipeline.index.commits import TABLE_PATH, Commit, CommitKind, Table
from pipeline.index.heartbeat import heartbeat_path
from pipeline.index.log import LOG_FOLDER
from pipeline.storage import Stored

__all__ = ["WORK_FOLDER", "Garbage", "is_dead_work", "sort_out"]

WORK_FOLDER = "_work"

LITTER_S = 24 * 3600.0
"""Unfinished writes and probes bear nobody's name, so only their age says that nobody is at them: a day, where the
longest of them, an upload of some GB, takes minutes."""

_TABLE_FILE = re.compile(TABLE_PATH)
_RUN_COPY = re.compile(rf"{Table.SCORES}/run=([^/]+)/run\.trec")
_CHANGES = re.compile(rf"{CHANGES_FOLDER}/run=[^/]+\.parquet")
_HEARTBEAT = re.compile(rf"{LOG_FOLDER}/heartbeat-[^/]+\.json")
_PROBE = re.compile(rf"{LOG_FOLDER}/probe-[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Garbage:
    """`kept` and `dropped` are snapshots. `commits` are those that go: the dropped snapshots and old progress.

    All ascend. `files` go after them: of the tables, of `changes/`, work folders, and what the dead left in the log.
    """

    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    commits: tuple[int, ...]
    files: tuple[Stored, ...]


def sort_out(
    commits: Sequence[Commit],
    files: Sequence[Stored],
    litter: Sequence[Stored],
    *,
    keep: int,
    run_id: str,
    now_s: float,
) -> Garbage:
    """What may go where the `keep` newest snapshots are to stay readable and run `run_id` owns the output.

    `commits` ascend. `files` is the listing; `litter` are unfinished writes. `now_s` is the store's own time.
    """
    snapshots = [commit for commit in commits if commit.kind is CommitKind.SNAPSHOT]
    kept, dropped = snapshots[-keep:], snapshots[:-keep]
    newest = kept[-1].seq if kept else 0
    progress = [commit for commit in commits if commit.kind is CommitKind.PROGRESS]
    old = [commit.seq for commit in (*dropped, *(each for each in progress if each.seq < newest))]
    named = {*_named(kept), *(entry.path for each in progress if each.seq > newest for entry in each.added)}
    gone = [file for file in files if _is_nameless(file.path, named) or _is_of_the_dead(file, run_id, now_s)]
    return Garbage(
        kept=tuple(commit.seq for commit in kept),
        dropped=tuple(commit.seq for commit in dropped),
        commits=tuple(sorted(old)),
        files=(*gone, *(each for each in litter if _is_leftover(each, now_s) or is_dead_work(each.path, run_id))),
    )


def is_dead_work(path: str, run_id: str) -> bool:
    """Whether `path` lies in the work folder of another run than `run_id`, which owns the output."""
    return path.startswith(f"{WORK_FOLDER}/") and not path.startswith(f"{WORK_FOLDER}/{run_id}/")


def _named(kept: Sequence[Commit]) -> Iterator[str]:
    for snapshot in kept:
        yield f"{Table.SCORES}/run={snapshot.run_id}/run.trec"
        yield str((snapshot.info.get("changes") or {}).get("path", ""))
        for entry in snapshot.live:
            yield entry.path
            # A restored score table's TREC file still lies where the run that ranked it has put it.
            yield f"{entry.path.rpartition('/')[0]}/run.trec"


def _is_nameless(path: str, named: set[str]) -> bool:
    of_ours = any(pattern.fullmatch(path) for pattern in (_TABLE_FILE, _RUN_COPY, _CHANGES))
    return of_ours and path not in named


def _is_of_the_dead(file: Stored, run_id: str, now_s: float) -> bool:
    if _PROBE.fullmatch(file.path):
        return _is_leftover(file, now_s)  # a younger one may belong to a run that is just about to ask for the claim
    heartbeat = _HEARTBEAT.fullmatch(file.path) is not None and file.path != heartbeat_path(run_id)
    return heartbeat or is_dead_work(file.path, run_id)


def _is_leftover(file: Stored, now_s: float) -> bool:
    """Whether nobody can still be writing `file`."""
    return file.modified_s < now_s - LITTER_S
