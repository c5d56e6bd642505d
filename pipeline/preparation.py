"""Items prepared with their media decoded elsewhere, a few ahead, so that decoder and actor both have work.

In: loaded items, or why they could not be loaded. Out: what was made of each, in order, or a RejectError. Items of
text alone never leave this process. Nothing raises on data: our own defects are rejects too (`PREPARE_FAILED`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pipeline.assembly import NO_MEDIA
from pipeline.decode_pool import DecodePool, Ticket
from pipeline.errors import RejectCode, RejectError
from pipeline.media_job import MediaJob, ReadMedia
from pipeline.types import LoadedItem

__all__ = ["Maker", "Preparation"]

AHEAD_ITEMS = 4
"""Items under way: one in a child, one on its way there, one back, one to spare."""

AHEAD_BYTES = 64 << 20
"""Of their files; a larger one goes alone. They are there twice while they wait."""

Key = TypeVar("Key")
Made = TypeVar("Made")
Made_co = TypeVar("Made_co", covariant=True)


class Maker(Protocol[Made_co]):
    """Both halves of preparing an item."""

    def job(self, item: LoadedItem) -> MediaJob | None:
        """What has to be decoded, None if nothing."""

    def finish(self, item: LoadedItem, read: ReadMedia) -> Made_co:
        """What the item becomes. Raises RejectError."""


@dataclass(slots=True)
class _Waiting(Generic[Key, Made_co]):
    key: Key
    maker: Maker[Made_co]
    got: LoadedItem | RejectError
    ticket: Ticket | None = None

    @property
    def n_bytes(self) -> int:
        return self.ticket.job.n_bytes if self.ticket else 0


class Preparation:
    """Prepares by makers, and decodes by `pool`, which stays the caller's to close."""

    def __init__(self, pool: DecodePool) -> None:
        self._pool = pool

    def one(self, item: LoadedItem, maker: Maker[Made]) -> Made:
        """`item`, prepared. Raises RejectError."""
        ((_, made),) = self.many([(None, item, maker)])
        if isinstance(made, RejectError):
            raise made
        return made

    def many(
        self, items: Iterable[tuple[Key, LoadedItem | RejectError, Maker[Made]]]
    ) -> Iterator[tuple[Key, Made | RejectError]]:
        """Each of `items` (under its key, with its maker) prepared or rejected, in order."""
        waiting: deque[_Waiting[Key, Made]] = deque()
        try:
            for key, got, maker in items:
                waiting.append(self._begun(key, got, maker))
                while len(waiting) > AHEAD_ITEMS or sum(one.n_bytes for one in waiting) > AHEAD_BYTES:
                    yield self._done(waiting.popleft())
            while waiting:
                yield self._done(waiting.popleft())
        finally:
            for one in waiting:
                if one.ticket is not None:
                    self._pool.abandon(one.ticket)

    def _begun(self, key: Key, got: LoadedItem | RejectError, maker: Maker[Made]) -> _Waiting[Key, Made]:
        if isinstance(got, RejectError):
            return _Waiting(key, maker, got)
        try:
            job = maker.job(got)
        except RejectError as error:
            return _Waiting(key, maker, error)
        except Exception as error:  # noqa: BLE001 - one bad item never touches another, not even by our own defects
            return _Waiting(key, maker, _defect(error))
        return _Waiting(key, maker, got, None if job is None else self._pool.submit(job))

    def _done(self, one: _Waiting[Key, Made]) -> tuple[Key, Made | RejectError]:
        if isinstance(one.got, RejectError):
            return one.key, one.got
        try:
            read = NO_MEDIA if one.ticket is None else self._pool.result(one.ticket)
            return one.key, one.maker.finish(one.got, read)
        except RejectError as error:
            return one.key, error
        except Exception as error:  # noqa: BLE001 - as above
            return one.key, _defect(error)


def _defect(error: Exception) -> RejectError:
    return RejectError(RejectCode.PREPARE_FAILED, f"{type(error).__name__}: {error}")
