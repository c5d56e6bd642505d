"""Secrets in texts: those that were configured, wherever they appear, and whatever looks like one.

In: any text that is about to be shown or stored. Out: the same without credentials, signatures and tokens. Values
become known to this process with `remember_options` (storage options, when they are read or unpickled) and from its
environment. Nothing is refused.
"""

from __future__ import annotations

import base64
import functools
import inspect
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar, cast
from urllib.parse import quote, quote_plus

__all__ = [
    "HIDDEN",
    "LONGEST_CHARS",
    "OPEN_OPTIONS",
    "redact",
    "redact_error",
    "redacted_errors",
    "remember_options",
    "shown_options",
    "without_userinfo",
]

P = ParamSpec("P")
R = TypeVar("R")

HIDDEN = "<hidden>"

OPEN_OPTIONS = frozenset(
    {
        "account_name", "addressing_style", "anon", "client_kwargs", "config_kwargs", "connect_timeout",
        "default_block_size", "default_cache_type", "endpoint_url", "max_attempts", "max_concurrency",
        "max_pool_connections", "mode", "profile", "project", "read_timeout", "region_name", "request_payer",
        "requester_pays", "retries", "s3", "signature_version", "skip_instance_cache", "use_listings_cache",
        "use_ssl", "verify", "version_aware",
    }
)  # fmt: skip
"""Keys of fsspec options whose values may be shown. What is not listed is taken for a secret, drivers' new keys too."""

LONGEST_CHARS = 100_000
"""Of a longer text the middle is left out: no log or error needs it, and searching it takes time."""

MIN_KNOWN_CHARS = 6
"""A shorter value is no secret, and taking it out would punch holes into every text."""

_SECRET_VARIABLE = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|ACCESS_?KEY|API_?KEY|PRIVATE_?KEY|ACCOUNT_?KEY|SAS\b|_SAS_|CONNECTION_STRING"
    r"|SIGNATURE",
    re.IGNORECASE,
)
_SECRET_OPTION = re.compile(r"pass|secret|token|key", re.IGNORECASE)
_PLACE_VARIABLE = re.compile(r"_(FILE|PATH|DIR|URI|URL|HOST)$|^TOKENIZERS_", re.IGNORECASE)
"""Variables that say where a secret lies, and one of a library that is about other tokens."""

_MIN_VARIABLE_CHARS = 8

_WORD = re.compile(r"[A-Za-z]{1,15}|[a-z-]{1,15}")

_USERINFO = re.compile(r"(?<=://)[^/\s'\"<>]*@")
_WEB_QUERY = re.compile(r"(?i)(\bhttps?://[^\s'\"<>?#]{0,2048})[?#][^\s'\"<>]*")
_QUERY = re.compile(r"\?[^\s'\"?=]*=[^\s'\"]*")
_NAMED = re.compile(
    r"(?i)\b((?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)|AWSAccessKeyId|Signature|sig"
    r"|aws_secret_access_key|aws_session_token|secret_access_key|session_token|security_token|access_token|account_key"
    r"|sas_token|api_key|client_secret|password|passwd)['\"]?(?:\s*[=:]\s*|%3D)['\"]?)([^\s'\"&,;}<>%)]{6,}(?:%[^\s'\"&,;}<>)]*)?)"
)
_HEADER = re.compile(r"(?i)(\bauthorization['\"]?\s*[:=]\s*b?['\"]?)[^\r\n'\"}]+")
_BEARER = re.compile(r"(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{12,}")
_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b|\bhf_[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\beyJ[\w-]{8,2048}\.[\w-]{8,2048}\.[\w-]*"
)
"""AWS key ids, Hugging Face and GitHub tokens, JSON web tokens."""


