"""Files at http(s) URLs: what a friendly server gives, and what a hostile one cannot do."""

from __future__ import annotations

import datetime
import ipaddress
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.answers import Answers
from pipeline.config import FetchConfig
from pipeline.errors import IncompleteError, RejectCode, RejectError
from pipeline.expected import MISSING
from pipeline.fetch import Fetcher, FetchPolicy
from pipeline.types import LoadedItem, Media, MediaKind, MediaRef, WorkItem
from tests.fixtures.manifests import job_config, write_parquet
from tests.fixtures.web_server import PICTURE, WebServer, web_server
from tests.unit.test_plan import planned, work_of

LOOPBACK = ("127.0.0.1",)


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[str, WebServer]]:
    with web_server() as served:
        yield served


def fetcher(**config: Any) -> Fetcher:
    given = {"schemes": ("http", "https"), "private_hosts": LOOPBACK, "timeout_s": 20, "retries": 2, **config}
    return Fetcher(FetchPolicy.of(FetchConfig(**given)))


def code_of(call: Callable[[], object]) -> RejectCode:
    with pytest.raises(RejectError) as error:
        call()
    return error.value.code


def test_files_are_read_with_what_their_server_says_of_them(web: tuple[str, WebServer]) -> None:
    url, server = web
    server.asked.clear()
    with fetcher() as fetch:
        blob = fetch.read(f"{url}/picture")
        assert blob.data == PICTURE
        assert blob.stat == fetch.stat(f"{url}/picture")
        assert blob.stat.marks == (("size", str(len(PICTURE))), ("ETag", '"1"'))
        assert blob.stat.modified_s == 1795843147.0
        assert fetch.stat(f"{url}/signed").size_bytes == len(PICTURE), "a URL that is signed for GET only"
        assert fetch.stat(f"{url}/chunked?9").size_bytes is None
        assert fetch.fetch(f"{url}/chunked?70000") == bytes(70000)
        assert fetch.fetch(f"{url}/count?5") == PICTURE
        assert len(fetch.digest(f"{url}/picture")) > 20
    for _, _, headers in server.asked:
        assert headers["Accept-Encoding"] == "identity"
        assert not {"Cookie", "Authorization", "Referer", "Proxy-Authorization"} & set(headers)


def work(n: int, uri: str, *expected: tuple[str, str]) -> WorkItem:
    media = (Media(MediaKind.IMAGE, (MediaRef(uri, "image", 0, expected),)),)
    return WorkItem(str(n), (), media, "i", 1.0, 8, "f", "", n, 0)


def test_items_are_loaded_in_order_with_many_reads_under_way(web: tuple[str, WebServer]) -> None:
    url, _ = web
    paths = ["picture", "status-404", "chunked", "short-once", "empty"] * 40
    items = [work(n, f"{url}/{path}?{n}") for n, path in enumerate(paths)]
    with fetcher() as fetch:
        got = list(fetch.load_many(items))
    assert [item.id for item, _ in got] == [item.id for item in items]
    found = [loaded.media[0].blobs[0] if isinstance(loaded, LoadedItem) else loaded.code for _, loaded in got]
    for n in range(0, 200, 5):
        assert found[n : n + 5] == [PICTURE, RejectCode.NOT_FOUND, bytes(n + 2), PICTURE, RejectCode.EMPTY_MEDIA]


def test_a_file_that_changed_since_it_was_planned_is_told(web: tuple[str, WebServer]) -> None:
    url, _ = web
    with fetcher() as fetch:
        planned = fetch.stat(f"{url}/picture").marks
        assert isinstance(fetch.load(work(1, f"{url}/picture", *planned)), LoadedItem)
        changed = [*planned[:1], ("ETag", '"0"')]
        assert code_of(lambda: fetch.load(work(1, f"{url}/picture", *changed))) is RejectCode.SOURCE_CHANGED
        assert code_of(lambda: fetch.load(work(1, f"{url}/status-410", *planned))) is RejectCode.SOURCE_CHANGED
        hashed = (("md5", "0" * 32),)
        assert code_of(lambda: fetch.load(work(1, f"{url}/picture", *hashed))) is RejectCode.SOURCE_CHANGED


def test_planning_asks_web_servers_too(web: tuple[str, WebServer], tmp_path: Path) -> None:
    url, server = web
    uris = [f"{url}/{path}" for path in ("picture", "signed", "status-404", "chunked?3")] + ["http://10.0.0.1/a"]
    path = write_parquet(tmp_path / "m.parquet", {"id": [str(n) for n in range(5)], "image": uris})
    config = job_config(path, tmp_path / "out", fetch={"schemes": ["http"], "private_hosts": LOOPBACK})
    server.asked.clear()
    items = work_of(config, planned(config))
    marks = {item.id: item.media[0].refs[0].expected for item in items}
    told = (("size", str(len(PICTURE))), ("ETag", '"1"'))
    assert marks == {"0": told, "1": told, "2": MISSING, "3": (), "4": ()}
    assert {method for method, path, _ in server.asked if path == "/picture"} == {"HEAD"}
    with Fetcher(FetchPolicy.of(config.fetch)) as fetch:
        got = [loaded if isinstance(loaded, LoadedItem) else loaded.code for _, loaded in fetch.load_many(items)]
    assert [one if isinstance(one, RejectCode) else len(one.media[0].blobs[0]) for one in got] == [
        len(PICTURE), len(PICTURE), RejectCode.NOT_FOUND, 3, RejectCode.URI_NOT_ALLOWED,
    ]  # fmt: skip


