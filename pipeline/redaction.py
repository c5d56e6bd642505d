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
from urllib.parse import quote, quote_plus, unquote

from pipeline.secret_names import NAMED_IN_TEXT, is_secret_option, is_secret_variable
from pipeline.userinfo import userinfos, without_userinfo

__all__ = [
    "HIDDEN",
    "LONGEST_CHARS",
    "OPEN_OPTIONS",
    "redact",
    "redact_error",
    "redacted_errors",
    "remember_options",
    "shown_options",
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
"""Of a longer text the middle is left out: no log or error needs it."""

_SEARCHED_CHARS = 300_000
"""Of a still longer one only so much is read, since searching takes time, and only its beginning is given."""

_EDGE_CHARS = 20_000
"""Of what was read last so much is not given then: half a secret, cut off where reading ended, is recognised by
nothing. The longest there are, keys of service accounts and web tokens, have a few thousand characters."""

MIN_KNOWN_CHARS = 6
"""A shorter value is no secret, and taking it out would punch holes into every text."""

_WORD = re.compile(r"[A-Za-z]{1,15}|[a-z-]{1,15}")

# Each of these passes over a text once, whatever it holds: none begins anew within what it has looked at.
_WEB_QUERY = re.compile(r"(?i)(\bhttps?://[^\s'\"<>?#]*+)(?:[?#][^\s'\"<>]*+)?")
_QUERY = re.compile(r"\?[^\s'\"?=]*=[^\s'\"]*")
_NAMED = re.compile(
    rf"(?i)((?<![a-z0-9]){NAMED_IN_TEXT}['\"]?(?:\s*+[=:]\s*+|%3D)['\"]?)"
    r"([^\s'\"&,;}<>%)]{6,}(?:%[^\s'\"&,;}<>)]*)?)"
)
_SHARED_ACCESS = re.compile(r"(?i)(\bSharedAccessSignature['\"]?\s*+[=:]\s*+['\"]?)[^\s'\"<>;]+")
"""Of a connection string of Azure: a whole query, up to the semicolon."""

_HEADER = re.compile(r"(?i)(\bauthorization['\"]?\s*+[:=]\s*+b?['\"]?)[^\r\n'\"}]+")
_BEARER = re.compile(r"(?i)(\bbearer(?:\s++|%20))[A-Za-z0-9._~+/=-]{12,}")
_BASIC = re.compile(r"\b(?i:basic)(?:\s++|%20)")
_PAIR = re.compile(r"([A-Za-z0-9+/_-]{4,})(?:={1,2}|(?:%3[Dd]){1,2})?")
_PLAIN_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_SHAPES = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b|\bhf_[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}")
"""AWS key ids, Hugging Face and GitHub tokens."""

_WEB_TOKENS = re.compile(r"\beyJ[\w.-]*+")
"""Where a JSON web token may be: its parts stand between dots, and the first two begin as JSON in base64."""

_TOKEN_HEAD = re.compile(r"\beyJ[\w-]{8}")
_MIN_CLAIMS_CHARS = 8


class _Known:
    """The values that this process knows for secrets."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._environment: dict[Any, Any] = {}
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
        # At every call, since a variable may come at any time. What `os.environ` wraps is compared in C; to read it as
        # text would cost more than all else that is done to a short line.
        variables = getattr(os.environ, "_data", os.environ)
        if variables != self._environment:
            seen = dict(variables)  # at once: another thread may change it meanwhile
            pairs = ((os.fsdecode(name), os.fsdecode(value)) for name, value in seen.items())
            self.add(value for name, value in pairs if is_secret_variable(name, value))
            self._environment = seen


_known = _Known()


def redact(text: str) -> str:
    """`text` without known secrets, `user:password@` and queries of URIs, and what is known by its name or shape.

    Of what is longer than `LONGEST_CHARS` then, the middle is left out; beyond `_SEARCHED_CHARS` also the end.
    """
    plain = _redacted(text[:_SEARCHED_CHARS])
    if len(text) > _SEARCHED_CHARS:
        return f"{plain[:-_EDGE_CHARS][:LONGEST_CHARS]} …"
    if len(plain) > LONGEST_CHARS:
        return f"{plain[: LONGEST_CHARS // 2]} … {plain[-LONGEST_CHARS // 2 :]}"
    return plain


def _redacted(text: str) -> str:
    plain = _known.hide(without_userinfo(text))
    plain = _QUERY.sub("?…", _WEB_QUERY.sub(_without_query, plain))
    plain = _SHARED_ACCESS.sub(rf"\1{HIDDEN}", _HEADER.sub(rf"\1{HIDDEN}", plain))
    plain = _NAMED.sub(rf"\1{HIDDEN}", plain)
    plain = _without_pairs(_BEARER.sub(rf"\1{HIDDEN}", plain))
    return _SHAPES.sub(HIDDEN, _WEB_TOKENS.sub(_without_token, plain))


def _without_query(url: re.Match[str]) -> str:
    return url[0] if len(url[0]) == len(url[1]) else f"{url[1]}?…"


def _without_pairs(text: str) -> str:
    """`text` without what follows `Basic ` and is `user:password` in base64; `basic information` stays."""
    kept, at = [], 0
    for basic in _BASIC.finditer(text):
        found = _PAIR.match(text, basic.end())
        if found is not None and basic.end() >= at and _is_pair(found[1]):
            kept += [text[at : basic.end()], HIDDEN]
            at = found.end()
    return "".join([*kept, text[at:]])


def _is_pair(code: str) -> bool:
    if _PLAIN_WORD.fullmatch(code) or len(code) % 4 == 1:
        return False
    return b":" in base64.b64decode(code.replace("-", "+").replace("_", "/") + "=" * (-len(code) % 4))


def _without_token(run: re.Match[str]) -> str:
    parts = run[0].split(".")
    for head, claims, _ in zip(parts, parts[1:], parts[2:], strict=False):
        if len(claims) >= _MIN_CLAIMS_CHARS and _TOKEN_HEAD.search(head):
            return HIDDEN
    return run[0]


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
            told = str(inner) if type(inner) is int and is_secret_option(str(key)) else inner
            yield from _secrets_in(told, is_open=isinstance(inner, Mapping) or key in OPEN_OPTIONS)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secrets_in(inner, is_open=is_open)
    elif isinstance(value, str):
        if not is_open:
            yield value
        for userinfo in userinfos(value):
            # A driver sends, and may tell, what the percent signs stand for.
            for part in userinfo.split(":", 1):
                yield from (each for each in (part, unquote(part)) if each)


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
