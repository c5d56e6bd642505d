"""Fetching: the bytes of an item's media, wherever they lie.

In: work items, or URIs. Out: `LoadedItem`s, in the order of the items. Refused with RejectError: what the policy or
the store refuses; one bad medium rejects its item and touches no other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec

from pipeline.blobs import Patience, Stat, check_size, read_local, read_remote, stat_local, stat_remote
from pipeline.errors import RejectError
from pipeline.manifest.inline import InlineReader
from pipeline.policy import FetchPolicy
from pipeline.storage import resolve
from pipeline.types import LoadedItem, LoadedMedia, MediaRef, WorkItem

__all__ = ["FetchPolicy", "Fetcher"]

THREADS = 16
"""Reads of one worker under way at once: at 30 ms a GET some 500 images/s, more than a core decodes."""

AHEAD_BYTES = 256 << 20
"""What may be fetched ahead of its use, judged by the mean size of what came before."""

_FIRST_GUESS_BYTES = 1 << 20


@dataclass(slots=True)
class _Ahead:
    """An item whose media are on their way."""

    item: WorkItem
    futures: list[Future[bytes]]


@dataclass(slots=True)
class _Mean:
    """Mean size of the blobs so far; the first guess counts as one."""

    blobs: int = 1
    total_bytes: int = _FIRST_GUESS_BYTES

    def add(self, loaded: LoadedItem) -> None:
        self.blobs += sum(len(media.blobs) for media in loaded.media)
        self.total_bytes += sum(len(blob) for media in loaded.media for blob in media.blobs)


class Fetcher:
    """Reads media under a policy. Picklable and thread-safe; its threads and files start with the first read."""

    def __init__(self, policy: FetchPolicy, *, threads: int = THREADS, ahead_bytes: int = AHEAD_BYTES) -> None:
        self.policy = policy
        self._threads = threads
        self._ahead_bytes = ahead_bytes
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._stores: dict[str, fsspec.AbstractFileSystem] = {}
        self._inline = InlineReader(self.policy.storage_options)

    def __getstate__(self) -> dict[str, Any]:
        return {"policy": self.policy, "_threads": self._threads, "_ahead_bytes": self._ahead_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def close(self) -> None:
        """Stop the threads; reads that have not begun are dropped."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=True, cancel_futures=True)
                self._pool = None

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fetch(self, uri: str) -> bytes:
        """The bytes at `uri` (absolute, as `manifest.location.locate` gives it). Raises RejectError."""
        scheme = self.policy.check(uri)
        if scheme == "file":
            return read_local(self.policy.local_path(uri), self.policy.max_bytes)
        fs = self._store(scheme)
        return read_remote(fs, fs._strip_protocol(uri), self.policy.max_bytes, self._patience)

    def stat(self, uri: str) -> Stat:
        """What the store says about `uri` without reading it. Raises RejectError as `fetch` does."""
        scheme = self.policy.check(uri)
        if scheme == "file":
            return stat_local(self.policy.local_path(uri))
        fs = self._store(scheme)
        return stat_remote(fs, fs._strip_protocol(uri), self._patience)

    def load(self, item: WorkItem) -> LoadedItem:
        """`item` with its media fetched at the same time. Raises RejectError for the first bad one."""
        return self._finish(self._begin(item))

    def load_many(self, items: Iterable[WorkItem]) -> Iterator[tuple[WorkItem, LoadedItem | RejectError]]:
        """Each of `items` with its bytes or its reject, in order, the next ones being fetched meanwhile.

        About `ahead_bytes` are held at most, plus one item; closing the iterator drops the reads not begun.
        """
        waiting: deque[_Ahead] = deque()
        mean = _Mean()
        source = iter(items)
        try:
            while True:
                while self._has_room(waiting, mean) and (item := next(source, None)) is not None:
                    waiting.append(self._begin(item))
                if not waiting:
                    return
                ahead = waiting.popleft()
                loaded = self._outcome(ahead)
                if isinstance(loaded, LoadedItem):
                    mean.add(loaded)
                yield ahead.item, loaded
        finally:
            for ahead in waiting:
                _drop(ahead)

    def _has_room(self, waiting: deque[_Ahead], mean: _Mean) -> bool:
        held, coming = 0, 0
        for future in (future for ahead in waiting for future in ahead.futures):
            if not future.done():
                coming += 1
            elif not future.cancelled() and future.exception() is None:
                held += len(future.result())
        expected = held + coming * (mean.total_bytes // mean.blobs)
        # Items without media cost nothing to hold; their number is bounded so that a rejected one is told soon.
        return coming < 2 * self._threads and expected < self._ahead_bytes and len(waiting) < 4 * self._threads

    def _begin(self, item: WorkItem) -> _Ahead:
        refs = [ref for medium in item.media for ref in medium.refs]
        return _Ahead(item, [self._executor().submit(self._bytes, ref, item) for ref in refs])

    def _outcome(self, ahead: _Ahead) -> LoadedItem | RejectError:
        try:
            return self._finish(ahead)
        except RejectError as error:
            return error

    def _finish(self, ahead: _Ahead) -> LoadedItem:
        item = ahead.item
        try:
            blobs = iter([future.result() for future in ahead.futures])
        except BaseException:
            _drop(ahead)
            raise
        media = tuple(LoadedMedia(medium.kind, tuple(next(blobs) for _ in medium.refs)) for medium in item.media)
        return LoadedItem(item.id, item.texts, media, item.instruction, item.fps, item.max_frames)

    def _bytes(self, ref: MediaRef, item: WorkItem) -> bytes:
        if ref.uri is not None:
            return self.fetch(ref.uri)
        data = self._inline.read(item.manifest_file, item.manifest_row, ref.column, ref.index)
        check_size(len(data), self.policy.max_bytes)
        return data

    @property
    def _patience(self) -> Patience:
        return Patience(self.policy.timeout_s, self.policy.retries)

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="fetch")
            return self._pool

    def _store(self, scheme: str) -> fsspec.AbstractFileSystem:
        # Made once from the scheme alone: a URI never chooses its driver or options (`a::b` chains).
        with self._lock:
            if scheme not in self._stores:
                self._stores[scheme] = resolve(f"{scheme}://", self.policy.storage_options)[0]
            return self._stores[scheme]


def _drop(ahead: _Ahead) -> None:
    for future in ahead.futures:
        future.cancel()
