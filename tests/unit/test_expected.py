"""What counts as another file than the planned one, and what is no more than another style."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.blobs import Blob, Stat
from pipeline.expected import MISSING, difference, given_marks
from pipeline.manifest.rows import ManifestRow
from pipeline.types import Media, MediaKind, MediaRef

DATA = b"the bytes"
ETAG = hashlib.md5(DATA).hexdigest()
VERSION = "3HL4kqtJvjVBH40Nrjfkd.abcdefghij"
S3 = Blob(DATA, Stat(len(DATA), (("size", str(len(DATA))), ("ETag", f'"{ETAG}"')), VERSION, 1_700_000_000.0))
LOCAL = Blob(DATA, Stat(len(DATA), (("size", str(len(DATA))), ("mtime_ns", "17")), None, 1_700_000_000.5))


def row(files: int = 1, text: str = "", **identity: Any) -> ManifestRow:
    refs = tuple(MediaRef(f"s3://b/{n}", "image", 0) for n in range(files))
    media = tuple(Media(MediaKind.IMAGE, (ref,)) for ref in refs)
    pairs = tuple((name, str(value)) for name, value in identity.items())
    return ManifestRow("1", (text,) if text else (), media, (None,) * files, None, None, None, pairs, 0)


def seen(blob: Blob, uri: str = "s3://b/0", **identity: Any) -> str | None:
    return difference(given_marks(row(**identity), uri), blob)


SAME = [
    {"size": 9}, {"size": "9.0"}, {"etag": ETAG}, {"etag": f'"{ETAG}"'}, {"etag": f'W/"{ETAG.upper()}"'},
    {"version": VERSION}, {"last_modified": "2023-11-14 22:13:20.900000Z"},
    {"last_modified": "2023-11-14T23:13:20+01:00"}, {"content_hash": ETAG},
    {"content_hash": hashlib.sha1(DATA).hexdigest()}, {"content_hash": hashlib.sha256(DATA).hexdigest().upper()},
]  # fmt: skip


@pytest.mark.parametrize("identity", SAME, ids=str)
def test_the_same_file(identity: dict[str, str]) -> None:
    assert given_marks(row(**identity), "s3://b/0"), "it is compared"
    assert seen(S3, **identity) is None


OTHER = [
    {"size": 8}, {"size": 0}, {"etag": "0" * 32}, {"etag": f"{ETAG}-12"}, {"version": VERSION[::-1]},
    {"last_modified": "2023-11-14 22:13:30Z"}, {"content_hash": "0" * 32}, {"content_hash": "0" * 40},
    {"content_hash": "0" * 64}, {"size": 9, "etag": "0" * 32},
]  # fmt: skip


@pytest.mark.parametrize("identity", OTHER, ids=str)
def test_another_file_is_told_in_words(identity: dict[str, str]) -> None:
    said = seen(S3, **identity)
    assert said is not None
    assert "when planned, and is" in said


FOREIGN = [
    {"etag": "v17"}, {"etag": "0x8DC123"}, {"etag": ""}, {"version": 3}, {"version": "null"},
    {"last_modified": "2020-01-01 00:00:00"}, {"last_modified": "yesterday"}, {"last_modified": "1577836800"},
    {"content_hash": "xxh3:00"}, {"content_hash": "0" * 16}, {"content_hash": "g" * 32}, {"size": "big"},
    {"size": "-1"},
]  # fmt: skip


@pytest.mark.parametrize("identity", FOREIGN, ids=str)
def test_other_styles_reject_nothing(identity: dict[str, str]) -> None:
    assert seen(S3, **identity) is None


def test_what_the_columns_cannot_mean_is_not_compared() -> None:
    assert seen(S3, files=2, size=8, etag="0" * 32) is None
    assert seen(S3, text="caption", content_hash="0" * 32) is None
    assert seen(LOCAL, "/a", etag="0" * 32, version=VERSION) is None
    assert seen(LOCAL, "/a", size=8) is not None


def test_a_file_that_came_belongs_to_the_next_run() -> None:
    assert difference(MISSING, LOCAL) == "there was no such file, and now there is"


@given(st.binary(max_size=9), st.binary(max_size=9))
def test_digests_tell_bytes_apart(planned: bytes, read: bytes) -> None:
    marks = (("bytes", hashlib.blake2b(planned, digest_size=16).hexdigest()),)
    assert (difference(marks, Blob(read, Stat(len(read), ()))) is None) == (planned == read)


MARKS = st.tuples(st.integers(0, 3), st.integers(0, 3))


@given(MARKS, MARKS)
def test_what_a_store_says_is_compared_word_for_word(planned: tuple[int, int], read: tuple[int, int]) -> None:
    marks = tuple(zip(("size", "mtime_ns"), map(str, planned), strict=True))
    blob = Blob(b"", Stat(0, tuple(zip(("size", "mtime_ns"), map(str, read), strict=True))))
    assert (difference(marks, blob) is None) == (planned == read)
