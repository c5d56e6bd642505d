"""Threads for calls that may never return, as those of drivers without deadlines.

In: calls. Out: futures of what they give. Nothing is refused. Once nobody waits for a call any more, no exit of the
process does either: the standard library's pool joins its threads there, for ever if one hangs.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

__all__ = ["DaemonThreads"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Call:
    future: Future[Any]
    run: Callable[[], Any]


_Calls = SimpleQueue[_Call | None]
"""None ends the thread that takes it, which leaves it for the next one."""


class DaemonThreads(Executor):
    """At most `most` threads called `name`, started as calls come; they end with `shutdown`, or with their owner."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._lock = threading.Lock()
        self._threads = 0
        self._calls: _Calls = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._end = weakref.finalize(self, _end, self._calls)
        self._end.atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """What `fn` gives, called in one of the threads. Raises RuntimeError after `shutdown`."""
        future: Future[T] = Future()
        with self._lock:
            if not self._end.alive:
                raise RuntimeError("calls after the end of their threads")
            self._calls.put(_Call(future, lambda: fn(*args, **kwargs)))
            if not self._idle.acquire(blocking=False) and self._threads < self._most:
                name = f"{self._name}_{self._threads}"
                self._threads += 1
                threading.Thread(target=_work, args=(self._calls, self._idle), name=name, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads, each after the call it is in: none is waited for. Calls that wait are always cancelled."""
        del wait, cancel_futures
        with self._lock:
            self._end()


def _work(calls: _Calls, idle: threading.Semaphore) -> None:
    # Holds nothing of the owner, whose end is what ends it.
    while (call := calls.get()) is not None:
        if call.future.set_running_or_notify_cancel():
            try:
                call.future.set_result(call.run())
            except BaseException as error:  # noqa: BLE001 - whoever waits for the call gets it
                call.future.set_exception(error)
        del call
        idle.release()
    calls.put(None)


def _end(calls: _Calls) -> None:
    try:
        while (call := calls.get_nowait()) is not None:
            # Cancelled alone, a future still has `concurrent.futures.wait` and `as_completed` wait for it.
            call.future.cancel()
            call.future.set_running_or_notify_cancel()
    except Empty:
        pass
    calls.put(None)
