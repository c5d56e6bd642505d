"""Connections to web hosts: kept where the next file is likely there, and never without number."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import psutil
import pytest

from pipeline.config import FetchConfig
from pipeline.fetch import Fetcher, FetchPolicy
from pipeline.types import LoadedItem
from tests.fixtures.web_server import PICTURE, web_server
from tests.unit.test_web_client import work


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that answers at every loopback address, each of which is another host."""
    with web_server("0.0.0.0") as (_, server):
        yield server.server_port


def fetcher() -> Fetcher:
    config = FetchConfig(schemes=("http",), private_hosts=("127.0.0.0/8",), timeout_s=20, retries=2)
    return Fetcher(FetchPolicy.of(config))


def uri(port: int, host: int, query: int = 0) -> str:
    return f"http://127.0.{host // 200}.{1 + host % 200}:{port}/picture?{query}"


def connections(port: int) -> int:
    """How many connections of this process to the server are open; the server's own ends do not count."""
    opened = psutil.Process().net_connections("tcp")
    return sum(1 for each in opened if each.raddr and each.raddr.port == port and each.status == "ESTABLISHED")


@pytest.mark.parametrize("most", [1, 8])
def test_of_many_hosts_only_the_last_ones_stay_connected(port: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.web.sessions.MOST_IDLE", most)
    with fetcher() as fetch:
        for host in range(60):
            assert fetch.fetch(uri(port, host)) == PICTURE
            assert host % 20 or connections(port) <= most
        assert connections(port) == most
        for host in range(59, 59 - most, -1):
            fetch.fetch(uri(port, host))
        assert connections(port) == most, "what was kept was used again"
    deadline = time.monotonic() + 10
    while connections(port) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert connections(port) == 0


def test_a_lake_on_one_host_is_read_over_one_connection(port: int) -> None:
    with fetcher() as fetch:
        for query in range(20):
            assert fetch.fetch(uri(port, 0, query)) == PICTURE
        assert connections(port) == 1


def test_no_session_is_closed_under_a_read(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.web.sessions.MOST_IDLE", 4)
    hosts = random.Random(7)
    items = [work(n, uri(port, hosts.randrange(40), n)) for n in range(300)]
    with fetcher() as fetch:
        got = list(fetch.load_many(items))
        assert all(isinstance(one, LoadedItem) and one.media[0].blobs == (PICTURE,) for _, one in got)
        assert connections(port) <= 4
