"""An order-independent digest of a set of ids, the same in Python and in DuckDB.

In: ids as strings. Out: 32 hexadecimal digits. Each id's MD5 is read as two little-endian 64-bit words, and
each word is summed modulo 2^64; so digests of disjoint sets add up, and a lost, doubled or foreign id shows.
It guards against mistakes, not against somebody who looks for a collision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

__all__ = ["EMPTY_DIGEST", "add_digests", "digest_columns", "format_digest", "ids_digest"]

_WORD = 1 << 64
_WORD_BYTES = 8

EMPTY_DIGEST = "0" * 32


def ids_digest(ids: Iterable[str]) -> str:
    """The digest of `ids`, in any order; a repeated id counts each time."""
    first = second = 0
    for each in ids:
        md5 = hashlib.md5(each.encode(), usedforsecurity=False).digest()
        first += int.from_bytes(md5[:_WORD_BYTES], "little")
        second += int.from_bytes(md5[_WORD_BYTES:], "little")
    return format_digest(first, second)


def digest_columns(column: str) -> str:
    """The two DuckDB aggregates over `column` (varchar) whose results `format_digest` takes."""
    return f"coalesce(sum(md5_number_upper({column})), 0), coalesce(sum(md5_number_lower({column})), 0)"


def format_digest(first: int, second: int) -> str:
    """The digest whose words sum to `first` and `second`."""
    return f"{int(first) % _WORD:016x}{int(second) % _WORD:016x}"


def add_digests(digests: Iterable[str]) -> str:
    """The digest of all the ids of several digests."""
    words = [(int(each[:16], 16), int(each[16:], 16)) for each in digests]
    return format_digest(sum(first for first, _ in words), sum(second for _, second in words))
