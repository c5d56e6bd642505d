"""Files of this machine, read without a way out of their root.

In: a root, and a path below it as the policy judged it: real, no symbolic link in it. Out: a `Blob`, a digest or a
`Stat`. Refused with RejectError: what is missing, forbidden, empty, larger than the cap (before it is read), no regular
file, or written to while it is read. Nothing blocks on a device or a pipe.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.blobs import PIECE_BYTES, Blob, Stat, check_size
from pipeline.errors import RejectCode, RejectError
from pipeline.manifest.rows import new_digest

__all__ = ["LocalFile", "digest_local", "read_local", "stat_local"]

_NO_FILE = frozenset({errno.ENOENT, errno.ENAMETOOLONG})
_NO_REGULAR_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENODEV})

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""O_PATH (Linux): a folder that may be passed through need not be readable."""

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""O_NONBLOCK: opening a FIFO would wait for ever for its writer."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """The file `below` (relative, no `..`) the folder `root` (absolute). Neither has a symbolic link in it."""

    root: str
    below: str


def read_local(file: LocalFile, max_bytes: int) -> Blob:
    """The bytes of `file`."""
    pieces: list[bytes] = []
    found = _take_local(file, max_bytes, pieces.append, max_bytes)
    return Blob(pieces[0] if len(pieces) == 1 else b"".join(pieces), found)


def digest_local(file: LocalFile, max_bytes: int) -> str:
    """The digest (`manifest.rows.new_digest`) of `file`."""
    digest = new_digest()
    _take_local(file, max_bytes, digest.update, PIECE_BYTES)
    return digest.hexdigest()


def stat_local(file: LocalFile) -> Stat:
    """Size and modification time (ns) of `file`."""
    try:
        return _local_stat(os.lstat(os.path.join(file.root, file.below)))  # noqa: PTH118
    except OSError as error:
        raise _local_reject(error) from None


def _take_local(file: LocalFile, max_bytes: int, take: Callable[[bytes], object], piece_bytes: int) -> Stat:
    try:
        with _opened(file) as handle:
            before = os.fstat(handle)
            if not stat.S_ISREG(before.st_mode):
                raise RejectError(RejectCode.URI_NOT_ALLOWED, "the path is no regular file")
            check_size(before.st_size, max_bytes)
            left = before.st_size
            while left and (piece := os.read(handle, min(left, piece_bytes))):
                take(piece)
                left -= len(piece)
            after = os.fstat(handle)
    except OSError as error:
        raise _local_reject(error) from None
    # A file that is replaced by a rename stays the old one for us; one that is written in place does not.
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise RejectError(RejectCode.SOURCE_CHANGED, "the file was written to while it was read")
    if left:
        raise RejectError(RejectCode.FETCH_FAILED, f"the file ended {left} bytes short of its {before.st_size}")
    return _local_stat(before)


@contextmanager
def _opened(file: LocalFile) -> Iterator[int]:
    # Folder by folder, none through a link: a folder that became a link since the path was judged leads nowhere.
    *folders, name = file.below.split("/")
    at = os.open(file.root, _FOLDER & ~os.O_NOFOLLOW)  # the root itself is the operator's word
    try:
        for folder in folders:
            below = os.open(folder, _FOLDER, dir_fd=at)
            os.close(at)
            at = below
        handle = os.open(name, _FILE, dir_fd=at)
    finally:
        os.close(at)
    try:
        yield handle
    finally:
        os.close(handle)


def _local_stat(found: os.stat_result) -> Stat:
    marks = (("size", str(found.st_size)), ("mtime_ns", str(found.st_mtime_ns)))
    return Stat(found.st_size, marks, None, found.st_mtime)


def _local_reject(error: OSError) -> RejectError:
    why = error.strerror or type(error).__name__
    if error.errno in _NO_FILE:
        return RejectError(RejectCode.NOT_FOUND, why)
    # O_DIRECTORY with O_NOFOLLOW says "not a directory" of a link and of a file alike.
    if error.errno == errno.ENOTDIR:
        return RejectError(RejectCode.NOT_FOUND, why)
    if error.errno in _NO_REGULAR_FILE:
        return RejectError(RejectCode.URI_NOT_ALLOWED, f"the path is no regular file: {why}")
    if isinstance(error, PermissionError):
        return RejectError(RejectCode.ACCESS_DENIED, why)
    return RejectError(RejectCode.FETCH_FAILED, why)
