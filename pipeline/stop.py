"""Stop requests: Ctrl-C, SIGTERM (spot preemption, `ray job stop`) and the time budget, as one flag.

In: signals. Out: the flag, and the end of a process that is told to go and cannot: whatever waits there, for a store
that answers nothing or for a cluster that is gone, SIGKILL would end it a moment later without an exit code.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from pipeline.errors import ExitCode, IncompleteError

__all__ = ["LEAVE_S", "StopRequest", "listen_for_stop"]

LEAVE_S = 27.0
"""From SIGTERM on; SIGKILL follows after 30 s almost everywhere. Time for a drain (`passes.DRAIN_S`) and then for what
closes a run, in seconds where stores answer. A run may be left anywhere: the next one needs only what is committed."""

SAY_S = 1.0
"""Enough for a line of log, and within what is left of the 30 s."""

_log = logging.getLogger("lakevec")


@dataclass(slots=True)
class StopRequest:
    """Why a run should end early, if it should. `deadline` is on `clock`, None without a time budget.

    Only while `patient` can a run finish what is under way; otherwise (planning, merging) a signal ends it where it
    stands, which loses nothing: what is committed stays.
    """

    deadline: float | None = None
    patient: bool = False
    clock: Callable[[], float] = time.monotonic
    _signal: int | None = None
    _event: threading.Event = field(default_factory=threading.Event)

    def request(self, number: int) -> None:
        """Ask to stop because signal `number` came.

        Raises KeyboardInterrupt (SIGINT) or IncompleteError (SIGTERM) unless `patient`, and for a second Ctrl-C.
        """
        again = self._signal == signal.SIGINT
        self._signal = number
        self._event.set()
        if number == signal.SIGINT and (again or not self.patient):
            raise KeyboardInterrupt
        if not self.patient:
            self.check()

    @property
    def reason(self) -> str | None:
        """What to tell the user, None while the run may go on."""
        if self._event.is_set():
            return "interrupted" if self._signal == signal.SIGINT else "told to stop (SIGTERM)"
        if self.deadline is not None and self.clock() >= self.deadline:
            return "run.max_runtime_s is used up"
        return None

    @property
    def signalled(self) -> bool:
        """Whether a signal asked, and not the time budget."""
        return self._event.is_set()

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Be `patient` inside: for blocks that look at `reason`, or `check`, themselves.

        Where Ray waits for tasks that is the only way: what a signal handler raises there ends as a SystemError.
        """
        self.patient = True
        try:
            yield
        finally:
            self.patient = False

    def check(self) -> None:
        """End the run now if it should: for work that nobody can cut short by half.

        Raises KeyboardInterrupt after Ctrl-C, IncompleteError for any other reason.
        """
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.reason:
            raise IncompleteError(f"{self.reason}; what is committed stays, run again to continue")

    @property
    def exit_code(self) -> ExitCode:
        """130 after Ctrl-C, 5 otherwise."""
        return ExitCode.INTERRUPTED if self._signal == signal.SIGINT else ExitCode.INCOMPLETE


@contextmanager
def listen_for_stop(
    stop: StopRequest, *, leave_s: float = LEAVE_S, leave: Callable[[int], object] = os._exit
) -> Iterator[Callable[[], None]]:
    """Turn SIGINT and SIGTERM into `stop` while inside; the yielded function installs the handlers again.

    Ray replaces the SIGTERM handler when it connects, so call that function afterwards. `leave` (the process, with exit
    code 5) is called if the block has not ended `leave_s` after SIGTERM.
    """
    last = threading.Timer(leave_s, _leave, (leave_s, leave))
    last.daemon = True

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTERM and last.ident is None:
            last.start()
        stop.request(number)

    def install() -> None:
        signal.signal(signal.SIGINT, handle)
        signal.signal(signal.SIGTERM, handle)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread may set handlers: a caller in another thread keeps its own
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    install()
    try:
        yield install
    finally:
        last.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(waited_s: float, leave: Callable[[int], object]) -> None:
    # Whoever logs into a pipe that nobody reads holds the log's lock, and this thread would wait for it.
    saying = threading.Thread(target=_say, args=(waited_s,), daemon=True)
    try:
        saying.start()
        saying.join(SAY_S)
    finally:
        leave(ExitCode.INCOMPLETE)


def _say(waited_s: float) -> None:
    _log.warning(
        "told to stop (SIGTERM) %.0f s ago, and something still does not answer: left where it stands, without a "
        "summary; what is committed stays, run again to continue",
        waited_s,
    )