HOSTILE = [
    ("gzip-bomb", RejectCode.MEDIA_TOO_LARGE), ("chunked?100000000000", RejectCode.MEDIA_TOO_LARGE),
    ("huge-length", RejectCode.MEDIA_TOO_LARGE), ("short", RejectCode.FETCH_FAILED), ("loop", RejectCode.FETCH_FAILED),
    ("count?6", RejectCode.FETCH_FAILED), ("headers", RejectCode.FETCH_FAILED), ("no-number", RejectCode.FETCH_FAILED),
    ("long-header", RejectCode.FETCH_FAILED), ("garbage", RejectCode.FETCH_FAILED), ("empty", RejectCode.EMPTY_MEDIA),
    ("status-404", RejectCode.NOT_FOUND), ("status-410", RejectCode.NOT_FOUND),
    ("status-403", RejectCode.ACCESS_DENIED),
    ("status-401", RejectCode.ACCESS_DENIED), ("status-418", RejectCode.FETCH_FAILED),
    ("drip", RejectCode.FETCH_TIMEOUT),
    ("status-206", RejectCode.FETCH_FAILED), ("status-304", RejectCode.FETCH_FAILED),
]  # fmt: skip
ASKED_ONCE = {"status-404", "status-410", "status-403", "status-401", "status-418", "headers", "gzip-bomb"}


