"""What counts as a change of a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.blobs import Stat
from pipeline.config import FetchConfig, IdentityMode
from pipeline.errors import ExitCode, IncompleteError, RejectCode, RejectError
from pipeline.fetch import Fetcher, FetchPolicy
from pipeline.fingerprint import Identity
from pipeline.identity import Identifier
from tests.fixtures.manifests import opened, rows_of, write_parquet
from tests.fixtures.s3_server import S3Server


def identities(
    path: Path | str, *, mode: IdentityMode = "auto", options: dict[str, Any] | None = None, **fetch: Any
) -> list[list[Identity]]:
    """Per row the identities of all files."""
    manifest = opened(path) if options is None else _opened_with(str(path), options)
    policy = FetchPolicy.of(FetchConfig(storage_options=options or {}, **fetch), manifest.folder)
    with Fetcher(policy) as fetcher, Identifier(fetcher, mode) as identifier:
        return [
            [one for _, files in known.identities for one in files] for known in identifier.identify(rows_of(manifest))
        ]


def _opened_with(path: str, options: dict[str, Any]) -> Any:
    from pipeline.config import ManifestConfig
    from pipeline.manifest.manifest import open_manifest

    return open_manifest(ManifestConfig(path=path), options)


def test_the_store_is_asked_and_sees_changes(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"one")
    path = write_parquet(tmp_path / "m.parquet", {"id": ["1"], "image": ["a.png"]})
    first = identities(path)
    assert identities(path) == first
    os.utime(image, ns=(1, 1))
    touched = identities(path)
    image.write_bytes(b"three")
    os.utime(image, ns=(1, 1))
    larger = identities(path)
    image.unlink()
    missing = identities(path)
    seen = [tuple(found[0][0]) for found in (first, touched, larger, missing)]
    assert len(set(seen)) == 4
    assert seen[-1] == ("missing", str(image))


def test_trust_is_the_uri_alone(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": ["1"], "image": ["a.png"]})
    missing = identities(path, mode="trust")
    (tmp_path / "a.png").write_bytes(b"x")
    assert identities(path, mode="trust") == missing == [[("uri", str(tmp_path / "a.png"))]]


def test_identity_columns_spare_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fetcher, "stat", lambda *_: pytest.fail("the store was asked"))
    columns = {"id": ["1", "2"], "image": [["a", "b"], ["c"]], "etag": ["e", "f"], "content_hash": [None, "h"]}
    found = identities(write_parquet(tmp_path / "m.parquet", columns))
    assert found[0] == [("given", str(tmp_path / name), "etag", "e") for name in "ab"]
    assert found[1] == [("content_hash", "h")], "a content hash stands alone: a moved file is the same file"


def content_known(path: Path, mode: IdentityMode) -> list[bool]:
    manifest = opened(path)
    with Fetcher(FetchPolicy.of(FetchConfig(), manifest.folder)) as fetcher, Identifier(fetcher, mode) as identifier:
        return [known.content_known for known in identifier.identify(rows_of(manifest))]


def test_hashed_files_are_what_inline_bytes_are(tmp_path: Path) -> None:
    contents = [b"x" * 3_000_000, b"", b"x" * 3_000_000, b"y"]
    for place, data in enumerate(contents):
        (tmp_path / f"{place}.png").write_bytes(data)
    names = [f"{place}.png" for place in range(4)]
    ids, etags, hashes = list("abcd"), ["e", None, "f", "g"], [None, "h", None, "h"]
    named = {"id": ids, "etag": etags, "content_hash": hashes}
    files = identities(write_parquet(tmp_path / "m.parquet", {**named, "image": names}), mode="content")
    inline = identities(write_parquet(tmp_path / "i.parquet", {**named, "image": contents}), mode="content")
    assert files == inline
    assert files[0] == files[2] != files[3]


def test_what_cannot_be_hashed_is_known_as_ever(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(b"x" * 100)
    columns = {"id": list("abc"), "image": ["large.png", "gone.png", "/etc/passwd"]}
    path = write_parquet(tmp_path / "m.parquet", columns)
    asked, hashed = identities(path, mode="head", max_bytes=99), identities(path, mode="content", max_bytes=99)
    assert asked == hashed
    assert hashed[0][0][:2] == ("too large", "store")
    assert identities(path, mode="content")[0][0][0] == "bytes"


def test_head_asks_whatever_the_manifest_says(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    columns = {"id": ["1"], "image": ["a.png"]}
    plain = identities(write_parquet(tmp_path / "m.parquet", columns))
    said = write_parquet(tmp_path / "n.parquet", {**columns, "etag": ["e"], "content_hash": ["h"]})
    assert identities(said, mode="head") == identities(said, mode="list") == plain != identities(said)


def test_content_is_known_where_every_file_is(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    columns = {
        "id": list("abcdef"),
        "text": ["t"] * 6,
        "image": [[], ["a.png"], ["a.png"], ["gone.png"], ["a.png", None], ["/etc/passwd"]],
        "content_hash": [None, None, "h", None, None, "h"],
    }
    path = write_parquet(tmp_path / "m.parquet", columns)
    assert content_known(path, "auto") == [True, False, True, False, False, False]
    assert content_known(path, "content") == [True, True, True, False, False, False]
    inline = write_parquet(tmp_path / "i.parquet", {"id": ["1"], "image": [b"x"]})
    assert content_known(inline, "trust") == [True]


def test_a_content_hash_beside_several_files_is_none_of_them(tmp_path: Path) -> None:
    columns = {"id": ["1", "2"], "image": [["a", "b"], ["b", "a"]], "content_hash": ["h", "h"]}
    path = write_parquet(tmp_path / "m.parquet", columns)
    first, second = identities(path)
    assert first == [("given", str(tmp_path / name), "content_hash", "h") for name in "ab"]
    assert second == first[::-1]
    assert content_known(path, "auto") == [False, False]
    inline = write_parquet(tmp_path / "i.parquet", {**columns, "image": [[b"a", b"b"], [b"b", b"a"]]})
    first, second = identities(inline)
    assert second == first[::-1] != first


def test_inline_bytes_are_their_hash_and_move_freely(tmp_path: Path) -> None:
    a = identities(write_parquet(tmp_path / "a.parquet", {"id": ["1", "2"], "image": [b"x", b"y"], "etag": ["e", "e"]}))
    b = identities(write_parquet(tmp_path / "b.parquet", {"id": ["2", "1"], "image": [b"y", b"x"]}), mode="trust")
    assert a == b[::-1]
    assert a[0] != a[1]


@pytest.mark.parametrize("columns", [{}, {"etag": ["e"]}, {"content_hash": ["h"]}])
def test_what_the_config_refuses_changes_when_it_is_allowed(tmp_path: Path, columns: dict[str, Any]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(b"x")
    uri = str(tmp_path / "other" / "a.png")
    path = write_parquet(tmp_path / "m" / "m.parquet", {"id": ["1"], "image": [uri], **columns})
    assert identities(path) != identities(path, local_roots=(str(tmp_path),))
    assert identities(path, schemes=("s3",)) != identities(path, local_roots=(str(tmp_path),))


@pytest.mark.parametrize("columns", [{}, {"size": [100]}])
def test_what_is_too_large_changes_when_it_no_longer_is(tmp_path: Path, columns: dict[str, Any]) -> None:
    (tmp_path / "a.png").write_bytes(b"x" * 100)
    path = write_parquet(tmp_path / "m.parquet", {"id": ["1"], "image": ["a.png"], **columns})
    assert identities(path, max_bytes=99) != identities(path, max_bytes=100) == identities(path)


def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: Sequence[RejectCode | None]) -> list[Identity]:
    """The identities of as many files as there are `answers` of the store; None is a good one."""
    rows = {"id": list(range(len(answers))), "image": [f"{i}.png" for i in range(len(answers))]}

    def stat(_: Fetcher, uri: str) -> Stat:
        code = answers[int(Path(uri).stem)]
        if code is not None:
            raise RejectError(code, "ExpiredToken")
        return Stat(1, ())

    monkeypatch.setattr(Fetcher, "stat", stat)
    manifest = opened(write_parquet(tmp_path / "m.parquet", rows))
    policy = FetchPolicy.of(FetchConfig(), manifest.folder)
    with Fetcher(policy) as fetcher, Identifier(fetcher, "auto") as identifier:
        found = [
            one for known in identifier.identify(rows_of(manifest)) for _, files in known.identities for one in files
        ]
        identifier.check()
    return found


UNJUDGED = [RejectCode.ACCESS_DENIED, RejectCode.FETCH_FAILED, RejectCode.FETCH_TIMEOUT]


@pytest.mark.parametrize("code", UNJUDGED)
def test_a_few_unknown_objects_are_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: RejectCode) -> None:
    for answers in ([code] * 10, [code] * 11 + [None] * 209):
        found = asked(monkeypatch, tmp_path, answers)
        assert [one[0] for one in found].count("unknown") == answers.count(code)


@pytest.mark.parametrize("code", UNJUDGED)
def test_many_unknown_objects_stop_the_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: RejectCode) -> None:
    for good in (0, 100):
        with pytest.raises(IncompleteError) as error:
            asked(monkeypatch, tmp_path, [code] * 11 + [None] * good)
        assert error.value.exit_code == ExitCode.INCOMPLETE
        for said in (
            f"11 of {11 + good} questions",
            f"{code}: ExpiredToken",
            "check credentials",
            "nothing was changed",
        ):
            assert said in str(error.value)


def test_missing_and_refused_objects_are_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = asked(monkeypatch, tmp_path, [RejectCode.NOT_FOUND, RejectCode.URI_NOT_ALLOWED] * 150)
    assert {one[0] for one in found} == {"missing", "refused"}


@pytest.mark.s3
def test_wrong_credentials_stop_the_plan(s3_server: S3Server, tmp_path: Path) -> None:
    bucket = s3_server.make_bucket("expired")
    path = write_parquet(tmp_path / "m.parquet", {"id": list(range(12)), "image": [f"{bucket}/{i}" for i in range(12)]})
    options = {"s3": {**s3_server.storage_options["s3"], "secret": "wrong-canary"}}
    policy = FetchPolicy.of(FetchConfig(storage_options=options), None)
    with Fetcher(policy) as fetcher, Identifier(fetcher, "auto") as identifier:
        list(identifier.identify(rows_of(opened(path))))
        with pytest.raises(IncompleteError, match=r"12 of 12 .*ACCESS_DENIED") as error:
            identifier.check()
    assert "canary" not in str(error.value)


@pytest.mark.s3
def test_objects_are_known_by_etag(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket("identity")
    fs = s3_server.filesystem
    with fs.open(f"{bucket}/m.jsonl", "wb") as file:
        file.write(b'{"id": 1, "image": "a.png"}\n{"id": 2, "image": "gone.png"}\n')
    fs.pipe_file(f"{bucket}/a.png", b"one")
    first = identities(f"{bucket}/m.jsonl", options=s3_server.storage_options)
    fs.pipe_file(f"{bucket}/a.png", b"two")
    second = identities(f"{bucket}/m.jsonl", options=s3_server.storage_options)
    assert first[0] != second[0]
    assert first[0][0][:2] == ("store", f"{bucket}/a.png")
    assert "ETag" in first[0][0]
    assert first[1] == second[1] == [("missing", f"{bucket}/gone.png")]


@pytest.mark.s3
def test_a_listing_a_head_and_a_hash_tell_of_objects(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3_server.make_bucket("listed")
    fs = s3_server.filesystem
    names = [f"photos/{n:02d} é.png" for n in range(30)]
    for name in names:
        fs.pipe_file(f"{bucket}/{name}", name[:8].encode())
    rows = [*names, "photos/99.png", "alone/a.png", names[0]]
    lines = [json.dumps({"id": n, "image": name}) for n, name in enumerate(rows)]
    fs.pipe_file(f"{bucket}/m.jsonl", "\n".join(lines).encode())
    stat, asked = Fetcher.stat, []
    monkeypatch.setattr(Fetcher, "stat", lambda self, uri: asked.append(uri) or stat(self, uri))

    found, requests = {}, {}
    for mode in ("head", "list", "auto", "content"):
        asked.clear()
        found[mode] = identities(f"{bucket}/m.jsonl", mode=mode, options=s3_server.storage_options)
        requests[mode] = sorted(asked)
    assert found["head"] == found["list"] == found["auto"]
    assert requests["list"] == requests["auto"] == [f"{bucket}/alone/a.png", f"{bucket}/photos/99.png"]
    assert len(requests["head"]) == len(rows)
    assert requests["content"] == []
    assert found["head"][30:32] == found["content"][30:32] == [
        [("missing", f"{bucket}/photos/99.png")], [("missing", f"{bucket}/alone/a.png")]
    ]  # fmt: skip
    assert found["content"][3] == [("bytes", hashlib.blake2b(b"photos/0", digest_size=16).hexdigest())]
