"""Losses: why Ray Data dropped blocks. It tells nobody but its log, so that is where this listens."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayError

from pipeline import errors
from pipeline.errors import IncompleteError, LakevecError, scrub
from pipeline.storage_errors import is_full

__all__ = ["Losses", "explained", "listen_for_losses", "no_space", "root_cause"]

_OURS = re.compile(r"^pipeline\.errors\.(\w+): (.+)\Z", re.M | re.S)

_OS_ERROR = re.compile(r"^(?:\w+\.)*OSError: \[Errno (\d+)\] (.*)$", re.M)

_LOGGER = "ray.data._internal.execution.streaming_executor_state"


class Losses(logging.Handler):
    """Counts the causes of dropped blocks."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._causes: Counter[str] = Counter()
        self._raised = False
        self._full: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Count the root cause of one dropped block."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            cause = root_cause(error)
            self._causes[scrub(f"{type(cause).__name__}: {cause}")] += 1
            self._raised = self._raised or not isinstance(cause, RayError)
            self._full = self._full or _full(error)

    @property
    def raised(self) -> bool:
        """Whether a stage raised, as a broken setup makes it; items that kill their workers raise nothing."""
        return self._raised

    @property
    def full(self) -> str | None:
        """What a stage said that found no room to write, which costs no item its vector; None if none did."""
        return self._full

    @property
    def commonest(self) -> str | None:
        """The most common cause, None if no block was dropped."""
        found = self._causes.most_common(1)
        return found[0][0] if found else None


@contextmanager
def listen_for_losses() -> Iterator[Losses]:
    """Collect the causes of blocks dropped while inside."""
    losses = Losses()
    logger = logging.getLogger(_LOGGER)
    before = logger.level, logger.propagate
    # Its parents' handlers would write a traceback a block to the console.
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.addHandler(losses)
    try:
        yield losses
    finally:
        logger.removeHandler(losses)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _full(error: BaseException) -> str | None:
    # Of what a task raised Ray Data keeps the traceback's text alone, behind an exception of its own.
    cause = root_cause(error)
    if is_full(cause):
        return str(cause)
    found = (OSError(int(number), why) for number, why in _OS_ERROR.findall(str(error)))
    return next((str(each) for each in found if is_full(each)), None)


def no_space(why: str) -> IncompleteError:
    """What ends a run that can write no more."""
    return IncompleteError(
        f"there is no room to write ({why}): free some space or quota, on the output or on Ray's temporary folder, and "
        "run again; what is committed stays"
    )


def root_cause(error: BaseException) -> BaseException:
    """The innermost cause: Ray wraps a stage's exception several times, by `cause` and by `__cause__`."""
    while True:
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException) or inner is error:
            return error
        error = inner


def explained(error: BaseException) -> LakevecError:
    """The LakevecError at the root of a Ray error, else one that says what is there.

    Of an actor that died in its constructor Ray keeps the traceback's text alone, so that is where it is looked for.
    """
    cause = root_cause(error)
    if isinstance(cause, LakevecError):
        return cause
    full = _full(error)
    if full is not None:
        return no_space(full)
    text = str(error).strip()
    found = _OURS.search(text)
    kind = getattr(errors, found[1], None) if found else None
    if found and isinstance(kind, type) and issubclass(kind, LakevecError):
        return kind(found[2].strip())
    last = str(cause).strip() or text.rpartition("\n")[2]
    return LakevecError(f"a stage failed for good: {scrub(last)}; Ray's own log of the driver has the whole story")
