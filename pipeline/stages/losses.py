"""Losses: why Ray Data dropped blocks. It tells nobody but its log, so that is where this listens."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayError

from pipeline.errors import scrub

__all__ = ["Losses", "listen_for_losses", "root_cause"]

_LOGGER = "ray.data._internal.execution.streaming_executor_state"


class Losses(logging.Handler):
    """Counts the causes of dropped blocks."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._causes: Counter[str] = Counter()
        self._raised = False

    def emit(self, record: logging.LogRecord) -> None:
        """Count the root cause of one dropped block."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            cause = root_cause(error)
            self._causes[scrub(f"{type(cause).__name__}: {cause}")] += 1
            self._raised = self._raised or not isinstance(cause, RayError)

    @property
    def raised(self) -> bool:
        """Whether a stage raised, as a broken setup makes it; items that kill their workers raise nothing."""
        return self._raised

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
    logger.addHandler(losses)
    try:
        yield losses
    finally:
        logger.removeHandler(losses)


def root_cause(error: BaseException) -> BaseException:
    """The innermost cause: Ray wraps a stage's exception several times, by `cause` and by `__cause__`."""
    while True:
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException) or inner is error:
            return error
        error = inner
