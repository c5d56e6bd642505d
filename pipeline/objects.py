"""Objects of a store behind fsspec: S3 in the event loop, others by threads.

In: a filesystem, and a path of it. Out: what the store says of the object, and its bytes. Refused with RejectError:
what is empty or larger than the cap. Raises what the driver raises. Each call is one request at S3: its drivers' own
retries are off, since whoever retries must know how often, and who waits how long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any, Protocol

import fsspec

from pipeline.blobs import PIECE_BYTES, Stat, Take, receive, stat_of
from pipeline.errors import RejectCode, RejectError
from pipeline.storage import resolve

__all__ = ["ObjectStore", "S3Objects", "ThreadedObjects", "open_objects"]

_ONE_TRY = {"total_max_attempts": 1, "mode": "standard"}


class ObjectStore(Protocol):
    """A store whose objects are named by URIs of one scheme."""

    async def get(self, uri: str, max_bytes: int, take: Take) -> Stat:
        """Hand the object to `take` in pieces, all of one version."""
        ...

    async def head(self, uri: str) -> Stat:
        """What the store says of the object."""
        ...


def open_objects(
    scheme: str, storage_options: Mapping[str, Mapping[str, Any]], concurrency: int, threads: Executor
) -> ObjectStore:
    """The store of `scheme`, made from that alone: a URI never chooses its driver or options (`a::b` chains)."""
    if scheme not in ("s3", "s3a"):
        return ThreadedObjects(resolve(f"{scheme}://", storage_options)[0], threads)
    given = dict(storage_options.get(scheme, {}))
    # As many connections as reads, or those beyond botocore's ten would wait for each other unseen.
    config = {"max_pool_connections": concurrency} | dict(given.get("config_kwargs") or {}) | {"retries": _ONE_TRY}
    fs, _ = resolve(f"{scheme}://", {scheme: {**given, "config_kwargs": config}})
    fs.retries = 1
    return S3Objects(fs)


class S3Objects:
    """S3 through s3fs's client, in s3fs's event loop."""

    def __init__(self, fs: Any) -> None:  # noqa: ANN401 - s3fs has no types
        self._fs = fs

    def place(self, uri: str) -> tuple[str, str] | None:
        """Bucket and key of an object that a listing may name; None for a version of one."""
        bucket, key, version = self._split(uri)
        return (bucket, key) if key and not version else None

    async def get(self, uri: str, max_bytes: int, take: Take) -> Stat:
        """One GET: the size is judged before the body, and the bytes are of one version."""
        response = await self._fs._call_s3("get_object", **self._which(uri))
        body, size = response["Body"], response.get("ContentLength")
        try:
            await receive(body, size, max_bytes, take)
        finally:
            body.close()
        return stat_of({**response, "size": size})

    async def head(self, uri: str) -> Stat:
        """One HEAD."""
        response = await self._fs._call_s3("head_object", **self._which(uri))
        return stat_of({**response, "size": response.get("ContentLength")})

    async def page(self, bucket: str, prefix: str, after: str, keys: int) -> dict[str, Any]:
        """S3's answer about up to `keys` objects below `prefix` that follow the key `after`."""
        answer: dict[str, Any] = await self._fs._call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=prefix, StartAfter=after, MaxKeys=keys
        )
        return answer

    def _which(self, uri: str) -> dict[str, str]:
        bucket, key, version = self._split(uri)
        if not key:
            raise FileNotFoundError("the URI names a bucket")
        return {"Bucket": bucket, "Key": key} | ({"VersionId": version} if version else {})

    def _split(self, uri: str) -> tuple[str, str, str | None]:
        found: tuple[str, str, str | None] = self._fs.split_path(self._fs._strip_protocol(uri))
        return found


class ThreadedObjects:
    """Any other filesystem of fsspec; its driver's own retries and deadlines hold within each call."""

    def __init__(self, fs: fsspec.AbstractFileSystem, threads: Executor) -> None:
        self._fs = fs
        self._threads = threads

    async def get(self, uri: str, max_bytes: int, take: Take) -> Stat:
        """Ask for the object's size, then for its bytes."""
        path = self._fs._strip_protocol(uri)
        found = stat_of(await self._call(self._fs.info, path))
        with await self._call(self._fs.open, path, "rb", PIECE_BYTES) as file:
            await receive(_FileBody(file, self._threads), found.size_bytes, max_bytes, take)
        # Read by ranges, which may be of two versions; an object of one range is of one.
        if (found.size_bytes or 0) > PIECE_BYTES and stat_of(await self._call(self._fs.info, path)) != found:
            raise RejectError(RejectCode.SOURCE_CHANGED, "the object was written to while it was read")
        return found

    async def head(self, uri: str) -> Stat:
        """What the driver's `info` says."""
        return stat_of(await self._call(self._fs.info, self._fs._strip_protocol(uri)))

    async def _call(self, function: Any, *args: Any) -> Any:  # noqa: ANN401 - fsspec has no types
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


class _FileBody:
    def __init__(self, file: Any, threads: Executor) -> None:  # noqa: ANN401 - fsspec has no types
        self._file = file
        self._threads = threads

    async def read(self, size: int, /) -> bytes:
        data: bytes = await asyncio.get_running_loop().run_in_executor(self._threads, self._file.read, size)
        return data
