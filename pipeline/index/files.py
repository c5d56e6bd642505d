"""The live files of an index: the table that readers open.

In: a store. Out: the newest snapshot, or its files. Refused: a place without a finished index (ConfigError).
"""

from __future__ import annotations

from pipeline.errors import ConfigError
from pipeline.index.commits import Commit, FileEntry, Table
from pipeline.index.log import LOG_FOLDER, Log
from pipeline.storage import Store, Stored

__all__ = ["invisible_files", "live_files", "newest_snapshot"]


def newest_snapshot(store: Store) -> Commit:
    """The snapshot readers see. Raises ConfigError if there is none yet."""
    state = Log(store).state()
    if state.snapshot:
        return state.snapshot
    if state.head_seq:
        raise ConfigError(f"{store.root} has no finished run yet; run its job again until it completes")
    raise ConfigError(f"{store.root} is no lakevec output: it has no {LOG_FOLDER}/ with commits")


def live_files(store: Store, table: str = Table.VECTORS) -> list[FileEntry]:
    """The files of `table` (vectors or rejects) in the newest snapshot, by path."""
    live = (entry for entry in newest_snapshot(store).live if entry.table == table)
    return sorted(live, key=lambda entry: entry.path)


def invisible_files(store: Store) -> list[Stored]:
    """The table files no reader sees: parts of a run that is not finished, or left by one that died."""
    live = {entry.path for entry in newest_snapshot(store).live}
    return [file for table in Table for file in store.list(table) if file.path not in live]
