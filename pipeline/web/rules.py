"""The rules for http(s) URLs: which hosts may be asked for media, and at which addresses.

In: a URL as a manifest or a redirect has it; an address that a resolver gave. Out: the URL as it is asked for. Refused
with RejectError (URI_NOT_ALLOWED), before any I/O: schemes and hosts that are not listed, credentials, names of
metadata services and of one's own network, IP addresses in other spellings than the canonical one, and addresses
that are not the public internet's. `private_hosts` is the operator's exception to the last three.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network

from yarl import URL

from pipeline.errors import ConfigError, RejectCode, RejectError
from pipeline.web.addresses import Network, inside_of, is_numeric_name, parse_address

__all__ = ["ANY_HOST", "WEB_SCHEMES", "WebRules"]

WEB_SCHEMES = ("http", "https")

ANY_HOST = "*"
"""In `fetch.hosts`: any public host."""

_USUAL_PORTS = (80, 443)
"""Of hosts that nobody named; what else listens on a server is no place for media."""

_INSIDE_NAMES = (
    "localhost", "local", "localdomain", "internal", "intranet", "lan", "corp", "home", "home.arpa", "private",
    "metadata.goog", "svc",
)  # fmt: skip
"""Last parts of names that mean one's own machine, network, cluster or cloud, whatever a resolver makes of them."""

_SPLIT = re.compile(r"^([A-Za-z]+)://([^/?#]*)([^?#]*)(\?[^#]*)?")
_BAD_AUTHORITY = re.compile(r"[\\%\s\x00-\x20\x7f]")
_LEGAL = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*")
_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_LONGEST_HOST = 253

_NO_URL = (ValueError, IndexError)
"""What yarl raises for what it cannot read as a URL; the second for brackets before an `@`, as in `//[]@`."""


