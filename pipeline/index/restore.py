"""Restoring: the index as an earlier snapshot had it becomes the newest snapshot.

In: a store and the number of a snapshot. Out: the new commit. Refused: a snapshot that is not there or whose files are
gone (ConfigError), an output that a live run owns (OwnershipError).
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.index.changes import write_restored
from pipeline.index.claim import QUIET_S, Claim
from pipeline.index.commits import Commit, CommitKind
from pipeline.index.files import find_snapshot, holds_scores, made_by, table_files, unreadable
from pipeline.storage import Store

__all__ = ["restore"]

_NAMED = 5
"""Files that a message names; `lakevec snapshots` counts them all."""


def restore(store: Store, seq: int, run_id: str, *, quiet_s: float = QUIET_S) -> Commit:
    """Make the live set of snapshot `seq` the newest snapshot's, and return that; no commit if it is that already.

    `run_id` must be new. Its `info` is the earlier one's, and `restored_from` has that one's number and the run that
    made it; `changes` are those of restoring. `quiet_s` as for `Claim.acquire`.
    """
    fingerprint = find_snapshot(store, seq).fingerprint
    with Claim.acquire(store, run_id, fingerprint=fingerprint, quiet_s=quiet_s) as claim:
        target = find_snapshot(store, seq)  # again: it may have been collected before the claim was ours
        if claim.state.snapshot == target:
            return target
        _check_readable(store, target)
        live, now = {entry.path for entry in target.live}, {entry.path for entry in claim.state.live}
        added = [entry for entry in target.live if entry.path not in now]
        removed = [entry for entry in claim.state.live if entry.path not in live]
        info = _info(target)
        if not holds_scores(target):
            id_type = pa.type_for_alias(target.info["id_type"])
            info["changes"] = write_restored(store, run_id, id_type, removed, added).info()
        return claim.commit(
            CommitKind.SNAPSHOT,
            added=added,
            removed=[entry.path for entry in removed],
            live=target.live,
            info=info,
        )


def _check_readable(store: Store, target: Commit) -> None:
    gone = unreadable(target.live, table_files(store))
    if gone:
        more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        raise ConfigError(
            f"{store.root}: snapshot {target.seq} cannot be restored, {len(gone)} of its {len(target.live)} files are"
            f" gone or have another size: {', '.join(gone[:_NAMED])}{more}; choose another snapshot"
        )


def _info(target: Commit) -> dict[str, Any]:
    kept = {key: value for key, value in target.info.items() if key != "changes"}
    return kept | {"restored_from": {"seq": target.seq, "run_id": made_by(target)}}
