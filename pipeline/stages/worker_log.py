"""What workers have to say to the user: Ray keeps their logs in files of its own, so it goes through the run's meter.

In: records of the logger `lakevec` in a worker. Out: the same texts in the driver's log, each distinct one once, for a
hundred encoders choose the same kernel. Nothing is refused; what a full meter leaves out stands in Ray's files.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pipeline.speech import RedactingFormatter, Sampled, guard_process

__all__ = ["Message", "WorkerLogReader", "send_log_to"]

Message = tuple[int, str]
"""A record's level and text."""

_LOGGER = "lakevec"


class _ToMeter(logging.Handler):
    def __init__(self, meter: Any) -> None:  # noqa: ANN401 - an actor handle
        super().__init__(logging.INFO)
        self.setFormatter(RedactingFormatter())
        self.addFilter(Sampled())
        self._meter = meter

    def emit(self, record: logging.LogRecord) -> None:
        # Redacted here: only this process knows the secrets that it was given, and Ray may log what is sent.
        self._meter.say.remote((record.levelno, self.format(record)))


def send_log_to(meter: Any) -> None:  # noqa: ANN401 - an actor handle
    """From now on hand this process's log to `meter` (`stages.meter`)."""
    guard_process()
    logger = logging.getLogger(_LOGGER)
    logger.setLevel(logging.INFO)
    logger.addHandler(_ToMeter(meter))


class WorkerLogReader:
    """Writes to the driver's log what it has not written yet."""

    def __init__(self) -> None:
        self._written: set[Message] = set()

    def show(self, said: Sequence[Message]) -> None:
        """Log those of `said` that are new; a meter that died and restarted knows only what was said since."""
        for message in said:
            if message not in self._written:
                self._written.add(message)
                level, text = message
                # The text as the message itself: the driver's log samples by message, and "%s" would be one for all.
                logging.getLogger(_LOGGER).log(level, text)
