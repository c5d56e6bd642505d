"""What planning knew of a file, and whether the file that was read is that one.

In: what a manifest row or a store said at planning, and a `Blob` read later. Out: marks to keep in the work list
(`types.MediaRef.expected`), and what differs. Nothing is refused here. Only what is comparable is compared: a manifest
may call anything an etag or a hash, and a lake must not be rejected for a matter of style.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime

from pipeline.blobs import Blob, Stat
from pipeline.errors import RejectCode
from pipeline.manifest.location import scheme_of
from pipeline.manifest.rows import ManifestRow, new_digest

__all__ = ["BYTES", "MISSING", "Marks", "difference", "difference_of_refused", "given_marks", "needs_bytes"]

Marks = tuple[tuple[str, str], ...]
"""(name, text) pairs: those of `blobs.Stat.marks`, and the ones below."""

BYTES = "bytes"
"""The digest (`manifest.rows.new_digest`) of the bytes themselves."""

MISSING: Marks = (("missing", ""),)
"""There was no such file: one that has come since belongs to the next run, under another fingerprint."""

_ETAG = "ETag"
_VERSION = "version"
_MODIFIED = "modified_s"

_S3_ETAG = re.compile(r"[0-9a-f]{32}(-[0-9]+)?")
"""MD5 or the like, and of uploads in parts the number of them. Other stores write others, which say nothing here."""

_HEX = re.compile(r"[0-9a-f]+")
_HASH_CHARS = {32: "md5", 40: "sha1", 64: "sha256"}

_MODIFIED_TOLERANCE_S = 1.0
"""HTTP tells whole seconds, listings may tell fractions."""


def given_marks(row: ManifestRow, uri: str) -> Marks:
    """What the identity columns of `row` say of its file `uri`, as far as a fetch can compare it.

    Nothing of a row with several files: the columns do not tell which one they mean. A content hash only of a row
    without text, where it can be but the file's.
    """
    if sum(len(medium.refs) for medium in row.media) != 1:
        return ()
    return tuple(_given(dict(row.identity), is_s3=scheme_of(uri) == "s3", alone=not row.texts))


def _given(given: dict[str, str], *, is_s3: bool, alone: bool) -> Iterator[tuple[str, str]]:
    size = _whole(given.get("size", ""))
    if size is not None:
        yield "size", size
    if is_s3 and _S3_ETAG.fullmatch(etag := _plain_etag(given.get("etag", ""))):
        yield _ETAG, etag
    if is_s3 and given.get("version"):
        yield _VERSION, given["version"]
    modified = _seconds(given.get("last_modified", ""))
    if modified is not None:
        yield _MODIFIED, repr(modified)
    hashed = given.get("content_hash", "").lower()
    if alone and _HEX.fullmatch(hashed) and len(hashed) in _HASH_CHARS:
        yield _HASH_CHARS[len(hashed)], hashed


def _whole(text: str) -> str | None:
    # Integers that pandas held beside a null are floats.
    whole = text.removesuffix(".0")
    return str(int(whole)) if whole.isascii() and whole.isdecimal() else None


def _seconds(text: str) -> float | None:
    if not text:
        return None  # most manifests have none, and an exception costs more than all else here
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    # A time without a zone is one of some place that we do not know.
    return None if when.tzinfo is None else when.timestamp()


def _plain_etag(text: str) -> str:
    return text.strip().removeprefix("W/").strip('"').lower()


def needs_bytes(expected: Marks) -> bool:
    """Whether comparing with `expected` hashes a file's bytes."""
    return any(name == BYTES or name in _HASH_CHARS.values() for name, _ in expected)


def difference(expected: Marks, blob: Blob) -> str | None:
    """What tells that `blob` is not the file that was `expected`, in words; None where nothing does."""
    seen = dict(blob.stat.marks)
    for name, text in expected:
        found = _found(name, text, blob, seen)
        if found is not None and found != text:
            return "there was no such file, and now there is" if name == "missing" else _words(name, text, found)
    return None


def difference_of_refused(expected: Marks, code: RejectCode, max_bytes: int) -> str | None:
    """What tells that a file refused with `code` is not the one that was `expected`, in words; None where nothing does.

    A file that vanished, or was cut short to be written anew, may be back the next night with the bytes it had: to the
    planned item belongs no verdict for good, nor to others of its content.
    """
    if code is RejectCode.NOT_FOUND:
        return "there was a file when planned, and now there is none" if expected and expected != MISSING else None
    if code is RejectCode.EMPTY_MEDIA:
        return difference(expected, Blob(b"", Stat(0, (("size", "0"),))))
    if code is RejectCode.MEDIA_TOO_LARGE:
        sizes = [int(text) for name, text in expected if name == "size"]
        # No larger file was hashed.
        was_small = max(sizes) <= max_bytes if sizes else any(name == BYTES for name, _ in expected)
        return f"the file was not larger than {max_bytes} bytes when planned, and is" if was_small else None
    return None


def _words(name: str, text: str, found: str) -> str:
    return f"{name} was {text or 'none'} when planned, and is {found}"


def _found(name: str, text: str, blob: Blob, seen: dict[str, str]) -> str | None:
    """What `blob` has under `name`, spelled as `text` where it means the same; None if it cannot be compared."""
    if name == "missing":
        return "found"
    if name == BYTES:
        digest = new_digest()
        digest.update(blob.data)
        return digest.hexdigest()
    if name in _HASH_CHARS.values():
        return hashlib.new(name, blob.data, usedforsecurity=False).hexdigest()
    if name == _ETAG:
        return _same_etag(text, seen.get(_ETAG))
    if name == _VERSION:
        # Of another length it is another kind of version: a manifest's own counter, or another store's.
        version = blob.stat.version
        return version if version is not None and len(version) == len(text) else None
    if name == _MODIFIED:
        modified = blob.stat.modified_s
        if modified is None:
            return None
        return text if abs(modified - float(text)) <= _MODIFIED_TOLERANCE_S else repr(modified)
    return seen.get(name)


def _same_etag(text: str, found: str | None) -> str | None:
    # Quotes and W/ are HTTP's, not the tag's.
    if found is None:
        return None
    return text if _plain_etag(found) == _plain_etag(text) else found
