"""Fetching: the bytes of an item's media, wherever they lie.

In: work items, or URIs. Out: `LoadedItem`s, in the order of the items. Refused with RejectError: what the policy or
the store refuses, and a file that is not the one that was planned (SOURCE_CHANGED); one bad medium rejects its item
and touches no other. Local files and inline bytes are read by threads, all others by coroutines (`remote`).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.blobs import Blob, Stat, check_size
from pipeline.errors import RejectCode, RejectError
from pipeline.expected import difference, difference_of_refused, needs_bytes
from pipeline.local_files import digest_local, read_local, stat_local
from pipeline.manifest.inline import InlineReader
from pipeline.manifest.location import scheme_of
from pipeline.object_pages import list_keys
from pipeline.objects import S3Objects
from pipeline.policy import FetchPolicy
from pipeline.remote import Remote
from pipeline.sniff import kind_of
from pipeline.types import LoadedItem, LoadedMedia, MediaKind, MediaRef, WorkItem
from pipeline.web.rules import WEB_SCHEMES

__all__ = ["FetchPolicy", "Fetcher"]

THREADS = 16
"""Local reads of one worker under way at once: enough to keep a network file system busy."""

AHEAD_BYTES = 256 << 20
"""What may be fetched ahead of its use, judged by the largest of the last files."""

_FIRST_FILES = 2
"""Files under way before the first size is known: enough to overlap, and no more than two of the largest."""


@dataclass(slots=True)
class _Ahead:
    """An item whose media are on their way."""

    item: WorkItem
    futures: list[Future[bytes]]


class _Sizes:
    """Sizes of the last `files` files read, noted by the threads that read them."""

    def __init__(self, files: int) -> None:
        # As many as can be under way: where sizes grow, the first large file read speaks for all the next ones.
        self._lock = threading.Lock()
        self._recent_bytes: deque[int] = deque(maxlen=files)

    def note(self, size_bytes: int) -> None:
        with self._lock:
            self._recent_bytes.append(size_bytes)

    def expected_bytes(self) -> int | None:
        """What the next file may weigh: as much as the largest of the last ones; None before the first."""
        # No mean of all: it would forget a folder of videos only after ten thousands of images.
        with self._lock:
            return max(self._recent_bytes, default=None)


class Fetcher:
    """Reads media under a policy. Picklable and thread-safe; threads and connections start with the first read."""

    def __init__(self, policy: FetchPolicy, *, threads: int = THREADS, ahead_bytes: int = AHEAD_BYTES) -> None:
        self.policy = policy
        self._threads = threads
        self._ahead_bytes = ahead_bytes
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._elsewhere: Remote | None = None
        self._inline = InlineReader(self.policy.storage_options)
        # Twice what is read at once, so that the next read never waits for an item to be taken.
        self._most_files = 2 * max(self._threads, self.policy.concurrency)
        self._sizes = _Sizes(self._most_files)

    def __getstate__(self) -> dict[str, Any]:
        return {"policy": self.policy, "_threads": self._threads, "_ahead_bytes": self._ahead_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def drop(self) -> None:
        """End the reads of stores that are under way, and begin no more: they raise CancelledError where waited for."""
        self._remote.drop()

    def close(self) -> None:
        """Stop the threads and close the connections; reads that have not begun are dropped."""
        with self._lock:
            pool, self._pool = self._pool, None
            elsewhere, self._elsewhere = self._elsewhere, None
        if elsewhere is not None:
            elsewhere.close()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fetch(self, uri: str) -> bytes:
        """The bytes at `uri` (absolute, as `manifest.location.locate` gives it). Raises RejectError."""
        return self.read(uri).data

    def read(self, uri: str) -> Blob:
        """The bytes at `uri`, and what the store said with them. Raises RejectError."""
        if self.policy.check(uri) == "file":
            return read_local(self.policy.local_file(uri), self.policy.max_bytes)
        return self._remote.wait_for(self._remote.read(uri))

    def digest(self, uri: str) -> str:
        """The digest (`manifest.rows.new_digest`) of the bytes at `uri`, never held whole. Raises RejectError."""
        if self.policy.check(uri) == "file":
            return digest_local(self.policy.local_file(uri), self.policy.max_bytes)
        return self._remote.wait_for(self._remote.digest(uri))

    def stat(self, uri: str) -> Stat:
        """What the store says about `uri` without reading it. Raises RejectError as `fetch` does."""
        if self.policy.check(uri) == "file":
            return stat_local(self.policy.local_file(uri))
        return self._remote.wait_for(self._remote.stat(uri))

    def folder(self, uri: str) -> tuple[str, str] | None:
        """The bucket and the folder that a listing finds `uri` by; None where it has to be asked for by itself."""
        place = self._place(uri)
        return None if place is None else (place[0], place[1].rpartition("/")[0])

    def stat_listed(self, uris: Sequence[str], pays: int) -> dict[str, Stat]:
        """What listing says about `uris` of one `folder`, as far as pages tell of `pays` of them each.

        What is not in the answer may be there all the same. Raises RejectError where the store lists nothing.
        """
        places = {uri: place for uri in uris if (place := self._place(uri)) is not None}
        scheme, bucket = scheme_of(uris[0]), places[uris[0]][0]

        def ask(prefix: str, after: str, keys: int) -> dict[str, Any]:
            return self._remote.wait_for(self._remote.page(scheme, bucket, prefix, after, keys))

        found = list_keys(ask, [key for _, key in places.values()], pays)
        return {uri: found[key] for uri, (_, key) in places.items() if key in found}

    def _place(self, uri: str) -> tuple[str, str] | None:
        """Bucket and key of an object that may be read and listed."""
        if scheme_of(uri) in ("file", *WEB_SCHEMES):
            return None
        try:
            store = self._remote.store(self.policy.check(uri))
        except RejectError:
            return None
        return store.place(uri) if isinstance(store, S3Objects) else None

    def load(self, item: WorkItem) -> LoadedItem:
        """`item` with its media fetched at the same time. Raises RejectError for the first bad one."""
        return self._finish(self._begin(item))

    def load_many(self, items: Iterable[WorkItem]) -> Iterator[tuple[WorkItem, LoadedItem | RejectError]]:
        """Each of `items` with its bytes or its reject, in order, the next ones being fetched meanwhile.

        Besides the item handed out last, an item is begun only if what waits, with it, is expected to fit in
        `ahead_bytes`: files that came by their size, those on their way by the largest of the last files read (by
        this fetcher, in earlier calls too). One item is always on its way, whatever its size. Only files that are
        larger than all of those can pass `ahead_bytes`, and only as many as were on their way when the first of
        them came: before any size is known, two files or those of one item. Closing the iterator drops the reads
        not begun.
        """
        waiting: deque[_Ahead] = deque()
        source = iter(items)
        upcoming = next(source, None)
        try:
            while waiting or upcoming is not None:
                while upcoming is not None and self._has_room(waiting, upcoming):
                    waiting.append(self._begin(upcoming))
                    upcoming = next(source, None)
                ahead = waiting.popleft()
                yield ahead.item, self._outcome(ahead)
        finally:
            for ahead in waiting:
                _drop(ahead)

    def _has_room(self, waiting: deque[_Ahead], item: WorkItem) -> bool:
        if not waiting:
            return True
        held, coming = 0, 0
        for future in (future for ahead in waiting for future in ahead.futures):
            if not future.done():
                coming += 1
            elif not future.cancelled() and future.exception() is None:
                held += len(future.result())
        # Items without media cost nothing to hold; their number is bounded so that a rejected one is told soon.
        if coming >= self._most_files or len(waiting) >= 2 * self._most_files:
            return False
        files = coming + sum(len(medium.refs) for medium in item.media)
        size_bytes = self._sizes.expected_bytes()
        if size_bytes is None:
            return files <= _FIRST_FILES
        return held + files * size_bytes <= self._ahead_bytes

    def _begin(self, item: WorkItem) -> _Ahead:
        return _Ahead(item, [self._begun(ref, item) for medium in item.media for ref in medium.refs])

    def _begun(self, ref: MediaRef, item: WorkItem) -> Future[bytes]:
        if ref.uri is None or ref.is_vacant or scheme_of(ref.uri) == "file":
            return self._executor().submit(self._bytes, ref, item)
        return self._remote.begin(self._remote_bytes(ref, ref.uri))

    def _outcome(self, ahead: _Ahead) -> LoadedItem | RejectError:
        try:
            return self._finish(ahead)
        except RejectError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a defect of ours, or a driver's, costs its item and no block
            return RejectError(RejectCode.FETCH_FAILED, f"{type(error).__name__}: {error}")

    def _finish(self, ahead: _Ahead) -> LoadedItem:
        item = ahead.item
        try:
            blobs = iter([future.result() for future in ahead.futures])
        except BaseException:
            _drop(ahead)
            raise
        media = tuple(_loaded(medium.kind, tuple(next(blobs) for _ in medium.refs)) for medium in item.media)
        return LoadedItem(item.id, item.texts, media, item.instruction, item.fps, item.max_frames)

    def _bytes(self, ref: MediaRef, item: WorkItem) -> bytes:
        if ref.is_vacant:
            raise RejectError(RejectCode.NO_MEDIUM, f"column {ref.column!r}, place {ref.index} (from 0)")
        try:
            blob = self._blob(ref, item)
        except RejectError as error:
            raise self._refused(ref, error) from None
        return self._judged(ref, blob)

    async def _remote_bytes(self, ref: MediaRef, uri: str) -> bytes:
        try:
            blob = await self._remote.read(uri)
        except RejectError as error:
            raise self._refused(ref, error) from None
        if needs_bytes(ref.expected):
            return await asyncio.to_thread(self._judged, ref, blob)  # hashing would hold up every other read
        return self._judged(ref, blob)

    def _refused(self, ref: MediaRef, error: RejectError) -> RejectError:
        changed = difference_of_refused(ref.expected, error.code, self.policy.max_bytes)
        return error if changed is None else RejectError(RejectCode.SOURCE_CHANGED, changed)

    def _judged(self, ref: MediaRef, blob: Blob) -> bytes:
        changed = difference(ref.expected, blob)
        if changed is not None:
            raise RejectError(RejectCode.SOURCE_CHANGED, changed)
        # Here and not once the item is used: what is known late is known after too much was begun.
        self._sizes.note(len(blob.data))
        return blob.data

    def _blob(self, ref: MediaRef, item: WorkItem) -> Blob:
        if ref.uri is not None:
            return self.read(ref.uri)
        data = self._inline.read(item.manifest_file, item.manifest_row, ref.column, ref.index)
        check_size(len(data), self.policy.max_bytes)
        return Blob(data, Stat(len(data), ()))

    @property
    def _remote(self) -> Remote:
        with self._lock:
            if self._elsewhere is None:
                self._elsewhere = Remote(self.policy)
            return self._elsewhere

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="fetch")
            return self._pool


def _loaded(kind: MediaKind, blobs: tuple[bytes, ...]) -> LoadedMedia:
    return LoadedMedia(kind_of(blobs[0]) if kind is MediaKind.FILE else kind, blobs)


def _drop(ahead: _Ahead) -> None:
    for future in ahead.futures:
        future.cancel()
