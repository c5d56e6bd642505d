"""What is read of the lake: the bytes of a file, and what its store says about it.

In: what a store says, and pieces of a body. Out: a `Stat`, a `Blob`. Refused with RejectError: what is empty or larger
than the cap, whatever its store said.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from pipeline.errors import RejectCode, RejectError

__all__ = ["PIECE_BYTES", "Blob", "Body", "Stat", "Take", "check_size", "receive", "stat_of"]

PIECE_BYTES = 1 << 20
"""What is hashed at a time: dozens of files are read at once, and none of them is ever held whole."""

Take = Callable[[bytes], Awaitable[None]]
"""What becomes of a piece of a body."""


class Body(Protocol):
    """A body that arrives: up to `size` bytes of it, none at its end."""

    async def read(self, size: int, /) -> bytes:
        """The next bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Stat:
    """What a store says about a file: its size in bytes, and what changes with its content, as (name, text) pairs.

    `version` is the store's own id of the version, `modified_s` seconds since 1970; None where it says none, as is
    `size_bytes` of a web server that does not tell.
    """

    size_bytes: int | None
    marks: tuple[tuple[str, str], ...]
    version: str | None = None
    modified_s: float | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """The bytes of a file, and what the store said with them."""

    data: bytes
    stat: Stat


def check_size(size_bytes: int, max_bytes: int) -> None:
    """Raise RejectError for a file that is empty or larger than `max_bytes`."""
    if size_bytes > max_bytes:
        raise RejectError(RejectCode.MEDIA_TOO_LARGE, f"{size_bytes} bytes; fetch.max_bytes is {max_bytes}")
    if size_bytes == 0:
        raise RejectError(RejectCode.EMPTY_MEDIA, "0 bytes")


async def receive(body: Body, said_bytes: int | None, max_bytes: int, take: Take) -> None:
    """Hand `body` to `take` in pieces, `said_bytes` of it where its length was told.

    Raises RejectError for one that is empty or goes beyond `max_bytes`, and ConnectionError for one of another length.
    """
    if said_bytes is not None:
        check_size(said_bytes, max_bytes)
    got = 0
    while piece := await body.read(PIECE_BYTES):
        got += len(piece)
        if got > max_bytes:
            raise RejectError(RejectCode.MEDIA_TOO_LARGE, f"more bytes than fetch.max_bytes, which is {max_bytes}")
        await take(piece)
    if said_bytes is not None and got != said_bytes:
        raise ConnectionError(f"got {got} of {said_bytes} bytes")
    check_size(got, max_bytes)


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
