"""The pace at which one store is asked: fewer requests at once when it throttles, and none but a probe when all are.

In: turns, and what became of them. Out: the next turns; words to the log while nothing is answered. Nothing is refused
here; a store that throttled everything for longer than the patience is told as given up.

A `Pace` belongs to one event loop and needs no lock.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.aimd import Aimd

__all__ = ["Pace", "Turn"]

_STALL_ANSWERS = 5
"""Throttled answers in a row that are no chance any more, after those of the requests that were under way: refusing is
quick, so they come before the good answers of their time. At 20 % of them 1 in 3,000, which costs one short pause."""

_FIRST_PROBE_S = 0.25
_MOST_DOUBLINGS = 10  # far beyond the longest wait, and far below what a float holds

_LONGEST_PROBE_S = 2.0
"""Soon enough to notice the end of a stall, rare enough not to prolong it."""

_FIRST_WORD_S = 5.0
"""A stall that is shorter is nobody's business; then each doubling of it is told, seven in ten minutes."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Leave to send one request."""

    round: int
    is_probe: bool


class Pace:
    """Turns at the store `name`, `ceiling` at once at most. It is waited for `patience_s` while all is throttled."""

    def __init__(self, name: str, ceiling: int, patience_s: float) -> None:
        self.name = name
        self._limit = Aimd(ceiling)
        self._patience_s = patience_s
        self._log = logging.getLogger("lakevec")
        self._running = 0
        self._waiting: deque[asyncio.Future[Turn]] = deque()
        self._resume_at = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        # Since the last good answer:
        self._answers = 0
        self._under_way = 0
        self._since = 0.0
        self._stalled = False
        self._given_up = False
        self._probes = 0
        self._told_at_s = _FIRST_WORD_S

    @property
    def slots(self) -> int:
        """Requests that may be under way."""
        return 1 if self._stalled else self._limit.slots

    @property
    def is_stalled(self) -> bool:
        """Whether the store throttles everything, and is only probed."""
        return self._stalled

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """Wait for a turn, and have it for the length of the block."""
        granted: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        self._waiting.append(granted)
        self._wake()
        try:
            turn = await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._leave()  # granted and cancelled in the same moment
            raise
        try:
            yield turn
        finally:
            self._leave()

    def answered(self) -> None:
        """The store answered, with good or bad news of an object."""
        if self._told_at_s > _FIRST_WORD_S:
            self._log.warning("%s answers again, after %.0f s", self.name, time.monotonic() - self._since)
        self._good_again()
        self._limit.answered()
        self._wake()

    def failed(self, turn: Turn) -> None:
        """The request failed in a way that says nothing about throttling."""
        if turn.is_probe and self._stalled:
            self._pause(self._probe_wait_s())

    def throttled(self, turn: Turn, why: str, retry_after_s: float | None) -> bool:
        """The store throttled; `retry_after_s` is what it asked for. Whether the store is given up."""
        now = time.monotonic()
        if not self._answers:
            self._since = now
            self._under_way = self._running
        self._answers += 1
        self._limit.throttled(turn.round)
        asked_s = retry_after_s or 0.0
        self._stalled = self._stalled or self._answers >= self._under_way + _STALL_ANSWERS or asked_s > self._patience_s
        wait_s = max(asked_s, self._probe_wait_s() if self._stalled and turn.is_probe else _FIRST_PROBE_S)
        waited_s = now - self._since
        if self._stalled and waited_s + asked_s > self._patience_s:
            self._give_up(waited_s, why)
            return True
        if self._stalled or asked_s:
            self._pause(wait_s)
        self._tell(waited_s, why)
        return False

    def _give_up(self, waited_s: float, why: str) -> None:
        # Whoever still waits, and all that come, ask once each: the first good answer ends it.
        self._resume_at = 0.0
        if not self._given_up:
            self._log.warning(
                "%s has answered %s to every request for %.0f s, and asks for more patience than "
                "fetch.throttle_patience_s (%g): what it does not give now is rejected, and tried by the next run",
                self.name, why, waited_s, self._patience_s,
            )  # fmt: skip
            self._told_at_s = max(self._told_at_s, 2 * _FIRST_WORD_S)  # its return is news
        self._given_up = True
        self._wake()

    def _good_again(self) -> None:
        self._answers = 0
        self._since = 0.0
        self._stalled = False
        self._given_up = False
        self._probes = 0
        self._told_at_s = _FIRST_WORD_S

    def _probe_wait_s(self) -> float:
        wait_s = min(_LONGEST_PROBE_S, _FIRST_PROBE_S * 2.0**self._probes)
        self._probes = min(self._probes + 1, _MOST_DOUBLINGS)
        return wait_s * random.uniform(0.5, 1)  # noqa: S311 - keeps workers apart

    def _tell(self, waited_s: float, why: str) -> None:
        if not self._stalled or waited_s < self._told_at_s:
            return
        while waited_s >= 2 * self._told_at_s:
            self._told_at_s *= 2
        # Rounded and dated, so that a hundred workers say one thing once, and the next stall is another.
        started = datetime.now(UTC).timestamp() - waited_s
        self._log.warning(
            "%s answers %s to every request since %s UTC; waiting, %.0f s so far (fetch.throttle_patience_s: %g)",
            self.name, why, datetime.fromtimestamp(started, UTC).strftime("%H:%M"), self._told_at_s, self._patience_s,
        )  # fmt: skip
        self._told_at_s *= 2

    def _pause(self, wait_s: float) -> None:
        self._resume_at = max(self._resume_at, time.monotonic() + wait_s)
        self._wake()

    def _leave(self) -> None:
        self._running -= 1
        self._wake()

    def _wake(self) -> None:
        left_s = self._resume_at - time.monotonic()
        if left_s > 0:
            if self._waiting:
                self._set_alarm(left_s)
            return
        while self._waiting and self._running < self.slots:
            granted = self._waiting.popleft()
            if not granted.done():
                self._running += 1
                granted.set_result(Turn(self._limit.round, self._stalled))

    def _set_alarm(self, left_s: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_later(left_s, self._wake)
