"""Whole files of the lake, and what a store says about them without reading them.

In: a local path, or a filesystem and a path in it, and a size cap. Out: bytes or a `Stat`. Refused with RejectError:
what is missing, forbidden, empty, larger than the cap (before it is read), no regular file, or late.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import sync
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_before_delay, wait_random_exponential

from pipeline.errors import RejectCode, RejectError
from pipeline.storage_errors import is_transient

__all__ = ["Patience", "Stat", "check_size", "read_local", "read_remote", "stat_local", "stat_remote"]

T = TypeVar("T")

_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 10.0
"""Object stores ask throttled clients for seconds, not milliseconds; random waits keep workers apart."""

_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_NO_REGULAR_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENODEV})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one file may take, all retries included, and how many retries it gets."""

    timeout_s: float
    retries: int


@dataclass(frozen=True, slots=True)
class Stat:
    """Size of a file in bytes, and what changes with its content: (name, text) pairs."""

    size_bytes: int
    marks: tuple[tuple[str, str], ...]


def read_local(path: str, max_bytes: int) -> bytes:
    """The bytes of the regular file at the real path `path`. Never blocks on a device or a pipe."""
    try:
        # O_NOFOLLOW: `path` had no link in it when it was judged; O_NONBLOCK: opening a FIFO would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _read_handle(handle, max_bytes)
        finally:
            os.close(handle)
    except OSError as error:
        raise _local_reject(error) from None


def _read_handle(handle: int, max_bytes: int) -> bytes:
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        raise RejectError(RejectCode.URI_NOT_ALLOWED, "the path is no regular file")
    check_size(found.st_size, max_bytes)
    pieces: list[bytes] = []
    left = found.st_size
    while left and (piece := os.read(handle, left)):
        pieces.append(piece)
        left -= len(piece)
    if left:
        raise RejectError(RejectCode.FETCH_FAILED, f"the file ended {left} bytes short of its {found.st_size}")
    return b"".join(pieces)


def stat_local(path: str) -> Stat:
    """Size and modification time (ns) of the file at `path`. Raises RejectError."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise _local_reject(error) from None
    return Stat(found.st_size, (("size", str(found.st_size)), ("mtime_ns", str(found.st_mtime_ns))))


def read_remote(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int, patience: Patience) -> bytes:
    """The bytes of an object. On S3 one GET: the size is judged before the body, and the bytes are of one version."""
    return _patiently(lambda left_s: _get(fs, path, max_bytes, left_s), patience)


def stat_remote(fs: fsspec.AbstractFileSystem, path: str, patience: Patience) -> Stat:
    """Size and ETag (or what the store has like it) of an object. Raises RejectError."""
    return _patiently(lambda _: _marks(fs.info(path)), patience)


def check_size(size_bytes: int, max_bytes: int) -> None:
    """Raise RejectError for a file that is empty or larger than `max_bytes`."""
    if size_bytes > max_bytes:
        raise RejectError(RejectCode.MEDIA_TOO_LARGE, f"{size_bytes} bytes; fetch.max_bytes is {max_bytes}")
    if size_bytes == 0:
        raise RejectError(RejectCode.EMPTY_MEDIA, "0 bytes")


def _get(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int, left_s: float) -> bytes:
    if hasattr(fs, "_call_s3"):
        return bytes(sync(fs.loop, _within, left_s, _get_s3(fs, path, max_bytes)))
    size = int(fs.info(path)["size"])
    check_size(size, max_bytes)
    data = bytes(fs.cat_file(path))
    if len(data) != size:
        raise ConnectionError(f"got {len(data)} of {size} bytes")
    return data


async def _within(left_s: float, work: Any) -> bytes:  # noqa: ANN401 - a coroutine
    return bytes(await asyncio.wait_for(work, left_s))


async def _get_s3(fs: Any, path: str, max_bytes: int) -> bytes:  # noqa: ANN401 - s3fs has no types
    bucket, key, version = fs.split_path(path)
    which = {"VersionId": version} if version else {}
    response = await fs._call_s3("get_object", Bucket=bucket, Key=key, **which)
    body = response["Body"]
    try:
        size = int(response["ContentLength"])
        check_size(size, max_bytes)
        data = bytes(await body.read())
    finally:
        body.close()
    if len(data) != size:
        raise ConnectionError(f"got {len(data)} of {size} bytes")
    return data


def _patiently(call: Callable[[float], T], patience: Patience) -> T:
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


def _marks(info: Mapping[str, Any]) -> Stat:
    size = int(info.get("size") or 0)
    strong = [(name, str(info[name])) for name in ("ETag", "etag", "md5Hash", "generation") if info.get(name)]
    weak = [(name, str(info[name])) for name in ("LastModified", "mtime", "modified", "created") if info.get(name)]
    return Stat(size, (("size", str(size)), *(strong or weak)))


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
