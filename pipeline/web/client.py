"""Files at http(s) URLs, asked for under the rules.

In: a URL, a size cap. Out: what the server says of it, and its bytes. Refused with RejectError: what the rules refuse
at any hop of a redirect, too many hops, and what is empty or too large, whatever its header said. Raises what is worth
another try (`storage_errors.is_transient`) as it comes.

No credential, cookie or referrer is sent, and neither proxies nor `.netrc` of the environment are looked at. Bodies
are asked for as they are and never decompressed: what a server compresses all the same is no image.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from importlib.metadata import version
from typing import Literal

import aiohttp

from pipeline.blobs import Stat, Take, receive
from pipeline.errors import RejectCode, RejectError
from pipeline.storage_errors import StatusError
from pipeline.web.resolver import CheckedResolver
from pipeline.web.rules import WebRules
from pipeline.web.sessions import Sessions

__all__ = ["WebClient"]

_MOST_REDIRECTS = 5
"""What a browser's user would call a loop; image hosts need one or two."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_NO_HEAD = frozenset({400, 401, 403, 405, 501})
"""How servers answer a HEAD they do not serve; a URL that is signed for GET is 403."""

_CONNECT_S = 10.0
_SILENCE_S = 30.0
"""Of a server within an answer; the deadline of the whole file is `fetch.timeout_s`."""

_RESOLVED_S = 60
"""How long checked addresses are used again: a lake on one host must not ask for its name at each file."""

_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"lakevec/{version('lakevec')}"}

_NO_ANSWER = "Bad status line"
"""What aiohttp says, and nothing but its words tells, where an answer does not begin as HTTP does."""


class WebClient:
    """Belongs to one event loop, in which it must be made and closed."""

    def __init__(self, rules: WebRules) -> None:
        self._rules = rules
        self._resolver = CheckedResolver(rules)
        # Of its own: aiohttp's is made when it is imported, before SSL_CERT_FILE may be set.
        self._tls = ssl.create_default_context()
        self._sessions = Sessions(self._session)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # No limit of its own: the pace of each host and the caller's gate have that.
            connector=aiohttp.TCPConnector(
                limit=0, resolver=self._resolver, use_dns_cache=True, ttl_dns_cache=_RESOLVED_S, ssl=self._tls
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S),
            auto_decompress=False,
            trust_env=False,
            headers=_HEADERS,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._sessions.close()
        await self._resolver.close()

    async def get(self, uri: str, max_bytes: int, take: Take) -> Stat:
        """Hand the file at `uri` to `take` in pieces, from one answer."""
        async with self._answer("GET", uri) as answer:
            if answer.status != HTTPStatus.OK:
                raise StatusError(answer.status, answer.headers)
            await receive(answer.content, answer.content_length, max_bytes, take)
            return _stat(answer)

    async def head(self, uri: str) -> Stat:
        """What the server says of the file at `uri`, without its bytes."""
        async with self._answer("HEAD", uri) as answer:
            if answer.status == HTTPStatus.OK:
                return _stat(answer)
            if answer.status not in _NO_HEAD:
                raise StatusError(answer.status, answer.headers)
        async with self._answer("GET", uri) as answer:
            if answer.status != HTTPStatus.OK:
                raise StatusError(answer.status, answer.headers)
            # Left with its body unread, which closes the connection.
            return _stat(answer)

    @asynccontextmanager
    async def _answer(self, method: Literal["GET", "HEAD"], uri: str) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._rules.check(uri)
        for _ in range(_MOST_REDIRECTS + 1):
            try:
                async with (
                    self._sessions.of(url) as session,
                    session.request(method, url, allow_redirects=False) as answer,
                ):
                    location = answer.headers.get("Location")
                    if answer.status not in _REDIRECTS or location is None:
                        yield answer
                        return
                    url = self._rules.redirected(url, location)
            except aiohttp.ClientResponseError as error:
                if error.message.startswith(_NO_ANSWER):
                    # Likely what came behind an earlier answer without a body (304), over a connection that was kept: a
                    # fault of the server, which must not cost its next file.
                    raise ConnectionError("the answer begins like no HTTP") from None
                raise
        raise RejectError(RejectCode.FETCH_FAILED, f"more than {_MOST_REDIRECTS} redirects")


def _stat(answer: aiohttp.ClientResponse) -> Stat:
    headers: Mapping[str, str] = answer.headers
    size = answer.content_length
    strong = [("ETag", headers["ETag"])] if headers.get("ETag") else []
    weak = [("LastModified", headers["Last-Modified"])] if headers.get("Last-Modified") else []
    told = [("size", str(size))] if size is not None else []
    return Stat(size, (*told, *(strong or weak)), None, _seconds(headers.get("Last-Modified", "")))


def _seconds(text: str) -> float | None:
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # HTTP dates are of Greenwich, also where the zone is left out.
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
