"""The paces of all stores that one fetcher asks: one for each scheme of object stores, one for each host of the web.

In: the name of a store. Out: its `Pace`. Nothing is refused here.
"""

from __future__ import annotations

from yarl import URL

from pipeline.pace import Pace
from pipeline.policy import FetchPolicy

__all__ = ["Paces"]

_HOST_READS = 8
"""At once at a host that nobody named: what a browser would do, and it is somebody else's server."""

_KEPT_HOSTS = 1000
"""A list of URLs may name a million hosts; those that nobody asks just now are forgotten beyond this many."""


class Paces:
    """Made as they are needed, under `policy`."""

    def __init__(self, policy: FetchPolicy) -> None:
        self._policy = policy
        self._paces: dict[str, Pace] = {}

    def of_store(self, scheme: str) -> Pace:
        """The pace of the object store behind `scheme`."""
        name = f"the store of {scheme}://"
        return self._paces.get(name) or self._add(
            Pace(name, self._policy.concurrency, self._policy.throttle_patience_s)
        )

    def of_host(self, url: URL) -> Pace:
        """The pace of the host of `url`."""
        name = f"{url.scheme}://{url.host}:{url.port}"
        return self._paces.get(name) or self._add(self._for_host(name, url.raw_host or ""))

    def _for_host(self, name: str, host: str) -> Pace:
        policy = self._policy
        if policy.web.is_named(host):
            return Pace(name, policy.concurrency, policy.throttle_patience_s)
        # A stranger may not hold up the job for longer than any one file may.
        patience_s = min(policy.throttle_patience_s, policy.patience.timeout_s)
        return Pace(name, min(_HOST_READS, policy.concurrency), patience_s)

    def _add(self, pace: Pace) -> Pace:
        if len(self._paces) >= _KEPT_HOSTS:
            self._paces = {name: each for name, each in self._paces.items() if not each.is_idle}
        self._paces[pace.name] = pace
        return pace
