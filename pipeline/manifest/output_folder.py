"""The output's folder, seen from the manifest: what lakevec writes there is no list of items.

In: `output.path` as the user wrote it, and files of any store. Out: whether lakevec wrote them there, however either is
spelled. A manifest may lie in the output's folder too, beside what is written.
Raises ConfigError for an output that no store can have.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.storage import resolve

__all__ = ["OutputFolder"]

_BESIDE = re.compile(r"-[0-9a-f]{12}")
"""What `kind.beside` appends to the output's path for the index of another compute fingerprint."""

WRITTEN = ("vectors", "rejects", "scores", "changes", "reports", "_log", "_work", "candidates", "evaluation")
"""The folders of an output."""


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """`root` is how the user wrote it, `path` the one name that its store has for it."""

    root: str
    path: str
    protocols: frozenset[str]

    @classmethod
    def of(cls, root: str, storage_options: Mapping[str, Mapping[str, Any]]) -> OutputFolder:
        """The folder at `root`, a local path or a URI; it need not exist."""
        fs, path = resolve(root, storage_options)
        return cls(root, _one_name(fs, path), _protocols(fs))

    def holds(self, fs: fsspec.AbstractFileSystem, path: str) -> bool:
        """Whether `path` of `fs` is or lies in a folder that lakevec writes here, local links followed.

        The indexes that `run.on_recompute: new_index` keeps beside the output are lakevec's too.
        """
        if not self.protocols & _protocols(fs):
            return False
        name, start = _one_name(fs, path), self.path.rstrip("/")
        if not name.startswith(start):
            return False
        beside, _, inside = name[len(start) :].partition("/")
        return (not beside or _BESIDE.fullmatch(beside) is not None) and inside.partition("/")[0] in WRITTEN

    def is_within(self, fs: fsspec.AbstractFileSystem, folder: str) -> bool:
        """Whether what lakevec writes here may be found below `folder` of `fs`: only then each file has to be asked."""
        # Local links may lead here from anywhere.
        inside = f"{self.path}/".startswith(f"{_one_name(fs, folder).rstrip('/')}/")
        return inside or isinstance(fs, LocalFileSystem)


def _one_name(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return os.path.realpath(path) if isinstance(fs, LocalFileSystem) else posixpath.normpath(path)


def _protocols(fs: fsspec.AbstractFileSystem) -> frozenset[str]:
    return frozenset([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)
