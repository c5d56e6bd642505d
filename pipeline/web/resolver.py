"""Names to addresses that may be connected to.

In: a host's name. Out: its addresses, each checked; aiohttp connects to exactly these, so that no second answer of a
resolver can lead elsewhere. Refused with RejectError: a name of which one address is not allowed.
"""

from __future__ import annotations

import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from pipeline.web.rules import WebRules

__all__ = ["CheckedResolver"]


class CheckedResolver(AbstractResolver):
    """The system's resolver under `rules`."""

    def __init__(self, rules: WebRules) -> None:
        self._rules = rules
        self._system = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host`."""
        found = await self._system.resolve(host, port, family)
        for each in found:
            self._rules.check_address(host, each["host"])
        return found

    async def close(self) -> None:
        """Nothing is held."""
        await self._system.close()