class _Known:
    """The values that this process knows for secrets."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._environment: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None

    def add(self, values: Iterable[str]) -> None:
        new = {form for value in values if len(value) >= MIN_KNOWN_CHARS for form in _forms(value)} - self._values
        if new:
            self._values |= new
            # The longest first: of two secrets one may begin with the other.
            self._pattern = re.compile("|".join(map(_found_by, sorted(self._values, key=len, reverse=True))))

    def hide(self, text: str) -> str:
        self._look_at_environment()
        return self._pattern.sub(HIDDEN, text) if self._pattern else text

    def _look_at_environment(self) -> None:
        found = {name: value for name, value in os.environ.items() if _is_secret_variable(name, value)}
        if found != self._environment:
            self._environment = found
            self.add(found.values())


_known = _Known()


def redact(text: str) -> str:
    """`text` without known secrets, `user:password@` and queries of URIs, and what is known by its name or shape."""
    plain = _WEB_QUERY.sub(r"\1?…", _shortened(_known.hide(without_userinfo(text))))
    plain = _QUERY.sub("?…", plain)
    plain = _HEADER.sub(rf"\1{HIDDEN}", _NAMED.sub(rf"\1{HIDDEN}", plain))
    return _SHAPES.sub(HIDDEN, _BEARER.sub(rf"\1{HIDDEN}", plain))


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_CHARS:
        return text
    return f"{text[: LONGEST_CHARS // 2]} … {text[-LONGEST_CHARS // 2 :]}"


def without_userinfo(text: str) -> str:
    """`text` with the `user:password@` of every URI in it left out."""
    return _USERINFO.sub("", text)


def remember_options(options: object) -> None:
    """Make the secrets in fsspec options (by scheme, as `fetch.storage_options`, or of one scheme) known."""
    _known.add(_secrets_in(options, is_open=True))


def shown_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """fsspec options of one scheme as they may be shown: `OPEN_OPTIONS` with their values, the others hidden."""
    return {
        key: _shown(value) if key in OPEN_OPTIONS or isinstance(value, Mapping) else HIDDEN
        for key, value in options.items()
    }


def redact_error(error: BaseException) -> None:
    """Redact the texts that `error`, and what caused it, carry; their types stay, so whoever catches them still can."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        current.args = tuple(redact(each) if isinstance(each, str) else each for each in current.args)
        if isinstance(current, OSError):
            _redact_os_error(current)
        current = current.__cause__ or current.__context__


def redacted_errors(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, or a generator function, whose errors have passed `redact_error`: Ray logs what its tasks raise."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generate(*arguments: P.args, **named: P.kwargs) -> Iterator[Any]:
            try:
                yield from cast("Iterator[Any]", function(*arguments, **named))
            except Exception as error:
                redact_error(error)
                raise

        return cast("Callable[P, R]", generate)

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return function(*arguments, **named)
        except Exception as error:
            redact_error(error)
            raise

    return call


def _redact_os_error(error: OSError) -> None:
    if isinstance(error.strerror, str):
        error.strerror = redact(error.strerror)
    if isinstance(error.filename, str):
        error.filename = redact(error.filename)


def _secrets_in(value: object, *, is_open: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            # YAML reads a password of digits as a number; other numbers are sizes and seconds.
            told = str(inner) if type(inner) is int and _SECRET_OPTION.search(str(key)) else inner
            yield from _secrets_in(told, is_open=isinstance(inner, Mapping) or key in OPEN_OPTIONS)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secrets_in(inner, is_open=is_open)
    elif isinstance(value, str):
        if not is_open:
            yield value
        for userinfo in _USERINFO.findall(value):
            yield from (part for part in userinfo[:-1].split(":", 1) if part)


def _shown(value: object) -> object:
    if isinstance(value, Mapping):
        return shown_options(value)
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value]
    return redact(value) if isinstance(value, str) else value


def _forms(value: str) -> Iterator[str]:
    # As it is, as URIs and JSON spell it, and as Basic authorization would, whose base64 is of `user:password`.
    yield value
    yield quote(value, safe="")
    yield quote(value)
    yield quote_plus(value)
    yield json.dumps(value)[1:-1]
    yield repr(value)[1:-1]
    if ":" in value:
        yield base64.b64encode(value.encode()).decode()


def _found_by(value: str) -> str:
    # A key that is a plain word, `minioadmin`, may be a part of harmless ones.
    escaped = re.escape(value)
    return rf"(?<![A-Za-z0-9]){escaped}(?![A-Za-z0-9])" if _WORD.fullmatch(value) else escaped


def _is_secret_variable(name: str, value: str) -> bool:
    return bool(
        len(value) >= _MIN_VARIABLE_CHARS
        and _SECRET_VARIABLE.search(name)
        and not _PLACE_VARIABLE.search(name)
        and not value.startswith("/")
    )
