"""Asking a store about many files: by listing where a page tells of many of them, else one by one.

In: the URIs of a batch. Out: for each a `Stat`, or the RejectError that stands for it. Nothing is refused here.
A listing is only believed in what it names: what it does not, or where it fails, is asked for one by one. So a role
that may not list, or a store that lists in an order of its own, costs requests and no change is missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Literal

from pipeline.answers import Answers
from pipeline.blobs import Stat
from pipeline.errors import RejectError
from pipeline.fetch import Fetcher
from pipeline.object_pages import PAGE_KEYS

__all__ = ["AskMode", "ask_store"]

AskMode = Literal["auto", "list", "head"]

_PAGE_PAYS = 13
"""Files that a page must tell of under `auto`: S3 charges 12.5 times as much for it as for a HEAD."""

_CHUNKS = 128
"""Tasks of a batch: a future costs as much as a local stat does; several for each thread, so that none waits long."""

_Answer = Stat | RejectError


def ask_store(
    fetcher: Fetcher, uris: Sequence[str], mode: AskMode, pool: ThreadPoolExecutor, answers: Answers
) -> Iterator[_Answer]:
    """What the store says about each of `uris`, asked by the threads of `pool` and counted in `answers`.

    Raises IncompleteError once most of the questions have failed.
    """
    listed = {} if mode == "head" else _listed(fetcher, uris, 1 if mode == "list" else _PAGE_PAYS, pool)
    answers.given(len(listed))
    left = [uri for uri in uris if uri not in listed] if listed else uris
    size = max(1, len(left) // _CHUNKS)
    chunks = [left[start : start + size] for start in range(0, len(left), size)]

    def ask(chunk: Sequence[str]) -> list[_Answer]:
        return [answers.to(fetcher.stat, uri) for uri in chunk]

    asked = chain.from_iterable(pool.map(ask, chunks))
    return (listed[uri] if uri in listed else next(asked) for uri in uris) if listed else asked


def _listed(fetcher: Fetcher, uris: Sequence[str], pays: int, pool: ThreadPoolExecutor) -> dict[str, Stat]:
    folders: dict[tuple[str, ...], list[str]] = {}
    for uri in dict.fromkeys(uris):
        folder = fetcher.folder(uri)
        if folder is not None:
            folders.setdefault(folder, []).append(uri)
    pieces = [
        some[start : start + PAGE_KEYS]
        for some in map(sorted, folders.values())
        if len(some) >= pays
        for start in range(0, len(some), PAGE_KEYS)
    ]
    found: dict[str, Stat] = {}
    for here in pool.map(lambda piece: _pages(fetcher, piece, pays), pieces):
        found |= here
    return found


def _pages(fetcher: Fetcher, uris: Sequence[str], pays: int) -> dict[str, Stat]:
    try:
        return fetcher.stat_listed(uris, pays)
    except RejectError:
        return {}
