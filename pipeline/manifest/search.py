"""Files below a folder and files that match a glob, in any store.

In: a filesystem and a folder or a pattern in it. Out: paths, without those hidden by `_` or `.` at the start of their
name or of a folder's on the way. Nothing is refused, but what a store says passes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

__all__ = ["WILD", "files_below", "fixed_folder", "local_files", "matches"]

WILD = frozenset("*?[")
_HIDING = ("_", ".")


def files_below(fs: fsspec.AbstractFileSystem, folder: str) -> Iterator[str]:
    """The files in `folder` and below, local links to folders followed, each folder entered once.

    Raises OSError for a local folder that may not be looked into.
    """
    start = len(folder.rstrip("/")) + 1
    for path in local_files(folder) if isinstance(fs, LocalFileSystem) else fs.find(folder):
        if not any(part[:1] in _HIDING for part in path[start:].split("/")):
            yield path


def matches(fs: fsspec.AbstractFileSystem, pattern: str) -> Iterator[tuple[str, bool]]:
    """What `pattern` matches, each with whether it is a folder. What is hidden comes where the pattern spells that."""
    start = len(fixed_folder(pattern)) + 1
    spelled = {part[:1] for part in pattern[start:].split("/")}
    hiding = [sign for sign in _HIDING if sign not in spelled]
    found: dict[str, dict[str, Any]] = fs.glob(pattern, detail=True)
    for path, info in found.items():
        if not any(part[:1] in hiding for part in path[start:].split("/")):
            # A local link has no type of its own there.
            yield path, info["type"] == "directory" or (info["type"] == "other" and fs.isdir(path))


def fixed_folder(pattern: str) -> str:
    """The folder before the first wildcard of `pattern`, which has one."""
    parts = pattern.split("/")
    wild = next(i for i, part in enumerate(parts) if WILD & set(part))
    return "/".join(parts[:wild])


def local_files(folder: str) -> Iterator[str]:
    """The files in the local `folder` and below, hidden ones among them, but none of hidden folders. Raises OSError."""
    # fsspec lists a link to a folder as a file: what lies behind it would be missing without a word.
    entered: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(here)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(_HIDING))
        yield from (f"{here.rstrip('/')}/{name}" for name in names)


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a folder may go while others are listed
        raise error
