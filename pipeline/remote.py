"""Files that lie elsewhere, read by coroutines in one event loop thread of the process.

In: URIs of object stores and of the web. Out: `Blob`s, digests, `Stat`s, pages of listings; to threads that wait, or
as futures. Refused with RejectError: what the policy refuses, what the store refuses, and what outlasts the patience.
Raises CancelledError for what was under way, or begun, when `drop` was called.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, TypeVar

from fsspec.asyn import get_loop

from pipeline.blobs import Blob, Stat, Take
from pipeline.daemon_threads import DaemonThreads
from pipeline.manifest.location import scheme_of
from pipeline.manifest.rows import new_digest
from pipeline.objects import ObjectStore, S3Objects, open_objects
from pipeline.paces import Paces
from pipeline.patience import persist
from pipeline.policy import FetchPolicy
from pipeline.web.rules import WEB_SCHEMES

if TYPE_CHECKING:
    from pipeline.web.client import WebClient

__all__ = ["Remote"]

T = TypeVar("T")


class Remote:
    """Reads under `policy`. The loop is fsspec's own, in which s3fs's clients live."""

    def __init__(self, policy: FetchPolicy) -> None:
        self._policy = policy
        self._paces = Paces(policy)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop = get_loop()
        self._gate = asyncio.Semaphore(policy.concurrency)
        self._threads = DaemonThreads(policy.concurrency, "store")  # none starts unused
        self._stores: dict[str, ObjectStore] = {}
        self._web: WebClient | None = None
        self._under_way: set[Future[Any]] = set()
        self._is_dropped = False

    def drop(self) -> None:
        """End what is under way and begin nothing more: a store that stalls must not hold up whoever is to stop."""
        with self._lock:
            self._is_dropped = True
            left = list(self._under_way)
        for future in left:
            future.cancel()

    def close(self) -> None:
        """Close the connections to web servers, and end the threads; one whose driver hangs is left behind."""
        if self._web is not None:
            asyncio.run_coroutine_threadsafe(self._web.close(), self._loop).result()
            self._web = None
        self._threads.shutdown()

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run one of the coroutines below in the loop; cancelling the future ends it."""
        with self._lock:
            if self._is_dropped:
                work.close()
                raise CancelledError
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives, for a thread that waits for it."""
        future = self.begin(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def read(self, uri: str) -> Blob:
        """The bytes at `uri`, of one version, and what the store said with them."""

        async def attempt() -> Blob:
            # Anew for each attempt: one that broke off has taken pieces already.
            pieces: list[bytes] = []

            async def keep(piece: bytes) -> None:
                pieces.append(piece)

            found = await self._get(uri, keep)
            return Blob(pieces[0] if len(pieces) == 1 else b"".join(pieces), found)

        return await self._persist(uri, attempt)

    async def digest(self, uri: str) -> str:
        """The digest (`manifest.rows.new_digest`) of the bytes at `uri`, never held whole."""

        async def attempt() -> str:
            digest = new_digest()

            async def update(piece: bytes) -> None:
                # Not in the loop, which all of this process's reads share.
                await asyncio.to_thread(digest.update, piece)

            await self._get(uri, update)
            return digest.hexdigest()

        return await self._persist(uri, attempt)

    async def stat(self, uri: str) -> Stat:
        """What the store says of `uri`."""

        async def attempt() -> Stat:
            if scheme_of(uri) in WEB_SCHEMES:
                return await self._client().head(uri)
            return await self.store(scheme_of(uri)).head(uri)

        return await self._persist(uri, attempt)

    async def page(self, scheme: str, bucket: str, prefix: str, after: str, keys: int) -> dict[str, Any]:
        """A page of S3's listing (`objects.S3Objects.page`)."""
        store = self.store(scheme)
        assert isinstance(store, S3Objects)
        return await persist(
            lambda: store.page(bucket, prefix, after, keys),
            self._paces.of_store(scheme), self._policy.patience, self._gate,
        )  # fmt: skip

    def store(self, scheme: str) -> ObjectStore:
        """The object store behind `scheme`."""
        with self._lock:
            if scheme not in self._stores:
                policy = self._policy
                self._stores[scheme] = open_objects(scheme, policy.storage_options, policy.concurrency, self._threads)
            return self._stores[scheme]

    async def _get(self, uri: str, take: Take) -> Stat:
        if scheme_of(uri) in WEB_SCHEMES:
            return await self._client().get(uri, self._policy.max_bytes, take)
        return await self.store(scheme_of(uri)).get(uri, self._policy.max_bytes, take)

    async def _persist(self, uri: str, attempt: Callable[[], Awaitable[T]]) -> T:
        scheme = self._policy.check(uri)
        if scheme in WEB_SCHEMES:
            pace = self._paces.of_host(self._policy.web.check(uri))
        else:
            pace = self._paces.of_store(scheme)
        return await persist(attempt, pace, self._policy.patience, self._gate)

    def _client(self) -> WebClient:
        # Only in the loop, so without the lock. Imported here: most jobs ask no web server.
        if self._web is None:
            from pipeline.web.client import WebClient

            self._web = WebClient(self._policy.web)
        return self._web
