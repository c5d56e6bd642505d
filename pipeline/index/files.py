"""The live files of an index: the table that readers open.

In: a store. Out: the newest snapshot, or its files. Refused: a place without a finished index (ConfigError).
"""

from __future__ import annotations

from pipeline.errors import ConfigError
from pipeline.index.commits import Commit, FileEntry, Table
from pipeline.index.log import LOG_FOLDER, Log
from pipeline.storage import Store, Stored

__all__ = ["holds_scores", "invisible_files", "live_files", "newest_snapshot"]


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


def live_files(store: Store, table: str | None = None) -> list[FileEntry]:
    """The files of `table` in the newest snapshot, by path; None: scores where it holds scores, else vectors."""
    snapshot = newest_snapshot(store)
    wanted = table or (Table.SCORES if holds_scores(snapshot) else Table.VECTORS)
    live = (entry for entry in snapshot.live if entry.table == wanted)
    return sorted(live, key=lambda entry: entry.path)


def invisible_files(store: Store) -> list[Stored]:
    """The table files no reader sees: parts of a run that is not finished, or left by one that died."""
    live = {entry.path for entry in newest_snapshot(store).live}
    files = (file for table in Table for file in store.list(table))
    # The TREC file beside a score table is no file of the table.
    return [file for file in files if file.path.endswith(".parquet") and file.path not in live]
