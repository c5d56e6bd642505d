"""What an error of a store means: worth another try, or a sign that the key exists.

In: an exception of fsspec, s3fs, botocore, aiohttp or the operating system. Out: yes or no, the HTTP status, what the
server asked for, and a retry policy. Nothing is raised here.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

__all__ = [
    "StatusError",
    "is_dead_name",
    "is_full",
    "is_throttling",
    "is_transient",
    "may_exist",
    "retry_after_s",
    "retrying",
    "status_of",
]

T = TypeVar("T")

_TRANSIENT_ERRNO = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.ECONNRESET, errno.EPIPE, errno.EREMOTEIO, errno.ETIMEDOUT}
)
"""What s3fs makes of throttling (EBUSY) and of InternalError (EREMOTEIO), and the network's own."""

_FULL_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""No space, no quota, or a disk that the system has made read-only: it takes an operator, and is no item's fault."""

_THROTTLING_STATUS = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})

_PASSING_STATUS = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)
"""409 is S3's answer to conditional writes that meet: neither won nor lost, to be tried again."""

_CLIENT_FAILURES = frozenset(
    {
        "botocore.HTTPClientError",
        "botocore.ConnectionError",
        "botocore.IncompleteReadError",
        "aiohttp.ClientError",
    }
)
"""Drivers' errors below HTTP, by top-level package and class, which are no OSError: nothing was answered."""

_DEAD_NAME = frozenset(getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name))

_LASTING = frozenset({"aiohttp.ClientConnectorCertificateError", "aiohttp.InvalidURL"})
"""Those of them that the next try meets again."""

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
"""Short enough to use a minute's deadline well, random so that many workers do not return at once."""


class StatusError(Exception):
    """An HTTP answer that is no good one: its status, and the headers that came with it."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers
        super().__init__(f"HTTP {status}")


def is_dead_name(error: BaseException) -> bool:
    """Whether a resolver said for good that a web host does not exist."""
    asked = "aiohttp.ClientConnectorDNSError" in _names(error)
    return asked and any(
        getattr(each, "errno", None) in _DEAD_NAME for each in (error, getattr(error, "os_error", None))
    )


def is_throttling(error: BaseException) -> bool:
    """Whether the store asks for fewer requests: 429, 503 (S3's SlowDown is one)."""
    status = status_of(error)
    if status is not None:
        return status in _THROTTLING_STATUS
    return isinstance(error, OSError) and error.errno == errno.EBUSY


def retry_after_s(error: BaseException) -> float | None:
    """The seconds that the server asked to wait (a number or a date of its own), if it did."""
    headers = _headers(error)
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    now = datetime.now(UTC)
    return max(0.0, (until - now).total_seconds()) if until.tzinfo else None


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: 5xx, throttling, timeouts, broken connections."""
    status = status_of(error)
    if status is not None:
        return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING_STATUS
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    names = _names(error)
    if names & _CLIENT_FAILURES:
        return not (names & _LASTING or is_dead_name(error))
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO


def is_full(error: BaseException) -> bool:
    """Whether nothing more can be written where `error` comes from until an operator has made room."""
    return isinstance(error, OSError) and error.errno in _FULL_ERRNO


def may_exist(error: BaseException) -> bool:
    """Whether an exclusive create may have failed because the key exists (drivers disagree on the error)."""
    if status_of(error) == HTTPStatus.PRECONDITION_FAILED:
        return True
    return isinstance(error, FileExistsError) or (isinstance(error, OSError) and error.errno == errno.EINVAL)


def retrying(deadline_s: float) -> Callable[[Callable[[], T]], T]:
    """A caller that retries transient errors with random exponential waits until `deadline_s` is over."""
    return Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_delay(deadline_s),
        wait=wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
        reraise=True,
    )


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind `error`, if there is one."""
    # s3fs hands on a plain OSError; what the server said is in the error that caused it.
    for candidate in (error, error.__cause__):
        status = _answer(candidate).get("HTTPStatusCode", getattr(candidate, "status", None))
        if isinstance(status, int):
            return status
    return None


def _answer(error: BaseException | None) -> Mapping[str, Any]:
    response = getattr(error, "response", None)
    found = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    return found if isinstance(found, dict) else {}


def _headers(error: BaseException) -> Mapping[str, str]:
    for candidate in (error, error.__cause__):
        headers = _answer(candidate).get("HTTPHeaders", getattr(candidate, "headers", None))
        if isinstance(headers, Mapping):
            return headers
    return {}


def _names(error: BaseException) -> set[str]:
    # By name: the drivers are optional, and importing one to look at an error would load it everywhere.
    return {f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(error).__mro__}
