"""Whole files of the lake, and what a store says about them with and without reading them.

In: a local path, or a filesystem and a path in it, and a size cap. Out: a `Blob`, a digest or a `Stat`. Refused with
RejectError: what is missing, forbidden, empty, larger than the cap (before it is read), no regular file, late, or
written to while it is read.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import sync
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_before_delay, wait_random_exponential

from pipeline.errors import RejectCode, RejectError
from pipeline.manifest.rows import new_digest
from pipeline.storage_errors import is_transient

__all__ = [
    "Blob",
    "Patience",
    "Stat",
    "check_size",
    "digest_local",
    "digest_remote",
    "patiently",
    "read_local",
    "read_remote",
    "stat_local",
    "stat_of",
    "stat_remote",
]

T = TypeVar("T")

_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 10.0
"""Object stores ask throttled clients for seconds, not milliseconds; random waits keep workers apart."""

_PIECE_BYTES = 1 << 20
"""What is hashed at a time: dozens of files are read at once, and none of them is ever held whole."""

_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_NO_REGULAR_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENODEV})

_Take = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one file may take, all retries included, and how many retries it gets."""

    timeout_s: float
    retries: int


@dataclass(frozen=True, slots=True)
class Stat:
    """What a store says about a file: its size in bytes, and what changes with its content, as (name, text) pairs.

    `version` is the store's own id of the version, `modified_s` seconds since 1970; None where it says none.
    """

    size_bytes: int
    marks: tuple[tuple[str, str], ...]
    version: str | None = None
    modified_s: float | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """The bytes of a file, and what the store said with them."""

    data: bytes
    stat: Stat


def read_local(path: str, max_bytes: int) -> Blob:
    """The regular file at the real path `path`. Never blocks on a device or a pipe."""
    pieces: list[bytes] = []
    found = _take_local(path, max_bytes, pieces.append, max_bytes)
    return Blob(pieces[0] if len(pieces) == 1 else b"".join(pieces), found)


def digest_local(path: str, max_bytes: int) -> str:
    """The digest (`manifest.rows.new_digest`) of the file at the real path `path`."""
    digest = new_digest()
    _take_local(path, max_bytes, digest.update, _PIECE_BYTES)
    return digest.hexdigest()


def _take_local(path: str, max_bytes: int, take: _Take, piece_bytes: int) -> Stat:
    try:
        with _opened(path) as handle:
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
def _opened(path: str) -> Iterator[int]:
    # O_NOFOLLOW: `path` had no link in it when it was judged; O_NONBLOCK: opening a FIFO would wait for ever.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def stat_local(path: str) -> Stat:
    """Size and modification time (ns) of the file at `path`. Raises RejectError."""
    try:
        return _local_stat(os.stat(path))  # noqa: PTH116
    except OSError as error:
        raise _local_reject(error) from None


def _local_stat(found: os.stat_result) -> Stat:
    marks = (("size", str(found.st_size)), ("mtime_ns", str(found.st_mtime_ns)))
    return Stat(found.st_size, marks, None, found.st_mtime)


def read_remote(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int, patience: Patience) -> Blob:
    """An object. On S3 one GET: the size is judged before the body, and the bytes are of one version."""
    return patiently(lambda left_s: _read(fs, path, max_bytes, left_s), patience)


def digest_remote(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int, patience: Patience) -> str:
    """The digest (`manifest.rows.new_digest`) of an object, read in pieces."""
    return patiently(lambda left_s: _digest(fs, path, max_bytes, left_s), patience)


def stat_remote(fs: fsspec.AbstractFileSystem, path: str, patience: Patience) -> Stat:
    """Size and ETag (or what the store has like it) of an object. Raises RejectError."""
    return patiently(lambda _: stat_of(fs.info(path)), patience)


def check_size(size_bytes: int, max_bytes: int) -> None:
    """Raise RejectError for a file that is empty or larger than `max_bytes`."""
    if size_bytes > max_bytes:
        raise RejectError(RejectCode.MEDIA_TOO_LARGE, f"{size_bytes} bytes; fetch.max_bytes is {max_bytes}")
    if size_bytes == 0:
        raise RejectError(RejectCode.EMPTY_MEDIA, "0 bytes")


def _read(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int, left_s: float) -> Blob:
    pieces: list[bytes] = []
    found = _take(fs, path, max_bytes, left_s, pieces.append, None)
    return Blob(pieces[0], found)


