"""S3 that throttles, cuts bodies short and resets connections: no wrong byte, no reject, few requests more."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipeline.config import FetchConfig
from pipeline.errors import RejectCode, RejectError
from pipeline.fetch import Fetcher, FetchPolicy
from pipeline.types import LoadedItem, Media, MediaKind, MediaRef, WorkItem
from tests.fixtures.faulty_proxy import Faults, FaultyProxy
from tests.fixtures.s3_server import S3Server
from tests.fixtures.said import texts_said

pytestmark = pytest.mark.s3

OBJECTS = 200
"""Of 1 to 20 kB, read again and again: what is proved is the reading."""


@pytest.fixture(scope="module")
def lake(s3_server: S3Server) -> dict[str, str]:
    """Digests of the objects of a bucket, by URI."""
    bucket = s3_server.make_bucket("under-fire")
    fs = s3_server.filesystem
    bodies = {f"{bucket}/{n:03}.bin": _body(n) for n in range(OBJECTS)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: fs.pipe_file(pair[0], pair[1]), bodies.items()))
    return {uri: hashlib.sha256(body).hexdigest() for uri, body in bodies.items()}


def _body(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest() * (32 + 3 * number)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.endpoint_url, seed=6) as proxy:
        yield proxy


def fetcher(s3_server: S3Server, proxy: FaultyProxy, **config: Any) -> Fetcher:
    options = {"s3": {**s3_server.storage_options["s3"], "endpoint_url": proxy.endpoint_url}}
    return Fetcher(FetchPolicy.of(FetchConfig(storage_options=options, **config)))


def works(uris: list[str]) -> list[WorkItem]:
    return [
        WorkItem(uri, (), (Media(MediaKind.IMAGE, (MediaRef(uri, "image", 0),)),), "i", 1.0, 8, "f", "", i, 0)
        for i, uri in enumerate(uris)
    ]


def outcomes(fetch: Fetcher, lake: dict[str, str], reads: int) -> tuple[int, list[RejectError]]:
    """How many of `reads` gave wrong bytes, and the rejects."""
    uris = [list(lake)[n % len(lake)] for n in range(reads)]
    wrong, rejects = 0, []
    for item, got in fetch.load_many(works(uris)):
        if isinstance(got, LoadedItem):
            wrong += hashlib.sha256(got.media[0].blobs[0]).hexdigest() != lake[item.id]
        else:
            rejects.append(got)
    return wrong, rejects


@pytest.mark.parametrize("reads", [1500, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_faults_cost_requests_and_nothing_else(
    s3_server: S3Server, proxy: FaultyProxy, lake: dict[str, str], reads: int
) -> None:
    proxy.faults = Faults(slow=0.2, short=0.05, reset=0.02)
    started = time.monotonic()
    with fetcher(s3_server, proxy) as fetch:
        wrong, rejects = outcomes(fetch, lake, reads)
    took_s = time.monotonic() - started
    print(f"\n{reads} reads in {took_s:.1f} s: {dict(proxy.counts)}, {proxy.counts['requests'] / reads:.3f} a read")
    assert (wrong, rejects) == (0, [])
    assert min(proxy.counts[name] for name in ("slow", "short", "reset")) > 0.01 * reads
    assert reads <= proxy.counts["passed"] <= proxy.counts["requests"] <= 1.6 * reads


@pytest.mark.parametrize("stall_s", [8, pytest.param(60, marks=pytest.mark.slow)])
def test_a_store_that_throttles_everything_is_waited_for(
    s3_server: S3Server, proxy: FaultyProxy, lake: dict[str, str], stall_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    with fetcher(s3_server, proxy, timeout_s=6, retries=0) as fetch, caplog.at_level(logging.INFO, "lakevec"):
        assert outcomes(fetch, lake, 50) == (0, [])
        proxy.faults = Faults(all_slow=True)
        before = proxy.counts["requests"]

        def recover() -> None:
            until = time.monotonic() + 60  # a busy client is throttled late, and tells of it later still
            while not any("5 s so far" in text for text in texts_said(caplog)) and time.monotonic() < until:
                time.sleep(0.05)
            proxy.faults.all_slow = False

        over = threading.Timer(stall_s, recover)
        started = time.monotonic()
        over.start()
        assert outcomes(fetch, lake, 300) == (0, []), "neither the deadline nor the retries of a file run out"
        took_s = time.monotonic() - started
        over.join()
    stalled = proxy.counts["slow"]
    said = texts_said(caplog)
    print(f"\n{stall_s} s of 503: over after {took_s:.1f} s, {stalled} requests throttled; {said}")
    assert took_s >= stall_s
    assert proxy.counts["requests"] - before >= 300
    # All that were under way, five more and those beside them; then a probe each second or two.
    assert stalled <= 2 * 32 + 5 + 2 * took_s, "while everything is throttled the store is only probed"
    assert any("answers 503 to every request" in text and "5 s so far" in text for text in said)
    assert any("answers again" in text for text in said)


def test_a_store_that_throttles_beyond_the_patience_fails_the_items_for_tonight(
    s3_server: S3Server, proxy: FaultyProxy, lake: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    proxy.faults = Faults(all_slow=True)
    started = time.monotonic()
    with fetcher(s3_server, proxy, throttle_patience_s=1.5) as fetch, caplog.at_level(logging.INFO, "lakevec"):
        _, rejects = outcomes(fetch, lake, 60)
        assert {reject.code for reject in rejects} == {RejectCode.FETCH_FAILED}
        assert len(rejects) == 60
        assert RejectCode.FETCH_FAILED.meaning.retryable
        assert 1.5 < time.monotonic() - started < 60, "once, and not for each item"
        proxy.faults = Faults()
        assert outcomes(fetch, lake, 20) == (0, []), "the first good answer ends it"
        said = texts_said(caplog)
        assert len(said) == 2, said
        assert "fetch.throttle_patience_s" in said[0]
        assert "answers again" in said[1]


def test_retry_after_is_kept(s3_server: S3Server, proxy: FaultyProxy, lake: dict[str, str]) -> None:
    proxy.faults = Faults(all_slow=True, retry_after="2")
    uri = next(iter(lake))
    with fetcher(s3_server, proxy) as fetch, ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        reading = pool.submit(fetch.fetch, uri)
        while not proxy.counts["slow"]:
            time.sleep(0.01)
        proxy.faults = Faults()
        assert hashlib.sha256(reading.result()).hexdigest() == lake[uri]
        assert time.monotonic() - began > 1.9


def test_planning_asks_as_patiently(s3_server: S3Server, proxy: FaultyProxy, lake: dict[str, str]) -> None:
    proxy.faults = Faults(slow=0.3, reset=0.05)
    with fetcher(s3_server, proxy) as fetch, ThreadPoolExecutor(16) as pool:
        uris = list(lake)
        stats = list(pool.map(fetch.stat, uris))
        digests = list(pool.map(fetch.digest, uris[:20]))
        listed = fetch.stat_listed(uris, 1)
    assert [stat.size_bytes for stat in stats] == [32 * (32 + 3 * n) for n in range(OBJECTS)]
    assert len(set(digests)) == 20
    assert {uri: stat.marks for uri, stat in listed.items()} == {
        uri: stat.marks for uri, stat in zip(uris, stats, strict=True)
    }
    assert proxy.counts["slow"] > 10


def test_an_object_replaced_while_it_is_read_is_of_one_version(s3_server: S3Server, proxy: FaultyProxy) -> None:
    bucket = s3_server.make_bucket("replaced")
    fs = s3_server.filesystem
    old, new = b"o" * 300_000, b"n" * 300_000
    fs.pipe_file("replaced/a", old)

    def replace(_: str) -> None:
        fs.pipe_file("replaced/a", new)
        proxy.faults = Faults()

    with fetcher(s3_server, proxy) as fetch:
        planned = fetch.stat(f"{bucket}/a")
        proxy.faults = Faults(short=1.0, before_body=replace)
        assert fetch.fetch(f"{bucket}/a") == new

        fs.pipe_file("replaced/a", old)
        proxy.faults = Faults(short=1.0, before_body=replace)
        ref = MediaRef(f"{bucket}/a", "image", 0, planned.marks)
        work = WorkItem("1", (), (Media(MediaKind.IMAGE, (ref,)),), "i", 1.0, 8, "f", "", 0, 0)
        with pytest.raises(RejectError) as error:
            fetch.load(work)
        assert error.value.code is RejectCode.SOURCE_CHANGED
