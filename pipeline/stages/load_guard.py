"""The guard of a preparer: no item that kills its worker is begun for ever, and its neighbours come through.

In: the items of a call, by key, and how to make something of them. Out: what was made, in order; an item that killed
two preparers alone is a RejectError instead (`under_way`).

What is handed on may wait for as long as the stages after it take, and its worker may be taken away meanwhile: an item
ends before it is handed on, so that nobody blames it for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from pipeline.errors import RejectError
from pipeline.stages.meter import ask
from pipeline.stages.under_way import PREPARE, Verdict

__all__ = ["guarded"]

Item = TypeVar("Item")
Got = TypeVar("Got")
Made = TypeVar("Made")
Make = Callable[[Iterable[Item]], Iterator[tuple[Item, Got | RejectError]]]


def guarded(
    meter: Any,  # noqa: ANN401 - an actor handle
    keys: Sequence[str],
    items: Sequence[Item],
    make: Make[Item, Got],
) -> Iterator[tuple[Item, Got | RejectError]]:
    """`make(items)`, an item at a time where a preparer died of one of them, without those that killed two.

    `keys` name the items within the run; `make` gives one thing for each, in order. In company all of them count as
    under way until the last is made; what is alone only while it is made.
    """
    if not keys:
        return
    end_all = partial(meter.end.remote, PREPARE, list(keys))
    if not ask(meter.begin, False, PREPARE, list(keys)):
        yield from _together(make(items), len(keys), end_all)
        return
    for key, item in zip(keys, items, strict=True):
        verdict: Verdict | None = ask(meter.begin_alone, None, PREPARE, key)
        if verdict is not None:
            yield item, RejectError(*verdict)
            continue
        try:
            made = list(make([item]))
        finally:
            meter.end.remote(PREPARE, [key])
        yield from made
    end_all()


def _together(made: Iterable[Made], number: int, end_all: Callable[[], object]) -> Iterator[Made]:
    """All `made`, `number` of them; `end_all` is called before the last is handed on, and where it does not come."""
    left = number
    try:
        for each in made:
            left -= 1
            if not left:
                end_all()
            yield each
    finally:
        if left:
            end_all()