def _digest(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int, left_s: float) -> str:
    # Anew for each attempt: one that broke off has taken pieces already.
    digest = new_digest()
    _take(fs, path, max_bytes, left_s, digest.update, _PIECE_BYTES)
    return digest.hexdigest()


def _take(
    fs: fsspec.AbstractFileSystem, path: str, max_bytes: int, left_s: float, take: _Take, piece_bytes: int | None
) -> Stat:
    """Hand the bytes of `path` to `take`, at once or in pieces."""
    if hasattr(fs, "_call_s3"):
        found: Stat = sync(fs.loop, _within, left_s, _take_s3(fs, path, max_bytes, take, piece_bytes))
        return found
    found = stat_of(fs.info(path))
    check_size(found.size_bytes, max_bytes)
    got = 0
    if piece_bytes is None:
        data = bytes(fs.cat_file(path))
        take(data)
        got = len(data)
    else:
        with fs.open(path, "rb") as file:
            while piece := file.read(piece_bytes):
                take(piece)
                got += len(piece)
    if got != found.size_bytes:
        raise ConnectionError(f"got {got} of {found.size_bytes} bytes")
    return found


async def _within(left_s: float, work: Any) -> Any:  # noqa: ANN401 - a coroutine and its result
    return await asyncio.wait_for(work, left_s)


async def _take_s3(fs: Any, path: str, max_bytes: int, take: _Take, piece_bytes: int | None) -> Stat:  # noqa: ANN401 - s3fs has no types
    bucket, key, version = fs.split_path(path)
    which = {"VersionId": version} if version else {}
    response = await fs._call_s3("get_object", Bucket=bucket, Key=key, **which)
    body = response["Body"]
    got = 0
    try:
        found = stat_of({**response, "size": int(response["ContentLength"])})
        check_size(found.size_bytes, max_bytes)
        if piece_bytes is None:
            data = bytes(await body.read())
            take(data)
            got = len(data)
        else:
            while piece := await body.read(piece_bytes):
                # Not in the loop, which all of this process's reads share.
                await asyncio.to_thread(take, piece)
                got += len(piece)
    finally:
        body.close()
    if got != found.size_bytes:
        raise ConnectionError(f"got {got} of {found.size_bytes} bytes")
    return found


def patiently(call: Callable[[float], T], patience: Patience) -> T:
    """What `call` gives, told the seconds it has left; tried again while its errors are passing ones.

    Raises RejectError, whatever the driver raised.
    """
    deadline = time.monotonic() + patience.timeout_s
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_attempt(patience.retries + 1) | stop_before_delay(patience.timeout_s),
        wait=wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
        reraise=True,
    )
    try:
        return retrying(lambda: call(max(deadline - time.monotonic(), 0.001)))
    except RejectError:
        raise
    except Exception as error:  # noqa: BLE001 - drivers raise what they like; one file must not end a worker
        raise _remote_reject(error) from None


def stat_of(info: Mapping[str, Any]) -> Stat:
    """What a driver's `info` says of an object."""
    size = int(info.get("size") or 0)
    strong = [(name, str(info[name])) for name in ("ETag", "etag", "md5Hash", "generation") if info.get(name)]
    weak = [(name, str(info[name])) for name in ("LastModified", "mtime", "modified", "created") if info.get(name)]
    modified = info.get("LastModified")
    return Stat(
        size,
        (("size", str(size)), *(strong or weak)),
        str(info["VersionId"]) if info.get("VersionId") else None,
        modified.timestamp() if isinstance(modified, datetime) else None,
    )


def _local_reject(error: OSError) -> RejectError:
    why = error.strerror or type(error).__name__
    if error.errno in _NO_FILE:
        return RejectError(RejectCode.NOT_FOUND, why)
    if error.errno in _NO_REGULAR_FILE:
        return RejectError(RejectCode.URI_NOT_ALLOWED, f"the path is no regular file: {why}")
    if isinstance(error, PermissionError):
        return RejectError(RejectCode.ACCESS_DENIED, why)
    return RejectError(RejectCode.FETCH_FAILED, why)


def _remote_reject(error: BaseException) -> RejectError:
    why = f"{type(error).__name__}: {error}"
    if isinstance(error, FileNotFoundError | IsADirectoryError):
        return RejectError(RejectCode.NOT_FOUND, "no such object")
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return RejectError(RejectCode.ACCESS_DENIED, why)
    # asyncio.TimeoutError is TimeoutError; fsspec and botocore have their own.
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return RejectError(RejectCode.FETCH_TIMEOUT, why)
    return RejectError(RejectCode.FETCH_FAILED, why)
