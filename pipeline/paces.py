"""The paces of all stores that one fetcher asks: one for each scheme of object stores, one for each host of the web.

In: the name of a store. Out: its `Pace`. Nothing is refused here.
"""

from __future__ import annotations

from collections import OrderedDict
from weakref import WeakValueDictionary

from yarl import URL

from pipeline.pace import Pace
from pipeline.policy import FetchPolicy

__all__ = ["Paces"]

_HOST_READS = 8
"""At once at a host that nobody named: what a browser would do, and it is somebody else's server."""

_KEPT_HOSTS = 1000
"""A list of URLs may name millions of hosts, and each may throttle: beyond this many, what is known of those asked
longest ago is forgotten. One that is asked again so late has had time to recover."""


class Paces:
    """Made as they are needed, under `policy`. Whoever asks a host by a pace shares it with all who ask meanwhile."""

    def __init__(self, policy: FetchPolicy) -> None:
        self._policy = policy
        self._stores: dict[str, Pace] = {}
        self._hosts: WeakValueDictionary[str, Pace] = WeakValueDictionary()  # also those forgotten that are still held
        self._recent: OrderedDict[str, Pace] = OrderedDict()

    def of_store(self, scheme: str) -> Pace:
        """The pace of the object store behind `scheme`."""
        if scheme not in self._stores:
            policy = self._policy
            self._stores[scheme] = Pace(f"the store of {scheme}://", policy.concurrency, policy.throttle_patience_s)
        return self._stores[scheme]

    def of_host(self, url: URL) -> Pace:
        """The pace of the host of `url`."""
        name = f"{url.scheme}://{url.raw_host}:{url.port}"
        pace = self._hosts.get(name)
        if pace is None:
            pace = self._hosts[name] = self._for_host(name, url.raw_host or "")
        self._recent[name] = pace
        self._recent.move_to_end(name)
        if len(self._recent) > _KEPT_HOSTS:
            self._recent.popitem(last=False)
        return pace

    def _for_host(self, name: str, host: str) -> Pace:
        policy = self._policy
        if policy.web.is_named(host):
            return Pace(name, policy.concurrency, policy.throttle_patience_s)
        # A stranger may not hold up the job for longer than any one file may.
        patience_s = min(policy.throttle_patience_s, policy.patience.timeout_s)
        return Pace(name, min(_HOST_READS, policy.concurrency), patience_s)
