"""The `user:password@` of URIs, also where it holds a slash, as secret keys of object stores do.

In: a URI, or any text with URIs in it. Out: whether one carries credentials, which ones, or the text without. Nothing
is refused here.

By the letter a URI's authority ends at its first slash, so `s3://key:sec/ret@bucket/x` names a bucket `key:sec`, and
half of the secret would be sent to the store and told in its error. A colon before that slash which begins neither a
port, an IPv6 address nor an ARN can only part a user from a password; the last `@` behind it then ends the password,
which may hold others. An `@` in a path, as in `s3://bucket/a@b.jpg` or `http://host:8080/a@b`, is nobody's business,
and neither is that of an image for finer screens, `a@2x.png`, wherever it stands: no bucket or host is called `2x.png`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["carries_userinfo", "put_elsewhere", "userinfos", "without_userinfo"]

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FROM_AUTHORITY = re.compile(r"(?<=://)[^\s'\"<>]+")
"""From the first authority of a run of characters to the run's end, so that each is looked at once."""

_PORT = re.compile(r"[^:]*:\d{1,5}")  # of TCP: at most 65535
_AZURE = re.compile(r"(abfss?)://[^/:@]+@", re.IGNORECASE)
_LAST_AT = re.compile(r".*@(?!\d{1,2}x\.(?:png|jpe?g|webp|gif|avif|svg)(?![\w./@-]))", re.DOTALL)
_ARN = re.compile(r"arn:[a-z-]+:s3", re.IGNORECASE)


def carries_userinfo(uri: str) -> bool:
    """Whether `uri`, the whole of it, is one with credentials in it."""
    scheme = _URI.match(uri)
    return scheme is not None and _length(uri, scheme.end(), _last_at(uri)) > 0


def userinfos(text: str) -> Iterator[str]:
    """The `user:password` of each URI in `text`, without the `@`."""
    for run in _FROM_AUTHORITY.findall(text):
        yield from (found for _, found in _parts(run) if found)


def without_userinfo(text: str) -> str:
    """`text` with the `user:password@` of every URI in it left out."""
    return _FROM_AUTHORITY.sub(_bare, text) if "@" in text else text


def put_elsewhere(uri: str) -> str:
    """What to do about `uri`, which carries credentials. Azure's containers stand there too: how to spell them."""
    container = _AZURE.match(uri)
    if container is None:
        return "put them under fetch.storage_options"
    scheme = container[1].lower()
    return (
        f"write {scheme}://<container>/<path>, not {scheme}://<container>@<account>…, and put account_name (and keys) "
        f"under fetch.storage_options.{scheme}"
    )


def _bare(run: re.Match[str]) -> str:
    return "".join(kept for kept, _ in _parts(run[0])) if "@" in run[0] else run[0]


def _parts(run: str) -> Iterator[tuple[str, str]]:
    """`run`, which begins with an authority, in pieces that are kept, each with the userinfo that stood before it."""
    start, last, final = 0, _last_at(run), run.rfind("@")
    while start <= final:
        begins = start + _length(run, start, last)
        following = run.find("://", begins)
        end = len(run) if following < 0 else following + len("://")
        yield run[begins:end], run[start : begins - 1] if begins > start else ""
        start = end
    yield run[start:], ""


def _length(run: str, start: int, last: int) -> int:
    """How long the userinfo at `start` is, its `@` included; 0 for none. `last` is `_last_at(run)`."""
    slash = run.find("/", start)
    authority = run[start : len(run) if slash < 0 else slash]
    if ":" in authority and not authority.startswith(("[", "::")) and not _is_place(authority):
        return max(0, last + 1 - start, authority.rfind("@") + 1)
    return authority.rfind("@") + 1


def _last_at(run: str) -> int:
    """Where the last `@` of `run` is that may end a userinfo; -1 for nowhere."""
    found = _LAST_AT.match(run)
    return -1 if found is None else found.end() - 1


def _is_place(authority: str) -> bool:
    return bool(_PORT.fullmatch(authority) or _ARN.match(authority))
