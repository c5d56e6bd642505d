"""The limit on requests, and the turns under it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.aimd import Aimd
from pipeline.errors import RejectCode, RejectError
from pipeline.pace import Pace
from pipeline.patience import Patience, persist
from pipeline.storage_errors import StatusError, is_throttling, is_transient, retry_after_s


@given(st.integers(1, 64), st.lists(st.sampled_from(["good", "throttled", "stale"]), max_size=300))
def test_the_limit_stays_within_its_bounds(ceiling: int, answers: list[str]) -> None:
    limit = Aimd(ceiling)
    for answer in answers:
        before, at = limit.slots, limit.round
        if answer == "good":
            limit.answered()
            assert before <= limit.slots <= before + 1
        elif answer == "throttled":
            limit.throttled(at)
            assert limit.slots <= before
            assert limit.round == at + 1
        else:
            limit.throttled(at - 1)
            assert limit.slots == before, "of a round that was answered for"
        assert 1 <= limit.slots <= ceiling


def test_the_limit_falls_by_a_share_and_grows_by_one_a_round() -> None:
    limit = Aimd(32)
    limit.throttled(limit.round)
    assert limit.slots == 22
    for _ in range(10):
        limit.answered()
    assert limit.slots == 22
    for _ in range(13):
        limit.answered()
    assert limit.slots == 23
    for _ in range(2000):
        limit.answered()
    assert limit.slots == 32


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), 30))


def test_turns_are_given_in_order_and_no_more_than_there_are() -> None:
    running, peak, order = 0, 0, []

    async def one(pace: Pace, number: int) -> None:
        nonlocal running, peak
        async with pace.turn():
            running += 1
            peak = max(peak, running)
            order.append(number)
            await asyncio.sleep(0.001)
            running -= 1
            pace.answered()

    async def work() -> None:
        pace = Pace("a store", 4, 10)
        await asyncio.gather(*(one(pace, number) for number in range(40)))

    run(work)
    assert order == list(range(40))
    assert peak == 4


@pytest.mark.parametrize("seed", range(3))
def test_cancelled_readers_leave_no_turn_behind(seed: int) -> None:
    async def one(pace: Pace) -> None:
        async with pace.turn():
            await asyncio.sleep(0.002)

    async def work() -> None:
        pace = Pace("a store", 3, 10)
        tasks = [asyncio.create_task(one(pace)) for _ in range(60)]
        for number, task in enumerate(tasks):
            if (number + seed) % 3 == 0:
                task.cancel()
            if number % 7 == 0:
                await asyncio.sleep(0.001)
        await asyncio.gather(*tasks, return_exceptions=True)
        all_at_once = asyncio.Barrier(3)

        async def meet() -> None:
            async with pace.turn():
                await all_at_once.wait()

        async with asyncio.timeout(20):
            await asyncio.gather(*(meet() for _ in range(3)))

    run(work)


def test_one_probe_at_a_time_while_everything_is_throttled() -> None:
    asked: list[float] = []
    good_from = time.monotonic() + 2

    async def read() -> str:
        asked.append(time.monotonic())
        await asyncio.sleep(0.01)
        if time.monotonic() < good_from:
            raise StatusError(503, {})
        return "good"

    async def work() -> list[str]:
        pace = Pace("a store", 8, 60)
        return await asyncio.gather(*(persist(read, pace, Patience(1.5, 0), nullcontext()) for _ in range(50)))

    assert run(work) == ["good"] * 50
    early = [at for at in asked if at < good_from]
    assert len(early) <= 2 * 8 + 5 + 8, "eight at once, then probes at growing distances"


def test_one_file_that_alone_is_throttled_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.patience._LONGEST_WAIT_S", 0.01)

    async def poisoned() -> None:
        raise StatusError(503, {})

    async def sound() -> str:
        await asyncio.sleep(0)
        return "good"

    async def others(pace: Pace, until: asyncio.Event) -> None:
        while not until.is_set():
            assert await persist(sound, pace, Patience(5, 0), nullcontext()) == "good"
            await asyncio.sleep(0)

    async def work() -> RejectError:
        pace, over = Pace("a store", 8, 60), asyncio.Event()
        beside = asyncio.create_task(others(pace, over))
        with pytest.raises(RejectError) as error:
            await persist(poisoned, pace, Patience(5, 0), nullcontext())
        over.set()
        await beside
        return error.value

    assert run(work).code is RejectCode.FETCH_FAILED


def test_thousands_of_files_of_a_store_that_was_given_up() -> None:
    async def read() -> None:
        raise StatusError(503, {})

    async def work() -> set[RejectCode]:
        pace, codes = Pace("a store", 8, 0), set()
        for _ in range(2000):
            with pytest.raises(RejectError) as error:
                await persist(read, pace, Patience(5, 0), nullcontext())
            codes.add(error.value.code)
        return codes

    assert run(work) == {RejectCode.FETCH_FAILED}


@pytest.mark.parametrize(
    "text", ["Thu, 01 Jan 99999999999999999999 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 +99999999999999"]
)
def test_dates_beyond_all_calendars_ask_for_nothing(text: str) -> None:
    assert retry_after_s(StatusError(503, {"Retry-After": text})) is None


def test_what_a_server_asks_to_wait() -> None:
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    waits = {
        text: retry_after_s(StatusError(503, {"Retry-After": text})) for text in ("7", "0", "-1", "", "x", "٣", soon)
    }
    later = waits.pop(soon)
    assert later is not None
    assert 25 < later <= 30
    assert waits == {"7": 7.0, "0": 0.0, "-1": None, "": None, "x": None, "٣": None}


def test_which_answers_pass() -> None:
    for status in range(400, 600):
        error = StatusError(status, {})
        assert is_transient(error) is (status >= 500 or status in (408, 409, 425, 429)), status
        assert is_throttling(error) is (status in (429, 503)), status
