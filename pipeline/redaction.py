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

from pipeline.secret_names import is_secret_option, is_secret_variable
from pipeline.secret_shapes import HIDDEN, without_lookalikes
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

OPEN_OPTIONS = frozenset(
    {
        "account_name", "addressing_style", "anon", "auth_provider_x509_cert_url", "auth_uri", "client_email",
        "client_id", "client_kwargs", "client_x509_cert_url", "config_kwargs", "connect_timeout",
        "default_block_size", "default_cache_type", "endpoint", "endpoint_url", "max_attempts", "max_concurrency",
        "max_pool_connections", "mode", "profile", "project", "project_id", "quota_project_id", "read_timeout",
        "region", "region_name", "request_payer", "requester_pays", "retries", "s3", "signature_version",
        "skip_instance_cache", "token_uri", "type", "universe_domain", "use_listings_cache", "use_ssl", "verify",
        "version_aware",
    }
)  # fmt: skip
"""Keys of fsspec options, and of the accounts in them, whose values may be shown. What is not listed is taken for a
secret, drivers' new keys too."""

LONGEST_CHARS = 100_000
"""Of a longer text the middle is left out: no log or error needs it."""

_SEARCHED_CHARS = 300_000
"""Of a still longer one only so much is read, since searching takes time, and only its beginning is given."""

_EDGE_CHARS = 20_000
"""Of what was read last so much is not given then: half a secret, cut off where reading ended, is recognised by
nothing. The longest there are, keys of service accounts and web tokens, have a few thousand characters."""

MIN_KNOWN_CHARS = 6
"""A shorter value is no secret, and taking it out would punch holes into every text."""

_MIN_LINE_CHARS = 8
"""Of a value of several lines a shorter one, or one that only opens what follows, may stand in any text."""

_PEM = "-----"
_WORD = re.compile(r"[A-Za-z]{1,15}|[a-z-]{1,15}")


class _Known:
    """The values that this process knows for secrets."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._environment: dict[Any, Any] = {}
        self._pattern: re.Pattern[str] | None = None

    def add(self, values: Iterable[str]) -> None:
        told = [each for value in values for each in (value, *_lines(value))]
        new = {form for value in told if len(value) >= MIN_KNOWN_CHARS for form in _forms(value)} - self._values
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
    return without_lookalikes(_known.hide(without_userinfo(text)))


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


def _lines(value: str) -> Iterator[str]:
    # Of a key of several lines each is one, and whoever logs by the line tells them one by one.
    inside = value.replace("\\n", "\n") if _PEM in value else value
    for line in map(str.strip, inside.splitlines() if "\n" in inside else ()):
        if len(line) >= _MIN_LINE_CHARS and not line.startswith(_PEM) and not line.endswith((":", "{", "[")):
            yield line


def _forms(value: str) -> Iterator[str]:
    # As it is, as URIs and JSON spell it, and as Basic authorization would, whose base64 is of `user:password`.
    yield value
    # A variable may hold bytes that are no text, which no URI spells; it is then found as it is.
    yield quote(value, safe="", errors="replace")
    yield quote(value, errors="replace")
    yield quote_plus(value, errors="replace")
    yield json.dumps(value)[1:-1]
    yield repr(value)[1:-1]
    if ":" in value:
        yield base64.b64encode(value.encode(errors="replace")).decode()


def _found_by(value: str) -> str:
    # A key that is a plain word, `minioadmin`, may be a part of harmless ones.
    escaped = re.escape(value)
    return rf"(?<![A-Za-z0-9]){escaped}(?![A-Za-z0-9])" if _WORD.fullmatch(value) else escaped
