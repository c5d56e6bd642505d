"""What S3 says about many objects of one folder at once: a page of its listing tells of a thousand.

In: a way to ask for pages, and keys of one folder. Out: a `Stat` for each key that the pages name. Nothing is
concluded from a key that no page names: stores differ in the order of their listings, so that one has to be asked for
by itself. Raised is what asking raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.blobs import Stat, stat_of

__all__ = ["PAGE_KEYS", "Ask", "Page", "list_keys", "walk"]

Ask = Callable[[str, str, int], Mapping[str, Any]]
"""S3's `ListObjectsV2` of one bucket: prefix, the key to start after, keys at most."""

PAGE_KEYS = 1000
"""What S3 puts on a page at most."""

_FIRST_PRINTABLE = " "
_LAST_ASCII = "~~~"


@dataclass(frozen=True, slots=True)
class Page:
    """Objects in the order of the listing, and whether more come after the last."""

    stats: Mapping[str, Stat]
    more: bool


def list_keys(ask: Ask, keys: Sequence[str], pays: int) -> dict[str, Stat]:
    """`keys` of one folder of a bucket, as far as pages name them that tell of `pays` of them each."""
    prefix = keys[0].rpartition("/")[0]
    return walk(keys, partial(_page, ask, f"{prefix}/" if prefix else ""), pays)


def walk(keys: Sequence[str], page_after: Callable[[str], Page], pays: int) -> dict[str, Stat]:
    """Those of `keys` that are found, going from page to page and over what is not wanted.

    `page_after` gives the page that follows a key. Ends with the first page that told of fewer than `pays` keys: there
    are never more pages than keys.
    """
    known = set(keys)
    wanted = sorted(known)
    found: dict[str, Stat] = {}
    at = 0
    while at < len(wanted):
        page = page_after(_before(wanted[at]))
        found |= {key: stat for key, stat in page.stats.items() if key in known}
        start, last = at, max(page.stats, default="")
        while at < len(wanted) and (wanted[at] <= last or not page.more):
            at += 1
        if at - start < max(pays, 1):
            break
    return found


def _before(key: str) -> str:
    """A key just before `key`, whose successors begin at it or little earlier."""
    if key[-1:] <= _FIRST_PRINTABLE:  # a control character cannot be told in XML
        return key[:-1]
    return key[:-1] + chr(ord(key[-1]) - 1) + _LAST_ASCII


def _page(ask: Ask, prefix: str, after: str) -> Page:
    answer = ask(prefix, after, PAGE_KEYS)
    stats = {each["Key"]: _stat(each) for each in answer.get("Contents", ()) if each.get("ETag")}
    return Page(stats, bool(answer.get("IsTruncated")))


def _stat(listed: Mapping[str, Any]) -> Stat:
    # Spelled as HEAD spells it: how a file was asked for must not look like a change of it.
    etag = '"' + str(listed["ETag"]).strip('"') + '"'
    return stat_of({"size": listed["Size"], "ETag": etag, "LastModified": listed.get("LastModified")})
