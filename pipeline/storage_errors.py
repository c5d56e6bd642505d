"""What an error of a store means: worth another try, or a sign that the key exists.

In: an exception of fsspec, s3fs, botocore, aiohttp or the operating system. Out: yes or no, and a retry policy.
Nothing is raised here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

__all__ = ["is_full", "is_transient", "may_exist", "retrying"]

T = TypeVar("T")

_TRANSIENT_ERRNO = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.ECONNRESET, errno.EPIPE, errno.EREMOTEIO, errno.ETIMEDOUT}
)
"""What s3fs makes of throttling (EBUSY) and of InternalError (EREMOTEIO), and the network's own."""

_FULL_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""No space, no quota, or a disk that the system has made read-only: it takes an operator, and is no item's fault."""

_PASSING_STATUS = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS})
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

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
"""Short enough to use a minute's deadline well, random so that many workers do not return at once."""


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: 5xx, throttling, timeouts, broken connections."""
    status = _status(error)
    if status is not None:
        return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING_STATUS
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _TRANSIENT_ERRNO
    return _is_client_failure(error)


def is_full(error: BaseException) -> bool:
    """Whether nothing more can be written where `error` comes from until an operator has made room."""
    return isinstance(error, OSError) and error.errno in _FULL_ERRNO


def may_exist(error: BaseException) -> bool:
    """Whether an exclusive create may have failed because the key exists (drivers disagree on the error)."""
    if _status(error) == HTTPStatus.PRECONDITION_FAILED:
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


def _status(error: BaseException) -> int | None:
    # s3fs hands on a plain OSError; what the server said is in the error that caused it.
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if isinstance(status, int):
                return status
    return None


def _is_client_failure(error: BaseException) -> bool:
    # By name: the drivers are optional, and importing one to look at an error would load it everywhere.
    names = {f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(error).__mro__}
    return bool(names & _CLIENT_FAILURES)
