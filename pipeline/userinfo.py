"""The `user:password@` of URIs, also where it holds a slash, as secret keys of object stores do.

In: a URI, or any text with URIs in it. Out: whether one carries credentials, which ones, or the text without. Nothing
is refused here.

By the letter a URI's authority ends at its first slash, so `s3://key:sec/ret@bucket/x` names a bucket `key:sec`, and
half of the secret would be sent to the store and told in its error. A colon before that slash which begins neither a
port, an IPv6 address nor an ARN can only part a user from a password; the last `@` behind it then ends the password,
which may hold others. An `@` in a path, as in `s3://bucket/a@b.jpg` or `http://host:8080/a@b`, is nobody's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["carries_userinfo", "userinfos", "without_userinfo"]

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FROM_AUTHORITY = re.compile(r"(?<=://)[^\s'\"<>]+")
"""From the first authority of a run of characters to the run's end, so that each is looked at once."""

_PORT = re.compile(r"[^:]*:\d{1,5}")  # of TCP: at most 65535
_ARN = re.compile(r"arn:[a-z-]+:s3", re.IGNORECASE)


def carries_userinfo(uri: str) -> bool:
    """Whether `uri`, the whole of it, is one with credentials in it."""
    scheme = _URI.match(uri)
    return scheme is not None and _length(uri, scheme.end(), uri.rfind("@")) > 0


def userinfos(text: str) -> Iterator[str]:
    """The `user:password` of each URI in `text`, without the `@`."""
    for run in _FROM_AUTHORITY.findall(text):
        yield from (found for _, found in _parts(run) if found)


def without_userinfo(text: str) -> str:
    """`text` with the `user:password@` of every URI in it left out."""
    return _FROM_AUTHORITY.sub(_bare, text) if "@" in text else text


def _bare(run: re.Match[str]) -> str:
    return "".join(kept for kept, _ in _parts(run[0])) if "@" in run[0] else run[0]


def _parts(run: str) -> Iterator[tuple[str, str]]:
    """`run`, which begins with an authority, in pieces that are kept, each with the userinfo that stood before it."""
    start, last = 0, run.rfind("@")
    while start <= last:
        begins = start + _length(run, start, last)
        following = run.find("://", begins)
        end = len(run) if following < 0 else following + len("://")
        yield run[begins:end], run[start : begins - 1] if begins > start else ""
        start = end
    yield run[start:], ""


def _length(run: str, start: int, last: int) -> int:
    """How long the userinfo at `start` is, its `@` included; 0 for none. `last` is where the last `@` of `run` is."""
    slash = run.find("/", start)
    authority = run[start : len(run) if slash < 0 else slash]
    if ":" in authority and not authority.startswith(("[", ":")) and not _is_place(authority):
        return max(0, last + 1 - start)
    return authority.rfind("@") + 1


def _is_place(authority: str) -> bool:
    return bool(_PORT.fullmatch(authority) or _ARN.match(authority))
