"""The files that a path of the evaluation's config means, and their rows.

In: a file, a folder, or the output of a job that ranks; local or any fsspec URI. Out: its files. Refused: a path that
is not there (ConfigError), files that cannot be read (ManifestError), each with the config key it came from.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

import pyarrow as pa

from pipeline.candidate_runs import CANDIDATES_FOLDER, newest_lists
from pipeline.errors import ConfigError, ManifestError, scrub
from pipeline.index.files import live_files
from pipeline.index.log import LOG_FOLDER
from pipeline.opening import opening
from pipeline.storage import Store, open_store, resolve
from pipeline.storage_errors import is_transient

__all__ = ["Options", "Source", "find_source", "is_parquet", "lines_of", "naming_files"]

Options = Mapping[str, Mapping[str, Any]]
"""fsspec options by scheme, as `fetch.storage_options`."""

_PARQUET = (".parquet", ".pq")
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_RUN_FOLDER = "run="


@dataclass(frozen=True, slots=True)
class Source:
    """Files by name, relative to `store`; never empty. `key` is the config key that named them."""

    key: str
    store: Store
    paths: tuple[str, ...]


def find_source(path: str, options: Options, *, key: str, tables: Sequence[str] = ()) -> Source:
    """The files of `path`.

    A folder that holds one of `tables` (the first that is there counts) is a job's output: its live files, else its
    newest complete candidate lists, else the files of the newest `run=…`. Of any other folder the Parquet files count
    if there are any, else all files. Names that start with `_` or `.` are left out. Raises ConfigError if nothing is
    there, ManifestError if no candidate lists are complete.
    """
    with opening(key, path, "list"):
        fs, bare = resolve(path, options)
        if fs.isfile(bare):
            folder, _, name = path.rstrip("/").rpartition("/")
            return Source(key, open_store(folder or ("/" if path.startswith("/") else "."), options), (name,))
        store = open_store(path, options)
        paths = _live(store, tables) or _lists(store, tables) or _folder(store, tables)
    if not paths:
        raise ConfigError(f"{key}: {path} does not exist or holds no files; give a file, a folder or a job's output")
    return Source(key, store, tuple(paths))


def is_parquet(path: str) -> bool:
    """Whether `path` is named like a Parquet file."""
    return path.lower().endswith(_PARQUET)


@contextmanager
def naming_files(source: Source, path: str) -> Iterator[str]:
    """Gives the name of the file `path`, and turns what readers raise into a ManifestError with that name."""
    name = f"{source.key}: {source.store.uri(path) if not source.store.is_local else source.store.full(path)}"
    try:
        yield name
    except FileNotFoundError:
        raise ManifestError(f"{name} is gone; was it replaced while being read?") from None
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise ManifestError(f"{name} cannot be read: {scrub(str(error))}") from None
    except Exception as error:
        if not is_transient(error):
            raise
        raise ManifestError(
            f"{name}: the store failed: {scrub(f'{type(error).__name__}: {error}')}; run again"
        ) from None


def lines_of(source: Source, path: str) -> Iterator[str]:
    """The lines of a UTF-8 text file, unpacked if its name says `.gz`, `.zst` or `.bz2`."""
    compression = _COMPRESSIONS.get(PurePosixPath(path.lower()).suffix)
    with source.store.open_input(path) as raw:
        plain = pa.CompressedInputStream(raw, compression) if compression else raw
        # utf-8-sig: some tools begin a TSV with a byte order mark, which would hide a header.
        yield from io.TextIOWrapper(cast(io.BufferedReader, plain), encoding="utf-8-sig")


def _live(store: Store, tables: Sequence[str]) -> Sequence[str]:
    if not tables or not store.exists(LOG_FOLDER):
        return []
    for table in tables:
        found = [entry.path for entry in live_files(store, table)]
        if found:
            return found
    return []


def _lists(store: Store, tables: Sequence[str]) -> Sequence[str]:
    for table in tables:
        if table == CANDIDATES_FOLDER:
            return newest_lists(store)
        if store.list(table):
            break
    return ()


def _folder(store: Store, tables: Sequence[str]) -> list[str]:
    names: list[str] = []
    for table in (*tables, ""):
        names = [stored.path for stored in store.list(table) if not _hidden(stored.path)]
        if names:
            break
    runs = {part for name in names for part in name.split("/")[:-1] if part.startswith(_RUN_FOLDER)}
    if runs:
        # A run's id begins with the time of its start.
        names = [name for name in names if max(runs) in name.split("/")]
    return [name for name in names if is_parquet(name)] or names


def _hidden(path: str) -> bool:
    return any(part.startswith(("_", ".")) for part in path.split("/"))
