"""Threads of object stores without coroutines end with who read, and nobody waits for one whose driver hangs."""

from __future__ import annotations

import concurrent.futures
import gc
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future

import fsspec
import pytest

from pipeline.config import FetchConfig
from pipeline.daemon_threads import DaemonThreads
from pipeline.fetch import Fetcher, FetchPolicy
from pipeline.types import LoadedItem
from tests.unit.test_web_client import work


@pytest.fixture
def folder() -> Iterator[str]:
    memory = fsspec.filesystem("memory")
    name = f"/{uuid.uuid4().hex}"
    for number in range(40):
        memory.pipe_file(f"{name}/{number}", b"x" * 10)
    yield f"memory:/{name}"
    memory.rm(name, recursive=True)


def fetcher() -> Fetcher:
    return Fetcher(FetchPolicy.of(FetchConfig(schemes=("memory",), concurrency=8)))


def threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("store")}


def until(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def read(fetch: Fetcher, folder: str) -> None:
    got = list(fetch.load_many(work(n, f"{folder}/{n}") for n in range(40)))
    assert all(isinstance(loaded, LoadedItem) for _, loaded in got)


def test_they_end_when_the_fetcher_is_closed(folder: str) -> None:
    before = threads()
    with fetcher() as fetch:
        read(fetch, folder)
        started = threads() - before
        assert 1 <= len(started) <= 8
    assert until(lambda: not started & threads())


def test_they_end_when_the_fetcher_is_gone(folder: str) -> None:
    before = threads()
    fetch = fetcher()
    read(fetch, folder)
    started = threads() - before
    assert started
    del fetch

    def gone() -> bool:
        gc.collect()  # again and again: the loop's thread may have held the last read until just now
        return not started & threads()

    assert until(gone)


HANGING = """
import threading
from fsspec import AbstractFileSystem, register_implementation
from pipeline.config import FetchConfig
from pipeline.fetch import Fetcher, FetchPolicy

class Hanging(AbstractFileSystem):
    protocol = "hanging"

    def info(self, path, **_):
        threading.Event().wait()

register_implementation("hanging", Hanging)
with Fetcher(FetchPolicy.of(FetchConfig(schemes=("hanging",), timeout_s=0.2))) as fetch:
    try:
        fetch.fetch("hanging://a/b")
    except Exception as error:
        print(error)
"""


def test_a_driver_that_hangs_does_not_keep_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=240)
    assert done.stdout.startswith("FETCH_TIMEOUT")
    assert done.returncode == 0


def test_calls_wait_for_a_thread_and_are_dropped_at_the_end() -> None:
    go, two = threading.Event(), DaemonThreads(2, "two")
    running = [two.submit(go.wait) for _ in range(2)]
    waiting: list[Future[int]] = [two.submit(int, str(n)) for n in range(3)]
    cancelled = waiting[0].cancel()
    go.set()
    assert cancelled
    assert [each.result(10) for each in (*running, *waiting[1:])] == [True, True, 1, 2]
    with pytest.raises(ValueError, match="invalid literal"):
        two.submit(int, "x").result(10)
    assert len({two.submit(threading.get_ident).result(10) for _ in range(20)}) <= 2
    go.clear()
    under_way, dropped = [two.submit(go.wait) for _ in range(2)], two.submit(int)
    until(lambda: all(each.running() for each in under_way))
    two.shutdown()
    with pytest.raises(CancelledError):
        dropped.result(10)
    go.set()
    assert all(each.result(10) for each in under_way)
    with pytest.raises(RuntimeError, match="after the end"):
        two.submit(int)


def test_whoever_waits_for_a_call_that_is_cancelled_is_told() -> None:
    release = threading.Event()
    pool = DaemonThreads(1, "told")
    first = pool.submit(release.wait, 10)
    assert until(first.running)
    never = pool.submit(int)
    pool.shutdown()
    done, waiting = concurrent.futures.wait([never], timeout=10)
    release.set()
    assert (done, waiting) == ({never}, set())
    assert never.cancelled()
