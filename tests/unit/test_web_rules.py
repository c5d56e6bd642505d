"""Hosts and addresses of http(s) URLs: which are asked, and that no socket opens for any other."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import FetchConfig
from pipeline.errors import ConfigError, RejectCode, RejectError
from pipeline.fetch import Fetcher, FetchPolicy
from pipeline.web.addresses import inside_of, parse_address
from pipeline.web.rules import WebRules

ANY = WebRules.of(("http", "https"), ("*",), ())
URL_AT = ANY.check("http://example.com/a/b?c=d")

FORBIDDEN = [
    # loopback, private, link-local, metadata, multicast, CGNAT, reserved
    "http://127.0.0.1/", "https://127.255.255.254/a.png", "http://0.0.0.0/", "http://10.0.0.1/", "http://10.1.2.3:80/",
    "http://172.16.0.1/", "http://172.31.255.255/", "http://192.168.1.1/", "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/v2/credentials", "http://168.63.129.16/", "http://100.64.0.1/", "http://100.100.100.200/",
    "http://224.0.0.1/", "http://239.255.255.250/", "http://240.0.0.1/", "http://255.255.255.255/",
    "http://192.0.0.192/", "http://198.18.0.1/", "http://203.0.113.5/", "http://192.0.2.1/",
    # IPv6: loopback, unspecified, mapped, compatible, link-local, unique-local, multicast, NAT64, 6to4, Teredo, zones
    "http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:a9fe:a9fe]/", "http://[::7f00:1]/",
    "http://[fe80::1]/", "http://[fe80::1%25eth0]/", "http://[fd00:ec2::254]/", "http://[fc00::1]/",
    "http://[ff02::1]/", "http://[64:ff9b::7f00:1]/", "http://[64:ff9b::a9fe:a9fe]/", "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::1]/", "http://[2001:db8::1]/", "http://[0:0:0:0:0:ffff:7f00:0001]/",
    # other spellings of an address
    "http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://017700000001/",
    "http://127.1/", "http://127.0.1/", "http://0/", "http://127.0.0.1./", "http://1.1.1.0x1/", "http://00.0.0.0/",
    "http://１２７.0.0.1/", "http://127。0。0。1/", "http://①②⑦.0.0.1/", "http://0x7f000001.:80/",
    # names of the inside
    "http://localhost/", "http://LOCALHOST/", "http://localhost./", "http://a.localhost/", "http://ⓛocalhost/",
    "http://metadata.google.internal/computeMetadata/v1/", "http://metadata.google.internal./", "http://metadata/",
    "http://metadata.goog/", "http://printer.local/", "http://kubernetes.default.svc/", "http://intranet/",
    "http://a.b.svc.cluster.local/",
    # credentials and parser tricks
    "http://user:password@example.com/", "http://example.com@127.0.0.1/", "http://127.0.0.1\\@example.com/",
    "http://example.com\\@127.0.0.1/", "http://127.0.0.1%2f@example.com/", "http://exa%6dple.com/",
    "http://example.com%00.127.0.0.1/", "http://exam ple.com/", "http://example.com\t/", "http:///etc/passwd",
    "http://", "http://?", "http:example.com", "http://[::1", "http://[v1.fe80::a]/", "http://-/", "http://a..b/",
    # odd ports of strangers, other schemes
    "http://example.com:22/", "https://example.com:6379/", "http://example.com:0/", "http://example.com:99999/",
    "ftp://example.com/a", "gopher://example.com/", "file://127.0.0.1/a", "unix:///var/run/docker.sock",
]  # fmt: skip

ALLOWED = [
    "https://example.com/a.png", "http://example.com:80/a", "https://EXAMPLE.com/ä b.png", "https://bücher.example/x",
    "https://1.1.1.1/a", "http://[2606:4700:4700::1111]/a", "https://a_b.example.com/x?y=%2F+%20", "https://x.io:443/",
    "https://example.com", "https://internal.example.com/", "https://local.io/",
]  # fmt: skip


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What would have resolved a name, or connected."""
    tried: list[str] = []

    def record(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
            tried.append(f"{event} {arguments}")

    watching = True
    sys.addaudithook(record)
    yield tried
    watching = False  # a hook stays for the life of the process


def test_forbidden_urls_are_refused_before_a_socket_opens(no_sockets: list[str]) -> None:
    assert len(FORBIDDEN) >= 60
    config = FetchConfig(schemes=("file", "s3", "http", "https"), hosts=("*",))
    codes = {}
    with Fetcher(FetchPolicy.of(config)) as fetch:
        for uri in FORBIDDEN:
            for ask in (fetch.fetch, fetch.stat, fetch.digest):
                with pytest.raises(RejectError) as error:
                    ask(uri)
                codes[uri] = error.value.code
    assert {uri: code for uri, code in codes.items() if code is not RejectCode.URI_NOT_ALLOWED} == {}
    assert no_sockets == []


@pytest.mark.parametrize("uri", ALLOWED)
def test_public_urls_are_allowed_and_asked_for_as_written(uri: str) -> None:
    url = ANY.check(uri)
    assert url.raw_host is not None
    assert url.raw_host.isascii()
    if uri.startswith("https://a_b"):
        assert str(url) == uri, "a signed query in another spelling is another query"


def test_by_default_no_web_server_is_asked() -> None:
    with Fetcher(FetchPolicy.of(FetchConfig())) as fetch:
        for uri in ("http://example.com/a", "https://example.com/a"):
            with pytest.raises(RejectError, match="URI_NOT_ALLOWED"):
                fetch.fetch(uri)


def test_only_named_hosts_are_asked() -> None:
    rules = WebRules.of(("https",), ("images.example.com", "*.cdn.example", "bücher.example"), ())
    for good in ("https://images.example.com:8443/", "https://a.cdn.example/", "https://xn--bcher-kva.example/"):
        rules.check(good)
    for bad in ("https://example.com/", "https://cdn.example/", "https://notcdn.example/", "https://1.1.1.1/",
                "http://images.example.com/", "https://images.example.com.evil.io/"):  # fmt: skip
        with pytest.raises(RejectError):
            rules.check(bad)


def test_private_hosts_are_the_operators_exception() -> None:
    rules = WebRules.of(("http",), (), ("minio.internal", "*.lan", "10.1.0.0/16", "::1"))
    for good in ("http://minio.internal:9000/", "http://nas.lan/", "http://10.1.2.3:8080/", "http://[::1]:80/"):
        rules.check(good)
    for bad in ("http://10.2.0.1/", "http://other.internal/", "http://127.0.0.1/", "http://example.com/",
                "http://[::ffff:10.1.2.3]/", "http://0xa010203/"):  # fmt: skip
        with pytest.raises(RejectError):
            rules.check(bad)
    rules.check_address("minio.internal", "192.168.0.1")
    rules.check_address("example.com", "10.1.0.9")
    with pytest.raises(RejectError):
        rules.check_address("example.com", "10.2.0.9")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"schemes": ("https",)}, "fetch.hosts"), ({"schemes": ("https",), "hosts": ("a b",)}, "no host"),
        ({"schemes": ("https",), "hosts": ("https://a.com",)}, "no host"), ({"hosts": ("0x7f.1",)}, "no host"),
        ({"schemes": ("https",), "private_hosts": ("*",)}, "name the hosts"), ({"hosts": ("",)}, "no host"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_meant_are_config_errors(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FetchPolicy.of(FetchConfig(**config))


def test_buckets_may_be_named() -> None:
    policy = FetchPolicy.of(FetchConfig(buckets=("lake", "arn:aws:s3:eu-west-1:1:accesspoint/lake")))
    for good in ("s3://lake/a", "s3://arn:aws:s3:eu-west-1:1:accesspoint/lake/a"):
        assert policy.check(good) == "s3"
    for bad in ("s3://lake2/a", "s3://other/lake/a", "s3://lake", "S3://LAKE/a"):
        with pytest.raises(RejectError, match=r"fetch\.buckets"):
            policy.check(bad)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_what_python_calls_inside_is_inside(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if address.is_private or address.is_multicast or address.is_loopback or address.is_link_local:
        assert inside_of(address) is not None


@given(st.ip_addresses(v=4))
def test_no_spelling_of_an_address_gets_by(address: ipaddress.IPv4Address) -> None:
    """Whatever the system's own parser takes for an IPv4 address is refused unless it is canonical and public."""
    number = int(address)
    for host in (str(number), hex(number), oct(number).replace("o", ""), f"{number >> 24}.{number & 0xFFFFFF}"):
        assert socket.inet_aton(host) == address.packed
        if parse_address(host) is None:
            with pytest.raises(RejectError):
                ANY.check(f"http://{host}/")


PIECES = [
    "http:", "https:", "//", "/", "[", "]", "[]", "[::1]", "@", ":", "::", "?", "#", "\\", "%5B", "%", "\udc80", "é",
    "。", "\u200d", "\t", "\n", "\0", " ", "xn--", "v1.", "0x7f.1", "127.0.0.1", "example.org", ":99999", ":٣", "a",
]  # fmt: skip
LOCATIONS = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)


@pytest.mark.parametrize("location", ["//[]@", "http://[]@/x", "http://[]/x", "//[", "https://]@[/", "[]", "//a@[]:1"])
def test_redirects_into_brackets_are_refused_or_a_path(location: str) -> None:
    try:
        assert ANY.redirected(URL_AT, location).host == "example.com"
    except RejectError as error:
        assert error.code is RejectCode.URI_NOT_ALLOWED  # noqa: PT017


@settings(max_examples=500)
@given(LOCATIONS)
def test_any_redirect_is_judged(location: str) -> None:
    try:
        url = ANY.redirected(URL_AT, location)
    except RejectError as error:
        assert error.code is RejectCode.URI_NOT_ALLOWED  # noqa: PT017
        return
    assert ANY.check(str(url)).raw_host == url.raw_host, "what a redirect leads to would also be let in by itself"


AUTHORITY = st.text("a1.:@[]%\\/?#-_0xé１。\ud800 \t\u202e*~", max_size=25)


@given(st.sampled_from(["http://", "https://", "//", "HTTP:/", ""]), AUTHORITY, st.text(max_size=10))
def test_any_text_is_judged_and_what_passes_is_public(start: str, authority: str, rest: str) -> None:
    for judge in (
        lambda: ANY.check(start + authority + rest),
        lambda: ANY.redirected(URL_AT, start + authority + rest),
    ):
        try:
            url = judge()
        except RejectError as error:
            assert error.code is RejectCode.URI_NOT_ALLOWED  # noqa: PT017
            continue
        host = url.raw_host or ""
        assert host.isascii()
        assert url.user is None
        assert url.password is None
        address = parse_address(host)
        assert inside_of(address) is None if address else "." in host
