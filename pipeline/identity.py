"""The identity of media: what a fingerprint has in place of bytes that nobody wants to read to see a change.

In: manifest rows. Out: for each medium the identity of each of its files, and what the fetch is to compare. Under
`inputs.identity: auto` the first that there is counts: the manifest's `content_hash`, of a row with one file; the hash
of inline bytes; the manifest's columns; what the store says now. `trust` asks no store, `list` and `head` ask it
whatever the manifest says, `content` hashes the bytes of every file. No row is refused: what cannot be asked is an
identity of its own. Raises IncompleteError where the store fails or refuses too many of the questions to believe the
rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from pipeline.answers import Answers
from pipeline.asking import ask_store
from pipeline.blobs import Stat
from pipeline.config import IdentityMode
from pipeline.errors import RejectCode, RejectError
from pipeline.expected import BYTES, MISSING, Marks, given_marks
from pipeline.fetch import Fetcher
from pipeline.fingerprint import Identity
from pipeline.manifest.rows import ManifestRow, new_digest
from pipeline.types import Media, MediaKind, MediaRef

__all__ = ["Identified", "Identifier", "is_content"]

_THREADS = 32
"""Asking a store is waiting: at 20 ms a HEAD some 1,600 files/s."""

_CONTENT = ("bytes", "content_hash")

_Known = tuple[Identity, Marks]


@dataclass(frozen=True, slots=True)
class Identified:
    """A row's media in order: as the work list has them (`expected` filled in), and the identity of each file."""

    media: tuple[Media, ...]
    identities: tuple[tuple[MediaKind, tuple[Identity, ...]], ...]

    @property
    def content_known(self) -> bool:
        """Whether equal identities are equal content: of every file the bytes are known, not only where they lie."""
        return all(is_content(one) for _, files in self.identities for one in files)


def is_content(identity: Identity) -> bool:
    """Whether files with this identity have the same bytes, wherever they lie."""
    return identity[0] in _CONTENT


class Identifier:
    """Finds identities under the policy of `fetcher`; `mode` is `inputs.identity`. Use as a context.

    A refusal that only the config decides (scheme, folder, size) is part of the identity: an item that was rejected for
    it counts as changed once the config allows it. Leaving the context by an error ends the fetcher's reads.
    """

    def __init__(self, fetcher: Fetcher, mode: IdentityMode) -> None:
        self._fetcher = fetcher
        self._mode = mode
        self._refused_folders: dict[str, bool] = {}
        self._answers = Answers(fetcher.policy.is_strange)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="stat")

    def __enter__(self) -> Identifier:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        if kind is not None:
            # Whoever is to stop has seconds, and a store that stalls is waited for for minutes.
            self._fetcher.drop()
        self._pool.shutdown(wait=True)

    def identify(self, rows: Sequence[ManifestRow]) -> Iterator[Identified]:
        """What is known of the media of each of `rows`.

        Raises IncompleteError once most of the first questions have failed.
        """
        answers = self._ask([uri for row in rows if self._asks(row) for uri in _uris(row)])
        for row in rows:
            known = [
                self._known(row, ref, digest, answers) for ref, digest in zip(_refs(row), row.digests, strict=True)
            ]
            yield _identified(row, known)

    def asks(self, rows: Sequence[ManifestRow]) -> bool:
        """Whether `identify` would ask the store about a file of `rows`."""
        return any(self._asks(row) and any(True for _ in _uris(row)) for row in rows)

    def check(self) -> None:
        """Raise IncompleteError if too much of what was asked so far could not be judged. Call at the end."""
        self._answers.check()

    def _known(self, row: ManifestRow, ref: MediaRef, digest: str | None, answers: Iterator[_Known]) -> _Known:
        if ref.is_vacant:
            return ("vacant",), ()
        if ref.uri is None:
            return self._of_bytes(row, digest or ""), ((BYTES, digest or ""),)
        if self._asks(row):
            return next(answers)
        return self._given(row, ref.uri), () if self._mode == "trust" else given_marks(row, ref.uri)

    def _asks(self, row: ManifestRow) -> bool:
        return self._mode != "trust" and not (self._mode == "auto" and row.identity)

    def _ask(self, uris: Sequence[str]) -> Iterator[_Known]:
        if self._mode == "content":
            # One a task: a file may be a gigabyte, and a chunk of files would wait for its largest.
            return self._pool.map(self._hashed, uris)
        if self._mode == "trust":
            return iter(())
        stats = ask_store(self._fetcher, uris, self._mode, self._pool, self._answers)
        return (self._stored(uri, stat) for uri, stat in zip(uris, stats, strict=True))

    def _stored(self, uri: str, found: Stat | RejectError) -> _Known:
        if isinstance(found, RejectError):
            return _unknown(uri, found)
        return (*self._too_large(str(found.size_bytes)), "store", uri, *_flat(found.marks)), found.marks

    def _hashed(self, uri: str) -> _Known:
        found = self._answers.to(self._fetcher.digest, uri)
        if isinstance(found, RejectError) and found.code is RejectCode.EMPTY_MEDIA:
            found = new_digest().hexdigest()
        if not isinstance(found, RejectError):
            return (BYTES, found), ((BYTES, found),)
        if found.code is RejectCode.MEDIA_TOO_LARGE:
            # No byte of it is read; its state counts as changed with its size, or once the config allows it.
            return self._stored(uri, self._answers.to(self._fetcher.stat, uri))
        return _unknown(uri, found)

    def _of_bytes(self, row: ManifestRow, digest: str) -> Identity:
        given = None if self._mode == "content" else _content_hash(row)
        return (BYTES, digest) if given is None else ("content_hash", given)

    def _given(self, row: ManifestRow, uri: str) -> Identity:
        given = dict(row.identity)
        refusal: Identity = ("refused",) if self._is_refused(uri) else ()
        hashed = _content_hash(row)
        if hashed is not None:
            return (*refusal, "content_hash", hashed)
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


def _identified(row: ManifestRow, known: Sequence[_Known]) -> Identified:
    files = iter(known)
    media: list[Media] = []
    identities: list[tuple[MediaKind, tuple[Identity, ...]]] = []
    for medium in row.media:
        here = list(islice(files, len(medium.refs)))
        refs = zip(medium.refs, here, strict=True)
        media.append(
            Media(medium.kind, tuple(MediaRef(ref.uri, ref.column, ref.index, marks) for ref, (_, marks) in refs))
        )
        identities.append((medium.kind, tuple(identity for identity, _ in here)))
    return Identified(tuple(media), tuple(identities))


def _unknown(uri: str, error: RejectError) -> _Known:
    if error.code is RejectCode.NOT_FOUND:
        return ("missing", uri), MISSING
    if error.code is RejectCode.URI_NOT_ALLOWED:
        return ("refused", "uri", uri), ()
    return ("unknown", uri), ()


def _content_hash(row: ManifestRow) -> str | None:
    # Of several files it may be one's or that of all of them: as much as an etag, and nothing to find duplicates by.
    return dict(row.identity).get("content_hash") if len(row.digests) == 1 else None


def _refs(row: ManifestRow) -> Iterator[MediaRef]:
    return (ref for medium in row.media for ref in medium.refs)


def _uris(row: ManifestRow) -> Iterator[str]:
    return (ref.uri for ref in _refs(row) if ref.uri is not None and not ref.is_vacant)


def _flat(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    return (text for pair in pairs for text in pair)
