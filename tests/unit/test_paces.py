"""The paces of hosts: shared by all who ask, and not kept for ever."""

from __future__ import annotations

import asyncio
import weakref

from yarl import URL

from pipeline.config import FetchConfig
from pipeline.pace import Pace
from pipeline.paces import _KEPT_HOSTS, Paces
from pipeline.policy import FetchPolicy

HOSTS = 3 * _KEPT_HOSTS


def paces() -> Paces:
    return Paces(FetchPolicy.of(FetchConfig(schemes=("s3", "https"), hosts=("*",))))


def host(number: int) -> URL:
    return URL(f"https://h{number}.example.com/a")


async def throttled(pace: Pace) -> None:
    async with pace.turn() as turn:
        pace.throttled(turn, "503", 10_000)


def test_hosts_that_throttle_are_forgotten_beyond_a_number() -> None:
    async def work() -> None:
        every, seen = paces(), weakref.WeakSet[Pace]()
        for number in range(HOSTS):
            pace = every.of_host(host(number))
            seen.add(pace)
            await throttled(pace)
        del pace
        assert len(seen) == _KEPT_HOSTS
        assert every.of_host(host(HOSTS - _KEPT_HOSTS)) in seen, "the one asked longest ago that is still known"

    asyncio.run(work())


def test_who_still_asks_shares_the_pace_with_all_who_come() -> None:
    async def work() -> None:
        every = paces()
        held = every.of_host(host(0))
        async with held.turn():
            for number in range(1, HOSTS):
                every.of_host(host(number))
            assert every.of_host(host(0)) is held
        known = weakref.ref(held)
        del held
        for number in range(1, _KEPT_HOSTS):
            every.of_host(host(number))
        assert known() is not None
        assert every.of_host(host(0)) is known(), "it was asked for again, so it is one of the last"

    asyncio.run(work())


def test_object_stores_are_few_and_never_forgotten() -> None:
    async def work() -> None:
        every = paces()
        store = weakref.ref(every.of_store("s3"))
        for number in range(HOSTS):
            every.of_host(host(number))
        assert store() is every.of_store("s3") is not every.of_store("gs")

    asyncio.run(work())


def test_a_name_that_is_no_international_one_though_it_says_so_has_a_pace() -> None:
    async def work() -> None:
        kept = paces()
        url = URL("https://xn--example.org/a.jpg")  # which cannot be shown in letters
        assert kept.of_host(url) is kept.of_host(url)

    asyncio.run(work())
