"""Patience with a store: one read tried again, while its errors are passing ones.

In: a read that can be begun anew, and the store's pace. Out: what it gives. Refused with RejectError: what stays, what
takes longer than the deadline, and what fails too often. A throttled try costs neither time nor tries, for it is not
the file's fault: the pace says how long a store that throttles is waited for.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.errors import RejectCode, RejectError
from pipeline.pace import Pace, Turn
from pipeline.storage_errors import is_dead_name, is_throttling, is_transient, retry_after_s, status_of

__all__ = ["Patience", "persist", "reject_of"]

T = TypeVar("T")

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 10.0
"""Items are handed on in order, so one that waits holds up dozens: a lone fault should cost little."""

_FAILED_GROWTH = 4
"""From one try to the next: five retries outlast a restart of several seconds."""

_THROTTLED_GROWTH = 2
"""Less, for it is the pace that asks the store for less."""

_THROTTLED_TRIES = 30
"""Of one file while the store answers others: never with 20 % of 503s, some two minutes where only it is throttled."""

_MISSING = frozenset({404, 410})
_DENIED = frozenset({401, 402, 403, 407, 451})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one file may take, all tries and the waits between them included, and how many retries it gets."""

    timeout_s: float
    retries: int

    @property
    def longest_s(self) -> float:
        """The most that one file takes while its store answers others: its time, and the waits after throttled tries.

        A store that throttles everything is waited for besides.
        """
        return self.timeout_s + _THROTTLED_TRIES * _LONGEST_WAIT_S


async def persist(
    read: Callable[[], Awaitable[T]], pace: Pace, patience: Patience, gate: AbstractAsyncContextManager[Any]
) -> T:
    """What `read` gives, under a turn of `pace` and with `gate` held. Raises RejectError, whatever a driver raised.

    Time spent waiting for a turn or for the gate does not count.
    """
    spent_s, tries, throttled = 0.0, 0, 0
    while True:
        async with pace.turn() as turn, gate:
            started = time.monotonic()
            try:
                async with asyncio.timeout(max(patience.timeout_s - spent_s, 0.001)):
                    found = await read()
            except Exception as failure:  # noqa: BLE001 - drivers raise what they like; one file must not end a worker
                error = failure
            else:
                pace.answered()
                return found
            took_s = time.monotonic() - started
            if is_throttling(error):
                throttled += not pace.is_stalled
                if pace.throttled(turn, _words(error), retry_after_s(error)) or throttled > _THROTTLED_TRIES:
                    raise _throttled_away(error, throttled) from None
            else:
                _tell(pace, turn, error)
        if is_throttling(error):
            if not pace.is_stalled:  # else its turn comes when the pace resumes
                await asyncio.sleep(_wait_s(throttled, _THROTTLED_GROWTH))
            continue
        spent_s += took_s
        tries += 1
        wait_s = _wait_s(tries, _FAILED_GROWTH)
        if not is_transient(error) or tries > patience.retries or spent_s + wait_s >= patience.timeout_s:
            raise reject_of(error) from None
        spent_s += wait_s
        await asyncio.sleep(wait_s)


def reject_of(error: BaseException) -> RejectError:
    """The reject that stands for what a driver raised."""
    if isinstance(error, RejectError):
        return error
    why, status = f"{type(error).__name__}: {error}", status_of(error)
    if isinstance(error, FileNotFoundError | IsADirectoryError) or status in _MISSING:
        return RejectError(RejectCode.NOT_FOUND, "no such object")
    if is_dead_name(error):
        return RejectError(RejectCode.NOT_FOUND, "no such host")
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__ or status in _DENIED:
        return RejectError(RejectCode.ACCESS_DENIED, why)
    # asyncio.TimeoutError is TimeoutError; fsspec and botocore have their own.
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return RejectError(RejectCode.FETCH_TIMEOUT, why)
    return RejectError(RejectCode.FETCH_FAILED, why)


def _tell(pace: Pace, turn: Turn, error: BaseException) -> None:
    if isinstance(error, RejectError) or not is_transient(error):
        pace.answered()
    else:
        pace.failed(turn)


def _wait_s(tries: int, growth: int) -> float:
    # Full jitter: workers that failed together must not return together.
    longest_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * growth ** max(tries - 1, 0))
    return random.uniform(0, longest_s)  # noqa: S311 - no secret


def _words(error: BaseException) -> str:
    return str(status_of(error) or error)


def _throttled_away(error: BaseException, tries: int) -> RejectError:
    return RejectError(
        RejectCode.FETCH_FAILED, f"the store throttles: {type(error).__name__}: {error} (tries not counted: {tries})"
    )