@dataclass(frozen=True, slots=True)
class WebRules:
    """Hosts in lower case: `example.com`, `*.example.com` (what is below it), `*`. `networks` are the exceptions."""

    schemes: frozenset[str]
    hosts: frozenset[str]
    private_names: frozenset[str]
    private_networks: tuple[Network, ...]

    @classmethod
    def of(cls, schemes: Iterable[str], hosts: Iterable[str], private_hosts: Iterable[str]) -> WebRules:
        """The rules of a config. Raises ConfigError for what is no host, and where http(s) is listed without any."""
        names, networks = set(), []
        for each in private_hosts:
            network = _network(each)
            if network is None:
                names.add(_host_pattern("fetch.private_hosts", each))
            else:
                networks.append(network)
        listed = frozenset(schemes) & frozenset(WEB_SCHEMES)
        named = frozenset(_host_pattern("fetch.hosts", each) for each in hosts)
        if ANY_HOST in names:
            raise ConfigError("fetch.private_hosts: name the hosts, or give their networks as CIDR")
        if listed and not (named or names or networks):
            raise ConfigError(
                f"fetch.schemes lists {' and '.join(sorted(listed))}: name the hosts under fetch.hosts, "
                'or say ["*"] for any public host'
            )
        return cls(listed, named, frozenset(names), tuple(networks))

    def check(self, uri: str) -> URL:
        """`uri` as it is asked for: host in ASCII, path and query as they are; no I/O. Raises RejectError."""
        split = _SPLIT.match(uri)
        if split is None:
            raise _not_allowed("it is no http(s) URL")
        scheme, authority, path, query = split[1].lower(), split[2], split[3], split[4] or ""
        if scheme not in self.schemes:
            raise _not_allowed(f"the scheme {scheme!r} is not in fetch.schemes")
        if "@" in authority:
            raise _not_allowed("the URI carries credentials")
        if _BAD_AUTHORITY.search(authority):
            raise _not_allowed("the URL's host holds characters that no host has")
        try:
            url = URL(uri).with_fragment(None)
            host, port = (url.raw_host or "").lower(), url.port
        except _NO_URL:
            raise _not_allowed("it is no valid URL") from None
        self._check_host(host, port)
        if not _LEGAL.fullmatch(path + query):
            return url
        # As it was written: a server that signed its query would not know it in another spelling.
        asked = f"[{host}]" if ":" in host else host
        return URL.build(
            scheme=scheme, host=asked, port=url.explicit_port, path=path or "/", query_string=query[1:], encoded=True
        )

    def redirected(self, url: URL, location: str) -> URL:
        """Where `location` leads to from `url`, checked as any URL. Raises RejectError."""
        try:
            target = url.join(URL(location, encoded=_LEGAL.fullmatch(location) is not None))
            scheme, text = target.scheme, str(target)
        except _NO_URL:
            raise _not_allowed("the server redirects to what is no URL") from None
        if url.scheme == "https" and scheme != "https":
            raise _not_allowed("the server redirects from https to another scheme")
        return self.check(text)

    def is_named(self, host: str) -> bool:
        """Whether `host` was named in the config, and not only let in with all public ones."""
        return self._is_private(host) or any(_matches(host, each) for each in self.hosts if each != ANY_HOST)

    def check_address(self, host: str, address: str) -> None:
        """Raise RejectError where `address`, which a resolver gave for `host`, is none to connect to."""
        found = parse_address(address)
        if found is None:
            raise _not_allowed("the host's name resolves to what is no address")
        if self._is_private(host) or any(found in network for network in self.private_networks):
            return
        inside = inside_of(found)
        if inside is not None:
            raise _not_allowed(f"the host's name resolves to an address that is not public ({inside})")

    def _check_host(self, host: str, port: int | None) -> None:
        if not host or len(host) > _LONGEST_HOST:
            raise _not_allowed("the URL names no host")
        if not port:
            raise _not_allowed("port 0")
        address = parse_address(host)
        if address is None:
            self._check_name(host)
        elif not self._is_private(host):
            inside = inside_of(address)
            if inside is not None:
                raise _not_allowed(f"the URL's address is not public ({inside})")
        if self.is_named(host):
            return
        if ANY_HOST not in self.hosts:
            raise _not_allowed("the host is not in fetch.hosts")
        if port not in _USUAL_PORTS:
            raise _not_allowed(f"port {port} of a host that fetch.hosts does not name")

    def _check_name(self, host: str) -> None:
        if is_numeric_name(host):
            raise _not_allowed("the URL's host is an address in disguise")
        if host.endswith("."):
            raise _not_allowed("the URL's host ends with a dot")
        if not _HOST_NAME.fullmatch(host):
            raise _not_allowed("the URL's host is no host name")
        if self._is_private(host):
            return
        # A name without a dot is one of the own network; the resolver would look there for it.
        if "." not in host or any(host == name or host.endswith("." + name) for name in _INSIDE_NAMES):
            raise _not_allowed("the URL's host is one of a private network")

    def _is_private(self, host: str) -> bool:
        if any(_matches(host, each) for each in self.private_names):
            return True
        address = parse_address(host)
        return address is not None and any(address in network for network in self.private_networks)


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _network(text: str) -> Network | None:
    try:
        return ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def _host_pattern(key: str, text: str) -> str:
    pattern = text.strip().lower()
    bare = pattern.removeprefix("*.")
    try:
        host = URL.build(scheme="https", host=bare).raw_host or ""
    except _NO_URL:
        host = ""
    if pattern == ANY_HOST:
        return ANY_HOST
    if parse_address(host) is None and (is_numeric_name(host) or not _HOST_NAME.fullmatch(host)):
        raise ConfigError(f"{key}: {text!r} is no host; expected names as example.com or *.example.com")
    return pattern.removesuffix(bare) + host


def _not_allowed(why: str) -> RejectError:
    return RejectError(RejectCode.URI_NOT_ALLOWED, why)
