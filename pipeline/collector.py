"""Letting Python's cycle collector rest while many plain values are made.

It runs whenever some hundreds more values live than before, and looks at them all again and again: rows of a manifest,
none of which is part of a cycle, took twice the time. Nothing comes in and nothing is refused.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["resting_collector"]


@contextmanager
def resting_collector() -> Iterator[None]:
    """Collect no cycles inside the block, in any thread; keep it to a second or so of work that leaves none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
