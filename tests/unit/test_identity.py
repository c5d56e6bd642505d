"""What counts as a change of a file."""

from __future__ import annotations

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
