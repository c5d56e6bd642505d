"""The guard of a preparer: no item that kills its worker is begun for ever, and its neighbours come through.

In: the items of a call, by key, and how to make something of them. Out: what was made, in order; an item that killed
two preparers alone is a RejectError instead (`under_way`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pipeline.errors import RejectError
from pipeline.stages.meter import ask
from pipeline.stages.under_way import PREPARE, Verdict

__all__ = ["guarded"]

Item = TypeVar("Item")
Got = TypeVar("Got")


def guarded(
    meter: Any,  # noqa: ANN401 - an actor handle
    keys: Sequence[str],
    items: Sequence[Item],
    make: Callable[[Iterable[Item]], Iterator[tuple[Item, Got | RejectError]]],
) -> Iterator[tuple[Item, Got | RejectError]]:
    """`make(items)`, an item at a time where a preparer died of one of them, without those that killed two.

    `keys` name the items within the run. One that is alone counts as under way until all of it is made and taken.
    """
    if not keys:
        return
    if not ask(meter.begin, False, PREPARE, list(keys)):
        try:
            yield from make(items)
        finally:
            meter.end.remote(PREPARE, list(keys))
        return
    for key, item in zip(keys, items, strict=True):
        verdict: Verdict | None = ask(meter.begin_alone, None, PREPARE, key)
        if verdict is not None:
            yield item, RejectError(*verdict)
            continue
        try:
            yield from make([item])
        finally:
            meter.end.remote(PREPARE, [key])
    meter.end.remote(PREPARE, list(keys))