@pytest.mark.parametrize(("path", "code"), HOSTILE)
def test_a_hostile_server_costs_its_item_and_no_more(
    web: tuple[str, WebServer], path: str, code: RejectCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, server = web
    monkeypatch.setattr("pipeline.patience._FIRST_WAIT_S", 0.01)
    server.asked.clear()
    started = time.monotonic()
    # Only what would take for ever is to run out of time.
    with fetcher(max_bytes=30_000, timeout_s=3 if path == "drip" else 15) as fetch:
        assert code_of(lambda: fetch.fetch(f"{url}/{path}")) is code
        assert time.monotonic() - started < 20
        if path in ASKED_ONCE:
            assert len(server.asked) == 1
        assert fetch.fetch(f"{url}/picture") == PICTURE


def test_what_is_compressed_unasked_stays_compressed(web: tuple[str, WebServer]) -> None:
    url, _ = web
    with fetcher() as fetch:
        assert fetch.fetch(f"{url}/gzip-bomb")[:2] == b"\x1f\x8b"


def test_a_stranger_that_throttles_is_not_waited_for_longer_than_one_file(
    web: tuple[str, WebServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = web
    started = time.monotonic()
    monkeypatch.setattr("pipeline.web.rules.WebRules.is_named", lambda *_: False)
    monkeypatch.setattr("pipeline.web.rules._USUAL_PORTS", (int(url.rpartition(":")[2]),))
    with fetcher(hosts=("*",), timeout_s=2) as fetch:
        for _n in range(3):
            assert code_of(lambda: fetch.fetch(f"{url}/busy")) is RejectCode.FETCH_FAILED
    assert time.monotonic() - started < 20


REDIRECTS = [
    "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://[::1]:{port}/picture",
    "http://127.0.0.2:{port}/picture", "//127.0.0.2:{port}/picture", "http://localhost:{port}/picture",
    "http://user:password@127.0.0.1:{port}/picture", "http://2130706433:{port}/picture", "file:///etc/passwd",
    "ftp://127.0.0.1/", "data:image/png;base64,AAAA", "http://0x7f.1:{port}/", "https:////127.0.0.2/",
    "http://127.0.0.1%00.example.com/", "http://metadata.google.internal/", "s3://bucket/a", "http://[::ffff:7f00:2]/",
    "//[]@", "http://[]/x", "http://[]@127.0.0.2:{port}/picture",
]  # fmt: skip


def test_redirects_are_judged_like_urls(web: tuple[str, WebServer]) -> None:
    url, server = web
    port = server.server_port
    with web_server("127.0.0.2", port) as (_, second), fetcher() as fetch:
        for location in REDIRECTS:
            uri = f"{url}/redirect?{location.format(port=port)}"
            assert code_of(lambda uri=uri: fetch.fetch(uri)) is RejectCode.URI_NOT_ALLOWED, location
        assert fetch.fetch(f"{url}/redirect?/picture") == PICTURE
        assert fetch.fetch(f"{url}/redirect?{url}/picture") == PICTURE
        assert fetch.fetch(f"{url}/cookie") == PICTURE
        assert "Cookie" not in server.asked[-1][2]
        assert second.asked == []


def test_a_name_that_flips_its_address_reaches_no_other_server(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = random.Random(6)
    resolve, asked = socket.getaddrinfo, []

    def flip(host: str, *rest: Any, **named: Any) -> Any:
        if host != "flips.example.com":
            return resolve(host, *rest, **named)
        asked.append(host)
        address = answers.choice(["127.0.0.1", "127.0.0.2"])
        both = answers.random() < 0.2
        port = rest[0] if rest else named.get("port")
        found = ["127.0.0.1", "127.0.0.2"] if both else [address]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", flip)
    monkeypatch.setattr("pipeline.web.client._RESOLVED_S", 0)
    monkeypatch.setattr("pipeline.patience._FIRST_WAIT_S", 0.001)
    outcomes = {"read": 0, "refused": 0}
    with (
        web_server("127.0.0.1") as (_, first),
        web_server("127.0.0.2", first.server_port) as (_, second),
        fetcher(hosts=("flips.example.com",)) as fetch,
    ):
        for n in range(1000):
            try:
                assert fetch.fetch(f"http://flips.example.com:{first.server_port}/short-once?{n}") == PICTURE
                outcomes["read"] += 1
            except RejectError as error:
                assert error.code is RejectCode.URI_NOT_ALLOWED  # noqa: PT017
                outcomes["refused"] += 1
        assert second.asked == []
    print(f"\n{outcomes}, {len(asked)} answers of the resolver")
    assert min(outcomes.values()) > 100


def test_names_that_mean_the_inside_are_refused_once_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443)) for each in ("1.1.1.1", "169.254.169.254")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("connected"))
    monkeypatch.setattr(
        "asyncio.selector_events.BaseSelectorEventLoop.sock_connect", lambda *_: pytest.fail("connected")
    )
    with fetcher(hosts=("*",), private_hosts=()) as fetch:
        assert code_of(lambda: fetch.fetch("https://rebinding.example.com/a")) is RejectCode.URI_NOT_ALLOWED


def test_neither_proxies_nor_netrc_of_the_environment_count(
    web: tuple[str, WebServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, server = web
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password canary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.3:9")
    with fetcher() as fetch:
        assert fetch.fetch(f"{url}/picture") == PICTURE
    assert "Authorization" not in server.asked[-1][2]


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Key and certificate of 127.0.0.1, trusted by this process."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path / "server.pem"
    public = signed.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + public)
    return path


def test_https_is_verified_and_does_not_become_http(
    web: tuple[str, WebServer], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, server = web
    with web_server(certificate=certificate) as (secure, _):
        with fetcher(retries=0) as fetch:
            assert code_of(lambda: fetch.fetch(f"{secure}/picture")) is RejectCode.FETCH_FAILED, "nobody vouches for it"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        server.asked.clear()
        with fetcher(retries=0) as fetch:
            assert fetch.fetch(f"{secure}/picture") == PICTURE
            assert fetch.fetch(f"{url}/redirect?{secure}/picture") == PICTURE
            assert code_of(lambda: fetch.fetch(f"{secure}/redirect?{url}/picture")) is RejectCode.URI_NOT_ALLOWED
        assert [path for _, path, _ in server.asked if path == "/picture"] == []


@pytest.mark.parametrize(
    ("answer", "code"), [("EAI_NONAME", RejectCode.NOT_FOUND), ("EAI_AGAIN", RejectCode.FETCH_FAILED)]
)
def test_a_name_that_is_gone_is_told_from_a_resolver_that_is(
    monkeypatch: pytest.MonkeyPatch, answer: str, code: RejectCode
) -> None:
    asked = []

    def resolve(host: str, *_: Any, **__: Any) -> None:
        asked.append(host)
        raise socket.gaierror(getattr(socket, answer), "no")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("pipeline.patience._FIRST_WAIT_S", 0.01)
    with fetcher(hosts=("*",), retries=2) as fetch:
        assert code_of(lambda: fetch.fetch("https://gone.example.com/a")) is code
    assert len(asked) == (1 if code is RejectCode.NOT_FOUND else 3)


def test_dead_hosts_of_strangers_do_not_end_planning() -> None:
    policy = FetchPolicy.of(FetchConfig(schemes=("https",), hosts=("*", "cdn.example.com")))

    def judged(uri: str, failed: int) -> bool:
        answers = Answers(policy.is_strange)
        answers.given(100 - failed)
        for _ in range(failed):
            answers.to(lambda _: dead(), uri)
        try:
            answers.check()
        except IncompleteError:
            return False
        return True

    def dead() -> None:
        raise RejectError(RejectCode.FETCH_TIMEOUT)

    assert judged("https://somewhere.example/a", 40), "link rot"
    assert not judged("https://somewhere.example/a", 60), "a network that is down"
    assert not judged("https://cdn.example.com/a", 40), "the operator's own"
    assert not judged("s3://bucket/a", 40)
