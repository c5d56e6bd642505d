"""The live files of an index: the table that readers open.

In: a store. Out: the newest snapshot, or one before it, or its files. Refused: a place without a finished index, a
snapshot that is not there (ConfigError).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from pipeline.errors import ConfigError
from pipeline.index.commits import Commit, CommitKind, FileEntry, Table
from pipeline.index.log import LOG_FOLDER, Log
from pipeline.storage import Store, Stored

__all__ = [
    "find_snapshot",
    "holds_scores",
    "invisible_files",
    "live_files",
    "made_by",
    "newest_snapshot",
    "snapshots",
    "table_files",
    "unreadable",
]


def newest_snapshot(store: Store) -> Commit:
    """The snapshot readers see. Raises ConfigError if there is none yet."""
    state = Log(store).state()
    if state.snapshot:
        return state.snapshot
    if state.head_seq:
        raise ConfigError(f"{store.root} has no finished run yet; run its job again until it completes")
    raise ConfigError(f"{store.root} is no lakevec output: it has no {LOG_FOLDER}/ with commits")


def holds_scores(snapshot: Commit) -> bool:
    """Whether `snapshot` is of a rerank output, and not of an index of vectors."""
    return snapshot.info.get("table") == Table.SCORES


def snapshots(store: Store) -> list[Commit]:
    """Every snapshot that is kept, newest first. Raises ConfigError if there is none."""
    newest_snapshot(store)
    return [commit for commit in reversed(Log(store).read_all()) if commit.kind is CommitKind.SNAPSHOT]


def find_snapshot(store: Store, seq: int) -> Commit:
    """Snapshot `seq`. Raises ConfigError, naming those there are, if it is none or is kept no longer."""
    with suppress(FileNotFoundError):
        commit = Log(store).load(seq)
        if commit.kind is CommitKind.SNAPSHOT:
            return commit
    kept = ", ".join(str(snapshot.seq) for snapshot in snapshots(store))
    raise ConfigError(f"{store.root} has no snapshot {seq}; it has {kept} (`lakevec snapshots` says more)")


def made_by(snapshot: Commit) -> str:
    """The run whose work `snapshot` shows, and whose report describes it: not that of whoever restored it."""
    return str(snapshot.info.get("restored_from", {}).get("run_id", snapshot.run_id))


def table_files(store: Store) -> list[Stored]:
    """Every file in the folders of the tables, live or not."""
    return [file for table in Table for file in store.list(table)]


def unreadable(entries: Iterable[FileEntry], files: Iterable[Stored]) -> list[str]:
    """The paths of those `entries` that are not among `files`, or there with another size."""
    sizes = {file.path: file.bytes for file in files}
    return [entry.path for entry in entries if sizes.get(entry.path) != entry.bytes]


def live_files(store: Store, table: str | None = None, snapshot: int | None = None) -> list[FileEntry]:
    """The files of `table` in the newest snapshot, or in that of number `snapshot`, by path.

    Without `table`: scores where it holds scores, else vectors. Raises ConfigError as `find_snapshot` does.
    """
    seen = newest_snapshot(store) if snapshot is None else find_snapshot(store, snapshot)
    wanted = table or (Table.SCORES if holds_scores(seen) else Table.VECTORS)
    live = (entry for entry in seen.live if entry.table == wanted)
    return sorted(live, key=lambda entry: entry.path)


def invisible_files(store: Store) -> list[Stored]:
    """The table files no reader sees: parts of a run that is not finished, or left by one that died."""
    live = {entry.path for entry in newest_snapshot(store).live}
    # The TREC file beside a score table is no file of the table.
    return [file for file in table_files(store) if file.path.endswith(".parquet") and file.path not in live]
