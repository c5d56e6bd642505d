"""The identity of media: what a fingerprint has in place of bytes that nobody wants to read to see a change.

In: manifest rows. Out: for each medium the identity of each of its files. The first that there is counts: the
manifest's `content_hash`; the hash of inline bytes; its etag, size, version, last_modified; what the store says
now (not under `inputs.identity: trust`). No row is refused: what cannot be asked is an identity of its own. Raises
IncompleteError where the store fails or refuses too many of the questions to believe the rest.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

from pipeline.errors import IncompleteError, RejectCode, RejectError
from pipeline.fetch import Fetcher
from pipeline.fingerprint import Identity
from pipeline.manifest.rows import ManifestRow
from pipeline.types import MediaKind, MediaRef

__all__ = ["IdentifiedMedia", "Identifier", "tells_content"]

IdentifiedMedia = list[tuple[MediaKind, list[Identity]]]
"""An item's media in order, with the identity of each file."""

_CONTENT_TAGS = ("bytes", "content_hash")

_THREADS = 32
"""Asking a store is waiting: at 20 ms a HEAD some 1,600 files/s."""

_FAILED_MIN = 10
_FAILED_FRACTION = 0.05
"""More failures than both are a store or a role that is broken, not some objects that are."""

_EARLY_ASKED = 200
_EARLY_FRACTION = 0.5
"""Seconds of asking tell expired credentials; retrying a whole lake against them takes a night."""


class Identifier:
    """Finds identities under the policy of `fetcher`; `ask_store` is `inputs.identity: auto`. Use as a context.

    A refusal that only the config decides (scheme, folder, size) is part of the identity: an item that was
    rejected for it counts as changed once the config allows it.
    """

    def __init__(self, fetcher: Fetcher, *, ask_store: bool) -> None:
        self._fetcher = fetcher
        self._ask_store = ask_store
        self._refused_folders: dict[str, bool] = {}
        self._answers = _Answers()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="stat")

    def __enter__(self) -> Identifier:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def identify(self, rows: Sequence[ManifestRow]) -> Iterator[IdentifiedMedia]:
        """For each of `rows` its media in order, with the identity of each file.

        Raises IncompleteError once most of the first questions have failed.
        """
        answers = self._ask([uri for row in rows if self._asks(row) for uri in _uris(row)])
        for row in rows:
            asks = self._asks(row)
            found: list[Identity] = []
            for ref, digest in zip(_refs(row), row.digests, strict=True):
                if ref.is_vacant:
                    found.append(("vacant",))
                elif ref.uri is None:
                    found.append(_of_bytes(row, digest or ""))
                else:
                    found.append(next(answers) if asks else self._given(row, ref.uri))
            files = iter(found)
            yield [(medium.kind, list(islice(files, len(medium.refs)))) for medium in row.media]

    def asks(self, rows: Sequence[ManifestRow]) -> bool:
        """Whether `identify` would ask the store about a file of `rows`."""
        return any(self._asks(row) and any(True for _ in _uris(row)) for row in rows)

    def check(self) -> None:
        """Raise IncompleteError if too much of what was asked so far could not be judged. Call at the end."""
        self._answers.check()

    def _asks(self, row: ManifestRow) -> bool:
        return self._ask_store and not row.identity

    def _ask(self, uris: Sequence[str]) -> Iterator[Identity]:
        # In chunks, since a future costs as much as a local stat does; several a thread, so that none waits long.
        size = max(1, len(uris) // (_THREADS * 4))
        chunks = [uris[start : start + size] for start in range(0, len(uris), size)]
        return chain.from_iterable(self._pool.map(lambda chunk: [self._stored(uri) for uri in chunk], chunks))

    def _stored(self, uri: str) -> Identity:
        self._answers.check_early()
        try:
            stat = self._fetcher.stat(uri)
        except RejectError as error:
            self._answers.failed(error)
            return _unknown(uri, error)
        self._answers.given()
        return (*self._too_large(str(stat.size_bytes)), "store", uri, *_flat(stat.marks))

    def _given(self, row: ManifestRow, uri: str) -> Identity:
        given = dict(row.identity)
        refusal: Identity = ("refused",) if self._is_refused(uri) else ()
        if "content_hash" in given:
            return (*refusal, "content_hash", given["content_hash"])
        if given:
            return (*refusal, *self._too_large(given.get("size", "")), "given", uri, *_flat(row.identity))
        return (*refusal, "uri", uri)

    def _is_refused(self, uri: str) -> bool:
        # By folder: resolving the links of every path would cost more than all else that planning does for a row.
        policy = self._fetcher.policy
        try:
            if policy.check(uri) != "file":
                return False
        except RejectError:
            return True
        folder = uri.rpartition("/")[0] or "/"
        if folder not in self._refused_folders:
            self._refused_folders[folder] = not policy.is_inside(folder)
        return self._refused_folders[folder]

    def _too_large(self, size: str) -> Identity:
        large = size.isdecimal() and int(size) > self._fetcher.policy.max_bytes
        return ("too large",) if large else ()


def tells_content(media: IdentifiedMedia) -> bool:
    """Whether these identities are of bytes, so that items with equal fingerprints have equal content."""
    return all(identity[0] in _CONTENT_TAGS for _, files in media for identity in files)


class _Answers:
    """How a store answered, counted by the threads that ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0
        self._codes: Counter[RejectCode] = Counter()
        self._example = ""

    def given(self) -> None:
        with self._lock:
            self._asked += 1

    def failed(self, error: RejectError) -> None:
        # What the policy refuses is no question; that there is no such object is an answer.
        if error.code is RejectCode.URI_NOT_ALLOWED:
            return
        with self._lock:
            self._asked += 1
            if error.code is not RejectCode.NOT_FOUND:
                self._codes[error.code] += 1
                self._example = self._example or str(error)

    def check(self) -> None:
        with self._lock:
            if self._codes.total() > max(_FAILED_MIN, _FAILED_FRACTION * self._asked):
                raise self._stopped()

    def check_early(self) -> None:
        with self._lock:
            if self._asked >= _EARLY_ASKED and self._codes.total() > _EARLY_FRACTION * self._asked:
                raise self._stopped()

    def _stopped(self) -> IncompleteError:
        codes = ", ".join(f"{code} {count}" for code, count in self._codes.most_common())
        return IncompleteError(
            f"the store refused or failed {self._codes.total()} of {self._asked} questions about objects ({codes}), "
            f"e.g. {self._example}; check credentials; nothing was changed; run again (or set inputs.identity: "
            "trust, which asks no store)"
        )


def _refs(row: ManifestRow) -> Iterator[MediaRef]:
    return (ref for medium in row.media for ref in medium.refs)


def _uris(row: ManifestRow) -> Iterator[str]:
    return (ref.uri for ref in _refs(row) if ref.uri is not None and not ref.is_vacant)


def _of_bytes(row: ManifestRow, digest: str) -> Identity:
    given = dict(row.identity).get("content_hash")
    return ("bytes", digest) if given is None else ("content_hash", given)


def _unknown(uri: str, error: RejectError) -> Identity:
    if error.code is RejectCode.NOT_FOUND:
        return ("missing", uri)
    if error.code is RejectCode.URI_NOT_ALLOWED:
        return ("refused", "uri", uri)
    return ("unknown", uri)


def _flat(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    return (text for pair in pairs for text in pair)
