"""Fetching from object stores: a real S3 server, and one that fails on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import FetchConfig
from pipeline.errors import RejectCode, RejectError
from pipeline.fetch import Fetcher, FetchPolicy
from pipeline.types import LoadedItem, Media, MediaKind, MediaRef, WorkItem
from tests.fixtures.s3_server import S3Server


def fetcher(folder: Path | str | None = None, **config: Any) -> Fetcher:
    return Fetcher(FetchPolicy.of(FetchConfig(**config), None if folder is None else str(folder)))


def code_of(call: Callable[[], object]) -> RejectCode:
    with pytest.raises(RejectError) as error:
        call()
    return error.value.code


def item(id_: str, *uris: str, manifest: str = "", row: int = 0, inline: tuple[str, ...] = ()) -> WorkItem:
    media = [Media(MediaKind.IMAGE, (MediaRef(uri, "image", i),)) for i, uri in enumerate(uris)]
    media += [Media(MediaKind.IMAGE, (MediaRef(None, column, 0),)) for column in inline]
    return WorkItem(id_, ("t",), tuple(media), "i", 1.0, 8, "f", manifest, row, 0)


@pytest.mark.s3
def test_objects(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket("fetch")
    keys = {"a": b"x" * 10, "empty": b"", "large": b"x" * 3_000_000, "ключ a::b %20.png": b"odd"}
    for key, data in keys.items():
        s3_server.filesystem.pipe_file(f"fetch/{key}", data)
    with fetcher(storage_options=s3_server.storage_options, max_bytes=2_000_000) as fetch:
        assert fetch.fetch(f"{bucket}/a") == b"x" * 10
        assert fetch.fetch(f"{bucket}/ключ a::b %20.png") == b"odd"
        assert code_of(lambda: fetch.fetch(f"{bucket}/empty")) is RejectCode.EMPTY_MEDIA
        assert code_of(lambda: fetch.fetch(f"{bucket}/large")) is RejectCode.MEDIA_TOO_LARGE
        assert code_of(lambda: fetch.fetch(f"{bucket}/none")) is RejectCode.NOT_FOUND
        assert code_of(lambda: fetch.fetch("s3://no-such-bucket/none")) is RejectCode.NOT_FOUND
        got = list(fetch.load_many(item(str(i), f"{bucket}/a") for i in range(50)))
    assert all(isinstance(loaded, LoadedItem) for _, loaded in got)


@pytest.mark.s3
def test_wrong_credentials_are_told_without_them(s3_server: S3Server) -> None:
    options = {"s3": {**s3_server.storage_options["s3"], "secret": "wrong-canary"}}
    s3_server.make_bucket("denied")
    with fetcher(storage_options=options) as fetch, pytest.raises(RejectError) as error:
        fetch.fetch("s3://denied/a")
    assert error.value.code is RejectCode.ACCESS_DENIED
    assert "canary" not in error.value.detail


@pytest.mark.s3
def test_memory_stays_free_of_an_object_that_is_too_large(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3_server.make_bucket("capped")
    s3_server.filesystem.pipe_file("capped/large", b"x" * 3_000_000)
    with fetcher(storage_options=s3_server.storage_options, max_bytes=10) as fetch:
        monkeypatch.setattr("aiobotocore.response.StreamingBody.read", lambda *_: pytest.fail("the body was read"))
        assert code_of(lambda: fetch.fetch(f"{bucket}/large")) is RejectCode.MEDIA_TOO_LARGE


class Faulty(BaseHTTPRequestHandler):
    """An S3 endpoint that answers each GET with the next step of `script`, and the last one for ever."""

    protocol_version = "HTTP/1.1"
    script: list[str] = []  # noqa: RUF012
    asked = 0

    def do_GET(self) -> None:
        step = self.script[min(type(self).asked, len(self.script) - 1)]
        type(self).asked += 1
        if step == "hang":
            time.sleep(60)
        if step in ("reset", "hang"):
            self.close_connection = True
            return
        if step == "short":
            self._answer(200, b"x" * 50, length=100)
            self.close_connection = True
        elif step == "good":
            self._answer(200, b"x" * 100)
        else:
            status, code = step.split()
            self._answer(int(status), f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode())

    def _answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(body)))
        self.send_header("ETag", '"e"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def faulty(*script: str) -> Iterator[tuple[dict[str, dict[str, Any]], type[Faulty]]]:
    """Storage options of a server that follows `script`, with the drivers' own retries off, and its handler."""
    handler = type("Scripted", (Faulty,), {"script": list(script), "asked": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    options = {
        "endpoint_url": f"http://127.0.0.1:{server.server_port}", "key": "k", "secret": "s",
        "client_kwargs": {"region_name": "us-east-1"}, "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }  # fmt: skip
    try:
        yield {"s3": options}, handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "script",
    [
        ["503 SlowDown", "503 SlowDown", "good"], ["500 InternalError", "good"], ["503 ServiceUnavailable", "good"],
        ["reset", "good"], ["short", "good"], ["429 TooManyRequests", "good"], ["good"],
    ],
    ids=str,
)  # fmt: skip
def test_what_passes_is_retried(script: list[str]) -> None:
    with faulty(*script) as (options, _), fetcher(storage_options=options, timeout_s=20) as fetch:
        assert fetch.fetch("s3://b/k") == b"x" * 100


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("404 NoSuchKey", RejectCode.NOT_FOUND), ("404 NoSuchBucket", RejectCode.NOT_FOUND),
        ("403 AccessDenied", RejectCode.ACCESS_DENIED), ("403 InvalidObjectState", RejectCode.ACCESS_DENIED),
        ("400 InvalidRequest", RejectCode.FETCH_FAILED),
    ],
)  # fmt: skip
def test_what_stays_is_not_retried(answer: str, code: RejectCode) -> None:
    with faulty(answer) as (options, handler), fetcher(storage_options=options, timeout_s=20) as fetch:
        assert code_of(lambda: fetch.fetch("s3://b/k")) is code
        assert handler.asked == 1


def test_retries_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.patience._FIRST_WAIT_S", 0.01)
    with faulty("500 InternalError") as (options, handler):
        with fetcher(storage_options=options, retries=2, timeout_s=20) as fetch:
            assert code_of(lambda: fetch.fetch("s3://b/k")) is RejectCode.FETCH_FAILED
        assert handler.asked == 3


def test_the_deadline_holds_over_all_retries() -> None:
    started = time.monotonic()
    with faulty("hang") as (options, _), fetcher(storage_options=options, timeout_s=0.5) as fetch:
        assert code_of(lambda: fetch.fetch("s3://b/k")) is RejectCode.FETCH_TIMEOUT
        assert time.monotonic() - started < 10
    with (
        faulty("500 InternalError") as (options, _),
        fetcher(storage_options=options, timeout_s=1, retries=99) as fetch,
    ):
        assert code_of(lambda: fetch.fetch("s3://b/k")) in (RejectCode.FETCH_FAILED, RejectCode.FETCH_TIMEOUT)
    assert time.monotonic() - started < 20
