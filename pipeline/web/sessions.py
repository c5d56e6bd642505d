"""The connections to web hosts, and no more of them than a process has files for.

In: a URL. Out: the session of its host, for the length of a block. Nothing is refused.

aiohttp keeps a connection for some seconds after its last answer, to however many hosts: of a list of URLs each of
which is elsewhere it would hold thousands. So each host has a session of its own, and those asked longest ago are
closed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from yarl import URL

__all__ = ["MOST_IDLE", "Sessions"]

MOST_IDLE = 256
"""Connections that may wait for a next request: a quarter of the 1,024 files that a process usually may open."""


@dataclass(slots=True)
class _Host:
    session: aiohttp.ClientSession
    users: int = 0
    connections: int = 0
    """As many as were ever in use at once, so no more than are open."""


class Sessions:
    """Made by `make` as they are needed, and closed where nobody uses them. Belongs to one event loop."""

    def __init__(self, make: Callable[[], aiohttp.ClientSession]) -> None:
        self._make = make
        self._hosts: OrderedDict[URL, _Host] = OrderedDict()  # the one asked last comes last
        self._connections = 0

    @asynccontextmanager
    async def of(self, url: URL) -> AsyncIterator[aiohttp.ClientSession]:
        """The session to ask the host of `url` by; within the block it stays open."""
        origin = url.origin()
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts[origin] = _Host(self._make())
        self._hosts.move_to_end(origin)
        host.users += 1
        if host.users > host.connections:
            host.connections += 1
            self._connections += 1
        try:
            yield host.session
        finally:
            host.users -= 1
            await self._leave_oldest()

    async def close(self) -> None:
        """Close every session."""
        hosts, self._hosts, self._connections = self._hosts, OrderedDict(), 0
        for host in hosts.values():
            await host.session.close()

    async def _leave_oldest(self) -> None:
        while self._connections > MOST_IDLE:
            origin = next((each for each, host in self._hosts.items() if not host.users), None)
            if origin is None:
                return
            host = self._hosts.pop(origin)
            self._connections -= host.connections
            await host.session.close()
