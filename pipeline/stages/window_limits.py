"""When a window is closed, and how it leaves its worker.

In: what a window holds so far. Out: whether it is closed now, and what it must weigh. Nothing is refused.

Ray gathers a task's output until it weighs a block (`WindowLimits.block_bytes`) or the task ends; nothing else makes it
hand on a window. So a window that is late is packed as heavy as a block, and takes along what was gathered before it.
Late ones are rare, so what that costs (half a full window's memory a minute, in a worker that makes little) is nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from pipeline.config import MIB, RunConfig

__all__ = ["WINDOW_AGE_S", "Outflow", "WindowLimits"]

WINDOW_AGE_S = 60.0
"""Long beside what a healthy window takes, so that few are cut short; short beside `no_progress.LEAST_S`, after which
Ray ends a run that shows nothing. What is made also waits no longer than this to be written and committed."""


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """What closes a window: bytes of pixels, tokens, or the seconds since its worker last handed anything on.

    A window holds one item at least, so a single one may be larger, and older.
    """

    max_bytes: int
    max_tokens: int
    max_age_s: float = WINDOW_AGE_S

    @classmethod
    def of(cls, run: RunConfig) -> Self:
        """The limits that `run` sets."""
        return cls(int(run.window_mb * MIB), run.window_tokens)

    @property
    def block_bytes(self) -> int:
        """What Ray may gather before it hands it on: half a full window, so that each of those goes by itself."""
        return max(1, self.max_bytes // 2)


class Outflow:
    """The windows of one task on their way out. Only the worker's own time counts, not what others make it wait."""

    def __init__(self, limits: WindowLimits, now: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._now = now
        self._since = now()

    def closes(self, n_bytes: int, n_tokens: int) -> bool:
        """Whether a window of `n_bytes` of pixels and `n_tokens` is closed now."""
        return n_bytes >= self._limits.max_bytes or n_tokens >= self._limits.max_tokens or self._is_late

    @property
    def least_bytes(self) -> int:
        """What a window that is packed now must weigh."""
        return self._limits.block_bytes + 1 if self._is_late else 0

    def send(self, window: pa.Table) -> Iterator[pa.Table]:
        """Hand `window` on, and come back when more is wanted."""
        leaves, before = window.nbytes > self._limits.block_bytes, self._now()
        yield window
        after = self._now()
        self._since = after if leaves else self._since + after - before

    @property
    def _is_late(self) -> bool:
        return self._now() - self._since >= self._limits.max_age_s
