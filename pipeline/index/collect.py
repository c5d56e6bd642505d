"""Collecting garbage: the snapshots that are kept no longer go, and every file that no commit names.

In: a store and how many snapshots are to stay readable. Out: what went. Refused: an output that a live run owns, or
that another run takes over meanwhile (OwnershipError), a place without commits (ConfigError), commits that cannot be
read (IndexCorruptError): they might name files.

A commit goes before the files that only it names. So who finds a snapshot in the log finds its files, a reader of a
dropped snapshot is told that it is gone, and a crash in between leaves nameless files, which the next collection sees.
Nor can a collector that was suspended do harm when it wakes: what it still holds to be garbage has had no name since
before its last look at the log, and names are never used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

from pipeline.errors import ConfigError
from pipeline.index.changes import CHANGES_FOLDER
from pipeline.index.claim import QUIET_S, Claim
from pipeline.index.commits import Table
from pipeline.index.garbage import WORK_FOLDER, Garbage, is_dead_work, sort_out
from pipeline.index.log import LOG_FOLDER, Log, commit_path
from pipeline.storage import Store

__all__ = ["collect_garbage", "sweep_work"]

_FOLDERS = (*Table, CHANGES_FOLDER, WORK_FOLDER, LOG_FOLDER)

_DELETES_AT_ONCE = 16
"""Each is one round trip to the store."""

_BATCH = 256
"""Deletes between two looks at the log: few enough to stop within a second or so, many enough to cost nothing."""


def collect_garbage(
    store: Store, run_id: str, *, keep: int, dry_run: bool = False, quiet_s: float = QUIET_S
) -> Garbage:
    """Delete all that the `keep` newest snapshots and a resumed run do not need; with `dry_run` only find it.

    `run_id` must be new; it owns the output meanwhile, a dry run too. `quiet_s` as for `Claim.acquire`.
    """
    log = Log(store)
    state = log.state()
    if not state.head_seq:
        raise ConfigError(f"{store.root} is no lakevec output: it has no {LOG_FOLDER}/ with commits")
    with Claim.acquire(store, run_id, fingerprint=state.fingerprint or "", quiet_s=quiet_s) as claim:
        # The listing is younger than the claim: what another run might write after taking over is not in it.
        files = [file for folder in _FOLDERS for file in store.list(folder)]
        litter = [file for folder in _FOLDERS for file in store.temporaries(folder)] if store.is_local else []
        # The store's own time, by what was written there last: our claim.
        now_s = max(file.modified_s for file in files if file.path.startswith(f"{LOG_FOLDER}/"))
        garbage = sort_out(log.read_all(), files, litter, keep=keep, run_id=run_id, now_s=now_s)
        if not dry_run:
            _delete(claim, [commit_path(seq) for seq in garbage.commits])
            _delete(claim, [file.path for file in garbage.files])
    return garbage


def sweep_work(claim: Claim) -> None:
    """Delete the work folders that dead runs left behind: those of all but the owner."""
    files = [*claim.store.list(WORK_FOLDER), *claim.store.temporaries(WORK_FOLDER)]
    _delete(claim, [file.path for file in files if is_dead_work(file.path, claim.run_id)])


def _delete(claim: Claim, paths: Sequence[str]) -> None:
    with ThreadPoolExecutor(_DELETES_AT_ONCE) as pool:
        for start in range(0, len(paths), _BATCH):
            claim.recheck()
            list(pool.map(claim.store.delete, paths[start : start + _BATCH]))
    _delete_empty_folders(claim.store, paths)


def _delete_empty_folders(store: Store, paths: Iterable[str]) -> None:
    folders = {folder for path in paths for folder in PurePosixPath(path).parents if len(folder.parts) > 1}
    for folder in sorted(folders, reverse=True):  # the inner ones first; never a table's own, which readers glob
        store.delete_empty_folder(str(folder))
