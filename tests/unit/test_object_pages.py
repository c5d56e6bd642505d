"""Listing only where it pays, believed only in what it names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from pipeline.blobs import Stat
from pipeline.object_pages import Page, walk

KEY = st.text("ab~é /\x01\ud7ff\U0001f986", min_size=1, max_size=4)


def store(keys: Sequence[str], page_keys: int, asked: list[str]) -> Callable[[str], Page]:
    """A bucket that lists as S3 does: in UTF-8 order, after a key."""

    def page_after(after: str) -> Page:
        asked.append(after)
        left = [key for key in sorted(keys) if key > after]
        return Page({key: Stat(len(key), ()) for key in left[:page_keys]}, len(left) > page_keys)

    return page_after


@given(st.sets(KEY), st.sets(KEY, min_size=1), st.integers(1, 5), st.integers(0, 3))
def test_only_what_is_there_is_found_in_no_more_pages_than_keys(
    there: set[str], wanted: set[str], page_keys: int, pays: int
) -> None:
    asked: list[str] = []
    found = walk(list(wanted), store(list(there), page_keys, asked), pays)
    assert set(found) <= there & wanted
    assert all(stat.size_bytes == len(key) for key, stat in found.items())
    assert len(asked) <= len(wanted)


@given(st.sets(KEY, min_size=1))
def test_a_page_that_holds_all_finds_all(there: set[str]) -> None:
    assert set(walk(list(there), store(list(there), 100, asked := []), 1)) == there
    assert len(asked) == 1


def test_what_is_not_wanted_is_passed_over() -> None:
    keys = [f"f/{n:06d}" for n in range(100_000)]
    wanted = [keys[7], keys[50_000], keys[99_999]]
    for pays, pages in ((1, 3), (13, 1)):
        asked: list[str] = []
        found = walk(wanted, store(keys, 1000, asked), pays)
        assert len(asked) == pages
        assert list(found) == wanted[:pages]
    dense: list[str] = []
    assert len(walk(keys[:5000], store(keys, 1000, dense), 13)) == 5000
    assert len(dense) <= 6


def test_a_store_that_lists_as_it_likes_ends_the_walk() -> None:
    pages: list[str] = []

    def stubborn(after: str) -> Page:
        pages.append(after)
        return Page({"a": Stat(1, ())}, True)

    assert walk(["a", "b", "c"], stubborn, 1) == {"a": Stat(1, ())}
    assert len(pages) == 2
